// The devices that are not somebody else's: major 1.
#pragma once

#include "guestkernel/fs/file.hpp"

namespace kernel {

// Once at boot; again is harmless.
void register_memory_devices();
// Of ipc/, which has no file system of its own: /dev/userfaultfd, a miscellaneous device.
inline constexpr u32 userfault_major = 10, userfault_minor = 126;
void register_userfault_device();
// Of net/tun: /dev/net/tun.
inline constexpr u32 tun_major = 10, tun_minor = 200;

Result<Ref<File>> make_log_device(const Path& path, Ref<Inode> inode, u32 flags); // /dev/kmsg

// One tree of names for all mounts of a file system that has one instance: asked by
// Dentry::make_root(); null: it has none. Set once.
class Dentry;
class Superblock;
using SharedRoot = Ref<Dentry> (*)(const Superblock&);
void set_shared_root(SharedRoot lookup); // fs/dentry.cpp

} // namespace kernel
