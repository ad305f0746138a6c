// Sets and maps: elements by key (exact, intervals, concatenations of ranges), with data, verdicts,
// objects, time-outs and state.
//
// A transaction puts elements in at once, as Pending: packets do not see them before the commit.
// Those it takes out are Doomed, and packets see them until then.
//
// Locks: `lock` (rank Leaf) for the elements and for what packets do with their state; additions by
// programs are under Filter::mutex besides.
#pragma once

#include "guestkernel/core/lock.hpp"
#include "guestkernel/net/filter/ruleset.hpp"

namespace kernel::net::filter {

enum class ElementState : u8 { Pending, Live, Doomed };

struct Element {
    Element* next = nullptr; // in its bucket
    ElementState state = ElementState::Pending;
    bool interval_end = false, catch_all = false, has_data = false, has_key_end = false;
    u8 key[64] = {}, key_end[64] = {};
    Data data; // value or verdict
    Ref<Object> object;
    u64 timeout_ms = 0; // 0: the set's own
    u64 expires_at = 0; // on the stack's clock; 0: never
    bool has_timeout = false;
    Vector<u8> user_data;
    Vector<Owned<Expression>> expressions;
    u64 serial = 0;
};

class Set final : public RefCounted {
public:
    static constexpr u32 longest_key = 64, most_fields = 16, most_expressions_each = 2;
    Set() = default;
    ~Set() override;

    // --- description; does not change once its transaction is through, but for the size
    String name;
    u64 handle = 0;
    u32 id = 0; // NFTA_SET_ID in the transaction that made it
    u64 transaction = 0;
    u32 flags = 0, key_type = 0, key_length = 0, data_type = 0, data_length = 0, policy = 0;
    u32 object_type = 0;
    u32 size = 0; // 0: as many as memory allows
    u32 field_lengths[most_fields] = {}, fields = 0;
    u64 timeout_ms = 0;
    u32 collect_interval = 0;
    bool has_timeout = false, has_policy = false;
    Vector<u8> user_data;
    Vector<Owned<Expression>> expressions; // each element gets a copy
    bool verdicts = false;                 // a verdict map
    bool bound = false;                    // anonymous, and a rule has it

    bool anonymous() const { return (flags & 1) != 0; }
    bool constant() const { return (flags & 2) != 0; }
    bool intervals() const { return (flags & 4) != 0; }
    bool is_map() const { return (flags & 8) != 0; }
    bool timed() const { return (flags & 0x10) != 0; }
    bool objects() const { return (flags & 0x40) != 0; }
    bool ranges() const { return intervals() && fields > 1; } // concatenated
    bool sorted() const { return intervals() && !ranges(); }

    // --- the packets' side
    // Calls visit(Element&) for the element of the key, under the lock. False: none, or expired.
    template <typename Visit>
    bool with(const u8* key, u64 now, Visit&& visit);
    // By a packet: adds it, or renews its time. False: there is no room or no memory.
    template <typename Visit>
    bool add_by_packet(const u8* key, const Data* data, u64 timeout, u64 now, Visit&& visit);
    bool remove_by_packet(const u8* key, u64 now);

    // --- the transactions' side; Filter::mutex is held
    // Calls visit(Element&), under the lock, for the element that has exactly this key, as a
    // transaction sees it. False: none.
    template <typename Visit>
    bool with_exact(const Element& like, Visit&& visit) {
        SpinGuard guard(lock);
        Element* found = find_exact(like);
        if (found == nullptr)
            return false;
        visit(*found);
        return true;
    }
    // Takes it over. ENOMEM, ENFILE (the set is full).
    Result<void> insert(Owned<Element> element, u64 now);
    void settle(Element& element, bool commit); // Pending or Doomed: what becomes of it
    u32 count() const { return count_; }
    template <typename Visit>
    void for_each(Visit&& visit); // all of them

    SpinLock lock{LockRank::Leaf};

private:
    Element* find_exact(const Element& like);
    Element* lookup(const u8* key, u64 now);
    Element* lookup_exact(const u8* key, u64 now);
    Element* lookup_sorted(const u8* key, u64 now);
    Element* lookup_ranges(const u8* key, u64 now);
    usize position_of(const Element& like) const; // the first that is not before it
    Result<void> grow();
    void unlink(Element& element);
    void collect(u64 now); // expired ones that nobody holds
    void collect_when_due(u64 now);
    bool visible(const Element& element, u64 now) const {
        return element.state != ElementState::Pending &&
               (element.expires_at == 0 || element.expires_at > now);
    }
    u64 place(const u8* key) const;
    Element* add_locked(const u8* key, const Data* data, u64 timeout, u64 now);

    Vector<Element*> buckets_;  // of exact ones
    Vector<Element*> elements_; // of intervals: by key; of ranges: as they came
    Element* catch_all_ = nullptr;
    u32 count_ = 0;
    u64 last_serial_ = 0;
    u64 collect_at_ = 0;
};

template <typename Visit>
bool Set::with(const u8* key, u64 now, Visit&& visit) {
    SpinGuard guard(lock);
    Element* found = lookup(key, now);
    if (found == nullptr)
        return false;
    visit(*found);
    return true;
}

template <typename Visit>
bool Set::add_by_packet(const u8* key, const Data* data, u64 timeout, u64 now, Visit&& visit) {
    SpinGuard guard(lock);
    Element* found = lookup_exact(key, now);
    if (found == nullptr)
        found = add_locked(key, data, timeout, now);
    if (found == nullptr)
        return false;
    visit(*found);
    return true;
}

template <typename Visit>
void Set::for_each(Visit&& visit) {
    SpinGuard guard(lock);
    for (Element* bucket : buckets_)
        for (Element* element = bucket; element != nullptr; element = element->next)
            visit(*element);
    for (Element* element : elements_)
        visit(*element);
    if (catch_all_ != nullptr)
        visit(*catch_all_);
}

} // namespace kernel::net::filter
