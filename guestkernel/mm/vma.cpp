#include "guestkernel/mm/vma.hpp"

namespace kernel {

void VmaTree::update(Vma& vma) {
    u64 gap = gap_before(vma);
    if (vma.left_ != nullptr && vma.left_->max_gap_ > gap)
        gap = vma.left_->max_gap_;
    if (vma.right_ != nullptr && vma.right_->max_gap_ > gap)
        gap = vma.right_->max_gap_;
    vma.max_gap_ = gap;
}

Vma* VmaTree::find_from(u64 address) const {
    Vma* found = nullptr;
    for (Vma* at = root_; at != nullptr;) {
        if (at->end > address) {
            found = at;
            at = at->left_;
        } else {
            at = at->right_;
        }
    }
    return found;
}

Vma* VmaTree::find(u64 address) const {
    Vma* found = find_from(address);
    return found != nullptr && found->start <= address ? found : nullptr;
}

bool VmaTree::range_free(u64 start, u64 end) const {
    const Vma* found = find_from(start);
    return found == nullptr || found->start >= end;
}

// `low` gets what starts below `address`.
void VmaTree::split(Vma* tree, u64 address, Vma*& low, Vma*& high) {
    if (tree == nullptr) {
        low = high = nullptr;
    } else if (tree->start < address) {
        low = tree;
        split(tree->right_, address, tree->right_, high);
        update(*tree);
    } else {
        high = tree;
        split(tree->left_, address, low, tree->left_);
        update(*tree);
    }
}

Vma* VmaTree::join(Vma* low, Vma* high) {
    if (low == nullptr || high == nullptr)
        return low != nullptr ? low : high;
    Vma* top = low->priority_ >= high->priority_ ? low : high;
    if (top == low)
        low->right_ = join(low->right_, high);
    else
        high->left_ = join(low, high->left_);
    update(*top);
    return top;
}

Vma* VmaTree::insert_at(Vma* tree, Vma& vma) {
    if (tree == nullptr || tree->priority_ < vma.priority_) {
        split(tree, vma.start, vma.left_, vma.right_);
        update(vma);
        return &vma;
    }
    Vma*& side = vma.start < tree->start ? tree->left_ : tree->right_;
    side = insert_at(side, vma);
    update(*tree);
    return tree;
}

Vma* VmaTree::erase_at(Vma* tree, Vma& vma) {
    if (tree == &vma)
        return join(vma.left_, vma.right_);
    Vma*& side = vma.start < tree->start ? tree->left_ : tree->right_;
    side = erase_at(side, vma);
    update(*tree);
    return tree;
}

// Recomputes the holes on the way to `vma`.
void VmaTree::refresh(Vma* tree, const Vma& vma) {
    if (tree != &vma)
        refresh(vma.start < tree->start ? tree->left_ : tree->right_, vma);
    update(*tree);
}

void VmaTree::insert(Vma& vma) {
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    vma.priority_ = static_cast<u32>(random_ >> 32);
    vma.left_ = vma.right_ = nullptr;
    vma.next_ = find_from(vma.start);
    vma.prev_ = vma.next_ != nullptr ? vma.next_->prev_ : last_;
    (vma.prev_ != nullptr ? vma.prev_->next_ : first_) = &vma;
    (vma.next_ != nullptr ? vma.next_->prev_ : last_) = &vma;
    root_ = insert_at(root_, vma);
    if (vma.next_ != nullptr)
        refresh(root_, *vma.next_);
    count_++;
}

void VmaTree::erase(Vma& vma) {
    (vma.prev_ != nullptr ? vma.prev_->next_ : first_) = vma.next_;
    (vma.next_ != nullptr ? vma.next_->prev_ : last_) = vma.prev_;
    root_ = erase_at(root_, vma);
    if (vma.next_ != nullptr)
        refresh(root_, *vma.next_);
    vma.left_ = vma.right_ = vma.prev_ = vma.next_ = nullptr;
    count_--;
}

void VmaTree::set_bounds(Vma& vma, u64 start, u64 end, u64 offset) {
    const auto change = [&] {
        vma.start = start;
        vma.end = end;
        vma.offset = offset;
    };
    if (vma.cache) {
        SpinGuard guard(vma.cache->mappings_lock()); // the reverse map reads them
        change();
    } else {
        change();
    }
    refresh(root_, vma);
    if (vma.next_ != nullptr)
        refresh(root_, *vma.next_);
}

u64 VmaTree::search_gap(const Vma* tree, u64 length, u64 limit) {
    if (tree == nullptr || tree->max_gap_ < length)
        return 0;
    if (tree->start < limit)
        if (const u64 found = search_gap(tree->right_, length, limit))
            return found;
    const u64 top = tree->start < limit ? tree->start : limit;
    const u64 bottom = tree->start - gap_before(*tree);
    if (top >= bottom && top - bottom >= length)
        return top - length;
    return search_gap(tree->left_, length, limit);
}

u64 VmaTree::find_gap(u64 length, u64 limit) const {
    const u64 last_end = last_ != nullptr ? last_->end : user_min;
    if (last_end < limit && limit - last_end >= length)
        return limit - length;
    return search_gap(root_, length, limit);
}

} // namespace kernel
