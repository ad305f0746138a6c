// Importing: from a file, a directory or a stream to images in the store.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "agent/os/error.hpp"
#include "tools/image/bytes.hpp"
#include "tools/image/store.hpp"

namespace image {

struct ImportOptions {
    std::string input; // a file, a directory, or "-" for stdin
    // What the image is called instead of what the input says. Empty: as the input says, or after
    // the file.
    std::vector<std::string> names;
    std::optional<std::string> only;  // of several images, the one with this name
    std::optional<Platform> platform; // nothing: this machine's
    // Changes the configuration that an archive of a root directory gets; an image that has one of
    // its own is refused with it.
    std::function<os::Result<std::string>(const std::string& config)> configure;
    Limits limits;
    Progress* progress = nullptr; // null: nobody wants to know
};

struct Imported {
    Digest id;
    std::vector<Reference> names;
    bool is_new = false;
    TreeFacts facts;       // of what was unpacked; zeros: its root directory was there
    bool runs_here = true; // its platform is this machine's
};

os::Result<std::vector<Imported>> import(const Store& store, const ImportOptions& options);

// A new image: `base` with one more layer, the plain tar that begins where `layer` stands, and the
// configuration `config`, in which the list of layers need not be. `names` may be empty.
os::Result<Imported> add_layer(const Store& store, const Image& base, os::UniqueFd layer,
                               const std::string& config, std::vector<std::string> names);

} // namespace image
