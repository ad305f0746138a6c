#include "guestkernel/fs/file_capabilities.hpp"

#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/xattr.h>

#include "guestkernel/fs/permission.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

// The second revision has no root: it is the user 0 of whoever is asked.
Result<vfs_ns_cap_data> parse(std::string_view value) {
    vfs_ns_cap_data out{};
    if (value.size() != XATTR_CAPS_SZ_2 && value.size() != XATTR_CAPS_SZ_3)
        return fail(EINVAL);
    __builtin_memcpy(&out, value.data(), value.size());
    const u32 revision = out.magic_etc & VFS_CAP_REVISION_MASK;
    const u32 wanted = value.size() == XATTR_CAPS_SZ_2 ? VFS_CAP_REVISION_2 : VFS_CAP_REVISION_3;
    if (revision != wanted)
        return fail(EINVAL);
    return out;
}

u32 with_revision(u32 magic, u32 revision) {
    return revision | (magic & VFS_CAP_FLAGS_EFFECTIVE);
}

// Without the substitute that others' ids are shown as.
u32 inside(const UserNamespace* space, u32 global) {
    return is_initial(space) ? global : space->to_inside(false, global);
}

const UserNamespace* current_space() {
    const Credentials* who = current_credentials();
    return who == nullptr ? nullptr : who->user_ns.get();
}

// Ids on a file system are those of the namespace that mounted it.
const UserNamespace* space_of(const Inode& inode) {
    return inode.superblock() == nullptr ? nullptr : inode.superblock()->user_ns.get();
}

// Root of the namespace or of one above it.
bool is_root_for(const UserNamespace* space, u32 global) {
    for (; !is_initial(space); space = space->parent())
        if (space->to_inside(false, global) == 0)
            return true;
    return global == 0;
}

std::string_view bytes_of(const vfs_ns_cap_data& data, usize size) {
    return {static_cast<const char*>(static_cast<const void*>(&data)), size};
}

// There are none, or whose they are cannot be told here.
bool means_none(int code) {
    return code == ENODATA || code == EOPNOTSUPP || code == EOVERFLOW || code == EACCES ||
           code == EPERM;
}

} // namespace

// cap_convert_nscap() of Linux.
Result<void> keep_capabilities(const Inode& inode, Vector<char>& value) {
    TRY(vfs_ns_cap_data data, parse({value.data(), value.size()}));
    const UserNamespace* home = space_of(inode);
    if (value.size() == XATTR_CAPS_SZ_2 && capable_over(home, CAP_SETFCAP))
        return {};
    const u32 root = to_global_id(current_space(), false, data.rootid);
    if (root == invalid_id || !id_is_mapped(home, false, root))
        return fail(EINVAL);
    data.rootid = inside(home, root);
    data.magic_etc = with_revision(data.magic_etc, VFS_CAP_REVISION_3);
    TRY(value.resize(sizeof data));
    __builtin_memcpy(value.data(), &data, sizeof data);
    return {};
}

// cap_inode_getsecurity() of Linux.
Result<String> show_capabilities(const Inode& inode, String kept) {
    TRY(vfs_ns_cap_data data, parse(kept.view()));
    const u32 root = to_global_id(space_of(inode), false, data.rootid);
    const u32 mapped = inside(current_space(), root);
    if (mapped != invalid_id && mapped != 0) {
        data.rootid = mapped;
        data.magic_etc = with_revision(data.magic_etc, VFS_CAP_REVISION_3);
        return String::from(bytes_of(data, XATTR_CAPS_SZ_3));
    }
    if (!is_root_for(current_space(), root))
        return fail(EOVERFLOW);
    data.magic_etc = with_revision(data.magic_etc, VFS_CAP_REVISION_2);
    return String::from(bytes_of(data, XATTR_CAPS_SZ_2));
}

// get_vfs_caps_from_disk() of Linux.
Result<FileCapabilities> program_capabilities(Inode& inode) {
    FileCapabilities out;
    auto kept = inode.get_xattr(XATTR_NAME_CAPS);
    if (!kept)
        return means_none(kept.error().code) ? Result<FileCapabilities>(out)
                                             : Result<FileCapabilities>(fail(kept.error().code));
    TRY(const vfs_ns_cap_data data, parse(kept->view()));
    // Only in the namespace that was meant, and in those below it.
    if (!is_root_for(current_space(), to_global_id(space_of(inode), false, data.rootid)))
        return out;
    const auto both = [](u32 low, u32 high) { return (low | u64{high} << 32) & all_capabilities; };
    out.present = true;
    out.effective = (data.magic_etc & VFS_CAP_FLAGS_EFFECTIVE) != 0;
    out.permitted = both(data.data[0].permitted, data.data[1].permitted);
    out.inheritable = both(data.data[0].inheritable, data.data[1].inheritable);
    return out;
}

} // namespace kernel
