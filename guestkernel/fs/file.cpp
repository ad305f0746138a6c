#include "guestkernel/fs/file.hpp"

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/fs.h>
#include <linux/inotify.h>
#include <linux/poll.h>

#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/fs/leases.hpp"
#include "guestkernel/fs/locks.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/fs/notify.hpp"
#include "guestkernel/fs/open_files.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

constinit base::Atomic<u32> open_files{0};

File::File(Path path, Ref<Inode> inode, u32 flags)
    : flags_(flags), path_(std::move(path)), inode_(std::move(inode)) {
    open_files.fetch_add(1, base::Order::Relaxed);
}

void File::last_reference() {
    if (epoll_items != nullptr)
        forget_epoll_items(*this);
    if (owner != nullptr)
        forget_file_owner(*this);
    RefCounted::last_reference();
}

File::~File() {
    open_files.fetch_sub(1, base::Order::Relaxed);
    if (path_ && (flags_ & O_PATH) == 0)
        notify_file(*this, writable() ? IN_CLOSE_WRITE : IN_CLOSE_NOWRITE);
    if (inode_ && inode_->file_locks != nullptr)
        release_file_locks(*this);
    if (inode_ && inode_->leases != nullptr)
        release_leases(*this);
    if (claim == Claim::Read) {
        inode_->read_count.fetch_sub(1);
    } else if (claim == Claim::Write) {
        inode_->write_count.fetch_sub(1);
        path_.mount()->writers.fetch_sub(1);
    } else if (claim == Claim::DenyWrite) {
        inode_->write_count.fetch_add(1);
        inode_->read_count.fetch_sub(1);
    }
}

bool File::readable() const {
    return (flags_ & (O_PATH | O_WRONLY)) == 0 || (flags_ & (O_PATH | O_ACCMODE)) == O_RDWR;
}
bool File::writable() const {
    // O_ACCMODE itself is neither: only ioctl(2) (open(2), NOTES).
    const u32 access = flags_ & (O_PATH | O_ACCMODE);
    return access == O_WRONLY || access == O_RDWR;
}
bool File::non_blocking() const {
    return (flags_ & O_NONBLOCK) != 0 && !current_task().ignores_nonblock;
}

Result<usize> File::read(IoBuffer&, u64) {
    return fail(inode_ && inode_->is_directory() ? EISDIR : EINVAL);
}
Result<usize> File::write(IoBuffer&, u64) {
    return fail(EINVAL);
}

Result<u64> File::seek(i64 offset, int whence) {
    if (is_stream())
        return fail(ESPIPE);
    i64 start = 0;
    switch (whence) {
    case SEEK_SET:
        break;
    case SEEK_CUR:
        start = static_cast<i64>(position_);
        break;
    case SEEK_END:
    case SEEK_DATA:
    case SEEK_HOLE: {
        if (!inode_)
            return fail(EINVAL);
        i64 size = 0;
        if (inode_->is_regular() && inode_->page_cache() != nullptr) {
            size = static_cast<i64>(inode_->file_size());
        } else {
            TRY(const Attributes attributes, inode_->attributes());
            size = static_cast<i64>(attributes.size);
        }
        if (whence == SEEK_END) {
            start = size;
            break;
        }
        // Without knowledge of holes all is data, and the end of the file is one hole (lseek(2)).
        if (offset < 0 || offset >= size)
            return fail(ENXIO);
        position_ = static_cast<u64>(whence == SEEK_DATA ? offset : size);
        return position_;
    }
    default:
        return fail(EINVAL);
    }
    i64 target = 0;
    if (__builtin_add_overflow(start, offset, &target))
        return fail(EINVAL);
    if (target < 0)
        return fail(EINVAL);
    position_ = static_cast<u64>(target);
    return position_;
}

Result<u64> File::read_directory(DirectorySink&, u64) {
    return fail(ENOTDIR);
}
Result<long> File::ioctl(u32, u64) {
    return fail(ENOTTY);
}
u32 File::poll(PollTable*) {
    return POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM;
}
bool File::can_wait() const {
    return !inode_ || (!inode_->is_regular() && !inode_->is_directory());
}
Result<void> File::flush() {
    return {};
}
Result<void> File::sync(bool) {
    return fail(EINVAL);
}
Result<void> File::allocate(int, u64, u64) {
    return fail(is_stream() ? ESPIPE : ENODEV);
}
Result<void> File::truncate(u64) {
    return fail(EINVAL);
}
Result<Ref<PageCache>> File::mapping(u32, u32) {
    return fail(ENODEV);
}

Result<Ref<File>> File::mapped_file(u64&, u64) {
    return Ref<File>::share(this);
}

Result<void> File::set_status_flags(u32 flags) {
    constexpr u32 settable = O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME | FASYNC;
    flags_ = (flags_ & ~settable) | (flags & settable);
    return {};
}

bool File::describe(String&) {
    return false;
}

Result<void> File::describe_state(String&) {
    return {};
}

} // namespace kernel
