// An array of pointers with a sparse u64 index and one mark per entry: the pages of a cache, the
// dirty ones marked. Its user locks. Memory for a missing path is the only thing that can fail.
#pragma once

#include "guestkernel/core/types.hpp"

namespace kernel {

class RadixTree {
public:
    RadixTree() = default;
    RadixTree(const RadixTree&) = delete;
    RadixTree& operator=(const RadixTree&) = delete;
    ~RadixTree(); // entries are the user's

    void* get(u64 index) const;
    // False when memory is exhausted. Requires: nothing stands there.
    bool insert(u64 index, void* entry);
    void remove(u64 index); // and its mark
    void set_mark(u64 index);
    void clear_mark(u64 index);
    // The first index >= `index` and < `limit` with an entry / with a marked entry; `limit` when
    // there is none.
    u64 next(u64 index, u64 limit) const;
    u64 next_marked(u64 index, u64 limit) const;
    // The first index >= `index` and < `limit` without an entry.
    u64 next_absent(u64 index, u64 limit) const;

private:
    struct Node;
    static constexpr unsigned bits = 6;
    static constexpr unsigned fanout = 1u << bits;
    static constexpr unsigned max_height = 11; // 66 bits

    u64 search(const Node* node, unsigned level, u64 index, bool marked) const;
    bool covers(u64 index) const;
    static void destroy(Node* node, unsigned level);
    unsigned path_to(u64 index, Node** path) const;

    Node* root_ = nullptr;
    unsigned height_ = 0; // levels; 0: empty
};

} // namespace kernel
