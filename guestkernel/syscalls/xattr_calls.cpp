#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/inotify.h>
#include <linux/limits.h>
#include <linux/xattr.h>

#include "guestkernel/fs/acl.hpp"
#include "guestkernel/fs/file_capabilities.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/fs/notify.hpp"
#include "guestkernel/fs/permission.hpp"
#include "guestkernel/syscalls/file_calls.hpp"
#include "guestkernel/syscalls/file_helpers.hpp"

namespace kernel {

namespace {

Result<Path> find(u64 name, u32 lookup) {
    TRY(String text, copy_path(name));
    return lookup_path(at_fdcwd, text.view(), lookup);
}

Result<Path> find_open(Task& task, int fd) {
    TRY(Ref<File> file, usable_file(task, fd));
    return path_of(*file);
}

Result<String> copy_name(u64 address) {
    auto name = copy_in_string(address, XATTR_NAME_MAX + 1);
    if (!name)
        return fail(name.error().code == ENAMETOOLONG ? ERANGE : name.error().code);
    if (name->empty())
        return fail(ERANGE);
    return name;
}

// xattr(7): who may touch which namespace.
Result<void> check_xattr(Inode& inode, std::string_view name, bool write) {
    const Credentials* who = current_credentials();
    if (name.starts_with(XATTR_TRUSTED_PREFIX)) {
        if (!has_capability(who, CAP_SYS_ADMIN))
            return fail(write ? EPERM : ENODATA);
        return {};
    }
    if (name.starts_with(XATTR_SECURITY_PREFIX)) {
        if (write && !(name == XATTR_NAME_CAPS ? capable_over_inode(who, inode, CAP_SETFCAP)
                                               : has_capability(who, CAP_SYS_ADMIN)))
            return fail(EPERM);
        return {};
    }
    if (name.starts_with(XATTR_USER_PREFIX)) {
        if (!inode.is_regular() && !inode.is_directory())
            return fail(write ? EPERM : ENODATA);
        if (write && inode.is_directory() && (inode.mode_ & mode_sticky) != 0 &&
            !owner_or_capable(inode))
            return fail(EPERM);
        return check_permission(inode, write ? may_write : may_read);
    }
    // What is left is system.*, for the file system to know.
    return name.starts_with(XATTR_SYSTEM_PREFIX) ? Result<void>() : fail(EOPNOTSUPP);
}

// A prefix alone names nothing.
Result<void> check_suffix(std::string_view name) {
    for (const std::string_view prefix :
         {XATTR_TRUSTED_PREFIX, XATTR_SECURITY_PREFIX, XATTR_USER_PREFIX, XATTR_SYSTEM_PREFIX})
        if (name == prefix)
            return fail(EINVAL);
    return {};
}

Result<void> check_change(const Path& path, std::string_view name) {
    if (path.mount()->read_only())
        return fail(EROFS);
    if (path.dentry()->inode()->is_frozen())
        return fail(EPERM);
    TRY(check_xattr(*path.dentry()->inode(), name, true));
    return check_suffix(name);
}

Result<long> set(const Path& path, u64 name_address, u64 value_address, u64 size, u32 flags) {
    if ((flags & ~u32{XATTR_CREATE | XATTR_REPLACE}) != 0)
        return fail(EINVAL);
    TRY(String name, copy_name(name_address));
    if (size > XATTR_SIZE_MAX)
        return fail(E2BIG);
    Vector<char> value;
    TRY(value.resize(size));
    TRY(copy_in_bytes(value.data(), value_address, size));
    Inode& inode = *path.dentry()->inode();
    TRY(check_change(path, name.view()));
    if (name == XATTR_NAME_CAPS)
        TRY(keep_capabilities(inode, value));
    {
        MutexGuard guard(inode.mutex());
        AclKind kind{};
        if (acl_kind_of(name.view(), kind))
            TRY(set_acl_xattr(inode, kind, {value.data(), value.size()}));
        else
            TRY(inode.set_xattr(name.view(), {value.data(), value.size()}, flags));
    }
    notify_path(path, IN_ATTRIB);
    return 0;
}

Result<long> hand_out(std::string_view value, u64 address, u64 size) {
    if (size == 0)
        return static_cast<long>(value.size());
    if (value.size() > size)
        return fail(ERANGE);
    TRY(copy_out_bytes(address, value.data(), value.size()));
    return static_cast<long>(value.size());
}

Result<long> get(const Path& path, u64 name_address, u64 address, u64 size) {
    TRY(String name, copy_name(name_address));
    Inode& inode = *path.dentry()->inode();
    TRY(check_xattr(inode, name.view(), false));
    TRY(check_suffix(name.view()));
    AclKind kind{};
    TRY(String value,
        acl_kind_of(name.view(), kind) ? get_acl_xattr(inode, kind) : inode.get_xattr(name.view()));
    if (name == XATTR_NAME_CAPS) {
        TRY(value, show_capabilities(inode, std::move(value)));
    }
    return hand_out(value.view(), address, size);
}

Result<long> list(const Path& path, u64 address, u64 size) {
    String names;
    Inode& inode = *path.dentry()->inode();
    TRY(list_acl_xattrs(inode, names));
    TRY(inode.list_xattrs(names));
    if (has_capability(current_credentials(), CAP_SYS_ADMIN))
        return hand_out(names.view(), address, size);
    // trusted.* is not shown to others.
    String visible;
    std::string_view rest = names.view();
    while (!rest.empty()) {
        usize length = 0;
        while (length < rest.size() && rest[length] != '\0')
            length++;
        const std::string_view name = rest.substr(0, length);
        if (!name.starts_with(XATTR_TRUSTED_PREFIX)) {
            TRY(visible.append(name));
            TRY(visible.push_back('\0'));
        }
        rest.remove_prefix(length < rest.size() ? length + 1 : length);
    }
    return hand_out(visible.view(), address, size);
}

Result<long> remove(const Path& path, u64 name_address) {
    TRY(String name, copy_name(name_address));
    TRY(check_change(path, name.view()));
    Inode& inode = *path.dentry()->inode();
    {
        MutexGuard guard(inode.mutex());
        AclKind kind{};
        if (acl_kind_of(name.view(), kind))
            TRY(set_acl_xattr(inode, kind, {}));
        else
            TRY(inode.remove_xattr(name.view()));
    }
    notify_path(path, IN_ATTRIB);
    return 0;
}

} // namespace

Result<long> sys_setxattr(Task&, u64 path, u64 name, u64 value, u64 size, u32 flags) {
    TRY(Path place, find(path, lookup_follow));
    return set(place, name, value, size, flags);
}
Result<long> sys_lsetxattr(Task&, u64 path, u64 name, u64 value, u64 size, u32 flags) {
    TRY(Path place, find(path, 0));
    return set(place, name, value, size, flags);
}
Result<long> sys_fsetxattr(Task& task, int fd, u64 name, u64 value, u64 size, u32 flags) {
    TRY(Path place, find_open(task, fd));
    return set(place, name, value, size, flags);
}
Result<long> sys_getxattr(Task&, u64 path, u64 name, u64 value, u64 size) {
    TRY(Path place, find(path, lookup_follow));
    return get(place, name, value, size);
}
Result<long> sys_lgetxattr(Task&, u64 path, u64 name, u64 value, u64 size) {
    TRY(Path place, find(path, 0));
    return get(place, name, value, size);
}
Result<long> sys_fgetxattr(Task& task, int fd, u64 name, u64 value, u64 size) {
    TRY(Path place, find_open(task, fd));
    return get(place, name, value, size);
}
Result<long> sys_listxattr(Task&, u64 path, u64 out, u64 size) {
    TRY(Path place, find(path, lookup_follow));
    return list(place, out, size);
}
Result<long> sys_llistxattr(Task&, u64 path, u64 out, u64 size) {
    TRY(Path place, find(path, 0));
    return list(place, out, size);
}
Result<long> sys_flistxattr(Task& task, int fd, u64 out, u64 size) {
    TRY(Path place, find_open(task, fd));
    return list(place, out, size);
}
Result<long> sys_removexattr(Task&, u64 path, u64 name) {
    TRY(Path place, find(path, lookup_follow));
    return remove(place, name);
}
Result<long> sys_lremovexattr(Task&, u64 path, u64 name) {
    TRY(Path place, find(path, 0));
    return remove(place, name);
}
Result<long> sys_fremovexattr(Task& task, int fd, u64 name) {
    TRY(Path place, find_open(task, fd));
    return remove(place, name);
}

} // namespace kernel
