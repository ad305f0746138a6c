// Rng: the entropy device (virtio 1.2, 5.4). Answers on the vCPU's own thread: getrandom takes
// microseconds, a wake-up of another thread far longer.
#pragma once

#include <cstddef>
#include <span>

#include "virtio/device/device.hpp"

namespace virtio {

class EntropySource {
public:
    virtual ~EntropySource() = default;
    // Fills `out` and returns how many bytes it could.
    virtual std::size_t fill(std::span<std::byte> out) = 0;
};

class Rng final : public Device {
public:
    explicit Rng(EntropySource& source);

protected:
    Checked<void> on_notify(std::uint32_t queue_index) override;

private:
    EntropySource& source_;
};

} // namespace virtio
