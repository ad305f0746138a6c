#include "guestkernel/ipc/socket_binding.hpp"

#include "guestkernel/core/panic.hpp"
#include "guestkernel/fs/inode.hpp"

namespace kernel {

void free_socket_binding(SocketBinding* binding) {
    ASSERT(binding->endpoint == nullptr);
    delete binding;
}

} // namespace kernel
