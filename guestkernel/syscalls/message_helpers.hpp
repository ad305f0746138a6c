// sendmsg(2) and recvmsg(2) of a socket that was found otherwise than by a descriptor.
#pragma once

#include "guestkernel/fs/file.hpp"

namespace kernel {

// `address`: of a struct msghdr. Requires: the file is a socket.
Result<long> send_message_from(Task& task, const Ref<File>& file, u64 address, u32 flags);
Result<long> receive_message_into(Task& task, const Ref<File>& file, u64 address, u32 flags);
// splice(2) with offsets by value; ~0: the file's own position.
Result<long> splice_at(Task& task, int in_fd, u64 in_offset, int out_fd, u64 out_offset, u64 count,
                       u32 flags);

} // namespace kernel
