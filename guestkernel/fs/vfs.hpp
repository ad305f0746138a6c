// What the rest of the kernel asks of the VFS. Paths are the current task's: its root, cwd and
// credentials.
#pragma once

#include <string_view>

#include "guestkernel/fs/file.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/fs/path.hpp"

namespace kernel {

inline constexpr int at_fdcwd = -100; // AT_FDCWD

enum LookupFlag : u32 {
    lookup_follow = 1,     // the last component's symlink too
    lookup_directory = 2,  // must be a directory
    lookup_empty_path = 4, // AT_EMPTY_PATH
    lookup_beneath = 8,
    lookup_in_root = 16,
    lookup_no_symlinks = 32,
    lookup_no_magic_links = 64,
    lookup_no_xdev = 128,
    lookup_cached = 256, // names that the cache knows, else EAGAIN (RESOLVE_CACHED)
};
// Resolves relative to `directory` (a descriptor or at_fdcwd).
Result<Path> lookup_path(int directory, std::string_view name, u32 flags);
// The same from an explicit place (execve's interpreter, mount targets).
Result<Path> lookup_path_from(const Path& start, std::string_view name, u32 flags);
// open(2), complete with creation and permission checks.
Result<Ref<File>> open_file(int directory, std::string_view name, u32 flags, u32 mode);
Result<Ref<File>> open_path(const Path& path, u32 flags); // of a place already found
// For execve: checks execute permission, regular type, noexec; deny-write (ETXTBSY) is held by the
// File while it lives.
Result<Ref<File>> open_for_exec(int directory, std::string_view name, u32 at_flags);
// The absolute path as /proc/PID/{fd,exe,maps} show it, with " (deleted)" where it applies.
Result<String> path_name(const Path& path);
Result<String> path_name_from(const Path& root,
                              const Path& path); // "(unreachable)..." outside of `root`: getcwd(2)
// A file's place; for one without (pipe, socket, ...) a nameless one around its inode, so that
// /proc/PID/fd links lead there.
Result<Path> path_of(File& file);
// mode & MAY_READ(4) | MAY_WRITE(2) | MAY_EXEC(1) with the current task's filesystem ids. EACCES,
// EROFS.
Result<void> check_access(const Path& path, u32 may);
Result<void> check_access(Inode& inode, u32 may);

// Binding places for Unix sockets: creates an S_IFSOCK node; finds one. An inode alone does not
// keep its file system: whoever keeps the inode keeps the place too, and for longer.
Result<Path> create_socket_node(std::string_view name, u32 mode);
Result<Path> find_socket_node(std::string_view name);

// read/write helpers for kernel users (exec, procfs tests). Whole spans at an offset; short at the
// end of the file.
Result<usize> read_file(File& file, void* to, usize bytes, u64 offset);

// mount(2) in short: attaches `superblock` at `where`. `locked`: as of MountTree::make().
Result<void> mount_at(const Path& where, Ref<Superblock> superblock, u32 mount_flags,
                      std::string_view source, u32 locked = 0);
// Sets up the root of the first mount namespace; called once at boot.
Result<Path> mount_root(Ref<Superblock> superblock, u32 mount_flags, std::string_view source);

// The root of a file system that is mounted nowhere (an overlay's layers).
Result<Path> detached_mount(Ref<Superblock> superblock, u32 mount_flags, std::string_view source);

// Constructors of the file systems.
Result<Ref<Superblock>>
make_tmpfs(std::string_view options); // also the store behind memfd and shared anonymous memory
Result<Ref<Superblock>>
make_devtmpfs(); // null, zero, full, random, urandom, tty, console, ptmx, fd links, pts/, shm/
Result<Ref<Superblock>> make_devpts(std::string_view options);
Result<Ref<Superblock>> make_procfs(std::string_view options);
Result<Ref<Superblock>> make_sysfs();
// What mount(2) makes of "overlay" and these options (fs/layered).
Result<Ref<Superblock>> mount_overlay(std::string_view options);
// Changes in memory (fs/overlay). lower: one or more directories, topmost first; upper null:
// read-only.
Result<Ref<Superblock>> make_overlay(std::span<const Path> lower, const Path& upper);
// The virtio-fs device with this tag. ENODEV.
Result<Ref<Superblock>> make_virtiofs(std::string_view tag, bool read_only);
// A file without a name on a kernel-private tmpfs: memfd_create, shared anonymous mappings (size in
// bytes).
Result<Ref<File>> make_shared_memory_file(std::string_view name, u64 size, u32 flags);

} // namespace kernel
