#include <linux/errno.h>
#include <linux/fuse.h>
#include <linux/magic.h>

#include "guestkernel/core/log.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/permission.hpp"
#include "guestkernel/fs/virtiofs/fuse_connection.hpp"
#include "guestkernel/fs/virtiofs/virtiofs.hpp"

namespace kernel {
namespace {

constexpr u32 wanted_flags = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_DONT_MASK |
                             FUSE_DO_READDIRPLUS | FUSE_MAX_PAGES | FUSE_CACHE_SYMLINKS |
                             FUSE_NO_OPEN_SUPPORT | FUSE_NO_OPENDIR_SUPPORT | FUSE_PARALLEL_DIROPS;
// fuse_init_out has had its present size since 7.23.
constexpr u32 oldest_minor = 23;

// Attributes listed but not used by anybody, until directories are read without them; and questions
// about single names, until they are read with them again.
constexpr u32 useless_limit = 2048;
constexpr u32 missed_limit = 64;

// The root has no name below itself, and a node of its own.
bool valid_entry(const fuse_entry_out& entry) {
    return (entry.attr.mode & ~(mode_type | mode_permissions)) == 0 &&
           (entry.attr.mode & mode_type) != 0 && entry.nodeid != 0 &&
           entry.nodeid != FUSE_ROOT_ID && valid_fuse_size(entry.attr);
}

} // namespace

Result<Ref<VirtiofsSuperblock>> VirtiofsSuperblock::create(FuseTransport& transport,
                                                           bool read_only) {
    TRY(auto fs, make_ref<VirtiofsSuperblock>(transport));
    TRY(fs->inodes_, make_owned<InodeTable>());
    fs->read_only = read_only;
    TRY(fs->negotiate());
    TRY(fs->root_, make_ref<VirtiofsInode>(*fs, u64{FUSE_ROOT_ID}, 0, mode_directory | 0755));
    fs->root_->lookups_ = 0; // the root is never looked up, nor forgotten
    TRY(fs->root_->refresh());
    return fs;
}

Result<Ref<VirtiofsSuperblock>> VirtiofsSuperblock::create_for_user(Ref<FuseConnection> connection,
                                                                    UserServer server) {
    TRY(auto fs, make_ref<VirtiofsSuperblock>(*connection));
    TRY(fs->inodes_, make_owned<InodeTable>());
    fs->server_ = std::move(server);
    if (fs->server_.type.empty())
        TRY(fs->server_.type.append("fuse"));
    fs->own_rules = true;
    const UserServer& by = fs->server_;
    TRY(fs->root_,
        make_ref<VirtiofsInode>(*fs, u64{FUSE_ROOT_ID}, u64{FUSE_ROOT_ID}, by.root_mode));
    fs->root_->lookups_ = 0;
    fs->root_->uid_ = by.owner_uid;
    fs->root_->gid_ = by.owner_gid;
    const Credentials* who = current_credentials();
    TRY(connection->start(*fs, who == nullptr ? Ref<UserNamespace>() : who->user_ns));
    fs->connection_ = std::move(connection);
    return fs;
}

VirtiofsSuperblock::~VirtiofsSuperblock() {
    entries_.clear();
    root_ = nullptr;
    if (connection_)
        connection_->disconnect(true);
}

// mount.fuse(8): without allow_other, a file system is for who mounted it, and for nobody who might
// be harmed by it: not for root either.
Result<bool> VirtiofsSuperblock::admit(Inode&, const Credentials& who) {
    const UserServer& by = server_;
    if (!by.allow_other &&
        !(who.uid == by.owner_uid && who.euid == by.owner_uid && who.suid == by.owner_uid &&
          who.gid == by.owner_gid && who.egid == by.owner_gid && who.sgid == by.owner_gid))
        return fail(EACCES);
    return !by.default_permissions;
}

void VirtiofsSuperblock::fill_init(fuse_init_in& in, usize payload) {
    in.major = FUSE_KERNEL_VERSION;
    in.minor = FUSE_KERNEL_MINOR_VERSION;
    in.max_readahead = static_cast<u32>(payload);
    in.flags = wanted_flags;
}

bool VirtiofsSuperblock::accept_init(const u8* answer, u32 bytes) {
    fuse_init_out out{};
    if (bytes < FUSE_COMPAT_22_INIT_OUT_SIZE || bytes > sizeof out)
        return false;
    __builtin_memcpy(&out, answer, bytes);
    if (!take_limits(out))
        return false;
    constexpr u32 most = FuseConnection::largest_payload;
    if (max_write_ > most)
        max_write_ = most;
    if (max_frames_ > most / page_size)
        max_frames_ = most / page_size;
    return true;
}

Result<void> VirtiofsSuperblock::negotiate() {
    fuse_init_in in{};
    fill_init(in, FuseChannel::max_frames * page_size);
    fuse_init_out out{};
    FuseCall call;
    call.opcode = FUSE_INIT;
    call.in = &in;
    call.in_bytes = sizeof in;
    call.out = &out;
    call.out_bytes = sizeof out;
    call.out_minimum = FUSE_COMPAT_22_INIT_OUT_SIZE;
    TRY(transport_.call(call));
    return take_limits(out);
}

Result<void> VirtiofsSuperblock::take_limits(const fuse_init_out& out) {
    if (out.major != FUSE_KERNEL_VERSION || out.minor < oldest_minor) {
        log::error("fuse: the server speaks version {}.{}", out.major, out.minor);
        return fail(EPROTO);
    }
    if (out.max_write >= page_size)
        max_write_ = out.max_write & ~static_cast<u32>(page_size - 1);
    if ((out.flags & FUSE_MAX_PAGES) != 0 && out.max_pages > 0)
        max_frames_ = out.max_pages;
    if (max_frames_ > FuseChannel::max_frames)
        max_frames_ = FuseChannel::max_frames;
    if (max_write_ > max_frames_ * page_size)
        max_write_ = max_frames_ * static_cast<u32>(page_size);
    if ((out.flags & FUSE_DO_READDIRPLUS) == 0)
        note_missing(missing_readdirplus);
    return {};
}

Ref<Inode> VirtiofsSuperblock::root() {
    return root_;
}

Result<FileSystemStats> VirtiofsSuperblock::stats() {
    fuse_statfs_out out{};
    FuseCall call;
    call.opcode = FUSE_STATFS;
    call.node = FUSE_ROOT_ID;
    call.out = &out;
    call.out_bytes = sizeof out;
    call.out_minimum = sizeof out;
    TRY(transport_.call(call));
    FileSystemStats stats{};
    stats.type = FUSE_SUPER_MAGIC;
    stats.block_size = out.st.bsize;
    stats.blocks = out.st.blocks;
    stats.free_blocks = out.st.bfree;
    stats.available_blocks = out.st.bavail;
    stats.files = out.st.files;
    stats.free_files = out.st.ffree;
    stats.name_max = out.st.namelen;
    return stats;
}

bool VirtiofsSuperblock::dentry_valid(Inode&, std::string_view, Inode* inode, u64 cached_at_ns) {
    const u64 timeout =
        inode == nullptr
            ? negative_timeout_ns_.load(base::Order::Relaxed)
            : static_cast<VirtiofsInode*>(inode)->entry_timeout_ns_.load(base::Order::Relaxed);
    if (timeout == ~u64{0})
        return true;
    const u64 until = cached_at_ns + timeout;
    return until < cached_at_ns || monotonic_ns() < until;
}

bool VirtiofsSuperblock::wants_attributes() const {
    return !lacks(missing_readdirplus) &&
           useless_attributes_.load(base::Order::Relaxed) < useless_limit;
}

void VirtiofsSuperblock::note_lookup() {
    if (useless_attributes_.load(base::Order::Relaxed) >= useless_limit &&
        missed_attributes_.fetch_add(1, base::Order::Relaxed) >= missed_limit) {
        missed_attributes_.store(0, base::Order::Relaxed);
        useless_attributes_.store(0, base::Order::Relaxed);
    }
}

Result<Ref<VirtiofsInode>> VirtiofsSuperblock::adopt_entry(const fuse_entry_out& entry, u64 asked) {
    if (!valid_entry(entry)) {
        if (entry.nodeid != 0 && entry.nodeid != FUSE_ROOT_ID)
            transport_.forget(entry.nodeid, 1);
        return fail(EIO);
    }
    const u64 hash = hash_mix(entry.nodeid) & (buckets - 1);
    const auto find = [&]() -> VirtiofsInode* {
        for (VirtiofsInode* at = inodes_->buckets[hash]; at != nullptr; at = at->table_next_)
            if (at->node_ == entry.nodeid && at->try_add_ref())
                return at; // one whose last reference is gone is about to leave the table
        return nullptr;
    };
    Ref<VirtiofsInode> inode;
    {
        SpinGuard guard(table_lock_);
        if (VirtiofsInode* found = find()) {
            found->lookups_++;
            inode = Ref<VirtiofsInode>::adopt(found);
        }
    }
    if (!inode) {
        auto made = make_ref<VirtiofsInode>(*this, entry.nodeid, entry.attr.ino, entry.attr.mode);
        if (!made) {
            transport_.forget(entry.nodeid, 1);
            return fail(ENOMEM);
        }
        SpinGuard guard(table_lock_);
        if (VirtiofsInode* found = find()) {
            found->lookups_++;
            inode = Ref<VirtiofsInode>::adopt(found);
            (*made)->lookups_ = 0; // it goes without a trace, after the lock
        } else {
            inode = std::move(*made);
            inode->changed_at_.store(changes_of_gone_, base::Order::Release);
            inode->table_next_ = inodes_->buckets[hash];
            inodes_->buckets[hash] = inode.get();
        }
    }
    if (inode->type() != (entry.attr.mode & mode_type))
        return fail(ESTALE); // the node id was used anew for something else
    inode->entry_timeout_ns_.store(entry.entry_valid >= ~u64{0} / nanoseconds_per_second - 1
                                       ? ~u64{0}
                                       : entry.entry_valid * nanoseconds_per_second +
                                             entry.entry_valid_nsec,
                                   base::Order::Relaxed);
    inode->update(entry.attr, entry.attr_valid, entry.attr_valid_nsec, asked);
    return inode;
}

void VirtiofsSuperblock::remove_inode(VirtiofsInode& inode) {
    const u64 hash = hash_mix(inode.node_) & (buckets - 1);
    u64 lookups = 0;
    {
        SpinGuard guard(table_lock_);
        for (VirtiofsInode** at = &inodes_->buckets[hash]; *at != nullptr; at = &(*at)->table_next_)
            if (*at == &inode) {
                *at = inode.table_next_;
                break;
            }
        lookups = inode.lookups_;
        if (inode.changed_since(changes_of_gone_))
            changes_of_gone_ = inode.changed_at_.load(base::Order::Acquire);
    }
    if (lookups > 0)
        transport_.forget(inode.node_, lookups);
}

} // namespace kernel
