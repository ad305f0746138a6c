// HostEntropy: getrandom(2).
#pragma once

#include "virtio/device/rng/rng.hpp"

namespace virtio {

class HostEntropy final : public EntropySource {
public:
    std::size_t fill(std::span<std::byte> out) override;
};

} // namespace virtio
