#include "virtio/device/rng/rng.hpp"

#include <algorithm>

#include <linux/virtio_ids.h>

namespace virtio {

namespace {
constexpr std::uint16_t queue_size = 16;
// Per request: a driver that asks for a gigabyte must not hold a host thread for a second. A device
// may answer with less than was asked for (5.4.6.1).
constexpr std::size_t max_request = std::size_t{64} << 10;
} // namespace

Rng::Rng(EntropySource& source)
    : Device(DeviceInfo{.id = VIRTIO_ID_RNG, .queues = {{queue_size, NotifyStyle::Inline}}}),
      source_(source) {}

Checked<void> Rng::on_notify(std::uint32_t queue_index) {
    Queue& requests = *queue(queue_index);
    for (;;) {
        TRY(Chain chain, requests.pop());
        if (!chain)
            break;
        std::size_t written = 0;
        for (const struct iovec& piece : chain.writable()) {
            const std::size_t wanted = std::min(piece.iov_len, max_request - written);
            const std::size_t filled =
                source_.fill({static_cast<std::byte*>(piece.iov_base), wanted});
            written += filled;
            if (filled < wanted || written == max_request)
                break;
        }
        requests.push_used(std::move(chain), static_cast<std::uint32_t>(written));
    }
    requests.interrupt_driver();
    return {};
}

} // namespace virtio
