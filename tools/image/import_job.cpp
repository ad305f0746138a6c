#include "tools/image/import_job.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <unistd.h>

#include "tools/image/store_lock.hpp"

namespace image {
namespace {

enum class Compression : std::uint8_t { None, Gzip, Zstd, Other };

os::Result<Compression> compression_of(int fd) {
    std::array<unsigned char, 6> head{};
    const ssize_t got = ::pread(fd, head.data(), head.size(), 0);
    if (got < 0)
        return os::fail_errno(errno, "cannot read a layer");
    const std::string_view text(reinterpret_cast<const char*>(head.data()), // NOLINT: bytes
                                static_cast<std::size_t>(got));
    if (text.starts_with("\x1f\x8b"))
        return Compression::Gzip;
    if (text.starts_with("\x28\xb5\x2f\xfd"))
        return Compression::Zstd;
    if (text.starts_with("\xfd"
                         "7zXZ") ||
        text.starts_with("BZh"))
        return Compression::Other;
    return Compression::None;
}

std::string layer_type(Compression compression) {
    std::string type(media_type::oci_layer);
    if (compression == Compression::Gzip)
        type += "+gzip";
    else if (compression == Compression::Zstd)
        type += "+zstd";
    return type;
}

os::Result<void> check_document(const Descriptor& descriptor, std::string_view text,
                                const char* what) {
    if (text.size() != descriptor.size ||
        Hasher::of(text, descriptor.digest.algorithm()) != descriptor.digest)
        return os::fail(os::Code::InvalidArgument, "the image's ", what, " is damaged: it is not ",
                        descriptor.digest.text());
    return {};
}

// The name that an entry of index.json has.
std::string name_in(const Descriptor& entry) {
    for (const std::string_view key : {annotation::containerd_name, annotation::reference_name}) {
        const auto found = entry.annotations.find(std::string(key));
        if (found != entry.annotations.end())
            return found->second;
    }
    return {};
}

std::string list_names(const std::vector<std::vector<Reference>>& all) {
    std::string out;
    for (const std::vector<Reference>& names : all) {
        out += out.empty() ? "" : ", ";
        out += names.empty() ? "one without a name" : names.front().familiar();
    }
    return out.substr(0, 400);
}

void add_once(std::vector<Reference>& names, Reference name) {
    const bool known = std::any_of(names.begin(), names.end(), [&](const Reference& other) {
        return other.full() == name.full();
    });
    if (!known)
        names.push_back(std::move(name));
}

} // namespace

// ---- names --------------------------------------------------------------------------------------

// "debian" of "/tmp/debian.tar.xz", if that can be a name.
std::optional<std::string> ImportJob::file_stem() const {
    std::string_view name = options_.input;
    while (name.ends_with('/'))
        name.remove_suffix(1);
    name = name.substr(name.rfind('/') + 1); // npos + 1 is 0
    for (const std::string_view suffix :
         {".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".txz", ".tar.bz2", ".tar", ".oci"}) {
        if (name.size() > suffix.size() && name.ends_with(suffix)) {
            name.remove_suffix(suffix.size());
            break;
        }
    }
    if (name == "-" || !Reference::parse_repository(name, "latest"))
        return std::nullopt;
    return std::string(name);
}

os::Result<std::vector<Reference>> ImportJob::names_of(const Descriptor& entry) const {
    std::vector<Reference> names;
    const std::string text = name_in(entry);
    if (text.find_first_of(":/") != std::string::npos) {
        TRY(Reference name, Reference::parse(text));
        names.push_back(std::move(name));
    } else if (!text.empty()) {
        // skopeo and umoci write the tag alone.
        const auto stem = file_stem();
        auto name = stem ? Reference::parse_repository(*stem, text) : Reference::parse(text);
        if (stem && name)
            names.push_back(std::move(*name));
    }
    return names;
}

os::Result<std::vector<Reference>> ImportJob::given_names() const {
    std::vector<Reference> names;
    for (const std::string& text : options_.names) {
        TRY(Reference name, Reference::parse(text));
        if (name.digest())
            return os::fail(os::Code::InvalidArgument, "'", text,
                            "': the name must not have a digest");
        add_once(names, std::move(name));
    }
    return names;
}

// Of several images, the wanted one.
os::Result<void> ImportJob::select(std::vector<Candidate>& candidates) const {
    std::vector<std::vector<Reference>> all;
    all.reserve(candidates.size());
    for (const Candidate& candidate : candidates)
        all.push_back(candidate.names);
    if (options_.only) {
        TRY(const Reference wanted, Reference::parse(*options_.only));
        std::erase_if(candidates, [&](const Candidate& candidate) {
            return std::none_of(
                candidate.names.begin(), candidate.names.end(),
                [&](const Reference& name) { return name.full() == wanted.full(); });
        });
        if (candidates.empty())
            return os::fail(os::Code::NotFound, options_.input, " has no image ", wanted.familiar(),
                            "; it has ", list_names(all));
    }
    if (candidates.empty())
        return os::fail(os::Code::NotFound, options_.input, " has no image in it");
    return {};
}

os::Result<void> ImportJob::name(std::vector<Candidate>& candidates) const {
    TRY(const std::vector<Reference> given, given_names());
    if (!given.empty() && candidates.size() > 1) {
        std::vector<std::vector<Reference>> all;
        all.reserve(candidates.size());
        for (const Candidate& candidate : candidates)
            all.push_back(candidate.names);
        return os::fail(os::Code::InvalidArgument, "--name: ", options_.input, " has ",
                        candidates.size(), " images; choose one with --only: ", list_names(all));
    }
    if (!given.empty())
        candidates.front().names = given;
    if (const auto stem = file_stem();
        stem && candidates.size() == 1 && candidates.front().names.empty()) {
        TRY(Reference name, Reference::parse_repository(*stem, "latest"));
        candidates.front().names.push_back(std::move(name));
    }
    return {};
}

// ---- finding images -----------------------------------------------------------------------------

os::Result<std::optional<ImportJob::Candidate>>
ImportJob::read_oci(Source& source, const Descriptor& entry, unsigned depth) const {
    if (depth > options_.limits.index_depth)
        return os::fail(os::Code::InvalidArgument, options_.input,
                        ": indices in indices, more than ", options_.limits.index_depth, " deep");
    TRY(std::string text, source.read(blob_path(entry.digest), options_.limits.document_bytes));
    TRY(check_document(entry, text, entry.is_index() ? "index" : "manifest"));
    if (entry.is_index()) {
        TRY(const Index index, parse_index(text, entry.digest.text()));
        const Descriptor* chosen = choose(index, platform());
        if (chosen == nullptr)
            return os::fail(os::Code::NotFound, options_.input, " has no image for ",
                            platform().text(), "; it has ", platforms_of(index),
                            "; --platform chooses one");
        return read_oci(source, *chosen, depth + 1);
    }
    Candidate candidate;
    TRY(candidate.manifest, parse_manifest(text, entry.digest.text(), options_.limits));
    const Descriptor& config = candidate.manifest->config;
    TRY(candidate.config_text,
        source.read(blob_path(config.digest), options_.limits.document_bytes));
    TRY(check_document(config, candidate.config_text, "configuration"));
    candidate.manifest_text = std::move(text);
    candidate.manifest_type = entry.media_type;
    return std::optional(std::move(candidate));
}

os::Result<std::vector<ImportJob::Candidate>> ImportJob::find_oci(Source& source) const {
    if (source.has("oci-layout")) {
        TRY(const std::string marker, source.read("oci-layout", options_.limits.document_bytes));
        TRY(check_layout_marker(marker));
    }
    TRY(const std::string text, source.read("index.json", options_.limits.document_bytes));
    TRY(const Index index, parse_index(text, "index.json"));
    // Entries of one name are one image for several platforms.
    std::map<std::string, Index> groups;
    for (const Descriptor& entry : index.manifests) {
        // Signatures and attestations of builders.
        if (entry.platform && entry.platform->os == "unknown")
            continue;
        groups[name_in(entry)].manifests.push_back(entry);
    }
    std::vector<Candidate> out;
    for (const auto& [name, group] : groups) {
        const Descriptor* chosen = choose(group, platform());
        if (chosen == nullptr)
            return os::fail(os::Code::NotFound, options_.input, " has no image",
                            name.empty() ? "" : " " + name.substr(0, 200), " for ",
                            platform().text(), "; it has ", platforms_of(group),
                            "; --platform chooses one");
        TRY(std::optional<Candidate> candidate, read_oci(source, *chosen, 0));
        TRY(candidate->names, names_of(*chosen));
        // Docker lists an image once for each of its names.
        const auto same = std::find_if(out.begin(), out.end(), [&](const Candidate& other) {
            return other.manifest_text == candidate->manifest_text;
        });
        if (same == out.end()) {
            out.push_back(std::move(*candidate));
            continue;
        }
        for (Reference& reference : candidate->names)
            add_once(same->names, std::move(reference));
    }
    return out;
}

os::Result<std::vector<ImportJob::Candidate>> ImportJob::find_docker(Source& source) const {
    TRY(const std::string text, source.read("manifest.json", options_.limits.document_bytes));
    TRY(const std::vector<DockerImage> list, parse_docker_list(text, options_.limits));
    std::vector<Candidate> out;
    for (const DockerImage& found : list) {
        Candidate candidate;
        TRY(candidate.config_text, source.read(found.config, options_.limits.document_bytes));
        candidate.layer_paths = found.layers;
        for (const std::string& name : found.names) {
            TRY(Reference reference, Reference::parse(name));
            add_once(candidate.names, std::move(reference));
        }
        out.push_back(std::move(candidate));
    }
    return out;
}

// ---- taking them in -----------------------------------------------------------------------------

os::Result<void> ImportJob::check_platform(const ImageConfig& config) const {
    const Platform wanted = platform();
    const Platform& found = config.platform;
    const bool fits = (found.os.empty() || found.os == wanted.os) &&
                      (found.architecture.empty() || found.architecture == wanted.architecture);
    if (fits)
        return {};
    return os::fail(os::Code::FailedPrecondition, options_.input, ": the image is for ",
                    found.text(), ", not ", wanted.text(),
                    "; get the one for this machine, or say "
                    "--platform ",
                    found.text(), " to store it all the same");
}

os::Result<Manifest> ImportJob::take_layers(Source& source, const Candidate& candidate) {
    if (candidate.manifest) {
        for (const Descriptor& layer : candidate.manifest->layers) {
            TRY(const Blob blob, source.take(blob_path(layer.digest), &layer.digest, staging_));
            if (blob.size != layer.size)
                return os::fail(os::Code::InvalidArgument, layer.digest.text(), " has ", blob.size,
                                " bytes, and should have ", layer.size);
        }
        return *candidate.manifest;
    }
    TRY(Descriptor config, staging_.add_document(media_type::oci_config, candidate.config_text));
    Manifest manifest{std::move(config), {}};
    for (const std::string& path : candidate.layer_paths) {
        TRY(const Blob blob, source.take(path, nullptr, staging_));
        TRY(const os::UniqueFd fd, staging_.open_blob(blob.digest));
        TRY(const Compression compression, compression_of(fd.get()));
        manifest.layers.push_back(
            {layer_type(compression), blob.digest, blob.size, std::nullopt, {}});
    }
    return manifest;
}

os::Result<Digest> ImportJob::unpack_layer(const Descriptor& layer, TreeWriter* tree) {
    const std::string name = "layer " + layer.digest.short_id();
    TRY(os::UniqueFd fd, staging_.open_blob(layer.digest));
    FileSource file(std::move(fd), name, options_.progress);
    TRY(const std::unique_ptr<Decompressor> plain,
        Decompressor::open(file, name, options_.limits.input_bytes));
    HashingSource hashing(*plain);
    if (tree != nullptr)
        TRY(tree->apply(hashing, name));
    return hashing.finish();
}

os::Result<std::vector<Digest>>
ImportJob::unpack(const Manifest& manifest, const std::vector<Digest>* expected, TreeFacts& facts) {
    if (options_.progress != nullptr) {
        std::uint64_t total = 0;
        for (const Descriptor& layer : manifest.layers)
            total += layer.size;
        options_.progress->begin("unpacking", total);
    }
    std::optional<TreeWriter> tree;
    bool there = false;
    if (expected != nullptr) {
        const Digest chain = chain_id(*expected);
        there = staging_.has_rootfs(chain);
        if (auto rootfs = staging_.store().find_rootfs(chain)) {
            held_.push_back(std::move(*rootfs));
            there = true;
        }
    }
    if (!there) {
        TRY(os::UniqueFd root, staging_.make_rootfs());
        tree.emplace(std::move(root), options_.limits, ::geteuid() == 0);
    }
    std::vector<Digest> diff_ids;
    for (const Descriptor& layer : manifest.layers) {
        TRY(Digest diff_id, unpack_layer(layer, tree ? &*tree : nullptr));
        if (expected != nullptr && diff_id != (*expected)[diff_ids.size()])
            return os::fail(os::Code::InvalidArgument, "layer ", layer.digest.short_id(),
                            " is not the one that the image's configuration means (",
                            (*expected)[diff_ids.size()].text(), "); the image is damaged");
        diff_ids.push_back(std::move(diff_id));
    }
    if (tree) {
        TRY(tree->finish());
        facts = tree->facts();
        tree.reset();
        TRY(staging_.finish_rootfs(chain_id(diff_ids), facts));
    }
    return diff_ids;
}

os::Result<void> ImportJob::stage(const std::string& manifest_text, std::string_view manifest_type,
                                  const ImageConfig& config, const Digest& id,
                                  std::vector<Reference> names, const TreeFacts& facts) {
    TRY(Descriptor manifest, staging_.add_document(manifest_type, manifest_text));
    manifest.platform = config.platform;
    images_.push_back({id, std::move(manifest), names});
    const Platform here;
    const bool runs_here =
        (config.platform.os.empty() || config.platform.os == here.os) &&
        (config.platform.architecture.empty() || config.platform.architecture == here.architecture);
    results_.push_back({id, std::move(names), false, facts, runs_here});
    return {};
}

os::Result<void> ImportJob::add(Source& source, Candidate candidate) {
    TRY(const ImageConfig config, parse_config(candidate.config_text, options_.limits));
    TRY(check_platform(config));
    const std::size_t layers =
        candidate.manifest ? candidate.manifest->layers.size() : candidate.layer_paths.size();
    if (layers != config.diff_ids.size())
        return os::fail(os::Code::InvalidArgument, options_.input, ": the image has ", layers,
                        " layers, and its configuration names ", config.diff_ids.size());
    TRY(const Manifest manifest, take_layers(source, candidate));
    TRY(const Descriptor stored,
        staging_.add_document(manifest.config.media_type, candidate.config_text,
                              manifest.config.digest.algorithm()));
    TreeFacts facts;
    TRY(const std::vector<Digest> diff_ids, unpack(manifest, &config.diff_ids, facts));
    static_cast<void>(diff_ids);
    if (candidate.manifest_text.empty()) {
        candidate.manifest_text = to_json(manifest);
        candidate.manifest_type = media_type::oci_manifest;
    }
    return stage(candidate.manifest_text, candidate.manifest_type, config, stored.digest,
                 std::move(candidate.names), facts);
}

os::Result<std::vector<Imported>> ImportJob::commit() {
    TRY(const std::vector<bool> new_ones, staging_.store().commit(staging_, images_));
    for (std::size_t i = 0; i < results_.size(); ++i)
        results_[i].is_new = new_ones[i];
    return std::move(results_);
}

os::Result<std::vector<Imported>> ImportJob::import_images(Source& source) {
    if (options_.configure)
        return os::fail(os::Code::InvalidArgument, options_.input == "-" ? "stdin" : options_.input,
                        ": is an image with a configuration of its own; --change and --message are "
                        "for the archive of a root directory");
    std::vector<Candidate> candidates;
    // Newer Dockers write both; the layout says more.
    if (source.has("index.json")) {
        TRY(candidates, find_oci(source));
    } else {
        TRY(candidates, find_docker(source));
    }
    TRY(select(candidates));
    TRY(name(candidates));
    for (Candidate& candidate : candidates)
        TRY(add(source, std::move(candidate)));
    return commit();
}

// The file as it is becomes the layer, unless only few could read it.
os::Result<Descriptor> ImportJob::take_rootfs(ByteSource& bytes, const std::string& what) {
    TRY(os::UniqueFd to, staging_.create("incoming"));
    TRY(Blob blob, copy_to(bytes, to.get(), options_.limits.input_bytes, what));
    TRY(Compression compression, compression_of(to.get()));
    if (compression == Compression::Other) {
        if (::lseek(to.get(), 0, SEEK_SET) != 0)
            return os::fail_errno(errno, what);
        FileSource compressed(std::move(to), what);
        TRY(const std::unique_ptr<Decompressor> plain,
            Decompressor::open(compressed, what, options_.limits.input_bytes));
        TRY(const os::UniqueFd file, staging_.create("plain"));
        TRY(blob, copy_to(*plain, file.get(), options_.limits.input_bytes, what));
        TRY(staging_.adopt_blob("plain", blob.digest));
        compression = Compression::None;
    } else {
        TRY(staging_.adopt_blob("incoming", blob.digest));
    }
    return Descriptor{layer_type(compression), blob.digest, blob.size, std::nullopt, {}};
}

os::Result<std::vector<Imported>> ImportJob::import_layer(ByteSource& bytes, const Image& base,
                                                          const std::string& config) {
    Manifest manifest = base.manifest;
    for (const Descriptor& layer : manifest.layers) {
        if (!staging_.hold_blob(layer.digest))
            return os::fail(os::Code::NotFound, "layer ", layer.digest.short_id(), " of image ",
                            base.id.short_id(), " is missing or damaged; import it again");
    }
    TRY(Descriptor layer, take_rootfs(bytes, options_.input));
    manifest.layers.push_back(std::move(layer));
    TreeFacts facts;
    TRY(const std::vector<Digest> diff_ids, unpack(manifest, nullptr, facts));
    const std::string text = with_layers(config, diff_ids);
    TRY(const ImageConfig parsed, parse_config(text, options_.limits));
    TRY(manifest.config, staging_.add_document(media_type::oci_config, text));
    TRY(std::vector<Reference> names, given_names());
    TRY(stage(to_json(manifest), media_type::oci_manifest, parsed, manifest.config.digest,
              std::move(names), facts));
    return commit();
}

os::Result<std::vector<Imported>> ImportJob::import_rootfs(ByteSource& bytes) {
    const std::string what = options_.input == "-" ? "stdin" : options_.input;
    if (options_.only)
        return os::fail(os::Code::InvalidArgument, "--only: ", what,
                        " is the archive of one root directory");
    TRY(const Descriptor layer, take_rootfs(bytes, what));
    TreeFacts facts;
    const Descriptor none{std::string(media_type::oci_config), layer.digest, 0, std::nullopt, {}};
    TRY(const std::vector<Digest> diff_ids, unpack(Manifest{none, {layer}}, nullptr, facts));
    if (facts.entries == 0)
        return os::fail(os::Code::InvalidArgument, what,
                        ": an archive with nothing in it; give a root directory's or an image's");

    ImageConfig config;
    config.platform = platform();
    std::string config_text = make_config(config.platform, diff_ids);
    if (options_.configure) {
        TRY(config_text, options_.configure(config_text));
        TRY(config, parse_config(config_text, options_.limits));
    }
    TRY(const Descriptor stored, staging_.add_document(media_type::oci_config, config_text));
    std::vector<Candidate> candidates(1);
    TRY(name(candidates));
    TRY(stage(to_json(Manifest{stored, {layer}}), media_type::oci_manifest, config, stored.digest,
              std::move(candidates.front().names), facts));
    return commit();
}

} // namespace image
