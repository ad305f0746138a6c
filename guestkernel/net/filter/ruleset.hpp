// What programs load: tables with chains, rules, sets and objects (nf_tables). Tables and chains
// are values: a transaction copies those that it changes, and publishes all of them at once, or
// drops its copies. Rules, sets and objects are shared by the copies; what counts in them
// (counters, elements with their time-outs) goes on through transactions.
//
// Locks: Filter::mutex for everything here; a set's elements have a spin lock of their own.
#pragma once

#include "guestkernel/lib/string.hpp"
#include "guestkernel/net/filter/expression.hpp"

namespace kernel::net::filter {

class Set;

inline constexpr u32 most_rules = 1u << 18, most_chains = 1u << 15, most_sets = 1u << 14,
                     most_tables = 1024, most_expressions = 128;

// Who a chain is, through all of its copies. `slot` is its place in a program.
struct ChainKey final : RefCounted {
    String name;
    u64 handle = 0;
    u32 slot = 0;
    // NFT_CHAIN_BINDING, and a rule leads to it: no other may, and it changes no more until it goes
    // with that rule.
    bool bound = false;
};

struct Rule final : RefCounted {
    u64 handle = 0;
    Vector<Owned<Expression>> expressions;
    Vector<u8> user_data;
    u64 transaction = 0; // that made it
    u32 id = 0;          // NFTA_RULE_ID within it
};

struct CounterValues {
    base::Atomic<u64> packets{0}, bytes{0};
    void add(u64 more) {
        packets.fetch_add(1, base::Order::Relaxed);
        bytes.fetch_add(more, base::Order::Relaxed);
    }
};
struct ChainCounter final : RefCounted {
    CounterValues values;
};

enum class ChainType : u8 { Filter, Nat, Route };

struct Chain final : RefCounted {
    u64 transaction = 0; // whose copy this is: that one may change it
    Ref<ChainKey> key;
    Vector<Ref<Rule>> rules;
    Vector<u8> user_data;
    u32 flags = 0;
    u32 id = 0; // NFTA_CHAIN_ID within the transaction that made it
    bool base = false;
    ChainType type = ChainType::Filter;
    HookPoint point = HookPoint::PreRouting;
    i32 priority = 0;
    bool policy_drop = false;
    Ref<ChainCounter> counter; // of the policy; null: none
    std::string_view name() const { return key->name.view(); }
};

// A stateful object with a name: counters, quotas, limits.
struct Object final : RefCounted {
    String name;
    u64 handle = 0;
    u32 type = 0; // NFT_OBJECT_*
    Owned<Expression> state;
    Vector<u8> user_data;
};

struct Table final : RefCounted {
    u64 transaction = 0;
    u8 family = 0; // NFPROTO_*
    String name;
    u64 handle = 0;
    u32 flags = 0;
    u32 owner = 0; // port of the socket that owns it; 0: nobody
    Vector<u8> user_data;
    Vector<Ref<Chain>> chains;
    Vector<Ref<Set>> sets;
    Vector<Ref<Object>> objects;
    u64 last_handle = 0;

    Chain* find_chain(std::string_view chain_name) const;
    Chain* find_chain(u64 chain_handle) const;
    Chain* find_chain(const ChainKey& key) const;
    Set* find_set(std::string_view set_name) const;
    Set* find_set(u64 set_handle) const;
    Object* find_object(std::string_view object_name, u32 type) const; // type 0: any
    u64 new_handle() { return ++last_handle; }
    bool dormant() const { return (flags & 1) != 0; }
};

// What the packets' path sees: built by each commit, never changed after.
struct Program final : RefCounted {
    // One step of a hook, in the order of priorities. `chain` is null for the stack's own.
    enum class Kind : u8 { Chain, Track, Nat, Confirm };
    struct Step {
        i32 priority = 0;
        Kind kind = Kind::Chain;
        u8 family = 0;
        Ref<Chain> chain;
    };
    Vector<Ref<Chain>> by_slot;
    // By version of IP (0: IPv4) and hook.
    Vector<Step> steps[2][hook_points];
    // The nat chains of a hook, which only a connection's first packet goes through.
    Vector<Step> nat[2][hook_points];
    bool tracks[2] = {};
};

// Visits every expression that a table has: of rules, and of sets' elements.
template <typename F>
void for_each_expression(const Table& table, F&& function) {
    for (const Ref<Chain>& chain : table.chains)
        for (const Ref<Rule>& rule : chain->rules)
            for (const Owned<Expression>& expression : rule->expressions)
                function(*expression);
}

} // namespace kernel::net::filter
