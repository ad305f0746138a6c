// Images as people and scripts are shown them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "tools/image/store.hpp"

namespace joey {

struct ListStyle {
    bool json = false;
    bool quiet = false;
    bool digests = false;
    std::string format; // a template; empty: none
    bool whole = false; // IDs
    std::string only;   // a repository or a name; empty: all
};

// Lines, each with its end. `now`: seconds since 1970.
os::Result<std::string> describe_list(const image::ImageList& list, const ListStyle& style,
                                      std::int64_t now);
// An element of what `joey image inspect` prints.
os::Result<std::string> describe_image(const image::Store& store, const image::Image& image);

// The steps that made it, the last first: what `joey image history` prints. `whole`: nothing is
// cut.
os::Result<std::string> describe_history(const image::Store& store, const image::Image& image,
                                         bool as_json, bool whole);

// "3 weeks ago" of "2024-01-02T03:04:05Z"; "-" if it is no time.
std::string time_since(std::string_view rfc3339, std::int64_t now);

} // namespace joey
