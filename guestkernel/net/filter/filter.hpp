// Filter: what a network namespace has of rules and connections. Made when a program first asks
// for it; the IP path calls it only while there is something to do.
//
// Locks, outermost first: `mutex` (sleeping) for all that programs change; then spin locks: the
// connections' table (rank NetTable), a set's elements (rank Leaf), `program_lock` (rank Leaf).
#pragma once

#include "guestkernel/net/filter/conntrack.hpp"
#include "guestkernel/net/filter/ruleset.hpp"
#include "guestkernel/sched/mutex.hpp"

namespace kernel::net::filter {

class Filter final : public StackPart {
public:
    explicit Filter(Stack& of_stack) : stack(of_stack), connections(of_stack) {}
    ~Filter() override;
    // The stack's, made at need. May sleep.
    static Result<Filter*> of(Stack& stack);
    static Filter* existing(Stack& stack);

    Stack& stack;
    Mutex mutex;
    // --- under the mutex
    Vector<Ref<Table>> tables;
    u32 generation = 1;
    u64 last_table_handle = 0, last_transaction = 0, last_chain_number = 0;
    Vector<bool> slots; // in use, of chains

    // --- the packets' path
    Connections connections;
    Ref<const Program> program();
    // Puts it in force, with the hooks that it needs.
    void publish(Ref<Program> fresh);

    static HookVerdict on_packet(Stack& stack, const HookContext& context, PacketPtr& packet);

private:
    HookVerdict run(const HookContext& context, PacketPtr& packet);
    SpinLock program_lock_{LockRank::Leaf};
    Ref<Program> program_;
};

// Goes through the rules of a base chain. Accept or Drop.
Verdict run_chain(Evaluation& at, const Chain& base);

} // namespace kernel::net::filter
