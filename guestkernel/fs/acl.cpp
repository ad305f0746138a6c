#include "guestkernel/fs/acl.hpp"

#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include <linux/xattr.h>

#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/open.hpp"
#include "guestkernel/fs/permission.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {
namespace {

constexpr u32 no_id = static_cast<u32>(ACL_UNDEFINED_ID);

const UserNamespace* current_space() {
    const Credentials* who = current_credentials();
    return who == nullptr ? nullptr : who->user_ns.get();
}

u32 get_16(const char* at) {
    return static_cast<u8>(at[0]) | static_cast<u32>(static_cast<u8>(at[1])) << 8;
}
u32 get_32(const char* at) {
    return get_16(at) | get_16(at + 2) << 16;
}

// The tags come in this order; users and groups any number of times, the mask only with them.
u32 rank_of(u32 tag) {
    switch (tag) {
    case ACL_USER_OBJ:
        return 0;
    case ACL_USER:
        return 1;
    case ACL_GROUP_OBJ:
        return 2;
    case ACL_GROUP:
        return 3;
    case ACL_MASK:
        return 4;
    case ACL_OTHER:
        return 5;
    default:
        return 6;
    }
}

bool valid(const Vector<AclEntry>& entries) {
    u32 counts[7] = {};
    u32 last = 0;
    for (const AclEntry& entry : entries) {
        const u32 rank = rank_of(entry.tag);
        if (rank > 5 || rank < last || (entry.bits & ~7u) != 0)
            return false;
        if ((rank == 1 || rank == 3) && entry.id == invalid_id)
            return false;
        counts[rank]++;
        last = rank;
    }
    const bool named = counts[1] + counts[3] > 0;
    return counts[0] == 1 && counts[2] == 1 && counts[5] == 1 && counts[4] <= 1 &&
           (!named || counts[4] == 1);
}

Result<Ref<Acl>> parse(std::string_view value) {
    constexpr usize header = sizeof(posix_acl_xattr_header), item = sizeof(posix_acl_xattr_entry);
    if (value.size() < header || (value.size() - header) % item != 0)
        return fail(EINVAL);
    if (get_32(value.data()) != POSIX_ACL_XATTR_VERSION)
        return fail(EOPNOTSUPP);
    if (value.size() == header)
        return Ref<Acl>();
    TRY(Ref<Acl> out, make_ref<Acl>());
    const UserNamespace* space = current_space();
    for (usize at = header; at < value.size(); at += item) {
        const char* raw = value.data() + at;
        AclEntry entry{static_cast<u16>(get_16(raw)), static_cast<u16>(get_16(raw + 2)),
                       get_32(raw + 4)};
        if (entry.tag == ACL_USER || entry.tag == ACL_GROUP)
            entry.id = to_global_id(space, entry.tag == ACL_GROUP, entry.id);
        else
            entry.id = no_id;
        TRY(out->entries.push_back(entry));
    }
    if (!valid(out->entries))
        return fail(EINVAL);
    return out;
}

Result<void> put_16(String& out, u32 value) {
    TRY(out.push_back(static_cast<char>(value & 0xff)));
    return out.push_back(static_cast<char>(value >> 8 & 0xff));
}
Result<void> put_32(String& out, u32 value) {
    TRY(put_16(out, value & 0xffff));
    return put_16(out, value >> 16);
}

bool is_in_group(const Credentials& who, u32 group) {
    return who.fsgid == group || who.in_group(group);
}

// What a class's entry has of what a mode says.
void narrow(AclEntry& entry, u32& mode, unsigned shift) {
    entry.bits = static_cast<u16>(entry.bits & (mode >> shift & 7));
    mode = (mode & ~(7u << shift)) | static_cast<u32>(entry.bits) << shift;
}

} // namespace

Result<Ref<Acl>> Acl::copy(const Acl& other) {
    TRY(Ref<Acl> out, make_ref<Acl>());
    TRY(out->entries.append(other.entries.span()));
    return out;
}

bool Acl::equivalent(u32& permissions) const {
    bool all = true;
    permissions = 0;
    for (const AclEntry& entry : entries) {
        switch (entry.tag) {
        case ACL_USER_OBJ:
            permissions |= u32{entry.bits} << 6;
            break;
        case ACL_GROUP_OBJ:
            permissions |= u32{entry.bits} << 3;
            break;
        case ACL_OTHER:
            permissions |= entry.bits;
            break;
        case ACL_MASK: // stands for the group in the mode
            permissions = (permissions & ~070u) | u32{entry.bits} << 3;
            all = false;
            break;
        default:
            all = false;
        }
    }
    return all;
}

// acl(5), "Access Check Algorithm".
Result<void> Acl::check(const Inode& inode, u32 may, const Credentials& who) const {
    u32 mask = 7;
    for (const AclEntry& entry : entries)
        if (entry.tag == ACL_MASK)
            mask = entry.bits;
    const auto grants = [&](u32 bits) {
        return (may & ~bits & 7) == 0 ? Result<void>() : Result<void>(fail(EACCES));
    };
    bool member = false;
    for (const AclEntry& entry : entries) {
        switch (entry.tag) {
        case ACL_USER_OBJ:
            if (who.fsuid == inode.uid_)
                return grants(entry.bits);
            break;
        case ACL_USER:
            if (who.fsuid == entry.id)
                return grants(entry.bits & mask);
            break;
        case ACL_GROUP_OBJ:
        case ACL_GROUP:
            if (is_in_group(who, entry.tag == ACL_GROUP ? entry.id : inode.gid_)) {
                member = true;
                if ((may & ~u32{entry.bits} & 7) == 0)
                    return grants(entry.bits & mask);
            }
            break;
        case ACL_OTHER:
            return member ? Result<void>(fail(EACCES)) : grants(entry.bits);
        default:
            break;
        }
    }
    return fail(EACCES);
}

void Acl::set_permissions(u32 permissions) {
    AclEntry* group = nullptr;
    for (AclEntry& entry : entries) {
        if (entry.tag == ACL_USER_OBJ)
            entry.bits = permissions >> 6 & 7;
        else if (entry.tag == ACL_OTHER)
            entry.bits = permissions & 7;
        else if (entry.tag == ACL_MASK || (entry.tag == ACL_GROUP_OBJ && group == nullptr))
            group = &entry;
    }
    if (group != nullptr)
        group->bits = permissions >> 3 & 7;
}

void Acl::restrict_to(u32& mode) {
    AclEntry* group = nullptr;
    for (AclEntry& entry : entries) {
        if (entry.tag == ACL_USER_OBJ)
            narrow(entry, mode, 6);
        else if (entry.tag == ACL_OTHER)
            narrow(entry, mode, 0);
        else if (entry.tag == ACL_MASK || (entry.tag == ACL_GROUP_OBJ && group == nullptr))
            group = &entry;
    }
    if (group != nullptr)
        narrow(*group, mode, 3);
}

// --- extended attributes -------------------------------------------------------------------------

std::string_view acl_name(AclKind kind) {
    return kind == AclKind::Access ? XATTR_NAME_POSIX_ACL_ACCESS : XATTR_NAME_POSIX_ACL_DEFAULT;
}

bool acl_kind_of(std::string_view name, AclKind& kind) {
    for (const AclKind each : {AclKind::Access, AclKind::Default})
        if (name == acl_name(each)) {
            kind = each;
            return true;
        }
    return false;
}

Result<String> get_acl_xattr(Inode& inode, AclKind kind) {
    if (inode.is_symlink())
        return fail(EOPNOTSUPP);
    TRY(const Ref<const Acl> acl, inode.get_acl(kind));
    if (!acl)
        return fail(ENODATA);
    const UserNamespace* space = current_space();
    String out;
    TRY(put_32(out, POSIX_ACL_XATTR_VERSION));
    for (const AclEntry& entry : acl->entries) {
        TRY(put_16(out, entry.tag));
        TRY(put_16(out, entry.bits));
        const bool named = entry.tag == ACL_USER || entry.tag == ACL_GROUP;
        TRY(put_32(out, named ? from_global_id(space, entry.tag == ACL_GROUP, entry.id) : no_id));
    }
    return out;
}

Result<void> set_acl_xattr(Inode& inode, AclKind kind, std::string_view value) {
    if (inode.is_symlink())
        return fail(EOPNOTSUPP);
    Ref<Acl> acl;
    if (!value.empty()) {
        TRY(acl, parse(value));
    }
    TRY(inode.get_acl(kind)); // EOPNOTSUPP where there are none
    if (!owner_or_capable(inode))
        return fail(EPERM);
    if (kind == AclKind::Default) {
        if (!inode.is_directory())
            return acl ? Result<void>(fail(EACCES)) : Result<void>();
        return inode.set_acl(kind, std::move(acl));
    }
    if (!acl)
        return inode.set_acl(kind, nullptr);
    Attributes wanted;
    u32 permissions = 0;
    const bool all_said = acl->equivalent(permissions);
    wanted.mode = (inode.mode_ & ~0777u) | permissions;
    const Credentials* who = current_credentials();
    if ((wanted.mode & mode_sgid) != 0 && who != nullptr && !is_in_group(*who, inode.gid_) &&
        !capable_over_inode(who, inode, CAP_FSETID))
        wanted.mode &= ~mode_sgid;
    TRY(inode.set_acl(kind, all_said ? Ref<Acl>() : std::move(acl)));
    return inode.set_attributes(wanted, set_mode);
}

Result<void> list_acl_xattrs(Inode& inode, String& out) {
    if (inode.is_symlink())
        return {};
    for (const AclKind kind : {AclKind::Access, AclKind::Default}) {
        auto acl = inode.get_acl(kind);
        if (!acl || !*acl)
            continue;
        TRY(out.append(acl_name(kind)));
        TRY(out.push_back('\0'));
    }
    return {};
}

// --- what follows from them ----------------------------------------------------------------------

Result<void> change_acl_mode(Inode& inode, u32 mode) {
    if (!inode.has_acl())
        return {};
    TRY(const Ref<const Acl> before, inode.get_acl(AclKind::Access));
    if (!before)
        return {};
    TRY(Ref<Acl> after, Acl::copy(*before));
    after->set_permissions(mode);
    return inode.set_acl(AclKind::Access, std::move(after));
}

Result<void> copy_acls(Inode& from, Inode& to) {
    for (const AclKind kind : {AclKind::Access, AclKind::Default}) {
        auto acl = from.get_acl(kind);
        if (!acl || !*acl)
            continue;
        auto done = to.set_acl(kind, std::move(*acl));
        if (!done && done.error().code != EOPNOTSUPP)
            return done;
    }
    return {};
}

Result<void> inherit_acls(Inode& directory, NewOwner& owner) {
    auto inherited = directory.get_acl(AclKind::Default);
    if (!inherited || !*inherited) {
        owner.mode &= ~current_umask();
        return {};
    }
    TRY(Ref<Acl> access, Acl::copy(**inherited));
    u32 permissions = owner.mode & 0777;
    access->restrict_to(permissions);
    owner.mode = (owner.mode & ~0777u) | permissions;
    if (!access->equivalent(permissions))
        owner.access_acl = std::move(access);
    if ((owner.mode & mode_type) == mode_directory)
        owner.default_acl = std::move(*inherited);
    return {};
}

Result<void> give_acls(Inode& fresh, const NewOwner& owner) {
    if (owner.access_acl)
        TRY(fresh.set_acl(AclKind::Access, owner.access_acl));
    if (owner.default_acl)
        TRY(fresh.set_acl(AclKind::Default, owner.default_acl));
    return {};
}

} // namespace kernel
