// The documents that an image is made of, read from JSON that somebody else wrote and checked: OCI
// descriptors, manifests and indices (image-spec), Docker's equivalents, and the manifest.json of a
// docker-archive.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "agent/os/error.hpp"
#include "tools/image/digest.hpp"
#include "tools/image/limits.hpp"

namespace image {

struct Platform {
    std::string os = "linux";
    std::string architecture = "amd64";
    std::string variant; // "v8", ...; empty: any

    // "linux/amd64" or "linux/arm64/v8".
    static os::Result<Platform> parse(std::string_view text);
    std::string text() const;
};

namespace media_type {
inline constexpr std::string_view oci_manifest = "application/vnd.oci.image.manifest.v1+json";
inline constexpr std::string_view oci_index = "application/vnd.oci.image.index.v1+json";
inline constexpr std::string_view oci_config = "application/vnd.oci.image.config.v1+json";
inline constexpr std::string_view oci_layer = "application/vnd.oci.image.layer.v1.tar";
inline constexpr std::string_view docker_manifest =
    "application/vnd.docker.distribution.manifest.v2+json";
inline constexpr std::string_view docker_index =
    "application/vnd.docker.distribution.manifest.list.v2+json";
inline constexpr std::string_view docker_config = "application/vnd.docker.container.image.v1+json";
} // namespace media_type

namespace annotation {
inline constexpr std::string_view reference_name = "org.opencontainers.image.ref.name";
inline constexpr std::string_view containerd_name = "io.containerd.image.name";
} // namespace annotation

struct Descriptor {
    std::string media_type;
    Digest digest;
    std::uint64_t size = 0;
    std::optional<Platform> platform;
    std::map<std::string, std::string> annotations;

    bool is_index() const;
    bool is_manifest() const;
};

struct Manifest {
    Descriptor config;
    std::vector<Descriptor> layers; // the lowest first
};

struct Index {
    std::vector<Descriptor> manifests;
};

// One image of a docker-archive: paths of members.
struct DockerImage {
    std::string config;
    std::vector<std::string> layers;
    std::vector<std::string> names; // "debian:12"
};

// `what` names the document in messages.
os::Result<Manifest> parse_manifest(std::string_view text, const std::string& what,
                                    const Limits& limits);
os::Result<Index> parse_index(std::string_view text, const std::string& what);
os::Result<std::vector<DockerImage>> parse_docker_list(std::string_view text, const Limits& limits);
// "imageLayoutVersion" is one that this program knows.
os::Result<void> check_layout_marker(std::string_view text);

// The one for `wanted`; the first of several that fit, one of the wanted variant or of none before
// others. Null: there is none. What has no platform fits any.
const Descriptor* choose(const Index& index, const Platform& wanted);
// "linux/amd64, linux/arm64/v8", for messages.
std::string platforms_of(const Index& index);

std::string to_json(const Manifest& manifest);
std::string to_json(const Index& index);

} // namespace image
