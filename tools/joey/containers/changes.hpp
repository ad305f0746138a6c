// What a container has changed of its image's root directory: `diff` lists it, `commit` makes a
// layer of it.
#pragma once

#include <string>
#include <vector>

#include "agent/os/unique_fd.hpp"
#include "tools/joey/containers/container.hpp"

namespace joey::containers {

struct Change {
    std::string path; // absolute, in the container
    char kind = 'A';  // added; C: changed; D: deleted
};

struct Changes {
    std::vector<Change> all; // by their paths, what is above before what is in it
    os::UniqueFd tree;       // where what was added and changed is
    os::UniqueFd before;     // the image's root directory
};

// FailedPrecondition: it has no image.
os::Result<Changes> changes_of(const Container& container);

// A layer of an image, as a plain tar (image-spec, layer.md). What joey itself puts into every
// container (/etc/hosts and its like) is not in it.
os::Result<void> write_layer(const Changes& changes, int to);

// The instructions of `--change`, as a Dockerfile has them, done to Config of an image.
os::Result<void> apply_instructions(const std::vector<std::string>& lines, pod::Json& config);

} // namespace joey::containers
