#include "guestkernel/namespaces/namespace.hpp"

#include <linux/errno.h>
#include <linux/sched.h>

#include "guestkernel/cgroup/cgroup.hpp"
#include "guestkernel/namespaces/user_namespace.hpp"
#include "guestkernel/net/stack.hpp"

namespace kernel {

namespace {

// As Linux numbers the first ones (linux/proc_ns.h is not exported), by NamespaceKind.
constexpr u64 initial_numbers[namespace_kinds] = {4026531841, 4026531838, 4026531839, 4026531837,
                                                  4026531836, 4026531840, 4026531835, 4026531834};
constinit base::Atomic<u32> initial_made{0};
constinit base::Atomic<u64> next_number{4026532200};

u64 take_number(NamespaceKind kind) {
    const auto index = static_cast<usize>(kind);
    if ((initial_made.fetch_or(1u << index) & 1u << index) == 0)
        return initial_numbers[index];
    return next_number.fetch_add(1);
}

constexpr std::string_view names[namespace_kinds] = {"mnt", "uts", "ipc",    "user",
                                                     "pid", "net", "cgroup", "time"};
constexpr u32 flags[namespace_kinds] = {CLONE_NEWNS,  CLONE_NEWUTS, CLONE_NEWIPC,    CLONE_NEWUSER,
                                        CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWCGROUP, CLONE_NEWTIME};

} // namespace

Namespace::Namespace(NamespaceKind kind, Ref<UserNamespace> owner, bool counted)
    : kind_(kind), counted_(counted), number_(take_number(kind)), owner_(std::move(owner)) {}

Namespace::~Namespace() {
    if (counted_)
        uncharge_namespace(kind_, owner_.get());
}

std::string_view namespace_name(NamespaceKind kind) {
    return names[static_cast<usize>(kind)];
}
u32 namespace_flag(NamespaceKind kind) {
    return flags[static_cast<usize>(kind)];
}

NetNamespace::NetNamespace(Ref<UserNamespace> owner, bool counted)
    : Namespace(NamespaceKind::Net, std::move(owner), counted) {}
NetNamespace::~NetNamespace() {
    if (stack)
        stack->shutdown();
}
Result<void> NetNamespace::start() {
    TRY(stack, net::Stack::make(net::StackClock(), owner()));
    return {};
}
CgroupNamespace::CgroupNamespace(Ref<UserNamespace> owner, bool counted)
    : Namespace(NamespaceKind::Cgroup, std::move(owner), counted) {}
CgroupNamespace::~CgroupNamespace() = default;
TimeNamespace::TimeNamespace(Ref<UserNamespace> owner, bool counted)
    : Namespace(NamespaceKind::Time, std::move(owner), counted) {}

Result<void> charge_namespace(NamespaceKind kind, UserNamespace* owner) {
    const auto index = static_cast<usize>(kind);
    for (UserNamespace* at = owner; at != nullptr; at = at->parent()) {
        if (at->counts[index].fetch_add(1) < at->limits[index].load())
            continue;
        for (UserNamespace* undo = owner;; undo = undo->parent()) {
            undo->counts[index].fetch_sub(1);
            if (undo == at)
                break;
        }
        return fail(ENOSPC);
    }
    return {};
}

void uncharge_namespace(NamespaceKind kind, UserNamespace* owner) {
    for (UserNamespace* at = owner; at != nullptr; at = at->parent())
        at->counts[static_cast<usize>(kind)].fetch_sub(1);
}

} // namespace kernel
