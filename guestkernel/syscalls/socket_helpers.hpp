// What the handlers of sockets have in common.
#pragma once

#include "guestkernel/ipc/socket.hpp"
#include "guestkernel/syscalls/file_helpers.hpp"

namespace kernel {

// The socket behind a descriptor: EBADF, ENOTSOCK.
Result<Ref<File>> socket_file(Task& task, int fd);
inline SocketFile& as_socket(const Ref<File>& file) {
    return static_cast<SocketFile&>(*file);
}

Result<void> copy_address_in(u64 address, int length, SocketAddress& out);
Result<void> copy_address_out(const SocketAddress& from, u64 address, UserPtr<int> length);

} // namespace kernel
