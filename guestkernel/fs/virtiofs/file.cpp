// Open files, the server's handles behind them, and the transfer of pages.
#include <linux/errno.h>
#include <linux/falloc.h>
#include <linux/fcntl.h>
#include <linux/fs.h>
#include <linux/fuse.h>

#include "guestkernel/cgroup/io.hpp"
#include "guestkernel/cgroup/pressure.hpp"
#include "guestkernel/fs/virtiofs/virtiofs.hpp"

namespace kernel {
namespace {

// A write(2) sends what has gathered once it is this much: the host then writes while we go on
// computing the next.
constexpr u64 write_batch = 4u << 20;
// Requests that move more than this go to the worker threads: the vCPU is free meanwhile.
constexpr u64 inline_limit = 256u << 10;

template <typename In>
FuseCall make_call(u32 opcode, u64 node, const In& in) {
    FuseCall call;
    call.opcode = opcode;
    call.node = node;
    call.in = &in;
    call.in_bytes = sizeof in;
    return call;
}

void zero_frames(std::span<Frame* const> frames, u64 from_byte) {
    for (usize i = from_byte / page_size; i < frames.size(); i++) {
        const u64 start = i * page_size;
        const usize keep = from_byte > start ? from_byte - start : 0;
        __builtin_memset(static_cast<u8*>(frame_data(*frames[i])) + keep, 0, page_size - keep);
    }
}

} // namespace

// --- handles -------------------------------------------------------------------------------------

// Not open if the server does without.
Result<FuseHandle> VirtiofsInode::send_open(bool for_write) {
    // Writing part of a page means reading it first; a file that may not be read is then written in
    // whole pages only.
    const u32 attempts[] = {for_write ? u32{O_RDWR} : u32{O_RDONLY}, u32{O_WRONLY}};
    for (const u32 flags : attempts) {
        fuse_open_in in{};
        in.flags = flags;
        fuse_open_out out{};
        FuseCall call = make_call(FUSE_OPEN, node_, in);
        call.out = &out;
        call.out_bytes = call.out_minimum = sizeof out;
        auto answer = transport().call(call);
        if (answer)
            return FuseHandle{out.fh, 0, true, flags != O_WRONLY};
        if (answer.error().code == ENOSYS) {
            fs_.note_missing(VirtiofsSuperblock::missing_open);
            return FuseHandle{};
        }
        if (!for_write || answer.error().code != EACCES || flags == O_WRONLY)
            return fail(answer.error().code);
    }
    return fail(EACCES);
}

Result<void> VirtiofsInode::acquire_handle(bool for_write) {
    if (fs_.lacks(VirtiofsSuperblock::missing_open))
        return {};
    FuseHandle& handle = for_write ? write_handle_ : read_handle_;
    MutexGuard guard(handles_mutex_);
    // A program's server may be who checks permissions: it is asked for each open, but for the one
    // that CREATE has made already. Without the mutex, which ends of processes need.
    const bool asks = fs_.writes_through() && handle.users > 0;
    if (handle.open && !asks) {
        handle.users++;
        return {};
    }
    if (!asks) {
        TRY(handle, send_open(for_write));
        handle.users = handle.open ? 1 : 0;
        return {};
    }
    guard.unlock();
    TRY(FuseHandle spare, send_open(for_write));
    MutexGuard again(handles_mutex_);
    if (!handle.open) // the others closed it meanwhile
        std::swap(handle, spare);
    if (handle.open)
        handle.users++;
    if (spare.open)
        send_release(spare, FUSE_RELEASE, for_write);
    return {};
}

void VirtiofsInode::release_handle(bool for_write) {
    MutexGuard guard(handles_mutex_);
    FuseHandle& handle = for_write ? write_handle_ : read_handle_;
    if (!handle.open || --handle.users > 0)
        return;
    send_release(handle, FUSE_RELEASE, for_write);
    handle = FuseHandle{};
}

void VirtiofsInode::send_release(const FuseHandle& handle, u32 opcode, bool for_write) {
    fuse_release_in in{};
    in.fh = handle.id;
    in.flags = for_write ? O_RDWR : O_RDONLY;
    (void)transport().call(make_call(opcode, node_, in)); // there is nobody to tell of an error
}

// A handle to read or write pages by. Without one, 0, which servers without OPEN expect. Lock-free
// readers may see a handle that is being closed only if no file is open, and then there is nobody
// to read for.
bool VirtiofsInode::any_handle(bool for_write, u64& id) {
    id = 0;
    if (fs_.lacks(VirtiofsSuperblock::missing_open))
        return false;
    if (!for_write && read_handle_.open) {
        id = read_handle_.id;
        return true;
    }
    if (write_handle_.open && (for_write || write_handle_.can_read)) {
        id = write_handle_.id;
        return true;
    }
    return false;
}

// --- pages ---------------------------------------------------------------------------------------

PageCache* VirtiofsInode::page_cache() {
    if (!is_regular())
        return nullptr;
    PageCache* cache = cache_pointer_.load(base::Order::Acquire);
    if (cache != nullptr)
        return cache;
    auto fresh = make_ref<PageCache>(static_cast<PageSource*>(this));
    if (!fresh)
        return nullptr;
    {
        SpinGuard guard(attributes_lock_);
        if (!cache_) {
            cache_ = std::move(*fresh);
            cache_pointer_.store(cache_.get(), base::Order::Release);
            return cache_.get();
        }
    }
    (*fresh)->detach(); // another task was faster
    return cache_pointer_.load(base::Order::Acquire);
}

Result<void> VirtiofsInode::read_pages(u64 first, std::span<Frame* const> frames) {
    const u64 start = first * page_size;
    const u64 end = size_.load(base::Order::Acquire);
    u64 wanted = frames.size() * page_size;
    if (start >= end)
        wanted = 0;
    else if (wanted > end - start)
        wanted = end - start;
    u64 got = 0;
    while (got < wanted) {
        u64 part = wanted - got;
        if (part > u64{fs_.max_frames_} * page_size)
            part = u64{fs_.max_frames_} * page_size;
        const usize count = static_cast<usize>((part + page_size - 1) / page_size);
        fuse_read_in in{};
        any_handle(false, in.fh);
        in.offset = start + got;
        in.size = static_cast<u32>(count * page_size);
        FuseCall call = make_call(FUSE_READ, node_, in);
        call.frames = frames.subspan(got / page_size, count);
        call.frames_bytes = in.size;
        charge_io(fs_.device_number, false, in.size);
        PressureStall stall(PressureKind::Io);
        TRY(const u32 length, transport().call(call));
        if (length > in.size)
            return fail(EIO);
        got += length;
        if (length < part)
            break; // the file became shorter behind us, or holds less than we have written past
    }
    zero_frames(frames, got < wanted ? got : wanted);
    return {};
}

Result<void> VirtiofsInode::write_pages(u64 first, std::span<Frame* const> frames, u64 file_size) {
    auto sent = send_pages(first, frames, file_size);
    // Reclaim and sync(2) have nobody to tell: the next fsync(2) or close(2) has.
    if (!sent && sent.error().code != EINTR && sent.error().code != ENOMEM)
        write_error_.store(sent.error().code);
    return sent;
}

Result<void> VirtiofsInode::send_pages(u64 first, std::span<Frame* const> frames, u64 file_size) {
    const u64 start = first * page_size;
    if (start >= file_size)
        return {};
    u64 total = frames.size() * page_size;
    if (total > file_size - start)
        total = file_size - start;
    fuse_write_in in{};
    any_handle(true, in.fh);
    for (u64 sent = 0; sent < total;) {
        u64 part = total - sent;
        if (part > fs_.max_write_)
            part = fs_.max_write_;
        in.offset = start + sent;
        in.size = static_cast<u32>(part);
        in.write_flags = FUSE_WRITE_CACHE;
        fuse_write_out out{};
        FuseCall call = make_call(FUSE_WRITE, node_, in);
        call.frames = frames.subspan(sent / page_size,
                                     static_cast<usize>((part + page_size - 1) / page_size));
        call.frames_bytes = in.size;
        call.send_frames = true;
        call.out = &out;
        call.out_bytes = call.out_minimum = sizeof out;
        if (part > inline_limit)
            call.route = FuseRoute::Worker;
        charge_io(fs_.device_number, true, part);
        PressureStall stall(PressureKind::Io);
        TRY(transport().call(call));
        if (out.size != part)
            return fail(out.size < part ? ENOSPC : EIO);
        sent += part;
    }
    return {};
}

Result<void> VirtiofsInode::flush_pages() {
    PageCache* cache = cache_pointer_.load(base::Order::Acquire);
    if (cache == nullptr)
        return {};
    const u64 seen = modified_.load(base::Order::Acquire);
    if (auto written = cache->write_back(0, ~u64{0}); !written) {
        write_error_.store(0); // the caller tells
        return written;
    }
    if (seen == flushed_.load(base::Order::Acquire))
        return {};
    SpinGuard guard(attributes_lock_);
    if (flushed_.load(base::Order::Relaxed) < seen)
        flushed_.store(seen, base::Order::Release);
    // The server's clock stamped the writes: our guess is void, and the difference is nobody else's
    // doing.
    cached_once_ = false;
    note_change_locked();
    return {};
}

Result<void> VirtiofsInode::flush_and_tell() {
    TRY(flush_pages());
    const int untold = write_error_.exchange(0);
    return untold == 0 ? Result<void>() : Result<void>(fail(untold));
}

Result<void> VirtiofsInode::extend(u64 size) {
    modified_.fetch_add(1, base::Order::AcqRel);
    SpinGuard guard(attributes_lock_);
    size_.store(size, base::Order::Release);
    cached_.size = size;
    return {};
}

void VirtiofsInode::note_modified() {
    const TimeSpec now = current_time();
    modified_.fetch_add(1, base::Order::AcqRel);
    SpinGuard guard(attributes_lock_);
    cached_.modify_time = cached_.change_time = now;
}

// --- open files ----------------------------------------------------------------------------------

Result<Ref<File>> VirtiofsInode::open(const Path& path, u32 flags) {
    if (is_directory()) {
        TRY(auto directory, make_ref<VirtiofsDirectory>(path, Ref<Inode>::share(this), flags));
        return Ref<File>(std::move(directory));
    }
    if (!is_regular())
        return fail(ENXIO);
    // Close-to-open: what another machine's close left is seen from the next open on (attributes
    // that expired say so).
    TRY(attributes());
    const u32 access = flags & O_ACCMODE;
    const bool writes = access != O_RDONLY;
    TRY(acquire_handle(writes));
    auto file = make_ref<VirtiofsFile>(path, Ref<Inode>::share(this), flags, writes);
    if (!file) {
        release_handle(writes);
        return fail(file.error().code);
    }
    return Ref<File>(std::move(*file));
}

VirtiofsFile::~VirtiofsFile() {
    if (!inode_)
        return;
    // A mapping may have outlived the last close(2). What others are writing needs the handle, too:
    // EINTR is of one who is being killed and would not wait for that.
    if (writes_) {
        auto flushed = node().flush_pages();
        while (!flushed && flushed.error().code == EINTR && !node().fs_.writes_through()) {
            yield();
            flushed = node().flush_pages();
        }
        if (!flushed)
            node().write_error_.store(flushed.error().code); // for who has it open still
    }
    node().release_handle(writes_);
}

Result<usize> VirtiofsFile::write(IoBuffer& in, u64 offset) {
    TRY(const usize done, RegularFile::write(in, offset));
    const u64 waiting = unflushed_.fetch_add(done, base::Order::Relaxed) + done;
    const bool now = (flags_ & (O_SYNC | O_DSYNC)) != 0;
    if (now || node().fs_.writes_through() || waiting >= write_batch) {
        unflushed_.store(0, base::Order::Relaxed);
        TRY(node().flush_and_tell());
    }
    if (now)
        TRY(sync((flags_ & O_SYNC) != O_SYNC));
    return done;
}

Result<u64> VirtiofsFile::seek(i64 offset, int whence) {
    VirtiofsSuperblock& fs = node().fs_;
    if ((whence != SEEK_DATA && whence != SEEK_HOLE) || fs.lacks(VirtiofsSuperblock::missing_lseek))
        return RegularFile::seek(offset, whence);
    TRY(node().flush_pages()); // the holes are the host's
    fuse_lseek_in in{};
    node().any_handle(false, in.fh);
    in.offset = static_cast<u64>(offset);
    in.whence = static_cast<u32>(whence);
    fuse_lseek_out out{};
    FuseCall call = make_call(FUSE_LSEEK, node().node(), in);
    call.out = &out;
    call.out_bytes = call.out_minimum = sizeof out;
    if (auto answer = node().transport().call(call); !answer) {
        if (answer.error().code != ENOSYS)
            return fail(answer.error().code);
        fs.note_missing(VirtiofsSuperblock::missing_lseek);
        return RegularFile::seek(offset, whence);
    }
    position_ = out.offset;
    return position_;
}

// close(2): what was written is the host's from now on, and its errors are the caller's.
Result<void> VirtiofsFile::flush() {
    if (!writes_)
        return {};
    TRY(node().flush_and_tell());
    VirtiofsSuperblock& fs = node().fs_;
    if (unflushed_.exchange(0, base::Order::Relaxed) == 0 ||
        fs.lacks(VirtiofsSuperblock::missing_flush))
        return {};
    fuse_flush_in in{};
    node().any_handle(true, in.fh);
    auto answer = node().transport().call(make_call(FUSE_FLUSH, node().node(), in));
    if (!answer && answer.error().code == ENOSYS) {
        fs.note_missing(VirtiofsSuperblock::missing_flush);
        return {};
    }
    TRY(std::move(answer));
    return {};
}

Result<void> VirtiofsFile::sync(bool data_only) {
    TRY(node().flush_and_tell());
    VirtiofsSuperblock& fs = node().fs_;
    if (fs.lacks(VirtiofsSuperblock::missing_fsync))
        return {};
    fuse_fsync_in in{};
    node().any_handle(writes_, in.fh);
    in.fsync_flags = data_only ? FUSE_FSYNC_FDATASYNC : 0;
    FuseCall call = make_call(FUSE_FSYNC, node().node(), in);
    call.route = FuseRoute::Worker;
    auto answer = node().transport().call(call);
    if (!answer && answer.error().code == ENOSYS) {
        fs.note_missing(VirtiofsSuperblock::missing_fsync);
        return {};
    }
    TRY(std::move(answer));
    return {};
}

Result<void> VirtiofsFile::allocate(int mode, u64 offset, u64 length) {
    VirtiofsInode& inode = node();
    if (inode.fs_.lacks(VirtiofsSuperblock::missing_fallocate))
        return fail(EOPNOTSUPP);
    MutexGuard guard(inode.mutex()); // the size must not move meanwhile
    TRY(inode.flush_pages());
    fuse_fallocate_in in{};
    inode.any_handle(true, in.fh);
    in.offset = offset;
    in.length = length;
    in.mode = static_cast<u32>(mode);
    FuseCall call = make_call(FUSE_FALLOCATE, inode.node(), in);
    call.route = FuseRoute::Worker;
    if (auto answer = inode.transport().call(call); !answer) {
        if (answer.error().code != ENOSYS)
            return fail(answer.error().code);
        inode.fs_.note_missing(VirtiofsSuperblock::missing_fallocate);
        return fail(EOPNOTSUPP);
    }
    if (PageCache* cache = inode.page_cache(); cache != nullptr && mode != 0) {
        const bool moves = (mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE)) != 0;
        if ((mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) != 0)
            cache->punch(offset, offset + length);
        else if (moves)
            cache->truncate(page_down(offset)); // blocks of the host may be smaller than pages
    }
    {
        SpinGuard attributes_guard(inode.attributes_lock());
        inode.cached_once_ = false; // our own change
        inode.note_change_locked();
    }
    return inode.refresh();
}

} // namespace kernel
