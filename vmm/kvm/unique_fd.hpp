// UniqueFd under the VMM's own name; devices and machine share one type.
#pragma once

#include "virtio/backend/unique_fd.hpp"

namespace vmm {

using virtio::UniqueFd;

} // namespace vmm
