#include "guestkernel/mm/radix_tree.hpp"

#include <bit>

#include "guestkernel/mm/heap.hpp"

namespace kernel {

struct RadixTree::Node {
    void* slots[fanout];
    u64 present; // bit per slot
    u64 marked;  // bit per slot: a mark at or below it
};

namespace {

constexpr u64 nowhere = ~u64{0};

constexpr u64 bit(unsigned slot) {
    return u64{1} << slot;
}

} // namespace

void RadixTree::destroy(Node* node, unsigned level) {
    if (level > 1)
        for (u64 left = node->present; left != 0; left &= left - 1)
            destroy(static_cast<Node*>(node->slots[std::countr_zero(left)]), level - 1);
    kfree(node);
}

RadixTree::~RadixTree() {
    if (root_ != nullptr)
        destroy(root_, height_);
}

bool RadixTree::covers(u64 index) const {
    return height_ != 0 && (height_ >= max_height || index >> (bits * height_) == 0);
}

// The nodes from the root (path[0]) down to the one that holds `index`, as far as they exist;
// returns how many.
unsigned RadixTree::path_to(u64 index, Node** path) const {
    if (!covers(index))
        return 0;
    Node* node = root_;
    unsigned depth = 0;
    for (unsigned level = height_; level >= 1; level--) {
        path[depth++] = node;
        const unsigned slot = index >> (bits * (level - 1)) & (fanout - 1);
        if (level == 1 || node->slots[slot] == nullptr)
            break;
        node = static_cast<Node*>(node->slots[slot]);
    }
    return depth;
}

void* RadixTree::get(u64 index) const {
    if (!covers(index))
        return nullptr;
    void* at = root_;
    for (unsigned level = height_; level >= 1 && at != nullptr; level--)
        at = static_cast<Node*>(at)->slots[index >> (bits * (level - 1)) & (fanout - 1)];
    return at;
}

bool RadixTree::insert(u64 index, void* entry) {
    while (!covers(index)) {
        Node* top = static_cast<Node*>(kzalloc(sizeof(Node)));
        if (top == nullptr)
            return false;
        if (root_ != nullptr) {
            top->slots[0] = root_;
            top->present = 1;
            top->marked = root_->marked != 0 ? 1 : 0;
        }
        root_ = top;
        height_++;
    }
    Node* node = root_;
    for (unsigned level = height_; level > 1; level--) {
        const unsigned slot = index >> (bits * (level - 1)) & (fanout - 1);
        if (node->slots[slot] == nullptr) {
            Node* below = static_cast<Node*>(kzalloc(sizeof(Node)));
            if (below == nullptr)
                return false; // an empty inner node may stay behind; it does no harm
            node->slots[slot] = below;
            node->present |= bit(slot);
        }
        node = static_cast<Node*>(node->slots[slot]);
    }
    const unsigned slot = index & (fanout - 1);
    node->slots[slot] = entry;
    node->present |= bit(slot);
    return true;
}

void RadixTree::remove(u64 index) {
    Node* path[max_height];
    const unsigned depth = path_to(index, path);
    if (depth != height_ || depth == 0)
        return;
    for (unsigned i = depth; i-- > 0;) {
        const unsigned slot = index >> (bits * (height_ - 1 - i)) & (fanout - 1);
        Node* node = path[i];
        if (i + 1 < depth) {
            if (path[i + 1]->present != 0) {
                if (path[i + 1]->marked == 0)
                    node->marked &= ~bit(slot);
                continue;
            }
            kfree(path[i + 1]);
        }
        node->slots[slot] = nullptr;
        node->present &= ~bit(slot);
        node->marked &= ~bit(slot);
    }
    if (root_->present == 0) {
        kfree(root_);
        root_ = nullptr;
        height_ = 0;
    }
}

void RadixTree::set_mark(u64 index) {
    Node* path[max_height];
    const unsigned depth = path_to(index, path);
    for (unsigned i = 0; i < depth; i++)
        path[i]->marked |= bit(index >> (bits * (height_ - 1 - i)) & (fanout - 1));
}

void RadixTree::clear_mark(u64 index) {
    Node* path[max_height];
    const unsigned depth = path_to(index, path);
    if (depth != height_)
        return;
    for (unsigned i = depth; i-- > 0;) {
        path[i]->marked &= ~bit(index >> (bits * (height_ - 1 - i)) & (fanout - 1));
        if (path[i]->marked != 0)
            break;
    }
}

// The first (marked) index >= `index` under `node`, or `nowhere`.
u64 RadixTree::search(const Node* node, unsigned level, u64 index, bool marked) const {
    const unsigned shift = bits * (level - 1);
    const unsigned from = index >> shift & (fanout - 1);
    const u64 below = shift == 0 ? 0 : (u64{1} << shift) - 1;
    const u64 base = level >= max_height ? 0 : index & ~((u64{1} << (shift + bits)) - 1);
    for (u64 left = (marked ? node->marked : node->present) & ~(bit(from) - 1); left != 0;
         left &= left - 1) {
        const unsigned slot = static_cast<unsigned>(std::countr_zero(left));
        const u64 start = base | u64{slot} << shift;
        if (level == 1)
            return start;
        const u64 found = search(static_cast<const Node*>(node->slots[slot]), level - 1,
                                 slot == from ? start | (index & below) : start, marked);
        if (found != nowhere)
            return found;
    }
    return nowhere;
}

u64 RadixTree::next(u64 index, u64 limit) const {
    const u64 found = covers(index) ? search(root_, height_, index, false) : nowhere;
    return found < limit ? found : limit;
}

u64 RadixTree::next_marked(u64 index, u64 limit) const {
    const u64 found = covers(index) ? search(root_, height_, index, true) : nowhere;
    return found < limit ? found : limit;
}

u64 RadixTree::next_absent(u64 index, u64 limit) const {
    while (index < limit) {
        Node* path[max_height];
        const unsigned depth = path_to(index, path);
        if (depth == 0 || depth != height_)
            return index;
        const u64 absent = ~path[depth - 1]->present & ~(bit(index & (fanout - 1)) - 1);
        if (absent != 0) {
            const u64 found =
                (index & ~u64{fanout - 1}) + static_cast<u64>(std::countr_zero(absent));
            return found < limit ? found : limit;
        }
        index = (index & ~u64{fanout - 1}) + fanout;
    }
    return limit;
}

} // namespace kernel
