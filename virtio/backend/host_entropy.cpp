#include "virtio/backend/host_entropy.hpp"

#include <cerrno>

#include <sys/random.h>

namespace virtio {

std::size_t HostEntropy::fill(std::span<std::byte> out) {
    std::size_t filled = 0;
    while (filled < out.size()) {
        const ssize_t got = ::getrandom(out.data() + filled, out.size() - filled, 0);
        if (got > 0)
            filled += static_cast<std::size_t>(got);
        else if (errno != EINTR)
            break;
    }
    return filled;
}

} // namespace virtio
