// Looking for images in the store.
#include <algorithm>
#include <charconv>
#include <fcntl.h>

#include <sys/file.h>

#include "agent/spec/json_view.hpp"
#include "tools/image/beneath.hpp"
#include "tools/image/store.hpp"
#include "tools/image/store_lock.hpp"

namespace image {
namespace {

constexpr std::size_t shortest_id = 4;

std::string name_in(const Descriptor& entry) {
    const auto found = entry.annotations.find(std::string(annotation::reference_name));
    return found == entry.annotations.end() ? std::string() : found->second;
}

// "sha256:12ab...", or hexadecimal digits that may be the beginning of an ID.
std::optional<std::string> as_id(std::string_view text) {
    constexpr std::string_view prefix = "sha256:";
    if (text.starts_with(prefix))
        text.remove_prefix(prefix.size());
    if (text.size() < shortest_id || text.size() > 64 ||
        text.find_first_not_of("0123456789abcdef") != std::string_view::npos)
        return std::nullopt;
    return std::string(text);
}

bool has_name(const Image& image, const Reference& name) {
    return std::any_of(image.names.begin(), image.names.end(), [&](const Reference& other) {
        if (!name.digest())
            return other.full() == name.full();
        return other.domain() == name.domain() && other.path() == name.path() &&
               (*name.digest() == image.manifest_descriptor.digest || *name.digest() == image.id);
    });
}

std::uint64_t read_facts(int directory, const std::string& path) {
    const auto text = read_in_root(directory, path, 65536);
    if (!text || !*text)
        return 0;
    const auto document = spec::JsonDocument::parse(**text, path);
    std::optional<std::uint64_t> bytes;
    if (!document || !document->root().read("bytes", bytes))
        return 0;
    return bytes.value_or(0);
}

} // namespace

os::Result<Image> Store::read_image(const Descriptor& entry) const {
    TRY(const std::string manifest_text, read_document(entry.digest));
    TRY(Manifest manifest, parse_manifest(manifest_text, entry.digest.text(), Limits{}));
    TRY(const std::string config_text, read_document(manifest.config.digest));
    TRY(ImageConfig config, parse_config(config_text, Limits{}));
    const std::uint64_t bytes = read_facts(
        directory_.get(), os::text(rootfs_path(chain_id(config.diff_ids)), "/facts.json"));
    const Digest id = manifest.config.digest;
    return Image{id, entry, std::move(manifest), std::move(config), {}, bytes};
}

os::Result<ImageList> Store::list_locked(const Index& index) const {
    ImageList out;
    const auto same = [](const Descriptor& entry) {
        return [&entry](const Image& image) {
            return image.manifest_descriptor.digest == entry.digest;
        };
    };
    for (const Descriptor& entry : index.manifests) {
        auto found = std::find_if(out.images.begin(), out.images.end(), same(entry));
        if (found == out.images.end()) {
            auto image = read_image(entry);
            if (!image) {
                out.damaged.push_back({{name_in(entry)}, image.error().message});
                continue;
            }
            out.images.push_back(std::move(*image));
            found = out.images.end() - 1;
        }
        if (auto name = Reference::parse(name_in(entry)))
            found->names.push_back(std::move(*name));
    }
    const auto sort_key = [](const Image& image) {
        return image.names.empty() ? "~" + image.id.hex() : image.names.front().familiar();
    };
    for (Image& image : out.images) {
        std::sort(image.names.begin(), image.names.end(),
                  [](const Reference& a, const Reference& b) { return a.full() < b.full(); });
    }
    std::sort(out.images.begin(), out.images.end(),
              [&](const Image& a, const Image& b) { return sort_key(a) < sort_key(b); });
    return out;
}

os::Result<ImageList> Store::list() const {
    TRY(const Lock held, lock(LOCK_SH));
    TRY(const Index index, read_index());
    return list_locked(index);
}

os::Result<const Image*> Store::find_in(const ImageList& list, std::string_view text) const {
    // A name goes before an ID that looks like it, as with Docker.
    const auto name = Reference::parse(text);
    if (name) {
        for (const Image& image : list.images) {
            if (has_name(image, *name))
                return &image;
        }
    }
    const Image* found = nullptr;
    if (const auto id = as_id(text)) {
        for (const Image& image : list.images) {
            if (!image.id.hex().starts_with(*id) &&
                !image.manifest_descriptor.digest.hex().starts_with(*id))
                continue;
            if (found != nullptr)
                return os::fail(os::Code::InvalidArgument, "'", text,
                                "' begins the IDs of several images; give more digits");
            found = &image;
        }
    }
    if (found != nullptr)
        return found;
    for (const DamagedImage& damaged : list.damaged) {
        if (name && std::find(damaged.names.begin(), damaged.names.end(), name->full()) !=
                        damaged.names.end())
            return os::fail(os::Code::Internal, "image ", name->familiar(), ": ", damaged.problem);
    }
    if (!name && !as_id(text))
        return os::fail(os::Code::InvalidArgument, name.error().message);
    return os::fail(os::Code::NotFound, "there is no image '", text.substr(0, 200),
                    "'; 'joey image ls' shows those there are, 'joey image import' brings more");
}

os::Result<Image> Store::find(std::string_view text) const {
    TRY(ImageList list, this->list());
    TRY(const Image* found, find_in(list, text));
    for (Image& image : list.images) {
        if (&image == found)
            return std::move(image);
    }
    return os::fail(os::Code::Internal, "an image was lost");
}

} // namespace image
