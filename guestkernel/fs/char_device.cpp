// The registry of character devices.
#include <linux/errno.h>

#include "guestkernel/fs/inode.hpp"
#include "guestkernel/fs/mode.hpp"

namespace kernel {

namespace {

struct Entry {
    u32 major, first_minor, count;
    DeviceOpen open;
};
constexpr usize capacity = 64;
constinit Entry entries[capacity] = {};
constinit base::Atomic<u32> used{0};

} // namespace

void register_char_device(u32 major, u32 first_minor, u32 count, DeviceOpen open) {
    const u32 at = used.load(base::Order::Relaxed);
    ASSERT(at < capacity);
    entries[at] = Entry{major, first_minor, count, open};
    used.store(at + 1, base::Order::Release);
}

Result<Ref<File>> open_char_device(const Path& path, Ref<Inode> inode, u32 flags,
                                   u64 device_number) {
    const u32 major = device_major(device_number);
    const u32 minor = device_minor(device_number);
    const u32 count = used.load(base::Order::Acquire);
    for (u32 i = count; i-- > 0;) { // the latest registration counts
        const Entry& entry = entries[i];
        if (entry.major == major && minor >= entry.first_minor &&
            minor - entry.first_minor < entry.count)
            return entry.open(path, std::move(inode), flags, device_number);
    }
    return fail(ENXIO);
}

} // namespace kernel
