#include "guestkernel/net/filter/transaction.hpp"

#include <linux/errno.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>

#include "guestkernel/net/filter/message.hpp"
#include "guestkernel/net/netlink/endpoint.hpp"

namespace kernel::net::filter {

// --- tables

Chain* Table::find_chain(std::string_view chain_name) const {
    for (const Ref<Chain>& chain : chains)
        if (chain->name() == chain_name)
            return chain.get();
    return nullptr;
}
Chain* Table::find_chain(u64 chain_handle) const {
    for (const Ref<Chain>& chain : chains)
        if (chain->key->handle == chain_handle)
            return chain.get();
    return nullptr;
}
Chain* Table::find_chain(const ChainKey& wanted) const {
    for (const Ref<Chain>& chain : chains)
        if (chain->key.get() == &wanted)
            return chain.get();
    return nullptr;
}
Set* Table::find_set(std::string_view set_name) const {
    for (const Ref<Set>& set : sets)
        if (set->name.view() == set_name)
            return set.get();
    return nullptr;
}
Set* Table::find_set(u64 set_handle) const {
    for (const Ref<Set>& set : sets)
        if (set->handle == set_handle)
            return set.get();
    return nullptr;
}
Object* Table::find_object(std::string_view object_name, u32 type) const {
    for (const Ref<Object>& object : objects)
        if (object->name.view() == object_name && (type == 0 || object->type == type))
            return object.get();
    return nullptr;
}

// --- the transaction

Transaction::Transaction(Filter& of) : filter(of), number(++of.last_transaction) {
    listened_ = netlink::anybody_listens(of.stack, NETLINK_NETFILTER, NFNLGRP_NFTABLES);
}

Transaction::~Transaction() {
    if (!committed_)
        undo();
}

Result<void> Transaction::start() {
    return tables_.append(filter.tables.span());
}

void Transaction::undo() {
    // Backwards: what was put in and taken out again by the same transaction.
    for (usize i = elements_.size(); i-- > 0;)
        elements_[i].set->settle(*elements_[i].element, false);
    for (usize i = renamings_.size(); i-- > 0;)
        renamings_[i].key->name = std::move(renamings_[i].before);
    for (const Ref<ChainKey>& key : bound_)
        key->bound = false;
    for (const u32 slot : new_slots_)
        filter.slots[slot] = false;
}

// Jumps know the chain by its key; packets do not read names.
Result<void> Transaction::rename(ChainKey& key, String name) {
    TRY(renamings_.reserve(renamings_.size() + 1));
    std::swap(key.name, name);
    return renamings_.push_back({Ref<ChainKey>::share(&key), std::move(name)});
}

Result<void> Transaction::bind(ChainKey& key) {
    if (key.bound)
        return fail(EINVAL);
    TRY(bound_.push_back(Ref<ChainKey>::share(&key)));
    key.bound = true;
    return {};
}

Table* Transaction::find_table(std::string_view name, u8 family) {
    for (const Ref<Table>& table : tables_)
        if (table->family == family && table->name.view() == name)
            return table.get();
    return nullptr;
}

Table* Transaction::find_table(u64 handle, u8 family) {
    for (const Ref<Table>& table : tables_)
        if (table->family == family && table->handle == handle)
            return table.get();
    return nullptr;
}

Chain* Transaction::chain_by_id(const Table& table, u32 id) {
    for (const Ref<Chain>& chain : table.chains)
        if (chain->transaction == number && chain->id == id && id != 0)
            return chain.get();
    return nullptr;
}

Set* Transaction::set_by_id(const Table& table, u32 id) {
    for (const Ref<Set>& set : table.sets)
        if (set->transaction == number && set->id == id)
            return set.get();
    return nullptr;
}

Result<Table*> Transaction::edit(Table& table) {
    changed = true;
    if (table.transaction == number)
        return &table;
    TRY(Ref<Table> copy, make_ref<Table>());
    copy->transaction = number;
    copy->family = table.family;
    TRY(copy->name, table.name.clone());
    copy->handle = table.handle;
    copy->flags = table.flags;
    copy->owner = table.owner;
    TRY(copy->user_data.append(table.user_data.span()));
    TRY(copy->chains.append(table.chains.span()));
    TRY(copy->sets.append(table.sets.span()));
    TRY(copy->objects.append(table.objects.span()));
    copy->last_handle = table.last_handle;
    for (Ref<Table>& one : tables_)
        if (one.get() == &table) {
            one = copy;
            break;
        }
    return copy.get(); // the list has it
}

Result<Chain*> Transaction::edit(Table& own, Chain& chain) {
    changed = true;
    if (chain.transaction == number)
        return &chain;
    TRY(Ref<Chain> copy, make_ref<Chain>());
    copy->transaction = number;
    copy->key = chain.key;
    TRY(copy->rules.append(chain.rules.span()));
    TRY(copy->user_data.append(chain.user_data.span()));
    copy->flags = chain.flags;
    copy->base = chain.base;
    copy->type = chain.type;
    copy->point = chain.point;
    copy->priority = chain.priority;
    copy->policy_drop = chain.policy_drop;
    copy->counter = chain.counter;
    for (Ref<Chain>& one : own.chains)
        if (one.get() == &chain) {
            one = copy;
            break;
        }
    return copy.get();
}

Result<Table*> Transaction::add_table(Ref<Table> table) {
    changed = true;
    if (tables_.size() >= most_tables)
        return fail(EMFILE);
    table->transaction = number;
    table->handle = ++filter.last_table_handle;
    Table* added = table.get();
    TRY(tables_.push_back(std::move(table)));
    return added;
}

Result<void> Transaction::remove_table(Table& table) {
    changed = true;
    for (const Ref<Chain>& chain : table.chains)
        forget_chain(*chain);
    for (usize i = 0; i < tables_.size(); i++)
        if (tables_[i].get() == &table) {
            tables_.erase(i);
            break;
        }
    return {};
}

Result<Ref<ChainKey>> Transaction::new_chain_key(Table& own, std::string_view name) {
    u32 slot = 0;
    while (slot < filter.slots.size() && filter.slots[slot])
        slot++;
    if (slot >= most_chains)
        return fail(EMFILE);
    TRY(Ref<ChainKey> key, make_ref<ChainKey>());
    TRY(key->name.append(name));
    TRY(new_slots_.reserve(new_slots_.size() + 1));
    if (slot == filter.slots.size())
        TRY(filter.slots.push_back(false));
    filter.slots[slot] = true;
    TRY(new_slots_.push_back(slot));
    key->slot = slot;
    key->handle = own.new_handle();
    return key;
}

void Transaction::forget_chain(Chain& chain) {
    // Without memory the slot stays taken, which is all that it costs.
    (void)old_slots_.push_back(chain.key->slot);
}

// --- elements

Result<void> Transaction::insert_element(Set& set, Owned<Element> element) {
    changed = true;
    TRY(elements_.reserve(elements_.size() + 1));
    Element* added = element.get();
    element->state = ElementState::Pending;
    TRY(set.insert(std::move(element), filter.stack.now()));
    return elements_.push_back({Ref<Set>::share(&set), added});
}

Result<void> Transaction::remove_element(Set& set, const Element& like) {
    changed = true;
    TRY(elements_.reserve(elements_.size() + 1));
    Element* removed = nullptr;
    const bool found = set.with_exact(like, [&](Element& element) {
        // One that came with this very transaction is gone as if it never had been there.
        removed = &element;
        if (element.state == ElementState::Live)
            element.state = ElementState::Doomed;
    });
    if (!found)
        return fail(ENOENT);
    if (removed->state == ElementState::Doomed)
        return elements_.push_back({Ref<Set>::share(&set), removed});
    for (usize i = elements_.size(); i-- > 0;)
        if (elements_[i].element == removed) {
            elements_.erase(i);
            break;
        }
    set.settle(*removed, false);
    return {};
}

Result<void> Transaction::flush_elements(Set& set) {
    changed = true;
    u32 count = 0;
    set.for_each([&](Element& element) { count += element.state != ElementState::Doomed ? 1 : 0; });
    // Packets may add some more meanwhile; those stay.
    Vector<Element*> pending;
    TRY(elements_.reserve(elements_.size() + count));
    TRY(pending.reserve(count));
    u32 room = count;
    set.for_each([&](Element& element) {
        if (room == 0 || element.state == ElementState::Doomed)
            return;
        room--;
        if (element.state == ElementState::Pending) {
            (void)pending.push_back(&element);
            return;
        }
        element.state = ElementState::Doomed;
        (void)elements_.push_back({Ref<Set>::share(&set), &element});
    });
    for (Element* one : pending) {
        for (usize i = elements_.size(); i-- > 0;)
            if (elements_[i].element == one) {
                elements_.erase(i);
                break;
            }
        set.settle(*one, false);
    }
    return {};
}

// --- telling others

Result<void> Transaction::note(MessageWriter& message, const netlink::Request& request) {
    const bool echo = request.wants(netlink::flag_echo);
    if (!listened_ && !echo)
        return {};
    Note one;
    one.port = request.sender().port();
    one.echo = echo;
    TRY(one.message.append(std::span<const u8>(message.bytes())));
    return notes_.push_back(std::move(one));
}

void Transaction::send_notes(u32 port) {
    for (const Note& one : notes_) {
        if (listened_)
            netlink::broadcast(filter.stack, NETLINK_NETFILTER, NFNLGRP_NFTABLES,
                               one.message.span(), one.echo ? one.port : 0);
        if (one.echo)
            (void)netlink::unicast(filter.stack, NETLINK_NETFILTER, one.port, one.message.span());
    }
    if (!listened_)
        return;
    MessageWriter out;
    write_generation(out, filter, {0, 0, port});
    netlink::broadcast(filter.stack, NETLINK_NETFILTER, NFNLGRP_NFTABLES, out.bytes());
}

// --- commit

Result<void> Transaction::commit(u32 port) {
    if (!changed) {
        committed_ = true;
        return {};
    }
    if (check_needed)
        for (const Ref<Table>& table : tables_)
            if (table->transaction == number)
                TRY(validate(*table));
    TRY(Ref<Program> program, build());
    if (program->tracks[0] || program->tracks[1])
        TRY(filter.connections.init());
    // From here on nothing fails.
    committed_ = true;
    for (const ElementChange& one : elements_)
        one.set->settle(*one.element, true);
    std::swap(filter.tables, tables_);
    filter.publish(std::move(program));
    for (const u32 slot : old_slots_)
        filter.slots[slot] = false;
    if (++filter.generation == 0)
        filter.generation = 1;
    send_notes(port);
    return {};
}

} // namespace kernel::net::filter
