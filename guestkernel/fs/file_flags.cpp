#include "guestkernel/fs/file_flags.hpp"

#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/fs.h>

#include "guestkernel/fs/inode.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/fs/permission.hpp"
#include "guestkernel/mm/user_copy.hpp"

namespace kernel {

namespace {

static_assert(Inode::immutable_flag == FS_IMMUTABLE_FL && Inode::append_flag == FS_APPEND_FL &&
              Inode::no_dump_flag == FS_NODUMP_FL && Inode::no_atime_flag == FS_NOATIME_FL);

constexpr u32 guarded = FS_IMMUTABLE_FL | FS_APPEND_FL; // not the owner's to change
constexpr u32 settable = guarded | FS_NODUMP_FL | FS_NOATIME_FL;

// The same flags by their names of struct fsxattr.
constexpr struct {
    u32 flag, extended;
} names[] = {
    {FS_IMMUTABLE_FL, FS_XFLAG_IMMUTABLE},
    {FS_APPEND_FL, FS_XFLAG_APPEND},
    {FS_NODUMP_FL, FS_XFLAG_NODUMP},
    {FS_NOATIME_FL, FS_XFLAG_NOATIME},
};

// `known`: nothing else was asked for, what an unprivileged caller hears of later.
Result<void> set_flags(File& file, u32 flags, bool known) {
    if (const Mount* mount = file.path().mount(); mount != nullptr && mount->read_only())
        return fail(EROFS);
    Inode& inode = *file.inode();
    if (!owner_or_capable(inode))
        return fail(EPERM);
    MutexGuard guard(inode.mutex());
    if (((flags ^ inode.file_flags.load()) & guarded) != 0 &&
        !has_capability(current_credentials(), CAP_LINUX_IMMUTABLE))
        return fail(EPERM);
    if (!known || (flags & ~settable) != 0)
        return fail(EOPNOTSUPP);
    inode.file_flags.store(flags);
    return inode.set_attributes(Attributes(), 0); // the change time
}

Result<void> set_extended(File& file, u64 address) {
    TRY(const fsxattr wanted, UserPtr<const fsxattr>(address).copy_in());
    u32 flags = 0, rest = wanted.fsx_xflags;
    // Hints of no size are none.
    if (wanted.fsx_extsize == 0)
        rest &= ~u32{FS_XFLAG_EXTSIZE | FS_XFLAG_EXTSZINHERIT};
    if (wanted.fsx_cowextsize == 0)
        rest &= ~u32{FS_XFLAG_COWEXTSIZE};
    for (const auto& name : names)
        if ((rest & name.extended) != 0) {
            flags |= name.flag;
            rest &= ~name.extended;
        }
    const bool known = rest == 0 && wanted.fsx_extsize == 0 && wanted.fsx_cowextsize == 0 &&
                       wanted.fsx_projid == 0;
    return set_flags(file, flags, known);
}

Result<void> tell_extended(const Inode& inode, u64 address) {
    fsxattr out = {};
    for (const auto& name : names)
        if ((inode.file_flags.load() & name.flag) != 0)
            out.fsx_xflags |= name.extended;
    return UserPtr<fsxattr>(address).copy_out(out);
}

} // namespace

Result<long> file_flags_ioctl(File& file, u32 command, u64 argument) {
    Inode* inode = file.inode();
    if (inode == nullptr || !inode->keeps_flags())
        return fail(ENOTTY);
    switch (command) {
    case FS_IOC_GETFLAGS:
        TRY(UserPtr<u32>(argument).copy_out(inode->file_flags.load()));
        return 0;
    case FS_IOC_SETFLAGS: {
        TRY(const u32 wanted, UserPtr<const u32>(argument).copy_in());
        TRY(set_flags(file, wanted, true));
        return 0;
    }
    case FS_IOC_FSGETXATTR:
        TRY(tell_extended(*inode, argument));
        return 0;
    case FS_IOC_FSSETXATTR:
        TRY(set_extended(file, argument));
        return 0;
    default:
        return fail(ENOTTY);
    }
}

} // namespace kernel
