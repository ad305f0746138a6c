// Who may do what. Filesystem ids and capabilities are the current task's; kernel tasks are root.
#pragma once

#include "guestkernel/fs/acl.hpp"
#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/task/credentials.hpp"

namespace kernel {

struct Credentials;

// The running task's; null for kernel tasks, which may do everything.
const Credentials* current_credentials();
bool has_capability(const Credentials* credentials, unsigned capability);
// ... over an object: in one's own user namespace, where the object's owners are known.
bool capable_over_inode(const Credentials* credentials, const Inode& inode, unsigned capability);
u32 current_fsuid();
u32 current_fsgid();

// The mode bits and the capabilities that override them: EACCES. Nobody writes what is immutable:
// EPERM.
Result<void> check_permission(Inode& inode, u32 may, const Credentials* credentials);
inline Result<void> check_permission(Inode& inode, u32 may) {
    return check_permission(inode, may, current_credentials());
}
// Execute permission on a directory, quickly when everybody has it.
inline Result<void> check_search(Inode& directory) {
    if ((directory.mode_ & 0111) == 0111 && !directory.superblock()->own_rules) [[likely]]
        return {};
    return check_permission(directory, 1);
}
// The owner, or who has CAP_FOWNER.
bool owner_or_capable(Inode& inode);
// A new name in a directory; a removal from one, with the sticky bit's rule. Locks: the directory's
// mutex.
Result<void> check_create(Dentry& directory);
Result<void> check_delete(Dentry& directory, Inode& child, bool as_directory);
// Owner and mode of a new object, for which `mode` was asked: the umask or the directory's default
// list counts; a set-group-ID directory gives its group, and to directories the bit itself.
struct NewOwner {
    u32 uid = 0, gid = 0, mode = 0;
    Ref<const Acl> access_acl, default_acl;
};
Result<NewOwner> new_owner(Inode& directory, u32 mode);

// Writers and running programs exclude each other: ETXTBSY.
Result<void> claim_write(Inode& inode);
Result<void> claim_deny_write(Inode& inode);

} // namespace kernel
