#include "guestkernel/net/filter/filter.hpp"

#include "guestkernel/net/filter/nat.hpp"
#include "guestkernel/net/wire.hpp"

namespace kernel::net::filter {

namespace {

constinit Mutex making; // of filters

} // namespace

Filter::~Filter() = default;

Filter* Filter::existing(Stack& stack) {
    return static_cast<Filter*>(stack.filter.load(base::Order::Acquire));
}

Result<Filter*> Filter::of(Stack& stack) {
    if (Filter* there = existing(stack))
        return there;
    MutexGuard guard(making);
    if (Filter* there = existing(stack))
        return there;
    TRY(Owned<Filter> fresh, make_owned<Filter>(stack));
    Filter* out = fresh.leak();
    stack.filter.store(out, base::Order::Release);
    return out;
}

Ref<const Program> Filter::program() {
    SpinGuard guard(program_lock_);
    return program_;
}

void Filter::publish(Ref<Program> fresh) {
    const Program& of = *fresh;
    {
        SpinGuard guard(program_lock_);
        std::swap(program_, fresh);
    }
    for (usize point = 0; point < hook_points; point++) {
        const bool any = !of.steps[0][point].empty() || !of.steps[1][point].empty();
        stack.set_hook(static_cast<HookPoint>(point), any ? on_packet : nullptr);
    }
}

HookVerdict Filter::on_packet(Stack& stack, const HookContext& context, PacketPtr& packet) {
    Filter* filter = existing(stack);
    return filter == nullptr ? HookVerdict::Accept : filter->run(context, packet);
}

HookVerdict Filter::run(const HookContext& context, PacketPtr& packet) {
    const Ref<const Program> rules = program();
    if (!rules)
        return HookVerdict::Accept;
    Evaluation at{.stack = stack, .filter = *this, .hook = context, .packet = packet};
    at.program = rules.get();
    for (const Program::Step& step :
         rules->steps[context.v6 ? 1 : 0][static_cast<usize>(context.point)]) {
        HookVerdict verdict = HookVerdict::Accept;
        switch (step.kind) {
        case Program::Kind::Track:
            verdict = connections.track(context, packet);
            break;
        case Program::Kind::Nat:
            verdict = translate(at);
            break;
        case Program::Kind::Confirm:
            verdict = connections.confirm(*packet);
            break;
        case Program::Kind::Chain:
            at.family = step.family;
            if (!at.find_headers() || run_chain(at, *step.chain) == Verdict::Drop)
                verdict = HookVerdict::Drop;
            break;
        }
        if (verdict != HookVerdict::Accept)
            return verdict;
    }
    return HookVerdict::Accept;
}

// --- headers

bool Evaluation::find_headers() {
    const Packet& of = *packet;
    has_transport = false;
    fragment_offset = 0;
    if (!hook.v6) {
        Ipv4Header header;
        if (!of.read(0, header) || header.header_bytes() < sizeof header)
            return false;
        protocol = header.protocol;
        transport = header.header_bytes();
        fragment_offset = header.fragment.get() & Ipv4Header::offset_mask;
        has_transport = true;
        return true;
    }
    Ipv6Header header;
    if (!of.read(0, header))
        return false;
    protocol = header.next_header;
    transport = sizeof header;
    constexpr int most_extensions = 8;
    for (int i = 0; i < most_extensions; i++) {
        u8 fixed[4];
        if (protocol != proto_hop_options && protocol != proto_routing &&
            protocol != proto_destination_options && protocol != proto_fragment) {
            has_transport = protocol != proto_none;
            return true;
        }
        if (!of.read(transport, fixed))
            return true; // without a transport header that rules could look at
        if (protocol == proto_fragment)
            fragment_offset = static_cast<u16>((u32{fixed[2]} << 8 | fixed[3]) >> 3);
        transport += protocol == proto_fragment ? 8u : (fixed[1] + 1u) * 8;
        protocol = fixed[0];
        if (fragment_offset != 0) {
            has_transport = true;
            return true;
        }
    }
    return true;
}

// --- rules

namespace {

struct Frame {
    const Chain* chain;
    usize rule;
};

void run_rule(Evaluation& at, const Rule& rule) {
    at.verdict = Verdict::Continue;
    for (const Owned<Expression>& expression : rule.expressions) {
        expression->evaluate(at);
        if (at.verdict != Verdict::Continue)
            return;
    }
}

} // namespace

Verdict run_chain(Evaluation& at, const Chain& base) {
    at.chain = &base;
    __builtin_memset(at.words, 0, sizeof at.words);
    Frame frames[most_jumps];
    u32 depth = 0, met = 0;
    Frame now{&base, 0};
    for (;;) {
        if (now.rule < now.chain->rules.size()) {
            // Also what ends a circle: of gotos by elements that a commit changes just now, which
            // a program that is still in force sees together with its own rules.
            if (met++ == most_rules_met)
                return Verdict::Drop;
            run_rule(at, *now.chain->rules[now.rule++]);
            switch (at.verdict) {
            case Verdict::Accept:
            case Verdict::Drop:
                return at.verdict;
            case Verdict::Continue:
            case Verdict::Break:
                continue;
            case Verdict::Jump:
            case Verdict::Goto: {
                const auto& chains = at.program->by_slot;
                const Chain* to =
                    at.target_slot < chains.size() ? chains[at.target_slot].get() : nullptr;
                // A map that has changed since this program was in force.
                if (to == nullptr || to->key.get() != at.target)
                    return Verdict::Drop;
                if (at.verdict == Verdict::Jump) {
                    if (depth == most_jumps)
                        return Verdict::Drop;
                    frames[depth++] = now;
                }
                now = {to, 0};
                continue;
            }
            case Verdict::Return:
                break;
            }
        }
        if (depth == 0)
            break;
        now = frames[--depth];
    }
    if (base.counter)
        base.counter->values.add(at.packet->length());
    return base.policy_drop ? Verdict::Drop : Verdict::Accept;
}

} // namespace kernel::net::filter
