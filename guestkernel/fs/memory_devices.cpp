// /dev/null, zero, full, random, urandom, kmsg: character devices of major 1, mem(4), null(4),
// random(4).
#include <asm/ioctls.h>
#include <linux/errno.h>
#include <linux/mman.h>
#include <linux/poll.h>
#include <linux/random.h>

#include "guestkernel/core/random.hpp"
#include "guestkernel/fs/devices.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/tmpfs.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/mm/user_copy.hpp"

namespace kernel {

namespace {

constexpr usize pages_between_breaks = 64;

// What the simple devices have in common: no end, no size, any position.
class MemoryDevice : public File {
public:
    using File::File;
    Result<u64> seek(i64, int) override {
        set_position(0); // null(4): seeks succeed and mean nothing
        return u64{0};
    }
    Result<usize> write(IoBuffer& in, u64) override {
        const usize bytes = in.remaining();
        return bytes;
    }

protected:
    static Result<usize> zeros(IoBuffer& out) {
        usize done = 0;
        for (usize pages = 1; out.remaining() > 0; pages++) {
            const usize piece = out.remaining() < page_size ? out.remaining() : page_size;
            const usize got = out.zero_out(piece);
            done += got;
            if (got < piece)
                return done != 0 ? Result<usize>(done) : Result<usize>(fail(EFAULT));
            if (pages % pages_between_breaks == 0) {
                if (signal_pending())
                    break;
                cond_resched();
            }
        }
        return done;
    }
};

class NullDevice final : public MemoryDevice {
public:
    using MemoryDevice::MemoryDevice;
    Result<usize> read(IoBuffer&, u64) override { return usize{0}; }
};

class ZeroDevice : public MemoryDevice {
public:
    using MemoryDevice::MemoryDevice;
    Result<usize> read(IoBuffer& out, u64) override { return zeros(out); }
    // A mapping is memory of its own: pages without a file behind them. A private one never writes
    // to its pages, so an object that stays empty reads as zeros for ever.
    Result<Ref<PageCache>> mapping(u32, u32) override { return make_ref<PageCache>(nullptr); }
};

class FullDevice final : public ZeroDevice {
public:
    using ZeroDevice::ZeroDevice;
    Result<usize> write(IoBuffer&, u64) override { return fail(ENOSPC); }
};

class RandomDevice final : public MemoryDevice {
public:
    using MemoryDevice::MemoryDevice;
    bool signals_readiness() const override { return true; }
    Result<usize> read(IoBuffer& out, u64) override {
        u8 block[256];
        usize done = 0;
        while (out.remaining() > 0) {
            const usize piece = out.remaining() < sizeof block ? out.remaining() : sizeof block;
            random_bytes(block, piece);
            const usize got = out.copy_out(block, piece);
            done += got;
            if (got < piece)
                return done != 0 ? Result<usize>(done) : Result<usize>(fail(EFAULT));
            if (done % page_size == 0) {
                if (signal_pending())
                    break;
                cond_resched();
            }
        }
        return done;
    }
    // Writes are mixed into the pool.
    Result<usize> write(IoBuffer& in, u64) override {
        u8 block[256];
        usize done = 0;
        while (in.remaining() > 0) {
            const usize piece = in.remaining() < sizeof block ? in.remaining() : sizeof block;
            const usize got = in.copy_in(block, piece);
            add_entropy(block, got);
            done += got;
            if (got < piece)
                return done != 0 ? Result<usize>(done) : Result<usize>(fail(EFAULT));
        }
        return done;
    }
    Result<long> ioctl(u32 command, u64 argument) override {
        constexpr i32 pool_bits = 256;
        switch (command) {
        case RNDGETENTCNT:
            TRY(UserPtr<i32>(argument).copy_out(pool_bits));
            return 0;
        default:
            return fail(EINVAL);
        }
    }
};

template <typename T>
Result<Ref<File>> make(const Path& path, Ref<Inode> inode, u32 flags) {
    TRY(Ref<T> file, make_ref<T>(path, std::move(inode), flags));
    return Ref<File>(std::move(file));
}

Result<Ref<File>> open_memory_device(const Path& path, Ref<Inode> inode, u32 flags,
                                     u64 device_number) {
    switch (device_minor(device_number)) {
    case 3:
        return make<NullDevice>(path, std::move(inode), flags);
    case 5:
        return make<ZeroDevice>(path, std::move(inode), flags);
    case 7:
        return make<FullDevice>(path, std::move(inode), flags);
    case 8:
    case 9:
        return make<RandomDevice>(path, std::move(inode), flags);
    case 11:
        return make_log_device(path, std::move(inode), flags);
    default:
        return fail(ENXIO);
    }
}

} // namespace

void register_memory_devices() {
    static constinit base::Atomic<u32> done{0};
    constexpr u32 mem_major = 1;
    if (done.exchange(1) == 0)
        register_char_device(mem_major, 0, 16, open_memory_device);
}

} // namespace kernel
