// What a pod's VM is to be like: /etc/joey/config.toml for all of them, annotations for one.
//
//     [vm]                        # what a pod gets that asks for nothing
//     vcpus = 2
//     memory = "512M"
//     privilege = "auto"
//
//     [limits]                    # what annotations can ask for at most
//     vcpus = 8
//     memory = "4G"
//     annotations = true          # false: they are refused
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "agent/os/error.hpp"

namespace shim {

inline constexpr const char* usual_config = "/etc/joey/config.toml";

struct Settings {
    std::optional<unsigned> vcpus;
    std::string memory;
    std::string privilege = "auto";
    std::optional<unsigned> most_vcpus;
    std::optional<std::uint64_t> most_memory; // bytes
    bool annotations = true;

    // `what` is the file's name, for errors.
    static os::Result<Settings> parse(std::string_view text, const std::string& what);
    // A file that is not there has nothing to say, unless it was asked for by name.
    static os::Result<Settings> load(const std::string& path);

    // Whether the annotations say what they may.
    os::Result<void> check(const std::map<std::string, std::string>& annotations) const;
};

// "512M", "2G": bytes, as many as a VM needs at least.
os::Result<std::uint64_t> bytes_of(std::string_view text, const std::string& what);

} // namespace shim
