// An intrusive hash table: chained, links inside the elements, so that insertion cannot fail.
#pragma once

#include <string_view>

#include "guestkernel/core/types.hpp"

namespace kernel {

constexpr u64 hash_mix(u64 value) {
    value ^= value >> 32;
    value *= 0x9e37'79b9'7f4a'7c15;
    return value ^ value >> 29;
}
constexpr u64 hash_bytes(std::string_view text, u64 seed = 0) {
    u64 hash = seed ^ 0xcbf2'9ce4'8422'2325;
    for (const char c : text)
        hash = (hash ^ static_cast<u8>(c)) * 0x100'0000'01b3;
    return hash_mix(hash);
}

// T has a member `T* Next` reserved for this table; the caller supplies hash and equality.
template <typename T, T* T::*Next, usize Buckets>
class HashTable {
    static_assert((Buckets & (Buckets - 1)) == 0);

public:
    template <typename Match>
    T* find(u64 hash, Match&& match) {
        for (T* item = buckets_[hash & (Buckets - 1)]; item != nullptr; item = item->*Next)
            if (match(*item))
                return item;
        return nullptr;
    }
    void insert(u64 hash, T& item) {
        T*& bucket = buckets_[hash & (Buckets - 1)];
        item.*Next = bucket;
        bucket = &item;
    }
    // Returns whether it was there.
    bool remove(u64 hash, T& item) {
        for (T** at = &buckets_[hash & (Buckets - 1)]; *at != nullptr; at = &((*at)->*Next))
            if (*at == &item) {
                *at = item.*Next;
                item.*Next = nullptr;
                return true;
            }
        return false;
    }
    template <typename F>
    void for_each(F&& function) {
        for (T* bucket : buckets_)
            for (T* item = bucket; item != nullptr;) {
                T* next = item->*Next; // the function may remove its argument
                function(*item);
                item = next;
            }
    }

private:
    T* buckets_[Buckets] = {};
};

} // namespace kernel
