// Handlers: sockets, inotify, fanotify, splice.
#pragma once

#include "guestkernel/syscalls/syscall.hpp"

namespace kernel {

struct UserTimeSpec;

struct SocketPairNumbers {
    int first, second;
};
struct MessageHeader { // struct user_msghdr
    u64 name;
    i32 name_length;
    u32 padding;
    u64 vectors, vector_count;
    u64 control, control_length;
    u32 flags, padding2;
};
struct MultiMessage { // struct mmsghdr
    MessageHeader header;
    u32 length, padding;
};

Result<long> sys_socket(Task& task, int family, int type, int protocol);
Result<long> sys_socketpair(Task& task, int family, int type, int protocol,
                            UserPtr<SocketPairNumbers> out);
Result<long> sys_bind(Task& task, int fd, u64 address, int length);
Result<long> sys_connect(Task& task, int fd, u64 address, int length);
Result<long> sys_listen(Task& task, int fd, int backlog);
Result<long> sys_accept(Task& task, int fd, u64 address, UserPtr<int> length);
Result<long> sys_accept4(Task& task, int fd, u64 address, UserPtr<int> length, int flags);
Result<long> sys_getsockname(Task& task, int fd, u64 address, UserPtr<int> length);
Result<long> sys_getpeername(Task& task, int fd, u64 address, UserPtr<int> length);
Result<long> sys_shutdown(Task& task, int fd, int how);
Result<long> sys_setsockopt(Task& task, int fd, int level, int name, u64 value, int length);
Result<long> sys_getsockopt(Task& task, int fd, int level, int name, u64 value,
                            UserPtr<int> length);
Result<long> sys_sendto(Task& task, int fd, u64 buffer, u64 bytes, u32 flags, u64 address,
                        int length);
Result<long> sys_recvfrom(Task& task, int fd, u64 buffer, u64 bytes, u32 flags, u64 address,
                          UserPtr<int> length);
Result<long> sys_sendmsg(Task& task, int fd, UserPtr<const MessageHeader> message, u32 flags);
Result<long> sys_recvmsg(Task& task, int fd, UserPtr<MessageHeader> message, u32 flags);
Result<long> sys_sendmmsg(Task& task, int fd, UserPtr<MultiMessage> messages, u32 count, u32 flags);
Result<long> sys_recvmmsg(Task& task, int fd, UserPtr<MultiMessage> messages, u32 count, u32 flags,
                          u64 timeout);

Result<long> sys_inotify_init(Task& task);
Result<long> sys_inotify_init1(Task& task, int flags);
Result<long> sys_inotify_add_watch(Task& task, int fd, u64 path, u32 mask);
Result<long> sys_inotify_rm_watch(Task& task, int fd, int watch);
Result<long> sys_fanotify_init(Task& task, u32 flags, u32 event_flags);
Result<long> sys_fanotify_mark(Task& task, int fd, u32 flags, u64 mask, int directory, u64 path);

Result<long> sys_splice(Task& task, int in_fd, u64 in_offset, int out_fd, u64 out_offset, u64 count,
                        u32 flags);
Result<long> sys_tee(Task& task, int in_fd, int out_fd, u64 count, u32 flags);
Result<long> sys_vmsplice(Task& task, int fd, u64 vectors, u64 count, u32 flags);

} // namespace kernel
