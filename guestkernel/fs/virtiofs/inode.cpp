#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/fuse.h>
#include <linux/xattr.h>

#include "guestkernel/core/log.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/virtiofs/virtiofs.hpp"
#include "guestkernel/mm/heap.hpp"

namespace kernel {
namespace {

template <typename In>
void set_in(FuseCall& call, const In& in) {
    call.in = &in;
    call.in_bytes = sizeof in;
}
template <typename Out>
void set_out(FuseCall& call, Out& out) {
    call.out = &out;
    call.out_bytes = sizeof out;
    call.out_minimum = sizeof out;
}

FuseCall make_call(u32 opcode, u64 node) {
    FuseCall call;
    call.opcode = opcode;
    call.node = node;
    return call;
}

TimeSpec to_time(u64 seconds, u32 nanoseconds) {
    return {static_cast<i64>(seconds), nanoseconds < nanoseconds_per_second ? nanoseconds : 0};
}

// ACLs are not negotiated (FUSE_POSIX_ACL) and nothing here would enforce one. Saying so is also
// what lets ls -l ask once per file system, and not for each file.
bool is_acl(std::string_view name) {
    return name.starts_with("system.posix_acl_");
}

VirtiofsInode& as_virtiofs(Inode& inode) {
    return static_cast<VirtiofsInode&>(inode);
}

} // namespace

bool valid_fuse_size(const fuse_attr& attr) {
    return attr.size <= ~u64{0} >> 1;
}

VirtiofsInode::VirtiofsInode(VirtiofsSuperblock& fs, u64 node, u64 number, u32 mode)
    : Inode(&fs, number, mode), fs_(fs), node_(node) {}

VirtiofsInode::~VirtiofsInode() {
    if (cache_)
        cache_->detach();
}

void VirtiofsInode::last_reference() {
    // CREATE opened it, and nobody ever used that (mknod(2)). Before the node is forgotten: servers
    // do not know it any more then, and some end for that.
    if (write_handle_.open)
        send_release(write_handle_, FUSE_RELEASE, true);
    fs_.remove_inode(*this);
    delete this;
}

void VirtiofsInode::note_change_locked() {
    changed_at_.store(fs_.next_moment(), base::Order::Release);
    attributes_until_.store(0, base::Order::Release);
    no_capabilities_ = false;
}

void VirtiofsInode::note_change() {
    SpinGuard guard(attributes_lock_);
    note_change_locked();
}

void VirtiofsInode::update(const fuse_attr& attr, u64 valid_seconds, u32 valid_nanoseconds,
                           u64 asked, bool own) {
    u64 until = fuse_deadline(valid_seconds, valid_nanoseconds);
    Attributes fresh;
    fresh.inode = attr.ino;
    fresh.mode = attr.mode;
    fresh.links = attr.nlink;
    // A server in a user namespace speaks of that one's ids.
    const UserNamespace* ids = fs_.user_ns.get();
    fresh.uid = to_global_id(ids, false, attr.uid);
    fresh.gid = to_global_id(ids, true, attr.gid);
    fresh.device_number = attr.rdev;
    fresh.size = attr.size;
    fresh.blocks = attr.blocks;
    fresh.block_size = attr.blksize;
    fresh.access_time = to_time(attr.atime, attr.atimensec);
    fresh.modify_time = to_time(attr.mtime, attr.mtimensec);
    fresh.change_time = to_time(attr.ctime, attr.ctimensec);
    fresh.birth_time = fresh.change_time; // FUSE does not tell
    bool changed = false;
    {
        SpinGuard guard(attributes_lock_);
        if (changed_since(asked)) {
            // From before a change of ours. Better than nothing only where nothing is known yet.
            attributes_until_.store(0, base::Order::Release);
            if (cached_.mode != 0)
                return;
            until = 0;
        }
        if (dirty()) { // the server has yet to hear of our writes
            fresh.size = size_.load(base::Order::Relaxed);
            fresh.modify_time = cached_.modify_time;
            fresh.change_time = cached_.change_time;
        } else {
            changed = cached_once_ && is_regular() &&
                      (cached_.size != fresh.size ||
                       cached_.modify_time.seconds != fresh.modify_time.seconds ||
                       cached_.modify_time.nanoseconds != fresh.modify_time.nanoseconds);
            size_.store(fresh.size, base::Order::Release);
        }
        if (cached_.change_time.seconds != fresh.change_time.seconds ||
            cached_.change_time.nanoseconds != fresh.change_time.nanoseconds)
            no_capabilities_ = false;
        cached_ = fresh;
        cached_once_ = true;
        number_ = fresh.inode;
        mode_ = (mode_ & mode_type) | (fresh.mode & mode_permissions);
        uid_ = fresh.uid;
        gid_ = fresh.gid;
        // Answers to older questions may still be on their way.
        if (own)
            changed_at_.store(fs_.next_moment(), base::Order::Release);
        attributes_until_.store(until, base::Order::Release);
    }
    if (changed)
        if (PageCache* cache = cache_pointer_.load(base::Order::Acquire))
            cache->invalidate();
}

Result<void> VirtiofsInode::refresh() {
    fuse_getattr_in in{};
    fuse_attr_out out{};
    FuseCall call = make_call(FUSE_GETATTR, node_);
    set_in(call, in);
    set_out(call, out);
    const u64 asked = fs_.moment();
    TRY(transport().call(call));
    if (!valid_fuse_size(out.attr))
        return fail(EIO);
    if ((out.attr.mode & mode_type) != type())
        return fail(ESTALE);
    update(out.attr, out.attr_valid, out.attr_valid_nsec, asked);
    return {};
}

Result<Attributes> VirtiofsInode::attributes() {
    if (monotonic_ns() >= attributes_until_.load(base::Order::Acquire))
        TRY(refresh());
    SpinGuard guard(attributes_lock_);
    return Attributes(cached_);
}

Result<void> VirtiofsInode::set_attributes(const Attributes& wanted, u32 mask) {
    // Data first: written later it would change the times again, or lie past the new end. What was
    // written through mappings, or is on its way, does not show in dirty().
    if (dirty() || (mask & set_size) != 0)
        TRY(flush_pages());
    fuse_setattr_in in{};
    const auto want = [&](u32 bit, u32 fuse_bit) {
        if ((mask & bit) != 0)
            in.valid |= fuse_bit;
    };
    want(set_mode, FATTR_MODE);
    want(set_uid, FATTR_UID);
    want(set_gid, FATTR_GID);
    want(set_size, FATTR_SIZE);
    want(set_access_time, FATTR_ATIME);
    want(set_modify_time, FATTR_MTIME);
    want(set_access_time_now, FATTR_ATIME | FATTR_ATIME_NOW);
    want(set_modify_time_now, FATTR_MTIME | FATTR_MTIME_NOW);
    in.mode = wanted.mode;
    in.uid = from_global_id(fs_.user_ns.get(), false, wanted.uid);
    in.gid = from_global_id(fs_.user_ns.get(), true, wanted.gid);
    in.size = wanted.size;
    in.atime = static_cast<u64>(wanted.access_time.seconds);
    in.atimensec = wanted.access_time.nanoseconds;
    in.mtime = static_cast<u64>(wanted.modify_time.seconds);
    in.mtimensec = wanted.modify_time.nanoseconds;
    u64 handle = 0;
    if ((mask & set_size) != 0 && any_handle(true, handle)) {
        in.valid |= FATTR_FH; // the right to truncate was had at open
        in.fh = handle;
    }
    fuse_attr_out out{};
    FuseCall call = make_call(FUSE_SETATTR, node_);
    set_in(call, in);
    set_out(call, out);
    const u64 asked = fs_.moment();
    TRY(transport().call(call));
    if (!valid_fuse_size(out.attr))
        return fail(EIO);
    if ((out.attr.mode & mode_type) != type())
        return fail(ESTALE);
    if ((mask & set_size) != 0) {
        // What is cached below the new end stays good: it is we who changed the file.
        {
            SpinGuard guard(attributes_lock_);
            size_.store(out.attr.size, base::Order::Release);
            cached_once_ = false;
        }
        if (PageCache* cache = cache_pointer_.load(base::Order::Acquire))
            cache->truncate(out.attr.size);
    } else if ((mask & (set_modify_time | set_modify_time_now)) != 0) {
        SpinGuard guard(attributes_lock_);
        cached_once_ = false;
    }
    update(out.attr, out.attr_valid, out.attr_valid_nsec, asked, true);
    return {};
}

// --- names ---------------------------------------------------------------------------------------

Result<Ref<Inode>> VirtiofsInode::lookup(std::string_view name) {
    Ref<Inode> known;
    switch (fs_.entries_.take(node_, name, known)) {
    case EntryCache::Answer::Found:
        return known;
    case EntryCache::Answer::Missing:
        return fail(ENOENT);
    case EntryCache::Answer::Unknown:
        break;
    }
    fuse_entry_out entry{};
    FuseCall call = make_call(FUSE_LOOKUP, node_);
    call.names[0] = name;
    set_out(call, entry);
    const u64 asked = fs_.moment();
    TRY(transport().call(call));
    if (entry.nodeid == 0) { // "it does not exist, and you may remember that"
        const u64 until = fuse_deadline(entry.entry_valid, entry.entry_valid_nsec);
        const u64 now = monotonic_ns();
        fs_.negative_timeout_ns_.store(until == ~u64{0} ? until : until - now,
                                       base::Order::Relaxed);
        if (until > now)
            remember(name, nullptr, until, asked);
        return fail(ENOENT);
    }
    TRY(Ref<VirtiofsInode> inode, fs_.adopt_entry(entry, asked));
    if (!inode->is_directory())
        fs_.note_lookup();
    return Ref<Inode>(std::move(inode));
}

usize VirtiofsInode::remember(std::string_view name, Ref<Inode> child, u64 until, u64 asked) {
    if (changed_since(asked))
        return 0;
    const usize unused = fs_.entries_.put(node_, name, std::move(child), until);
    // Who changes a name says so before he has it forgotten: one of us two comes after the other.
    if (changed_since(asked))
        fs_.entries_.forget(node_, name);
    return unused;
}

Result<Ref<Inode>> VirtiofsInode::finish_entry(std::string_view name, Result<u32> answer,
                                               const fuse_entry_out& entry, u64 asked) {
    if (answer)
        note_change(); // the directory's own times and link count, too
    fs_.entries_.forget(node_, name);
    if (!answer)
        return fail(answer.error().code);
    TRY(Ref<VirtiofsInode> inode, fs_.adopt_entry(entry, asked));
    return Ref<Inode>(std::move(inode));
}

Result<Ref<Inode>> VirtiofsInode::create(std::string_view name, u32 mode, u64 device_number,
                                         u32 uid, u32 gid) {
    fuse_entry_out entry{};
    const u32 kind = mode & mode_type;
    if (kind == mode_regular && !fs_.lacks(VirtiofsSuperblock::missing_create)) {
        auto made = create_open(FUSE_CREATE, name, mode, uid, gid);
        if (made || made.error().code != ENOSYS)
            return made;
        fs_.note_missing(VirtiofsSuperblock::missing_create);
    }
    FuseCall call = make_call(kind == mode_directory ? FUSE_MKDIR : FUSE_MKNOD, node_);
    call.uid = uid;
    call.gid = gid;
    call.names[0] = name;
    set_out(call, entry);
    fuse_mkdir_in mkdir{};
    fuse_mknod_in mknod{};
    if (kind == mode_directory) {
        mkdir.mode = mode;
        set_in(call, mkdir);
    } else {
        mknod.mode = mode;
        mknod.rdev = static_cast<u32>(device_number);
        set_in(call, mknod);
    }
    const u64 asked = fs_.moment();
    return finish_entry(name, transport().call(call), entry, asked);
}

// Makes and opens a regular file in one round trip. The handle waits in the inode for the open(2)
// that follows.
Result<Ref<Inode>> VirtiofsInode::create_open(u32 opcode, std::string_view name, u32 mode, u32 uid,
                                              u32 gid) {
    struct {
        fuse_entry_out entry;
        fuse_open_out open;
    } out{};
    fuse_create_in in{};
    in.flags = opcode == FUSE_CREATE ? O_RDWR | O_CREAT | O_EXCL : O_RDWR | O_TMPFILE;
    in.mode = mode;
    FuseCall call = make_call(opcode, node_);
    call.uid = uid;
    call.gid = gid;
    call.names[0] = name;
    set_in(call, in);
    set_out(call, out);
    const u64 asked = fs_.moment();
    TRY(Ref<Inode> made, finish_entry(name, transport().call(call), out.entry, asked));
    VirtiofsInode& inode = as_virtiofs(*made);
    MutexGuard guard(inode.handles_mutex_);
    if (inode.write_handle_.open || !inode.is_regular()) {
        send_release(FuseHandle{out.open.fh, 0, true, true}, FUSE_RELEASE, true);
        return made;
    }
    inode.write_handle_ = FuseHandle{out.open.fh, 0, true, true};
    return made;
}

Result<Ref<Inode>> VirtiofsInode::create_unnamed(u32 mode, u32 uid, u32 gid) {
    if (fs_.lacks(VirtiofsSuperblock::missing_tmpfile))
        return fail(EOPNOTSUPP);
    auto made = create_open(FUSE_TMPFILE, "", mode, uid, gid);
    if (!made && made.error().code == ENOSYS) {
        fs_.note_missing(VirtiofsSuperblock::missing_tmpfile);
        return fail(EOPNOTSUPP);
    }
    return made;
}

Result<Ref<Inode>> VirtiofsInode::symlink(std::string_view name, std::string_view target, u32 uid,
                                          u32 gid) {
    fuse_entry_out entry{};
    FuseCall call = make_call(FUSE_SYMLINK, node_);
    call.uid = uid;
    call.gid = gid;
    call.names[0] = name;
    call.names[1] = target;
    set_out(call, entry);
    const u64 asked = fs_.moment();
    return finish_entry(name, transport().call(call), entry, asked);
}

Result<void> VirtiofsInode::link(std::string_view name, Inode& target) {
    fuse_entry_out entry{};
    fuse_link_in in{};
    in.oldnodeid = as_virtiofs(target).node_;
    FuseCall call = make_call(FUSE_LINK, node_);
    call.names[0] = name;
    set_in(call, in);
    set_out(call, entry);
    const u64 asked = fs_.moment();
    TRY(finish_entry(name, transport().call(call), entry, asked));
    as_virtiofs(target).note_change(); // its link count
    return {};
}

Result<void> VirtiofsInode::remove_name(u32 opcode, std::string_view name, Inode& child) {
    FuseCall call = make_call(opcode, node_);
    call.names[0] = name;
    TRY(transport().call(call));
    note_change();
    fs_.entries_.forget(node_, name);
    as_virtiofs(child).note_change(); // its link count
    return {};
}

Result<void> VirtiofsInode::unlink(std::string_view name, Inode& child) {
    return remove_name(FUSE_UNLINK, name, child);
}

Result<void> VirtiofsInode::rmdir(std::string_view name, Inode& child) {
    return remove_name(FUSE_RMDIR, name, child);
}

Result<void> VirtiofsInode::rename(std::string_view old_name, Inode& child, Inode& new_directory,
                                   std::string_view new_name, Inode* replaced, u32 flags) {
    VirtiofsInode& target = as_virtiofs(new_directory);
    fuse_rename2_in in2{};
    in2.newdir = target.node_;
    in2.flags = flags;
    fuse_rename_in in{};
    in.newdir = target.node_;
    FuseCall call = make_call(flags != 0 ? FUSE_RENAME2 : FUSE_RENAME, node_);
    if (flags != 0 && fs_.lacks(VirtiofsSuperblock::missing_rename2))
        return fail(EINVAL);
    if (flags != 0)
        set_in(call, in2);
    else
        set_in(call, in);
    call.names[0] = old_name;
    call.names[1] = new_name;
    auto answer = transport().call(call);
    if (answer) {
        note_change();
        target.note_change();
    }
    fs_.entries_.forget(node_, old_name);
    fs_.entries_.forget(target.node_, new_name);
    if (!answer) {
        if (flags != 0 && answer.error().code == ENOSYS) {
            fs_.note_missing(VirtiofsSuperblock::missing_rename2);
            return fail(EINVAL); // rename(2): the file system does not support the flag
        }
        return fail(answer.error().code);
    }
    as_virtiofs(child).note_change(); // ctime
    if (replaced != nullptr)
        as_virtiofs(*replaced).note_change();
    return {};
}

Result<String> VirtiofsInode::readlink() {
    if (!link_known_.load(base::Order::Acquire)) {
        MutexGuard guard(link_mutex_);
        if (!link_known_.load(base::Order::Acquire)) {
            char* buffer = static_cast<char*>(kmalloc(page_size));
            if (buffer == nullptr)
                return fail(ENOMEM);
            FuseCall call = make_call(FUSE_READLINK, node_);
            call.out_data = {buffer, page_size - 1};
            auto length = transport().call(call);
            auto copy = length ? String::from({buffer, *length}) : Result<String>(fail(ENOMEM));
            kfree(buffer);
            if (!length)
                return fail(length.error().code);
            TRY(link_target_, std::move(copy));
            link_known_.store(true, base::Order::Release); // a symlink's target never changes
        }
    }
    return link_target_.clone();
}

// --- extended attributes -------------------------------------------------------------------------

// A value or list of unknown length: first into a page, then with the size that the server names.
Result<String> VirtiofsInode::xattr_call(u32 opcode, std::string_view name) {
    if (fs_.lacks(VirtiofsSuperblock::missing_xattr))
        return fail(EOPNOTSUPP);
    u32 room = page_size;
    for (int attempt = 0; attempt < 4; attempt++) {
        fuse_getxattr_in in{};
        in.size = room;
        FuseCall call = make_call(opcode, node_);
        set_in(call, in);
        if (!name.empty())
            call.names[0] = name;
        u8* buffer = room == 0 ? nullptr : static_cast<u8*>(kmalloc(room));
        if (room != 0 && buffer == nullptr)
            return fail(ENOMEM);
        fuse_getxattr_out size{};
        if (room == 0)
            set_out(call, size);
        else
            call.out_data = {buffer, room};
        auto length = transport().call(call);
        auto value = length && room != 0 ? String::from({reinterpret_cast<char*>(buffer), *length})
                                         : Result<String>(fail(ENOMEM));
        kfree(buffer);
        if (length && room != 0)
            return value;
        if (length) {
            room = size.size < 64 * 1024 ? size.size + 64 : 64 * 1024;
        } else if (length.error().code == ERANGE && room != 0) {
            room = 0; // ask for the size
        } else if (length.error().code == ENOSYS) {
            fs_.note_missing(VirtiofsSuperblock::missing_xattr);
            return fail(EOPNOTSUPP);
        } else {
            return fail(length.error().code);
        }
    }
    return fail(ERANGE);
}

Result<String> VirtiofsInode::get_xattr(std::string_view name) {
    if (is_acl(name))
        return fail(EOPNOTSUPP);
    if (name == XATTR_NAME_CAPS)
        return get_capabilities();
    // ls -l asks for the label of each file. Where SELinux labels files, the root has a label too.
    if (name == "security.selinux" && node_ != FUSE_ROOT_ID) {
        if (!fs_.labels_known_.load(base::Order::Acquire)) {
            auto label = fs_.root_->xattr_call(FUSE_GETXATTR, name);
            if (!label && label.error().code != ENODATA)
                return label;
            fs_.has_labels_ = label.has_value();
            fs_.labels_known_.store(true, base::Order::Release);
        }
        if (!fs_.has_labels_)
            return fail(ENODATA);
    }
    return xattr_call(FUSE_GETXATTR, name);
}

// execve(2) asks for each program, and hardly one has any: that there are none is remembered. Who
// opened the program has just seen to its attributes.
Result<String> VirtiofsInode::get_capabilities() {
    if (dirty())
        TRY(flush_pages()); // the host takes them away when the writes come
    {
        SpinGuard guard(attributes_lock_);
        if (no_capabilities_ && monotonic_ns() < attributes_until_.load(base::Order::Relaxed))
            return fail(ENODATA);
    }
    const u64 asked = fs_.moment();
    auto value = xattr_call(FUSE_GETXATTR, XATTR_NAME_CAPS);
    if (!value && (value.error().code == ENODATA || value.error().code == EOPNOTSUPP)) {
        SpinGuard guard(attributes_lock_);
        no_capabilities_ = !changed_since(asked);
    }
    return value;
}

// The host's file system does it. What a program serves is asked, as Linux does without
// FUSE_HANDLE_KILLPRIV.
Result<void> VirtiofsInode::drop_capabilities() {
    return fs_.connection_ ? Inode::drop_capabilities() : Result<void>();
}

Result<void> VirtiofsInode::list_xattrs(String& out) {
    auto list = xattr_call(FUSE_LISTXATTR, {});
    if (!list)
        return list.error().code == EOPNOTSUPP ? Result<void>()
                                               : Result<void>(fail(list.error().code));
    return out.append(list->view());
}

Result<void> VirtiofsInode::set_xattr(std::string_view name, std::string_view value, u32 flags) {
    if (is_acl(name) || fs_.lacks(VirtiofsSuperblock::missing_xattr))
        return fail(EOPNOTSUPP);
    // The short form of the structure: the long one needs FUSE_SETXATTR_EXT, which is not
    // negotiated.
    const u32 in[2] = {static_cast<u32>(value.size()), flags};
    FuseCall call = make_call(FUSE_SETXATTR, node_);
    static_assert(sizeof in == FUSE_COMPAT_SETXATTR_IN_SIZE);
    set_in(call, in);
    call.names[0] = name;
    u8* copy = nullptr; // the caller's bytes need not be in memory that the device can address
    if (!value.empty()) {
        copy = static_cast<u8*>(kmalloc(value.size()));
        if (copy == nullptr)
            return fail(ENOMEM);
        __builtin_memcpy(copy, value.data(), value.size());
        call.in_data = {copy, static_cast<u32>(value.size())};
    }
    auto answer = transport().call(call);
    kfree(copy);
    if (!answer && answer.error().code == ENOSYS) {
        fs_.note_missing(VirtiofsSuperblock::missing_xattr);
        return fail(EOPNOTSUPP);
    }
    note_change(); // ctime
    TRY(std::move(answer));
    return {};
}

Result<void> VirtiofsInode::remove_xattr(std::string_view name) {
    if (is_acl(name) || fs_.lacks(VirtiofsSuperblock::missing_xattr))
        return fail(EOPNOTSUPP);
    FuseCall call = make_call(FUSE_REMOVEXATTR, node_);
    call.names[0] = name;
    auto answer = transport().call(call);
    if (!answer && answer.error().code == ENOSYS) {
        fs_.note_missing(VirtiofsSuperblock::missing_xattr);
        return fail(EOPNOTSUPP);
    }
    note_change();
    TRY(std::move(answer));
    return {};
}

} // namespace kernel
