// Who a task is. Immutable once published: changes make a new object.
#pragma once

#include "guestkernel/core/ref.hpp"
#include "guestkernel/lib/vector.hpp"
#include "guestkernel/namespaces/user_namespace.hpp"

namespace kernel {

struct Credentials : RefCounted {
    u32 uid = 0, euid = 0, suid = 0, fsuid = 0;
    u32 gid = 0, egid = 0, sgid = 0, fsgid = 0;
    Vector<u32> groups; // supplementary
    u64 cap_permitted = 0, cap_effective = 0, cap_inheritable = 0, cap_bounding = 0,
        cap_ambient = 0;
    u32 securebits = 0;
    Ref<UserNamespace> user_ns; // null: the initial one

    bool in_group(u32 group) const;
    UserNamespace* user_space() const { return user_ns ? user_ns.get() : initial_user_namespace; }
    bool in_initial_space() const { return is_initial(user_ns.get()); }
    // In its own user namespace; and over what belongs to the whole system.
    bool capable_here(unsigned capability) const { return (cap_effective >> capability & 1) != 0; }
    bool capable(unsigned capability) const {
        return capable_here(capability) && in_initial_space();
    }
    // The user id 0 of its namespace; invalid_id where that is not mapped.
    u32 root_id() const { return to_global_id(user_ns.get(), false, 0); }
    Result<Ref<Credentials>> clone() const;
};

inline constexpr u64 all_capabilities = (u64{1} << 41) - 1;

} // namespace kernel
