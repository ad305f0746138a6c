// ImageConfig: what an image says about itself: how its program starts, and which layers make up
// its root directory (image-spec, config.md; Docker's image specification v1.2 for what OCI leaves
// out).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "agent/os/error.hpp"
#include "tools/image/digest.hpp"
#include "tools/image/documents.hpp"

namespace image {

struct ExposedPort {
    std::uint16_t first = 0;
    std::uint16_t last = 0;
    std::string protocol; // tcp, udp or sctp

    friend bool operator==(const ExposedPort&, const ExposedPort&) = default;
};

struct Healthcheck {
    enum class Kind : std::uint8_t { None, Command, Shell };
    Kind kind = Kind::None;        // None: the image switches off what its base had
    std::vector<std::string> args; // Shell: one line for the image's shell
    std::int64_t interval_ns = 30'000'000'000;
    std::int64_t timeout_ns = 30'000'000'000;
    std::int64_t start_period_ns = 0;
    std::int64_t start_interval_ns = 5'000'000'000;
    std::int64_t retries = 3;
};

struct ImageConfig {
    Platform platform;
    std::string created; // RFC 3339, as written; empty: not told
    std::string author;

    std::string user;
    std::vector<std::string> entrypoint;
    std::vector<std::string> command;
    std::vector<std::string> shell; // of a Healthcheck of the kind Shell
    std::vector<std::string> env;   // NAME=VALUE
    std::string working_directory;
    std::vector<std::string> volumes;
    std::vector<ExposedPort> exposed_ports;
    std::string stop_signal;
    std::optional<Healthcheck> healthcheck;
    std::map<std::string, std::string> labels;

    std::vector<Digest> diff_ids; // of the layers without compression, the lowest first
};

os::Result<ImageConfig> parse_config(std::string_view text, const Limits& limits);
// The configuration of an image that is only a root directory.
std::string make_config(const Platform& platform, const std::vector<Digest>& diff_ids);

// The configuration `text` with these layers instead of its own.
std::string with_layers(const std::string& text, const std::vector<Digest>& diff_ids);

// The identity of the root directory that these layers make, one upon the other (image-spec,
// config.md, "Layer ChainID"); of no layers, that of the empty text.
Digest chain_id(const std::vector<Digest>& diff_ids);

} // namespace image
