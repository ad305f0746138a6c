#include "tools/image/documents.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "agent/spec/json_view.hpp"

namespace image {
namespace {

using spec::JsonView;

constexpr std::size_t most_manifests = 1000;
constexpr std::size_t longest_media_type = 255;

bool is_layer_type(std::string_view type) {
    constexpr std::string_view known[] = {
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    };
    return std::find(std::begin(known), std::end(known), type) != std::end(known);
}

os::Result<Platform> read_platform(const JsonView& view) {
    Platform platform{"", "", ""};
    TRY(view.read("os", platform.os));
    TRY(view.read("architecture", platform.architecture));
    TRY(view.read("variant", platform.variant));
    return platform;
}

os::Result<Descriptor> read_descriptor(const JsonView& view) {
    if (!view.exists())
        return view.wrong("is missing");
    std::string digest_text;
    TRY(view.read("digest", digest_text));
    auto digest = Digest::parse(digest_text);
    if (!digest)
        return view.wrong(digest.error().message);
    Descriptor descriptor{"", std::move(*digest), 0, std::nullopt, {}};
    TRY(view.read("mediaType", descriptor.media_type));
    if (descriptor.media_type.size() > longest_media_type)
        return view.wrong("mediaType is too long");
    std::optional<std::uint64_t> size;
    TRY(view.read("size", size));
    if (!size)
        return view.wrong("has no size");
    descriptor.size = *size;
    TRY(const JsonView platform, view.member("platform"));
    if (platform.exists()) {
        TRY(descriptor.platform, read_platform(platform));
    }
    TRY(view.read("annotations", descriptor.annotations));
    return descriptor;
}

os::Result<void> check_schema(const JsonView& root) {
    std::optional<std::int64_t> version;
    TRY(root.read("schemaVersion", version));
    if (version == 1)
        return root.wrong("is of Docker's schema 1, which is no longer in use; save the image with "
                          "a newer Docker or skopeo");
    if (version != 2)
        return root.wrong("schemaVersion must be 2");
    return {};
}

nlohmann::json make_json(const Descriptor& descriptor) {
    nlohmann::json out = {{"mediaType", descriptor.media_type},
                          {"digest", descriptor.digest.text()},
                          {"size", descriptor.size}};
    if (descriptor.platform) {
        out["platform"] = {{"os", descriptor.platform->os},
                           {"architecture", descriptor.platform->architecture}};
        if (!descriptor.platform->variant.empty())
            out["platform"]["variant"] = descriptor.platform->variant;
    }
    if (!descriptor.annotations.empty())
        out["annotations"] = descriptor.annotations;
    return out;
}

std::string dump(const nlohmann::json& json) {
    return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// 0: does not fit; more is better.
int fit(const Descriptor& descriptor, const Platform& wanted) {
    if (!descriptor.platform)
        return 1;
    const Platform& offered = *descriptor.platform;
    if (offered.os != wanted.os || offered.architecture != wanted.architecture)
        return 0;
    if (offered.variant == wanted.variant)
        return 4;
    // amd64 is amd64/v1, arm64 is arm64/v8 (image-spec, image-index.md).
    const std::string_view usual = wanted.architecture == "arm64" ? "v8" : "v1";
    const auto plain = [usual](const std::string& v) { return v.empty() || v == usual; };
    if (plain(offered.variant) && plain(wanted.variant))
        return 3;
    return wanted.variant.empty() ? 2 : 0;
}

} // namespace

os::Result<Platform> Platform::parse(std::string_view text) {
    Platform platform;
    const std::size_t slash = text.find('/');
    const std::size_t second = slash == std::string_view::npos ? slash : text.find('/', slash + 1);
    if (slash != std::string_view::npos) {
        platform.os = text.substr(0, slash);
        platform.architecture = text.substr(slash + 1, second - slash - 1);
        if (second != std::string_view::npos)
            platform.variant = text.substr(second + 1);
    }
    const auto is_word = [](std::string_view word) {
        return !word.empty() && word.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789") ==
                                    std::string_view::npos;
    };
    if (slash == std::string_view::npos || !is_word(platform.os) ||
        !is_word(platform.architecture) ||
        (second != std::string_view::npos && !is_word(platform.variant)))
        return os::fail(os::Code::InvalidArgument, "'", text.substr(0, 80),
                        "' is no platform; one looks like linux/amd64 or linux/arm64/v8");
    return platform;
}

std::string Platform::text() const {
    return os::text(os, "/", architecture, variant.empty() ? "" : "/", variant);
}

bool Descriptor::is_index() const {
    return media_type == media_type::oci_index || media_type == media_type::docker_index;
}

bool Descriptor::is_manifest() const {
    return media_type == media_type::oci_manifest || media_type == media_type::docker_manifest;
}

os::Result<Manifest> parse_manifest(std::string_view text, const std::string& what,
                                    const Limits& limits) {
    TRY(const spec::JsonDocument document, spec::JsonDocument::parse(text, what));
    const JsonView root = document.root();
    TRY(check_schema(root));
    TRY(const JsonView config_view, root.member("config"));
    TRY(Descriptor config, read_descriptor(config_view));
    if (config.media_type != media_type::oci_config &&
        config.media_type != media_type::docker_config)
        return config_view.wrong("'", config.media_type,
                                 "' is no container image's; artifacts of other kinds cannot run");
    Manifest manifest{std::move(config), {}};
    TRY(const JsonView layers_view, root.member("layers"));
    TRY(const std::vector<JsonView> layers, layers_view.items());
    if (layers.size() > limits.layers)
        return layers_view.wrong("has ", layers.size(), " layers; at most ", limits.layers,
                                 " are taken");
    for (const JsonView& view : layers) {
        TRY(Descriptor layer, read_descriptor(view));
        if (!is_layer_type(layer.media_type))
            return view.wrong("'", layer.media_type,
                              "' is no layer that can be unpacked (a tar, plain or compressed by "
                              "gzip or zstd)");
        manifest.layers.push_back(std::move(layer));
    }
    return manifest;
}

os::Result<Index> parse_index(std::string_view text, const std::string& what) {
    TRY(const spec::JsonDocument document, spec::JsonDocument::parse(text, what));
    const JsonView root = document.root();
    TRY(check_schema(root));
    TRY(const JsonView list, root.member("manifests"));
    TRY(const std::vector<JsonView> items, list.items());
    if (items.size() > most_manifests)
        return list.wrong("has ", items.size(), " entries; at most ", most_manifests, " are taken");
    Index index;
    for (const JsonView& view : items) {
        TRY(Descriptor descriptor, read_descriptor(view));
        index.manifests.push_back(std::move(descriptor));
    }
    return index;
}

os::Result<std::vector<DockerImage>> parse_docker_list(std::string_view text,
                                                       const Limits& limits) {
    TRY(const spec::JsonDocument document, spec::JsonDocument::parse(text, "manifest.json"));
    TRY(const std::vector<JsonView> items, document.root().items());
    if (items.size() > most_manifests)
        return document.root().wrong("has ", items.size(), " images; at most ", most_manifests,
                                     " are taken");
    std::vector<DockerImage> images;
    for (const JsonView& view : items) {
        DockerImage found;
        TRY(view.read("Config", found.config));
        TRY(view.read("Layers", found.layers));
        TRY(view.read("RepoTags", found.names));
        if (found.config.empty())
            return view.wrong("has no Config");
        if (found.layers.size() > limits.layers)
            return view.wrong("has ", found.layers.size(), " layers; at most ", limits.layers,
                              " are taken");
        images.push_back(std::move(found));
    }
    return images;
}

os::Result<void> check_layout_marker(std::string_view text) {
    TRY(const spec::JsonDocument document, spec::JsonDocument::parse(text, "oci-layout"));
    std::string version;
    TRY(document.root().read("imageLayoutVersion", version));
    if (!version.starts_with("1."))
        return document.root().wrong("is of version '", version.substr(0, 40),
                                     "'; layouts of version 1 are understood");
    return {};
}

const Descriptor* choose(const Index& index, const Platform& wanted) {
    const Descriptor* best = nullptr;
    int best_fit = 0;
    for (const Descriptor& descriptor : index.manifests) {
        if (!descriptor.is_index() && !descriptor.is_manifest())
            continue;
        if (const int fits = fit(descriptor, wanted); fits > best_fit) {
            best = &descriptor;
            best_fit = fits;
        }
    }
    return best;
}

std::string platforms_of(const Index& index) {
    std::string out;
    for (const Descriptor& descriptor : index.manifests) {
        // Attestations beside the images say unknown/unknown.
        if (!descriptor.platform || descriptor.platform->os == "unknown")
            continue;
        out += out.empty() ? "" : ", ";
        out += descriptor.platform->text();
    }
    return out.empty() ? "none" : out.substr(0, 400);
}

std::string to_json(const Manifest& manifest) {
    nlohmann::json out = {{"schemaVersion", 2},
                          {"mediaType", media_type::oci_manifest},
                          {"config", make_json(manifest.config)},
                          {"layers", nlohmann::json::array()}};
    for (const Descriptor& layer : manifest.layers)
        out["layers"].push_back(make_json(layer));
    return dump(out);
}

std::string to_json(const Index& index) {
    nlohmann::json out = {{"schemaVersion", 2},
                          {"mediaType", media_type::oci_index},
                          {"manifests", nlohmann::json::array()}};
    for (const Descriptor& descriptor : index.manifests)
        out["manifests"].push_back(make_json(descriptor));
    return dump(out);
}

} // namespace image
