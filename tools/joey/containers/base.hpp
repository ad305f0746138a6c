// Base: what a container's root directory and process come from: an image, by name or as a file, or
// a directory.
#pragma once

#include <string>

#include "tools/image/store.hpp"

namespace joey::containers {

struct Base {
    image::ImageConfig config;
    std::string name; // as typed
    std::string id;   // of the image; empty: a directory
    std::string root; // the root directory
    os::UniqueFd directory;
    os::UniqueFd lock; // of the image
};

// `word`: a name or ID in the store; or an OCI layout or archive, or what docker save made, by its
// path ("./app.tar", "oci:DIR", "oci-archive:FILE", "docker-archive:FILE"), which is imported.
os::Result<Base> find_image(const std::string& store, const std::string& word);
os::Result<Base> use_directory(const std::string& path);

} // namespace joey::containers
