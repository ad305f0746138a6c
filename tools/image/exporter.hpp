// Exporting: images of the store as one archive, an OCI layout that is a docker-archive as well, so
// that skopeo, podman and `docker load` read it.
#pragma once

#include <vector>

#include "agent/os/error.hpp"
#include "tools/image/bytes.hpp"
#include "tools/image/store.hpp"

namespace image {

// Writes to the descriptor `to`. The same images make the same bytes.
os::Result<void> export_images(const Store& store, const std::vector<Image>& images, int to,
                               Progress* progress);

} // namespace image
