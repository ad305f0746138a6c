// What all namespaces have in common (namespaces(7)): a kind, an owner, a number, and a place in
// the owner's count. Objects are made at run time; the initial ones by init_namespaces() at boot. A
// null pointer stands for the initial namespace wherever one is asked for: so it is in unit tests.
#pragma once

#include <string_view>

#include "base/atomic.hpp"
#include "guestkernel/core/ref.hpp"

namespace kernel {

class Cgroup;
class UserNamespace;
namespace net {
class Stack;
}

enum class NamespaceKind : u8 { Mount, Uts, Ipc, User, Pid, Net, Cgroup, Time };
inline constexpr usize namespace_kinds = 8;

class Namespace : public RefCounted {
public:
    // `counted`: charge_namespace() was called for it; its end gives the charge back.
    Namespace(NamespaceKind kind, Ref<UserNamespace> owner, bool counted);
    ~Namespace() override;

    NamespaceKind kind() const { return kind_; }
    u64 number() const { return number_; } // the inode number of its file
    // The user namespace whose capabilities rule it; of a user namespace: its parent. Null for the
    // initial user namespace.
    UserNamespace* owner() const { return owner_.get(); }

private:
    const NamespaceKind kind_;
    const bool counted_;
    const u64 number_;
    const Ref<UserNamespace> owner_;
};

// "mnt", "uts", ... as in /proc/PID/ns; and the CLONE_NEW* flag.
std::string_view namespace_name(NamespaceKind kind);
u32 namespace_flag(NamespaceKind kind);
inline constexpr u32 all_namespace_flags = 0x7e02'0080; // CLONE_NEW* of all eight kinds

// Counts one more against /proc/sys/user/max_*_namespaces of the owner and all above it: ENOSPC.
Result<void> charge_namespace(NamespaceKind kind, UserNamespace* owner);
void uncharge_namespace(NamespaceKind kind, UserNamespace* owner);

// The simple kinds: names, and objects that only tell instances apart.
struct UtsNamespace;
struct IpcNamespace; // ipc/sysv.hpp

class NetNamespace : public Namespace {
public:
    NetNamespace(Ref<UserNamespace> owner, bool counted);
    ~NetNamespace() override; // takes its interfaces apart: may sleep
    Result<void> start();     // its network stack, before anybody knows it
    Ref<net::Stack> stack;
};

// A view of the cgroup tree: its root is where the maker stood.
class CgroupNamespace : public Namespace {
public:
    CgroupNamespace(Ref<UserNamespace> owner, bool counted);
    ~CgroupNamespace() override;
    Ref<Cgroup> root; // null: the hierarchy's; fixed before anybody knows the namespace
};

// Offsets of CLOCK_MONOTONIC and CLOCK_BOOTTIME (time_namespaces(7)); fixed once a process is in
// it.
class TimeNamespace : public Namespace {
public:
    TimeNamespace(Ref<UserNamespace> owner, bool counted);
    i64 monotonic_offset_ns = 0, boottime_offset_ns = 0;
    base::Atomic<bool> frozen{false};
};

} // namespace kernel
