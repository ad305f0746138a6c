// Transaction: one batch of changes, all or nothing. It works on a list of tables of its own, in
// which it replaces what it changes by copies; elements of sets it puts in and takes out at once,
// invisibly to packets, and remembers which. commit() makes everything count; what was not
// committed is undone when the transaction goes.
//
// Locks: Filter::mutex is held for all of its life.
#pragma once

#include "guestkernel/net/filter/filter.hpp"
#include "guestkernel/net/filter/set.hpp"
#include "guestkernel/net/netlink/protocol.hpp"

namespace kernel::net::filter {

class Transaction {
public:
    explicit Transaction(Filter& of);
    ~Transaction();
    Result<void> start();
    Result<void> commit(u32 port);

    Filter& filter;
    const u64 number;
    // Rules are checked as they come, so that the error is told of the one that is at fault.
    bool check_at_once = false;
    bool check_needed = false;
    bool changed = false; // anything at all

    // --- looking
    Table* find_table(std::string_view name, u8 family);
    Table* find_table(u64 handle, u8 family);
    Result<void> list_tables(Vector<Ref<Table>>& out) const { return out.append(tables_.span()); }
    Chain* chain_by_id(const Table& table, u32 id);
    Set* set_by_id(const Table& table, u32 id);

    // --- changing
    Result<Table*> edit(Table& table);             // its copy, or itself
    Result<Chain*> edit(Table& own, Chain& chain); // `own`: from edit()
    Result<Table*> add_table(Ref<Table> table);    // takes it over
    Result<void> remove_table(Table& table);
    Result<Ref<ChainKey>> new_chain_key(Table& own, std::string_view name);
    void forget_chain(Chain& chain); // its slot is free once this is committed
    Result<void> rename(ChainKey& key, String name);
    Result<void> bind(ChainKey& key); // EINVAL: it is already
    Result<void> insert_element(Set& set, Owned<Element> element);
    Result<void> remove_element(Set& set, const Element& like); // ENOENT
    Result<void> flush_elements(Set& set);

    // Whether every base chain's rules may stand where they are: EMLINK (too deep, or in a circle),
    // EOPNOTSUPP and what else expressions say.
    Result<void> validate(const Table& table);

    // --- what listeners are told once it is committed
    bool anybody_listens() const { return listened_; }
    // A message for the group: complete, in `message`. `echo_to`: whom to tell besides.
    Result<void> note(MessageWriter& message, const netlink::Request& request);

private:
    struct ElementChange {
        Ref<Set> set;
        Element* element;
    };
    struct Renaming {
        Ref<ChainKey> key;
        String before;
    };
    struct Note {
        Vector<u8> message;
        u32 port = 0;
        bool echo = false;
    };
    Result<Ref<Program>> build();
    Result<void> add_steps(Program& program, const Table& table, const Ref<Chain>& chain);
    void undo();
    void send_notes(u32 port);

    Vector<Ref<Table>> tables_;
    Vector<ElementChange> elements_;
    Vector<u32> new_slots_, old_slots_;
    Vector<Renaming> renamings_;
    Vector<Ref<ChainKey>> bound_;
    Vector<Note> notes_;
    bool committed_ = false, listened_ = false;
};

} // namespace kernel::net::filter
