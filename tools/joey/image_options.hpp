// The command line of `joey image`.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tools/joey/outcome.hpp"

namespace joey {

struct ImageOptions {
    enum class Verb : std::uint8_t {
        Help,
        Import,
        Load, // what it says is Docker's
        List,
        Remove,
        Inspect,
        History,
        Tag,
        Prune,
        Export,
    };
    Verb verb = Verb::Help;
    std::string help; // with Help: the text
    std::vector<std::string> words;

    std::string store; // empty: the usual place
    std::vector<std::string> names;
    std::vector<std::string> filters; // of List: NAME=VALUE
    std::string input;                // of Load; empty: stdin
    std::optional<std::string> only;
    std::optional<std::string> platform;
    std::vector<std::string> changes;   // of Import: instructions of a Dockerfile
    std::optional<std::string> message; // of Import: what the history says of it
    std::optional<std::uint64_t> max_size;
    std::string output; // a file; empty: stdout
    bool json = false;
    std::string format; // a template; empty: none
    bool quiet = false;
    bool digests = false;
    bool force = false;
    bool all = false;
    bool whole = false; // nothing is cut
    bool human = true;  // of History: sizes and times for people
};

// The words after `joey image`.
Outcome<ImageOptions> parse_image_options(std::span<const std::string> words);

} // namespace joey
