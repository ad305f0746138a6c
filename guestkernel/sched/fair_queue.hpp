// Tasks that wait for one CPU, ordered by a number of theirs (virtual run time, deadline): a treap
// in the tasks' own links, so that any of them can be taken out again and nothing is ever
// allocated.
#pragma once

#include "guestkernel/lib/hash_map.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

template <u64 Task::*Key>
class TaskTree {
public:
    bool empty() const { return root_ == nullptr; }
    u32 size() const { return size_; }
    // The one with the least key; equal ones in the order of their addresses.
    Task* first() const { return first_; }

    void insert(Task& task) {
        Task** at = &root_;
        while (*at != nullptr && weight(**at) >= weight(task))
            at = before(task, **at) ? &(*at)->run_left : &(*at)->run_right;
        split(*at, task);
        *at = &task;
        size_++;
        if (first_ == nullptr || before(task, *first_))
            first_ = &task;
    }

    // Requires: `task` is here, with the key that it was inserted with.
    void remove(Task& task) {
        Task** at = &root_;
        while (*at != &task)
            at = before(task, **at) ? &(*at)->run_left : &(*at)->run_right;
        merge(task.run_left, task.run_right, at);
        task.run_left = task.run_right = nullptr;
        size_--;
        if (first_ == &task) {
            first_ = root_;
            while (first_ != nullptr && first_->run_left != nullptr)
                first_ = first_->run_left;
        }
    }

    // In order until `match` likes one.
    template <typename Match>
    Task* find(Match&& match) const {
        return find_below(root_, match);
    }

    // Keys wrap in principle; their differences do not.
    static bool before(const Task& a, const Task& b) {
        const i64 difference = static_cast<i64>(a.*Key - b.*Key);
        return difference != 0 ? difference < 0 : &a < &b;
    }

private:
    // The heap order of the treap: any well-mixed function of the task will do.
    static u64 weight(const Task& task) { return hash_mix(reinterpret_cast<u64>(&task)); }

    // Parts `tree` into what comes before and after `task`, as its children.
    static void split(Task* tree, Task& task) {
        Task** left = &task.run_left;
        Task** right = &task.run_right;
        while (tree != nullptr) {
            if (before(*tree, task)) {
                *left = tree;
                left = &tree->run_right;
                tree = *left;
            } else {
                *right = tree;
                right = &tree->run_left;
                tree = *right;
            }
        }
        *left = *right = nullptr;
    }
    static void merge(Task* left, Task* right, Task** out) {
        while (left != nullptr && right != nullptr) {
            if (weight(*left) >= weight(*right)) {
                *out = left;
                out = &left->run_right;
                left = *out;
            } else {
                *out = right;
                out = &right->run_left;
                right = *out;
            }
        }
        *out = left != nullptr ? left : right;
    }
    template <typename Match>
    static Task* find_below(Task* tree, Match& match) {
        if (tree == nullptr)
            return nullptr;
        if (Task* found = find_below(tree->run_left, match))
            return found;
        return match(*tree) ? tree : find_below(tree->run_right, match);
    }

    Task* root_ = nullptr;
    Task* first_ = nullptr;
    u32 size_ = 0;
};

using FairQueue = TaskTree<&Task::virtual_runtime>;
using DeadlineQueue = TaskTree<&Task::deadline_ns>;

} // namespace kernel
