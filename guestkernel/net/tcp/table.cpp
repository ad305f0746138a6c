#include "guestkernel/net/tcp/table.hpp"

#include <new>

#include "guestkernel/mm/heap.hpp"

namespace kernel::tcp {

namespace {
constinit Table the_table;
}

Table& Table::get() {
    return the_table;
}

Result<void> Table::prepare() {
    if (buckets_.load(base::Order::Acquire) != nullptr)
        return {};
    void* memory = kmalloc(bucket_count * sizeof(Bucket));
    if (memory == nullptr)
        return fail(enomem);
    auto* fresh = static_cast<Bucket*>(memory);
    for (usize i = 0; i < bucket_count; i++)
        ::new (static_cast<void*>(fresh + i)) Bucket();
    Bucket* expected = nullptr;
    if (!buckets_.compare_exchange(expected, fresh))
        kfree(memory);
    return {};
}

Entry* Table::find_locked(Bucket& bucket, const net::Stack& stack, const Pair& pair, u64 hash) {
    for (Entry* entry = bucket.first; entry != nullptr; entry = entry->next_)
        if (entry->hash == hash && entry->stack == &stack && entry->pair == pair)
            return entry;
    return nullptr;
}

Ref<Entry> Table::find(const net::Stack& stack, const Pair& pair) {
    if (buckets_.load(base::Order::Acquire) == nullptr)
        return nullptr;
    const u64 hash = Secrets::get().table_hash(pair);
    Bucket& where = bucket(hash);
    if (__atomic_load_n(&where.first, __ATOMIC_RELAXED) == nullptr)
        return nullptr;
    SpinGuard guard(where.lock);
    return Ref<Entry>::share(find_locked(where, stack, pair, hash));
}

bool Table::insert(Entry& entry, Ref<Entry>* other) {
    entry.hash = Secrets::get().table_hash(entry.pair);
    Bucket& where = bucket(entry.hash);
    SpinGuard guard(where.lock);
    if (Entry* there = find_locked(where, *entry.stack, entry.pair, entry.hash)) {
        if (other != nullptr)
            *other = Ref<Entry>::share(there);
        return false;
    }
    entry.add_ref();
    entry.next_ = where.first;
    where.first = &entry;
    entry.in_table_.store(true, base::Order::Release);
    size_.fetch_add(1, base::Order::Relaxed);
    return true;
}

bool Table::unlink(Bucket& bucket, Entry& entry) {
    for (Entry** at = &bucket.first; *at != nullptr; at = &(*at)->next_) {
        if (*at != &entry)
            continue;
        *at = entry.next_;
        entry.next_ = nullptr;
        entry.in_table_.store(false, base::Order::Release);
        return true;
    }
    return false;
}

bool Table::replace(Entry& old, Entry& fresh) {
    fresh.hash = old.hash;
    Bucket& where = bucket(old.hash);
    {
        SpinGuard guard(where.lock);
        if (!unlink(where, old))
            return false;
        fresh.add_ref();
        fresh.next_ = where.first;
        where.first = &fresh;
        fresh.in_table_.store(true, base::Order::Release);
    }
    old.release();
    return true;
}

bool Table::remove(Entry& entry) {
    if (!entry.in_table())
        return false;
    Bucket& where = bucket(entry.hash);
    {
        SpinGuard guard(where.lock);
        if (!unlink(where, entry))
            return false;
    }
    size_.fetch_sub(1, base::Order::Relaxed);
    entry.release();
    return true;
}

void Table::for_each(void (*visit)(Entry& entry, void* context), void* context) {
    for (usize i = 0; i < bucket_count; i++)
        for_each_in(i, visit, context);
}

void Table::for_each_in(usize index, void (*visit)(Entry& entry, void* context), void* context) {
    if (buckets_.load(base::Order::Acquire) == nullptr)
        return;
    Bucket& where = bucket(index);
    if (__atomic_load_n(&where.first, __ATOMIC_RELAXED) == nullptr)
        return;
    SpinGuard guard(where.lock);
    for (Entry* entry = where.first; entry != nullptr; entry = entry->next_)
        visit(*entry, context);
}

usize Table::longest_chain() {
    usize longest = 0;
    for (usize i = 0; i < bucket_count; i++) {
        usize length = 0;
        for_each_in(
            i, [](Entry&, void* count) { (*static_cast<usize*>(count))++; }, &length);
        longest = length > longest ? length : longest;
    }
    return longest;
}

} // namespace kernel::tcp
