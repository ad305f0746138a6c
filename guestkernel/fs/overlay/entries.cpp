#include "guestkernel/fs/overlay/entries.hpp"

#include "guestkernel/fs/overlay/overlay.hpp"
#include "guestkernel/lib/hash_map.hpp"
#include "guestkernel/mm/heap.hpp"

namespace kernel {

OverlayEntry* OverlayEntry::make(std::string_view name) {
    void* memory = kmalloc(sizeof(OverlayEntry) + name.size());
    if (memory == nullptr)
        return nullptr;
    auto* entry = ::new (memory) OverlayEntry();
    entry->hash = hash_bytes(name);
    entry->length = static_cast<u16>(name.size());
    __builtin_memcpy(entry->name, name.data(), name.size());
    return entry;
}

void OverlayEntry::destroy(OverlayEntry* entry) {
    if (entry == nullptr)
        return;
    entry->~OverlayEntry();
    kfree(entry);
}

OverlayEntries::~OverlayEntries() {
    while (OverlayEntry* entry = order_.pop_front())
        OverlayEntry::destroy(entry);
    kfree(buckets_);
}

OverlayEntry* OverlayEntries::find(std::string_view name) const {
    if (count_ == 0)
        return nullptr;
    const u64 hash = hash_bytes(name);
    for (OverlayEntry* at = buckets_[hash & (bucket_count_ - 1)]; at != nullptr; at = at->hash_next)
        if (at->hash == hash && at->view() == name)
            return at;
    return nullptr;
}

OverlayEntry** OverlayEntries::exchange_table(OverlayEntry** fresh) {
    const usize size = table_size();
    OverlayEntry** old = std::exchange(buckets_, fresh);
    bucket_count_ = size;
    for (OverlayEntry& entry : order_) {
        entry.hash_next = buckets_[entry.hash & (size - 1)];
        buckets_[entry.hash & (size - 1)] = &entry;
    }
    return old;
}

void OverlayEntries::insert(OverlayEntry& entry) {
    OverlayEntry*& bucket = buckets_[entry.hash & (bucket_count_ - 1)];
    entry.hash_next = bucket;
    bucket = &entry;
    order_.push_back(entry);
    count_++;
    if (!entry.inode)
        whiteouts_++;
}

void OverlayEntries::remove(OverlayEntry& entry) {
    for (OverlayEntry** at = &buckets_[entry.hash & (bucket_count_ - 1)]; *at != nullptr;
         at = &(*at)->hash_next)
        if (*at == &entry) {
            *at = entry.hash_next;
            break;
        }
    order_.remove(entry);
    count_--;
    if (!entry.inode)
        whiteouts_--;
}

} // namespace kernel
