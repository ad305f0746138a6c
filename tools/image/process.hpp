// ProcessDescription: what runs in a container of an image, from the image's configuration and what
// the caller wants instead, by Docker's rules.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "agent/os/error.hpp"
#include "tools/image/accounts.hpp"
#include "tools/image/config.hpp"

namespace image {

// As typed by a person: `docker run`'s options and arguments.
struct Overrides {
    // Takes the place of the image's, and drops its Cmd. A list of one empty string: none at all.
    std::optional<std::vector<std::string>> entrypoint;
    std::vector<std::string> args; // take the place of the image's Cmd
    // NAME=VALUE sets, NAME alone removes; the last one of a name counts.
    std::vector<std::string> env;
    std::optional<std::string> user;
    std::optional<std::string> working_directory;
    std::optional<std::string> stop_signal;
    std::string hostname; // empty: HOSTNAME is not set
    bool terminal = false;
};

struct ProcessDescription {
    std::vector<std::string> args; // the program first; not empty
    std::vector<std::string> env;
    std::string working_directory; // absolute
    Account account;
    int stop_signal = 0;
    std::vector<std::string> volumes; // absolute, sorted
    std::vector<ExposedPort> exposed_ports;
    std::optional<Healthcheck> healthcheck; // nothing: none
};

// `root`: the image's root directory, whose passwd and group are asked.
os::Result<ProcessDescription> describe_process(const ImageConfig& config,
                                                const Overrides& overrides, int root);

// `env` with what a caller says: NAME=VALUE sets, NAME alone removes.
std::vector<std::string> merge_env(std::vector<std::string> env,
                                   const std::vector<std::string>& changes);

// "SIGTERM", "term", "15", "RTMIN+3".
os::Result<int> parse_signal(std::string_view text);

// The `process` object of an OCI runtime configuration, as JSON.
std::string oci_process(const ProcessDescription& process, bool terminal);

} // namespace image
