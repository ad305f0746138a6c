// Copies between two files inside the kernel.
#include <linux/errno.h>
#include <linux/fcntl.h>

#include "guestkernel/fs/inode.hpp"
#include "guestkernel/mm/heap.hpp"
#include "guestkernel/syscalls/file_calls.hpp"
#include "guestkernel/syscalls/file_helpers.hpp"

namespace kernel {

namespace {

constexpr usize chunk = 64 * 1024;

// A piece of kernel memory for the way between the two.
class Bounce {
public:
    Bounce() : memory_(static_cast<u8*>(kmalloc(chunk))) {}
    Bounce(const Bounce&) = delete;
    Bounce& operator=(const Bounce&) = delete;
    ~Bounce() { kfree(memory_); }
    u8* data() const { return memory_; }

private:
    u8* memory_;
};

// Where a side reads or writes: its own position, or one that the caller keeps. Null memory: the
// file's.
struct Side {
    File& file;
    u64 user_offset; // address of the caller's loff_t, or 0
    u64 position = 0;

    Result<void> load() {
        if (user_offset == 0) {
            position = file.position();
            return {};
        }
        if (file.is_stream())
            return fail(ESPIPE);
        TRY(const i64 wanted, UserPtr<i64>(user_offset).copy_in());
        if (wanted < 0)
            return fail(EINVAL);
        position = static_cast<u64>(wanted);
        return {};
    }
    Result<void> store() {
        if (user_offset != 0)
            return UserPtr<i64>(user_offset).copy_out(static_cast<i64>(position));
        if (!file.is_stream())
            file.set_position(position);
        return {};
    }
};

// Copies up to `count` bytes; what was copied counts, an error only when nothing was.
Result<long> copy(Side& in, Side& out, u64 count) {
    Bounce bounce;
    if (bounce.data() == nullptr)
        return fail(ENOMEM);
    u64 done = 0;
    while (done < count) {
        const usize piece = count - done < chunk ? count - done : chunk;
        IoBuffer to_kernel(bounce.data(), piece);
        auto got = in.file.read(to_kernel, in.position);
        if (!got && done == 0)
            return fail(got.error().code);
        if (!got || *got == 0)
            break;
        usize written = 0;
        while (written < *got) {
            IoBuffer from_kernel(bounce.data() + written, *got - written);
            auto put = out.file.write(from_kernel, out.position);
            if (!put && done == 0 && written == 0)
                return fail(put.error().code);
            if (!put || *put == 0)
                break;
            written += *put;
            out.position += *put;
        }
        // What was read and could not be written is read again next time: only files with positions
        // are sources.
        in.position += written;
        done += written;
        if (written < *got || signal_pending())
            break;
        cond_resched();
    }
    return static_cast<long>(done);
}

Result<long> copy_and_store(Side in, Side out, u64 count) {
    TRY(in.load());
    TRY(out.load());
    TRY(const long done,
        restartable(copy(in, out, count < largest_transfer ? count : largest_transfer)));
    TRY(in.store());
    TRY(out.store());
    return done;
}

} // namespace

Result<long> sys_sendfile(Task& task, int out_fd, int in_fd, u64 offset, u64 count) {
    TRY(Ref<File> in, usable_file(task, in_fd));
    TRY(Ref<File> out, usable_file(task, out_fd));
    if (!in->readable() || !out->writable())
        return fail(EBADF);
    if (in->is_stream() || in->inode() == nullptr || in->inode()->is_directory())
        return fail(offset != 0 && in->is_stream() ? ESPIPE : EINVAL);
    if ((out->flags() & O_APPEND) != 0 || static_cast<i64>(count) < 0)
        return fail(EINVAL);
    return copy_and_store(Side{*in, offset}, Side{*out, 0}, count);
}

Result<long> sys_copy_file_range(Task& task, int in_fd, u64 in_offset, int out_fd, u64 out_offset,
                                 u64 count, u32 flags) {
    if (flags != 0)
        return fail(EINVAL);
    TRY(Ref<File> in, usable_file(task, in_fd));
    TRY(Ref<File> out, usable_file(task, out_fd));
    if (in->inode() == nullptr || out->inode() == nullptr)
        return fail(EINVAL);
    if (in->inode()->is_directory() || out->inode()->is_directory())
        return fail(EISDIR);
    if (!in->inode()->is_regular() || !out->inode()->is_regular())
        return fail(EINVAL);
    if (!in->readable() || !out->writable() || (out->flags() & O_APPEND) != 0)
        return fail(EBADF);
    Side source{*in, in_offset};
    Side target{*out, out_offset};
    TRY(source.load());
    TRY(target.load());
    if (source.position + count < count || target.position + count < count)
        return fail(EOVERFLOW);
    if (in->inode() == out->inode()) {
        // Only what is there is copied: the rest of the count covers nothing.
        TRY(const Attributes attributes, in->inode()->attributes());
        const u64 left = attributes.size > source.position ? attributes.size - source.position : 0;
        count = count < left ? count : left;
    }
    if (in->inode() == out->inode() && source.position < target.position + count &&
        target.position < source.position + count)
        return fail(EINVAL);
    return copy_and_store(source, target, count);
}

} // namespace kernel
