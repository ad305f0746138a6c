// The hierarchy: making and removing groups, who may have which controllers, domains and threads.
#include <linux/errno.h>

#include "guestkernel/cgroup/cgroup.hpp"
#include "guestkernel/cgroup/cgroup_file.hpp"
#include "guestkernel/cgroup/controllers.hpp"
#include "guestkernel/cgroup/device_programs.hpp"
#include "guestkernel/core/panic.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

constinit Mutex the_mutex;
constinit base::Atomic<u64> next_id{1};
constinit Cgroup* the_root = nullptr;

// Every group is memory that the kernel cannot take back: a program must not make them without end.
constexpr u64 most_groups = 10'000;

} // namespace

Mutex& hierarchy_mutex() {
    return the_mutex;
}

Cgroup& root_cgroup() {
    // Built by the first mount, before any other group and before anybody can ask.
    ASSERT(the_root != nullptr);
    return *the_root;
}

Result<void> init_root_cgroup() {
    MutexGuard guard(the_mutex);
    if (the_root != nullptr)
        return {};
    TRY(Ref<Cgroup> root, make_ref<Cgroup>(nullptr, next_id.fetch_add(1)));
    TRY(root->files.resize(cgroup_file_count()));
    SpinGuard tree(process_tree_lock());
    for_each_process_locked([&](Process& process) {
        for ([[maybe_unused]] Task& task : process.tasks)
            root->tasks++;
    });
    the_root = root.leak();
    return {};
}

bool cgroups_exist() {
    return the_root != nullptr;
}

u64 next_cgroup_number() {
    return next_id.fetch_add(1);
}

Cgroup::Cgroup(Ref<Cgroup> above, u64 number)
    : parent(std::move(above)), id(number), level(parent ? parent->level + 1 : 0), cpu(*this) {
    if (parent) {
        cpuset_cpus = parent->cpuset_cpus;
        frozen.store(parent->frozen.load());
    }
}

Cgroup::~Cgroup() {
    ASSERT(children.empty());
    free_controllers(*this);
}

bool Cgroup::is_below(const Cgroup& other) const {
    const Cgroup* at = this;
    while (at != nullptr && at->level > other.level)
        at = at->parent.get();
    return at == &other;
}

Cgroup& Cgroup::domain() {
    Cgroup* at = this;
    while (at->threaded)
        at = at->parent.get();
    return *at;
}

Cgroup* next_below(Cgroup& top, Cgroup& at) {
    if (Cgroup* child = at.children.front())
        return child;
    for (Cgroup* up = &at; up != &top; up = up->parent.get())
        if (Cgroup* sibling = up->parent->children.next(*up))
            return sibling;
    return nullptr;
}

Cgroup* find_child(Cgroup& parent, std::string_view name) {
    for (Cgroup& child : parent.children)
        if (child.name == name)
            return &child;
    return nullptr;
}

namespace {

Result<void> check_room(Cgroup& parent) {
    if (root_cgroup().descendants >= most_groups)
        return fail(ENOSPC);
    u64 depth = 1;
    for (Cgroup* at = &parent; at != nullptr; at = at->parent.get(), depth++)
        if (depth > at->max_depth || at->descendants >= at->max_descendants)
            return fail(EAGAIN);
    return {};
}

} // namespace

Result<Ref<Cgroup>> make_cgroup(Cgroup& parent, std::string_view name) {
    if (parent.dead)
        return fail(ENODEV);
    if (name.find('\n') != std::string_view::npos)
        return fail(EINVAL);
    if (find_child(parent, name) != nullptr || find_cgroup_file(name) >= 0)
        return fail(EEXIST);
    TRY(check_room(parent));
    TRY(start_cgroup_notifier());
    TRY(Ref<Cgroup> group, make_ref<Cgroup>(Ref<Cgroup>::share(&parent), next_cgroup_number()));
    TRY(group->name, String::from(name));
    TRY(group->cpu.init());
    TRY(group->files.resize(cgroup_file_count()));
    TRY(enable_controllers(*group, parent.subtree_control));
    group->threaded = parent.threaded; // a thread's group can only have thread's groups below: but
    group->threaded = false;           // it starts as an invalid domain all the same
    parent.children.push_back(*group);
    group->add_ref(); // the list's
    for (Cgroup* at = &parent; at != nullptr; at = at->parent.get())
        at->descendants++;
    return group;
}

Result<void> remove_cgroup(Cgroup& group) {
    if (group.dead)
        return fail(ENOENT);
    if (!group.children.empty())
        return fail(EBUSY);
    {
        SpinGuard tree(process_tree_lock());
        if (group.populated())
            return fail(EBUSY);
        group.dead = true; // under the lock: no fork joins it any more
    }
    if (group.threaded)
        group.parent->threaded_children--;
    group.sibling_node.unlink();
    for (Cgroup* at = group.parent.get(); at != nullptr; at = at->parent.get())
        at->descendants--;
    retire_controllers(group);
    forget_device_programs(group);
    drop_cgroup_files(group, ~0u);
    group.directory = nullptr;
    group.release(); // the list's; the caller holds one of its own
    return {};
}

// --- domains and threads -------------------------------------------------------------------------

namespace {

bool has_members(Cgroup& group) {
    SpinGuard tree(process_tree_lock());
    return group.tasks != 0;
}

bool can_be_thread_root(Cgroup& group) {
    if (group.is_root())
        return true;
    SpinGuard tree(process_tree_lock());
    for (Cgroup& child : group.children)
        if (!child.threaded && child.populated())
            return false;
    return (group.subtree_control & ~threaded_controllers) == 0;
}

} // namespace

bool is_thread_root(Cgroup& group) {
    if (group.threaded)
        return false;
    if (group.threaded_children != 0)
        return true;
    return !group.is_root() && (group.subtree_control & threaded_controllers) != 0 &&
           has_members(group);
}

bool is_valid_domain(Cgroup& group) {
    if (group.threaded)
        return false;
    for (Cgroup* at = group.parent.get(); at != nullptr; at = at->parent.get())
        if (at->threaded || (!at->is_root() && is_thread_root(*at)))
            return false;
    return true;
}

Result<void> make_threaded(Cgroup& group) {
    if (group.threaded)
        return {};
    bool populated = false;
    {
        SpinGuard tree(process_tree_lock());
        populated = group.populated();
    }
    if (populated || (group.subtree_control & ~threaded_controllers) != 0)
        return fail(EOPNOTSUPP);
    Cgroup& domain = group.parent->domain();
    if (!is_valid_domain(domain) || !can_be_thread_root(domain))
        return fail(EOPNOTSUPP);
    group.threaded = true;
    group.parent->threaded_children++;
    return {};
}

Result<void> check_destination(Cgroup& group) {
    if (group.dead)
        return fail(ENODEV);
    if (!is_valid_domain(group.domain()))
        return fail(EOPNOTSUPP);
    if (group.is_root() || can_be_thread_root(group) || group.threaded)
        return {};
    if (group.subtree_control != 0)
        return fail(EBUSY);
    return {};
}

// --- cgroup.subtree_control ----------------------------------------------------------------------

namespace {

Result<void> check_enable(Cgroup& group, u32 enable) {
    if (group.is_root())
        return {};
    if (!is_valid_domain(group.domain()))
        return fail(EOPNOTSUPP);
    if ((enable & ~threaded_controllers) != 0) {
        if (is_thread_root(group) || group.threaded)
            return fail(EOPNOTSUPP);
    } else if (can_be_thread_root(group) || group.threaded) {
        return {}; // these can have members and children compete
    }
    return has_members(group) ? Result<void>(fail(EBUSY)) : Result<void>();
}

} // namespace

Result<void> set_subtree_control(Cgroup& group, u32 enable, u32 disable) {
    if (group.dead)
        return fail(ENODEV);
    if ((enable & ~group.controllers()) != 0)
        return fail(ENOENT);
    for (Cgroup& child : group.children)
        if ((child.subtree_control & disable) != 0)
            return fail(EBUSY);
    enable &= ~group.subtree_control;
    disable &= group.subtree_control;
    if (enable == 0 && disable == 0)
        return {};
    if (enable != 0)
        TRY(check_enable(group, enable));
    for (Cgroup& child : group.children)
        if (auto enabled = enable_controllers(child, enable); !enabled) {
            for (Cgroup& undone : group.children) {
                if (&undone == &child)
                    break;
                disable_controllers(undone, enable);
            }
            return enabled;
        }
    group.subtree_control = (group.subtree_control | enable) & ~disable;
    for (Cgroup& child : group.children) {
        if (disable != 0) {
            disable_controllers(child, disable);
            drop_cgroup_files(child, disable);
        }
        regroup_members(child);
    }
    return {};
}

} // namespace kernel
