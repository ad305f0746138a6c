// Inodes of files that have no name anywhere: pipes, sockets, event counters.
#include <linux/errno.h>
#include <linux/magic.h>
#include <linux/mount.h>

#include "guestkernel/fs/internal_mount.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/permission.hpp"
#include "guestkernel/fs/vfs.hpp"

namespace kernel {

namespace {

class AnonymousInode : public Inode {
public:
    AnonymousInode(Superblock* superblock, u64 number, u32 mode)
        : Inode(superblock, number, mode), created_(current_time()) {}
    Result<Attributes> attributes() override {
        TRY(Attributes out, Inode::attributes());
        out.access_time = out.modify_time = out.change_time = created_;
        return out;
    }
    // fchmod(2) and fchown(2) of pipes and sockets work in Linux.
    Result<void> set_attributes(const Attributes& wanted, u32 mask) override {
        if ((mask & set_size) != 0)
            return fail(EINVAL);
        SpinGuard guard(attributes_lock());
        if ((mask & set_mode) != 0)
            mode_ = type() | (wanted.mode & mode_permissions);
        if ((mask & set_uid) != 0)
            uid_ = wanted.uid;
        if ((mask & set_gid) != 0)
            gid_ = wanted.gid;
        return {};
    }

private:
    TimeSpec created_;
};

// By "system.sockprotoname", which no header has, strace(1), lsof(8) and lsfd(1) tell what a
// socket is (net/socket.c of Linux). The value's NUL is part of it.
class SocketInode final : public AnonymousInode {
public:
    SocketInode(Superblock* superblock, u64 number, const char* protocol)
        : AnonymousInode(superblock, number, mode_socket | 0777), protocol_(protocol) {}
    Result<String> get_xattr(std::string_view name) override {
        if (name != protocol_attribute)
            return fail(EOPNOTSUPP);
        String value;
        TRY(value.append(protocol_));
        TRY(value.push_back('\0'));
        return value;
    }
    Result<void> list_xattrs(String& out) override {
        TRY(out.append(protocol_attribute));
        return out.push_back('\0');
    }

private:
    static constexpr std::string_view protocol_attribute = "system.sockprotoname";
    const char* const protocol_;
};

constinit InternalMount home{[] { return make_nameless_superblock("anon_inodefs", PIPEFS_MAGIC); },
                             MS_NOSUID | MS_NODEV | MS_NOEXEC};
constinit base::Atomic<u64> next_number{2}; // the root is 1

template <typename T, typename What>
Result<Ref<Inode>> make_nameless_inode(What what) {
    TRY(const Ref<Mount> mount, home.get());
    TRY(Ref<Inode> inode,
        make_ref<T>(&mount->superblock(), next_number.fetch_add(1, base::Order::Relaxed), what));
    inode->uid_ = current_fsuid();
    inode->gid_ = current_fsgid();
    return inode;
}

} // namespace

Result<Ref<Inode>> make_anonymous_inode(u32 mode) {
    return make_nameless_inode<AnonymousInode>(mode);
}

Result<Ref<Inode>> make_socket_inode(const char* protocol) {
    return make_nameless_inode<SocketInode>(protocol);
}

Result<Path> path_of(File& file) {
    if (file.path())
        return file.path();
    if (file.inode() == nullptr)
        return fail(EBADF);
    TRY(const Ref<Mount> mount, home.get());
    String name;
    if (!file.describe(name))
        TRY(name.append(file.type_name()));
    std::string_view text = name.view().substr(0, Dentry::name_limit);
    TRY(Ref<Dentry> dentry,
        DentryCache::make_unhashed(mount->root(), text, Ref<Inode>::share(file.inode()), false));
    return Path(mount, std::move(dentry));
}

} // namespace kernel
