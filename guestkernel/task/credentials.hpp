// Who a task is. Immutable once published: changes make a new object.
#pragma once

#include "guestkernel/core/ref.hpp"
#include "guestkernel/lib/vector.hpp"

namespace kernel {

struct Credentials : RefCounted {
    u32 uid = 0, euid = 0, suid = 0, fsuid = 0;
    u32 gid = 0, egid = 0, sgid = 0, fsgid = 0;
    Vector<u32> groups; // supplementary
    u64 cap_permitted = 0, cap_effective = 0, cap_inheritable = 0, cap_bounding = 0,
        cap_ambient = 0;
    u32 securebits = 0;

    bool in_group(u32 group) const;
    bool capable(unsigned capability) const { return (cap_effective >> capability & 1) != 0; }
    Result<Ref<Credentials>> clone() const;
};

inline constexpr u64 all_capabilities = (u64{1} << 41) - 1;

} // namespace kernel
