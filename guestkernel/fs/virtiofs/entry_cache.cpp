#include "guestkernel/fs/virtiofs/entry_cache.hpp"

#include "guestkernel/core/time.hpp"
#include "guestkernel/lib/hash_map.hpp"
#include "guestkernel/mm/heap.hpp"

namespace kernel {
namespace {

u64 entry_hash(u64 directory, std::string_view name) {
    return hash_bytes(name, hash_mix(directory));
}

} // namespace

EntryCache::~EntryCache() {
    clear();
    kfree(table_);
}

EntryCache::Entry* EntryCache::make(u64 directory, std::string_view name, u64 hash) {
    void* memory = kmalloc(sizeof(Entry) + name.size());
    if (memory == nullptr)
        return nullptr;
    auto* entry = ::new (memory) Entry();
    entry->directory = directory;
    entry->hash = hash;
    entry->length = static_cast<u32>(name.size());
    __builtin_memcpy(entry->name, name.data(), name.size());
    return entry;
}

void EntryCache::destroy(Entry* entry) {
    entry->~Entry();
    kfree(entry);
}

// The link that points to the entry, or null.
EntryCache::Entry** EntryCache::find(u64 directory, std::string_view name, u64 hash) {
    if (table_ == nullptr)
        return nullptr;
    for (Entry** at = &table_[hash & (buckets - 1)]; *at != nullptr; at = &(*at)->hash_next)
        if ((*at)->hash == hash && (*at)->directory == directory &&
            std::string_view((*at)->name, (*at)->length) == name)
            return at;
    return nullptr;
}

EntryCache::Entry* EntryCache::unlink(Entry** at) {
    Entry* entry = *at;
    *at = entry->hash_next;
    entry->age_node.unlink();
    count_--;
    return entry;
}

EntryCache::Answer EntryCache::take(u64 directory, std::string_view name, Ref<Inode>& inode) {
    const u64 hash = entry_hash(directory, name);
    Entry* gone = nullptr;
    Answer answer = Answer::Unknown;
    {
        SpinGuard guard(lock_);
        Entry** at = find(directory, name, hash);
        if (at == nullptr)
            return Answer::Unknown;
        const bool valid = monotonic_ns() < (*at)->valid_until_ns;
        if (valid && !(*at)->inode)
            return Answer::Missing;
        gone = unlink(at);
        if (valid) {
            inode = std::move(gone->inode);
            answer = Answer::Found;
        }
    }
    destroy(gone); // without the lock: it may drop the last reference to an inode
    if (answer == Answer::Found)
        hits_.fetch_add(1, base::Order::Relaxed);
    return answer;
}

usize EntryCache::put(u64 directory, std::string_view name, Ref<Inode> inode, u64 valid_until_ns) {
    const u64 hash = entry_hash(directory, name);
    if (table_ == nullptr) {
        auto* fresh = static_cast<Entry**>(kzalloc(buckets * sizeof(Entry*)));
        if (fresh == nullptr)
            return 0;
        SpinGuard guard(lock_);
        if (table_ == nullptr)
            std::swap(table_, fresh);
        guard.unlock();
        kfree(fresh);
    }
    Entry* entry = make(directory, name, hash);
    if (entry == nullptr)
        return 0;
    entry->inode = std::move(inode);
    entry->valid_until_ns = valid_until_ns;
    Entry* old = nullptr;
    Entry* evicted = nullptr;
    {
        SpinGuard guard(lock_);
        if (Entry** at = find(directory, name, hash); at != nullptr)
            old = unlink(at);
        if (count_ >= limit) {
            Entry* oldest = ages_.front();
            evicted = unlink(find(oldest->directory, {oldest->name, oldest->length}, oldest->hash));
        }
        entry->hash_next = table_[hash & (buckets - 1)];
        table_[hash & (buckets - 1)] = entry;
        ages_.push_back(*entry);
        count_++;
    }
    if (old != nullptr)
        destroy(old);
    usize unused = 0;
    if (evicted != nullptr) {
        unused = evicted->inode ? 1 : 0;
        destroy(evicted);
    }
    return unused;
}

void EntryCache::forget(u64 directory, std::string_view name) {
    Entry* gone = nullptr;
    {
        SpinGuard guard(lock_);
        if (Entry** at = find(directory, name, entry_hash(directory, name)); at != nullptr)
            gone = unlink(at);
    }
    if (gone != nullptr)
        destroy(gone);
}

void EntryCache::clear() {
    for (;;) {
        Entry* gone = nullptr;
        {
            SpinGuard guard(lock_);
            if (Entry* first = ages_.front(); first != nullptr)
                gone = unlink(find(first->directory, {first->name, first->length}, first->hash));
        }
        if (gone == nullptr)
            return;
        destroy(gone);
    }
}

} // namespace kernel
