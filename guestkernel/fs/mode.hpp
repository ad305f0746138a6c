// File types and permission bits. The UAPI's linux/stat.h hides its S_I* as soon as any C library
// header was seen, which libstdc++'s own configuration includes, so the kernel has them here
// (compared with the C library in a test).
#pragma once

#include "guestkernel/core/types.hpp"

namespace kernel {

inline constexpr u32 mode_type = 0170000, mode_socket = 0140000, mode_symlink = 0120000,
                     mode_regular = 0100000, mode_block = 0060000, mode_directory = 0040000,
                     mode_char = 0020000, mode_fifo = 0010000;
inline constexpr u32 mode_suid = 04000, mode_sgid = 02000, mode_sticky = 01000,
                     mode_permissions = 07777;
inline constexpr u32 may_read = 4, may_write = 2, may_exec = 1;

// DT_* of a mode.
constexpr u32 directory_type(u32 mode) {
    return (mode & mode_type) >> 12;
}

// Device numbers are in the userland encoding (as st_rdev and mknod(2) have them, minors above 255
// split).
constexpr u32 device_major(u64 device) {
    return static_cast<u32>((device >> 8 & 0xfff) | (device >> 32 & ~u64{0xfff}));
}
constexpr u32 device_minor(u64 device) {
    return static_cast<u32>((device & 0xff) | (device >> 12 & ~u64{0xff}));
}
constexpr u64 make_device(u32 major, u32 minor) {
    return (u64{minor} & 0xff) | (u64{major} & 0xfff) << 8 | (u64{minor} & ~u64{0xff}) << 12 |
           (u64{major} & ~u64{0xfff}) << 32;
}

} // namespace kernel
