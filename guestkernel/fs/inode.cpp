#include "guestkernel/fs/inode.hpp"

#include <linux/errno.h>
#include <linux/xattr.h>

#include "guestkernel/core/time.hpp"
#include "guestkernel/fs/acl.hpp"
#include "guestkernel/fs/leases.hpp"
#include "guestkernel/fs/locks.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/notify.hpp"

namespace kernel {

namespace {
constinit base::Atomic<u32> next_device_minor{
    20}; // as a freshly booted Linux hands them out to unnamed devices
}

u64 allocate_device_number() {
    return make_device(0, next_device_minor.fetch_add(1));
}

TimeSpec current_time() {
    const auto now = static_cast<u64>(realtime_ns());
    return {static_cast<i64>(now / nanoseconds_per_second),
            static_cast<u32>(now % nanoseconds_per_second)};
}

Superblock::Superblock() : device_number(allocate_device_number()) {}

Superblock::~Superblock() {
    forget_notify_target(this);
}

Inode::Inode(Superblock* superblock, u64 number, u32 mode)
    : mode_(mode), superblock_(superblock), number_(number) {}

Inode::~Inode() {
    if (fifo != nullptr)
        free_fifo_state(fifo);
    if (socket != nullptr)
        free_socket_binding(socket);
    if (watches != nullptr)
        free_inode_watches(watches);
    free_lock_state(file_locks);
    free_lease_state(leases);
}

Result<Attributes> Inode::attributes() {
    Attributes out;
    out.inode = number_;
    SpinGuard guard(attributes_lock_);
    out.mode = mode_;
    out.uid = uid_;
    out.gid = gid_;
    return out;
}

Result<void> Inode::set_attributes(const Attributes&, u32) {
    return fail(EPERM);
}
Result<Ref<Inode>> Inode::lookup(std::string_view) {
    return fail(ENOENT);
}
Result<Ref<Inode>> Inode::create(std::string_view, u32, u64, u32, u32) {
    return fail(EPERM);
}
Result<Ref<Inode>> Inode::symlink(std::string_view, std::string_view, u32, u32) {
    return fail(EPERM);
}
Result<void> Inode::link(std::string_view, Inode&) {
    return fail(EPERM);
}
Result<void> Inode::unlink(std::string_view, Inode&) {
    return fail(EPERM);
}
Result<void> Inode::rmdir(std::string_view, Inode&) {
    return fail(EPERM);
}
Result<void> Inode::rename(std::string_view, Inode&, Inode&, std::string_view, Inode*, u32) {
    return fail(EPERM);
}
Result<Ref<Inode>> Inode::create_unnamed(u32, u32, u32) {
    return fail(EOPNOTSUPP);
}
Result<String> Inode::readlink() {
    return fail(EINVAL);
}
Result<Path> Inode::follow_magic() {
    return fail(ENOENT);
}
Result<String> Inode::get_xattr(std::string_view) {
    return fail(EOPNOTSUPP);
}
Result<void> Inode::set_xattr(std::string_view, std::string_view, u32) {
    return fail(EOPNOTSUPP);
}
Result<void> Inode::remove_xattr(std::string_view) {
    return fail(EOPNOTSUPP);
}
Result<void> Inode::list_xattrs(String&) {
    return {};
}
Result<void> Inode::drop_capabilities() {
    auto kept = get_xattr(XATTR_NAME_CAPS);
    if (!kept)
        return kept.error().code == ENOMEM ? Result<void>(fail(ENOMEM)) : Result<void>();
    return remove_xattr(XATTR_NAME_CAPS);
}

Result<Ref<const Acl>> Inode::get_acl(AclKind) {
    return fail(EOPNOTSUPP);
}
Result<void> Inode::set_acl(AclKind, Ref<const Acl>) {
    return fail(EOPNOTSUPP);
}

Result<Ref<File>> Inode::open(const Path& path, u32 flags) {
    if (is_regular() && page_cache() != nullptr) {
        TRY(Ref<RegularFile> file, make_ref<RegularFile>(path, Ref<Inode>::share(this), flags));
        return Ref<File>(std::move(file));
    }
    if (is_directory())
        return make_ref<File>(path, Ref<Inode>::share(this), flags);
    return fail(ENXIO);
}

u64 Inode::file_size() {
    PageCache* cache = page_cache();
    return cache != nullptr && cache->source() != nullptr ? cache->source()->size() : 0;
}

Result<void> Inode::extend(u64 size) {
    Attributes wanted;
    wanted.size = size;
    return set_attributes(wanted, set_size);
}

} // namespace kernel
