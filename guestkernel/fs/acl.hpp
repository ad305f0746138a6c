// POSIX access control lists (acl(5)): what chmod(2)'s nine bits cannot say. Ids are global ones.
#pragma once

#include "guestkernel/fs/inode.hpp"
#include "guestkernel/lib/vector.hpp"

namespace kernel {

struct Credentials;
struct NewOwner;

struct AclEntry {
    u16 tag;  // ACL_*
    u16 bits; // may_read | may_write | may_exec
    u32 id;   // of ACL_USER and ACL_GROUP
};

// Constant once it was given to an inode.
class Acl : public RefCounted {
public:
    Vector<AclEntry> entries; // in the order of acl(5)

    static Result<Ref<Acl>> copy(const Acl& other);
    // The permission bits that say the same; false when something is left unsaid.
    bool equivalent(u32& permissions) const;
    Result<void> check(const Inode& inode, u32 may, const Credentials& who) const;
    // For a chmod(2): the classes' bits.
    void set_permissions(u32 permissions);
    // For a new object of this mode: what neither grants is taken from both.
    void restrict_to(u32& mode);
};

// The extended attributes "system.posix_acl_access" and "system.posix_acl_default".
bool acl_kind_of(std::string_view name, AclKind& kind);
std::string_view acl_name(AclKind kind);
Result<String> get_acl_xattr(Inode& inode, AclKind kind); // ENODATA, EOPNOTSUPP
// An empty value removes it. Locks: the inode's mutex is held.
Result<void> set_acl_xattr(Inode& inode, AclKind kind, std::string_view value);
Result<void> list_acl_xattrs(Inode& inode, String& out);

// After a change of the mode. Locks: the inode's mutex is held.
Result<void> change_acl_mode(Inode& inode, u32 mode);
// Both lists of one inode for another, as a copy in a layer needs them.
Result<void> copy_acls(Inode& from, Inode& to);
// Mode and lists of a new object in a directory with a default list; else the umask counts.
Result<void> inherit_acls(Inode& directory, NewOwner& owner);
Result<void> give_acls(Inode& fresh, const NewOwner& owner);

} // namespace kernel
