// What a socket's node in a file system leads to (Inode::socket).
#pragma once

namespace kernel {

class UnixEndpoint;

// Under the inode's attributes_lock(). The endpoint keeps the inode, and takes itself out of it
// when it closes; so there is none any more when the inode goes.
struct SocketBinding {
    UnixEndpoint* endpoint = nullptr;
};

} // namespace kernel
