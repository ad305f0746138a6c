// A doubly linked list whose links live in the elements: no allocation, O(1) removal. The list
// never owns its elements, and an element is on at most one list per node at a time.
#pragma once

#include <cstddef>

namespace base {

struct ListNode {
    ListNode* next = nullptr;
    ListNode* prev = nullptr;

    ListNode() = default;
    ListNode(const ListNode&) = delete;
    ListNode& operator=(const ListNode&) = delete;
    bool linked() const { return next != nullptr; }
    void unlink() {
        next->prev = prev;
        prev->next = next;
        next = prev = nullptr;
    }
};

// `Node` is the member that links a T into this list: IntrusiveList<Task, &Task::run_node>.
template <typename T, ListNode T::*Node>
class IntrusiveList {
public:
    // An empty list is all zeros until its first element comes: GCC 12 puts constant-initialised
    // arrays of objects that point to themselves into .bss.
    constexpr IntrusiveList() = default;
    IntrusiveList(const IntrusiveList&) = delete;
    IntrusiveList& operator=(const IntrusiveList&) = delete;

    bool empty() const { return head_.next == &head_ || head_.next == nullptr; }
    T* front() { return empty() ? nullptr : owner(head_.next); }
    T* back() { return empty() ? nullptr : owner(head_.prev); }
    void push_back(T& item) {
        close_ring();
        insert(item.*Node, *head_.prev, head_);
    }
    void push_front(T& item) {
        close_ring();
        insert(item.*Node, head_, *head_.next);
    }
    void insert_before(T& position, T& item) {
        ListNode& at = position.*Node;
        insert(item.*Node, *at.prev, at);
    }
    T* pop_front() {
        if (empty())
            return nullptr;
        T* item = owner(head_.next);
        (item->*Node).unlink();
        return item;
    }
    // Requires: `item` is on this list.
    void remove(T& item) { (item.*Node).unlink(); }
    T* next(T& item) { return (item.*Node).next == &head_ ? nullptr : owner((item.*Node).next); }

    T* previous(T& item) {
        return (item.*Node).prev == &head_ ? nullptr : owner((item.*Node).prev);
    }

    class Iterator {
    public:
        explicit Iterator(ListNode* at) : at_(at) {}
        T& operator*() const { return *owner(at_); }
        T* operator->() const { return owner(at_); }
        Iterator& operator++() {
            at_ = at_->next;
            return *this;
        }
        bool operator==(const Iterator&) const = default;

    private:
        ListNode* at_;
    };
    Iterator begin() { return Iterator(empty() ? &head_ : head_.next); }
    Iterator end() { return Iterator(&head_); }

private:
    static T* owner(ListNode* node) {
        // SAFETY: `node` is the Node member of a T by construction; the offset is taken from a
        // suitably aligned dummy that is never dereferenced.
        alignas(T) static char dummy[sizeof(T)];
        T* probe = reinterpret_cast<T*>(dummy);
        const std::ptrdiff_t offset =
            reinterpret_cast<char*>(&(probe->*Node)) - reinterpret_cast<char*>(probe);
        return reinterpret_cast<T*>(reinterpret_cast<char*>(node) - offset);
    }
    static void insert(ListNode& node, ListNode& before, ListNode& after) {
        node.prev = &before;
        node.next = &after;
        before.next = &node;
        after.prev = &node;
    }
    void close_ring() {
        if (head_.next == nullptr)
            head_.next = head_.prev = &head_;
    }
    ListNode head_;
};

} // namespace base
