// Files and directories: man section 2 by way of fs/.
#pragma once

#include "guestkernel/syscalls/syscall.hpp"

namespace kernel {

// read_write_calls.cpp
Result<long> sys_read(Task& task, int fd, u64 buffer, u64 count);
Result<long> sys_write(Task& task, int fd, u64 buffer, u64 count);
Result<long> sys_pread64(Task& task, int fd, u64 buffer, u64 count, i64 offset);
Result<long> sys_pwrite64(Task& task, int fd, u64 buffer, u64 count, i64 offset);
Result<long> sys_readv(Task& task, int fd, u64 vectors, u64 count);
Result<long> sys_writev(Task& task, int fd, u64 vectors, u64 count);
Result<long> sys_preadv(Task& task, int fd, u64 vectors, u64 count, i64 offset);
Result<long> sys_pwritev(Task& task, int fd, u64 vectors, u64 count, i64 offset);
Result<long> sys_preadv2(Task& task, int fd, u64 vectors, u64 count, i64 offset, u64 high,
                         u32 flags);
Result<long> sys_pwritev2(Task& task, int fd, u64 vectors, u64 count, i64 offset, u64 high,
                          u32 flags);
Result<long> sys_lseek(Task& task, int fd, i64 offset, int whence);

// open_calls.cpp
Result<long> sys_open(Task& task, u64 name, u32 flags, u32 mode);
Result<long> sys_openat(Task& task, int directory, u64 name, u32 flags, u32 mode);
Result<long> sys_openat2(Task& task, int directory, u64 name, u64 how, u64 size);
Result<long> sys_creat(Task& task, u64 name, u32 mode);
Result<long> sys_close(Task& task, int fd);
Result<long> sys_close_range(Task& task, u32 first, u32 last, u32 flags);
Result<long> sys_dup(Task& task, int fd);
Result<long> sys_dup2(Task& task, int fd, int target);
Result<long> sys_dup3(Task& task, int fd, int target, u32 flags);

// fcntl_calls.cpp
Result<long> sys_fcntl(Task& task, int fd, u32 command, u64 argument);
Result<long> sys_flock(Task& task, int fd, u32 operation);
Result<long> sys_ioctl(Task& task, int fd, u32 command, u64 argument);

// stat_calls.cpp
Result<long> sys_stat(Task& task, u64 name, u64 out);
Result<long> sys_lstat(Task& task, u64 name, u64 out);
Result<long> sys_fstat(Task& task, int fd, u64 out);
Result<long> sys_newfstatat(Task& task, int directory, u64 name, u64 out, u32 flags);
Result<long> sys_statx(Task& task, int directory, u64 name, u32 flags, u32 mask, u64 out);
Result<long> sys_access(Task& task, u64 name, u32 mode);
Result<long> sys_faccessat(Task& task, int directory, u64 name, u32 mode);
Result<long> sys_faccessat2(Task& task, int directory, u64 name, u32 mode, u32 flags);
Result<long> sys_readlink(Task& task, u64 name, u64 out, u64 size);
Result<long> sys_readlinkat(Task& task, int directory, u64 name, u64 out, u64 size);
Result<long> sys_statfs(Task& task, u64 name, u64 out);
Result<long> sys_fstatfs(Task& task, int fd, u64 out);
Result<long> sys_ustat(Task& task, u64 device, u64 out);

// directory_calls.cpp
Result<long> sys_getdents(Task& task, int fd, u64 out, u32 size);
Result<long> sys_getdents64(Task& task, int fd, u64 out, u32 size);
Result<long> sys_getcwd(Task& task, u64 out, u64 size);
Result<long> sys_chdir(Task& task, u64 name);
Result<long> sys_fchdir(Task& task, int fd);
Result<long> sys_chroot(Task& task, u64 name);
Result<long> sys_mkdir(Task& task, u64 name, u32 mode);
Result<long> sys_mkdirat(Task& task, int directory, u64 name, u32 mode);
Result<long> sys_rmdir(Task& task, u64 name);
Result<long> sys_unlink(Task& task, u64 name);
Result<long> sys_unlinkat(Task& task, int directory, u64 name, u32 flags);
Result<long> sys_rename(Task& task, u64 old_name, u64 new_name);
Result<long> sys_renameat(Task& task, int old_directory, u64 old_name, int new_directory,
                          u64 new_name);
Result<long> sys_renameat2(Task& task, int old_directory, u64 old_name, int new_directory,
                           u64 new_name, u32 flags);
Result<long> sys_link(Task& task, u64 old_name, u64 new_name);
Result<long> sys_linkat(Task& task, int old_directory, u64 old_name, int new_directory,
                        u64 new_name, u32 flags);
Result<long> sys_symlink(Task& task, u64 target, u64 name);
Result<long> sys_symlinkat(Task& task, u64 target, int directory, u64 name);
Result<long> sys_mknod(Task& task, u64 name, u32 mode, u32 device);
Result<long> sys_mknodat(Task& task, int directory, u64 name, u32 mode, u32 device);

// attribute_calls.cpp
Result<long> sys_chmod(Task& task, u64 name, u32 mode);
Result<long> sys_fchmod(Task& task, int fd, u32 mode);
Result<long> sys_fchmodat(Task& task, int directory, u64 name, u32 mode);
Result<long> sys_chown(Task& task, u64 name, u32 uid, u32 gid);
Result<long> sys_lchown(Task& task, u64 name, u32 uid, u32 gid);
Result<long> sys_fchown(Task& task, int fd, u32 uid, u32 gid);
Result<long> sys_fchownat(Task& task, int directory, u64 name, u32 uid, u32 gid, u32 flags);
Result<long> sys_utime(Task& task, u64 name, u64 times);
Result<long> sys_utimes(Task& task, u64 name, u64 times);
Result<long> sys_futimesat(Task& task, int directory, u64 name, u64 times);
Result<long> sys_utimensat(Task& task, int directory, u64 name, u64 times, u32 flags);
Result<long> sys_truncate(Task& task, u64 name, i64 size);
Result<long> sys_ftruncate(Task& task, int fd, i64 size);
Result<long> sys_name_to_handle_at(Task& task, int directory, u64 name, u64 handle,
                                   UserPtr<i32> mount, u32 flags);
Result<long> sys_open_by_handle_at(Task& task, int mount, u64 handle, u32 flags);
Result<long> sys_fallocate(Task& task, int fd, int mode, i64 offset, i64 length);
Result<long> sys_umask(Task& task, u32 mask);

// sync_calls.cpp
Result<long> sys_fsync(Task& task, int fd);
Result<long> sys_fdatasync(Task& task, int fd);
Result<long> sys_sync(Task& task);
Result<long> sys_syncfs(Task& task, int fd);
Result<long> sys_sync_file_range(Task& task, int fd, i64 offset, i64 length, u32 flags);
Result<long> sys_readahead(Task& task, int fd, i64 offset, u64 count);
Result<long> sys_fadvise64(Task& task, int fd, i64 offset, i64 length, int advice);

// transfer_calls.cpp
Result<long> sys_sendfile(Task& task, int out, int in, u64 offset, u64 count);
Result<long> sys_copy_file_range(Task& task, int in, u64 in_offset, int out, u64 out_offset,
                                 u64 count, u32 flags);

// xattr_calls.cpp
Result<long> sys_setxattr(Task& task, u64 path, u64 name, u64 value, u64 size, u32 flags);
Result<long> sys_lsetxattr(Task& task, u64 path, u64 name, u64 value, u64 size, u32 flags);
Result<long> sys_fsetxattr(Task& task, int fd, u64 name, u64 value, u64 size, u32 flags);
Result<long> sys_getxattr(Task& task, u64 path, u64 name, u64 value, u64 size);
Result<long> sys_lgetxattr(Task& task, u64 path, u64 name, u64 value, u64 size);
Result<long> sys_fgetxattr(Task& task, int fd, u64 name, u64 value, u64 size);
Result<long> sys_listxattr(Task& task, u64 path, u64 list, u64 size);
Result<long> sys_llistxattr(Task& task, u64 path, u64 list, u64 size);
Result<long> sys_flistxattr(Task& task, int fd, u64 list, u64 size);
Result<long> sys_removexattr(Task& task, u64 path, u64 name);
Result<long> sys_lremovexattr(Task& task, u64 path, u64 name);
Result<long> sys_fremovexattr(Task& task, int fd, u64 name);

// mount_calls.cpp
Result<long> sys_mount(Task& task, u64 source, u64 target, u64 type, u64 flags, u64 data);
Result<long> sys_umount2(Task& task, u64 target, u32 flags);
Result<long> sys_pivot_root(Task& task, u64 new_root, u64 put_old);

} // namespace kernel
