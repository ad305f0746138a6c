// From tables to what packets go through; and whether the rules may stand where they are.
#include <limits>

#include <linux/errno.h>
#include <linux/netfilter.h>

#include "guestkernel/net/filter/transaction.hpp"

namespace kernel::net::filter {

namespace {

// Where the stack's own steps stand: NF_IP_PRI_* of linux/netfilter_ipv4.h.
constexpr i32 priority_track = -200, priority_destination_nat = -100, priority_source_nat = 100,
              priority_confirm = std::numeric_limits<i32>::max();

constexpr usize index_of(HookPoint point) {
    return static_cast<usize>(point);
}

// Before those of the same priority, as on Linux.
Result<void> insert_step(Vector<Program::Step>& steps, Program::Step step) {
    usize at = 0;
    while (at < steps.size() && steps[at].priority < step.priority)
        at++;
    return steps.insert(at, std::move(step));
}

Result<void> add_own_step(Program& program, usize version, HookPoint point, Program::Kind kind,
                          i32 priority) {
    Program::Step step;
    step.kind = kind;
    step.priority = priority;
    return insert_step(program.steps[version][index_of(point)], std::move(step));
}

Result<void> add_tracking(Program& program, usize version) {
    using Kind = Program::Kind;
    for (const HookPoint point : {HookPoint::PreRouting, HookPoint::Output}) {
        TRY(add_own_step(program, version, point, Kind::Track, priority_track));
        TRY(add_own_step(program, version, point, Kind::Nat, priority_destination_nat));
    }
    for (const HookPoint point : {HookPoint::Input, HookPoint::PostRouting}) {
        TRY(add_own_step(program, version, point, Kind::Nat, priority_source_nat));
        TRY(add_own_step(program, version, point, Kind::Confirm, priority_confirm));
    }
    return {};
}

bool for_version(u8 family, usize version) {
    return family == NFPROTO_INET || family == (version == 0 ? NFPROTO_IPV4 : NFPROTO_IPV6);
}

bool needs_tracking(const Table& table) {
    bool needed = false;
    for (const Ref<Chain>& chain : table.chains)
        needed = needed || (chain->base && chain->type == ChainType::Nat);
    for_each_expression(table, [&](const Expression& one) { needed = needed || one.tracks(); });
    return needed;
}

} // namespace

Result<void> Transaction::add_steps(Program& program, const Table& table, const Ref<Chain>& chain) {
    for (usize version = 0; version < 2; version++) {
        if (!for_version(table.family, version))
            continue;
        Program::Step step;
        step.priority = chain->priority;
        step.family = table.family;
        step.chain = chain;
        auto& place = chain->type == ChainType::Nat ? program.nat : program.steps;
        TRY(insert_step(place[version][index_of(chain->point)], std::move(step)));
    }
    return {};
}

Result<Ref<Program>> Transaction::build() {
    TRY(Ref<Program> program, make_ref<Program>());
    TRY(program->by_slot.resize(filter.slots.size()));
    for (const Ref<Table>& table : tables_) {
        const bool tracking = needs_tracking(*table);
        for (usize version = 0; version < 2; version++)
            if (tracking && for_version(table->family, version))
                program->tracks[version] = true;
    }
    for (usize version = 0; version < 2; version++)
        if (program->tracks[version])
            TRY(add_tracking(*program, version));
    for (const Ref<Table>& table : tables_)
        for (const Ref<Chain>& chain : table->chains) {
            program->by_slot[chain->key->slot] = chain;
            if (chain->base && !table->dormant())
                TRY(add_steps(*program, *table, chain));
        }
    return program;
}

// --- validation

namespace {

class Checker {
public:
    Checker(const Table& table, const Chain& base) : table_(table), base_(base) {}
    Result<void> check(const Chain& chain, u32 depth) {
        if (depth == most_jumps)
            return fail(EMLINK);
        // From no deeper than before there is nothing new to find.
        for (Seen& one : seen_)
            if (one.chain == &chain) {
                if (one.depth >= depth)
                    return {};
                one.depth = depth;
                return descend(chain, depth);
            }
        TRY(seen_.push_back({&chain, depth}));
        return descend(chain, depth);
    }

private:
    struct Seen {
        const Chain* chain;
        u32 depth;
    };
    Result<void> descend(const Chain& chain, u32 depth) {
        for (const Ref<Rule>& rule : chain.rules)
            for (const Owned<Expression>& expression : rule->expressions) {
                TRY(expression->validate(base_, table_.family));
                if (const ChainKey* target = expression->target())
                    TRY(follow(*target, depth));
                if (const Set* set = expression->set(); set != nullptr && set->verdicts)
                    TRY(follow_elements(const_cast<Set&>(*set), depth));
            }
        return {};
    }
    Result<void> follow(const ChainKey& target, u32 depth) {
        const Chain* chain = table_.find_chain(target);
        return chain == nullptr ? Result<void>() : check(*chain, depth + 1);
    }
    Result<void> follow_elements(Set& set, u32 depth) {
        Vector<Ref<ChainKey>> targets;
        TRY(targets.reserve(set.count()));
        set.for_each([&](const Element& element) {
            if (element.state != ElementState::Doomed && element.data.chain)
                (void)targets.push_back(element.data.chain);
        });
        for (const Ref<ChainKey>& target : targets)
            TRY(follow(*target, depth));
        return {};
    }
    const Table& table_;
    const Chain& base_;
    Vector<Seen> seen_;
};

} // namespace

Result<void> Transaction::validate(const Table& table) {
    for (const Ref<Chain>& chain : table.chains)
        if (chain->base) {
            Checker checker(table, *chain);
            TRY(checker.check(*chain, 0));
        }
    return {};
}

} // namespace kernel::net::filter
