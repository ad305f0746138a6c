// Images as people and scripts are shown them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tools/image/store.hpp"

namespace joey {

struct ListStyle {
    bool json = false;
    bool quiet = false;
    bool digests = false;
    std::string format;               // a template; empty: none
    bool whole = false;               // IDs
    std::string only;                 // a repository, a name or a pattern of these; empty: all
    std::vector<std::string> filters; // NAME=VALUE
};

struct HistoryStyle {
    bool json = false;
    bool quiet = false;
    bool whole = false; // nothing is cut
    bool human = true;  // sizes and times for people
    std::string format; // a template; empty: none
};

// Lines, each with its end. `now`: seconds since 1970.
os::Result<std::string> describe_list(const image::ImageList& list, const ListStyle& style,
                                      std::int64_t now);
// An element of what `joey image inspect` prints.
os::Result<std::string> describe_image(const image::Store& store, const image::Image& image);

// The steps that made it, the last first: what `joey image history` prints. `config`: the image's,
// which is a document of somebody else's.
os::Result<std::string> describe_history(std::string_view config, const image::Image& image,
                                         const HistoryStyle& style, std::int64_t now);

// "3 weeks ago" of "2024-01-02T03:04:05Z"; "-" if it is no time.
std::string time_since(std::string_view rfc3339, std::int64_t now);

} // namespace joey
