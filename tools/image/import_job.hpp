// ImportJob: the images of one source, checked and unpacked.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "agent/os/error.hpp"
#include "tools/image/importer.hpp"
#include "tools/image/source.hpp"
#include "tools/image/store.hpp"

namespace image {

class ImportJob {
public:
    ImportJob(Staging& staging, const ImportOptions& options)
        : staging_(staging), options_(options) {}

    // A source with an OCI layout or the manifest.json of `docker save`.
    os::Result<std::vector<Imported>> import_images(Source& source);
    // A tar of a root directory, perhaps compressed.
    os::Result<std::vector<Imported>> import_rootfs(ByteSource& bytes);
    // A plain tar that is one more layer of `base`. `config`: without the list of layers.
    os::Result<std::vector<Imported>> import_layer(ByteSource& bytes, const Image& base,
                                                   const std::string& config);

private:
    // An image of the source, before its layers are looked at.
    struct Candidate {
        std::string manifest_text; // empty: the source has none, as Docker's old format
        std::string manifest_type;
        std::vector<std::string> layer_paths; // in that case
        std::optional<Manifest> manifest;     // in the other
        std::string config_text;
        std::vector<Reference> names;
    };

    os::Result<std::vector<Candidate>> find_oci(Source& source) const;
    os::Result<std::optional<Candidate>> read_oci(Source& source, const Descriptor& entry,
                                                  unsigned depth) const;
    os::Result<std::vector<Candidate>> find_docker(Source& source) const;
    os::Result<std::vector<Reference>> names_of(const Descriptor& entry) const;
    os::Result<std::vector<Reference>> given_names() const;
    os::Result<void> select(std::vector<Candidate>& candidates) const;
    os::Result<void> name(std::vector<Candidate>& candidates) const;
    // Takes, checks and unpacks its layers.
    os::Result<void> add(Source& source, Candidate candidate);
    os::Result<void> stage(const std::string& manifest_text, std::string_view manifest_type,
                           const ImageConfig& config, const Digest& id,
                           std::vector<Reference> names, const TreeFacts& facts);
    os::Result<std::vector<Imported>> commit();
    os::Result<Manifest> take_layers(Source& source, const Candidate& candidate);
    os::Result<Descriptor> take_rootfs(ByteSource& bytes, const std::string& what);
    os::Result<void> check_platform(const ImageConfig& config) const;
    Platform platform() const { return options_.platform.value_or(Platform{}); }
    std::optional<std::string> file_stem() const;

    // Unpacks, or if the root directory is there, only checks; the layers' diff IDs.
    os::Result<std::vector<Digest>> unpack(const Manifest& manifest,
                                           const std::vector<Digest>* expected, TreeFacts& facts);
    os::Result<Digest> unpack_layer(const Descriptor& layer, TreeWriter* tree);

    Staging& staging_;
    const ImportOptions& options_;
    std::vector<NewImage> images_;
    std::vector<Imported> results_;
    // Keeps root directories that serve as they are until their images are committed.
    std::vector<Rootfs> held_;
};

} // namespace image
