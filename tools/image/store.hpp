// Store: images on disk. It is an OCI image layout (oci-layout, index.json, blobs/), so that other
// tools can read it, and beside it one unpacked root directory per set of layers. Everything is
// made in tmp/ and gets its name by a rename; index.json alone says what exists.
// docs/design/images.md.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "agent/os/error.hpp"
#include "agent/os/unique_fd.hpp"
#include "tools/image/config.hpp"
#include "tools/image/documents.hpp"
#include "tools/image/reference.hpp"
#include "tools/image/tree_writer.hpp"

namespace image {

class Staging;

// An image that the store holds.
struct Image {
    Digest id; // of the configuration, as with Docker
    Descriptor manifest_descriptor;
    Manifest manifest;
    ImageConfig config;
    std::vector<Reference> names; // none: it lost them to newer images
    std::uint64_t unpacked_bytes = 0;
};

// An entry of the index whose files cannot be read; only prune and another import mend it.
struct DamagedImage {
    std::vector<std::string> names;
    std::string problem;
};

struct ImageList {
    std::vector<Image> images; // by their names
    std::vector<DamagedImage> damaged;
};

// The root directory of an image, kept as long as this object: nobody removes it meanwhile.
struct Rootfs {
    std::string path; // read-only by agreement: images share it
    os::UniqueFd directory;
    os::UniqueFd lock;
};

// A finished import, to be put in place.
struct NewImage {
    Digest id;
    Descriptor manifest;
    std::vector<Reference> names;
};

struct Collected {
    std::vector<std::string> removed_names;
    std::vector<Digest> removed_images; // IDs
    std::uint64_t freed_bytes = 0;
    std::uint64_t kept_in_use = 0; // root directories that something runs in
};

class Store {
public:
    // /var/lib/joey/images for root; for others, $XDG_DATA_HOME/joey/images.
    static os::Result<std::string> default_path();
    // Makes it if it is missing.
    static os::Result<Store> open(const std::string& path);

    const std::string& path() const { return path_; }
    int directory() const { return directory_.get(); }

    os::Result<ImageList> list() const;
    // By name, by ID or its beginning, or by digest.
    os::Result<Image> find(std::string_view text) const;
    os::Result<Rootfs> use(const Image& image) const;
    // The content of a blob that is a document.
    os::Result<std::string> read_document(const Digest& digest) const;
    os::Result<os::UniqueFd> open_blob(const Digest& digest) const;
    // An unpacked root directory of these layers, if there is one, locked.
    std::optional<Rootfs> find_rootfs(const Digest& chain) const;

    os::Result<std::unique_ptr<Staging>> begin() const;
    // All or nothing; what has the new images' names loses them. For each, whether it is new.
    os::Result<std::vector<bool>> commit(Staging& staging,
                                         const std::vector<NewImage>& images) const;

    // Gives the image one more name.
    os::Result<void> tag(std::string_view text, const Reference& name) const;
    // A name, or with an ID the image and all its names: several need `force`.
    os::Result<Collected> remove(std::string_view text, bool force) const;
    // Removes images without a name, with `all` every image that nothing runs in, and what no image
    // needs.
    os::Result<Collected> prune(bool all) const;

    // An owner (a container) says that it is made of the image with this ID, which then stays
    // unless it is forced; `witness` is a file that is there as long as the owner.
    os::Result<void> claim(const std::string& image, const std::string& owner,
                           const std::string& witness) const;
    void release(const std::string& owner) const;

private:
    class Lock;
    Store(std::string path, os::UniqueFd directory)
        : path_(std::move(path)), directory_(std::move(directory)) {}

    os::Result<void> check_or_make() const;
    os::Result<Lock> lock(int operation) const;
    os::Result<Index> read_index() const;
    os::Result<void> write_index(const Index& index) const;
    os::Result<void> write_file(const char* directory, const char* name,
                                std::string_view text) const;
    os::Result<ImageList> list_locked(const Index& index) const;
    os::Result<Image> read_image(const Descriptor& entry) const;
    os::Result<const Image*> find_in(const ImageList& list, std::string_view text) const;
    os::Result<void> place(Staging& staging) const;
    os::Result<void> collect(const Index& index, Collected& out) const;
    os::Result<void> collect_blobs(const std::vector<Digest>& wanted, Collected& out) const;
    os::Result<void> collect_rootfs(const std::vector<Digest>& wanted, Collected& out) const;
    os::Result<void> collect_staging(Collected& out) const;
    bool is_in_use(const Image& image) const;
    std::vector<std::string> owners_of(const Image& image) const;

    std::string path_;
    os::UniqueFd directory_;
};

// The path of a blob in a layout: "blobs/sha256/<hex>".
std::string blob_path(const Digest& digest);
// "rootfs/sha256-<hex>".
std::string rootfs_path(const Digest& chain);

// One writer's own folder in the store, removed at the end. The kernel drops its lock with the
// process, so that prune knows what a crash left.
class Staging {
public:
    Staging(const Store& store, std::string name, os::UniqueFd directory)
        : store_(store), name_(std::move(name)), directory_(std::move(directory)) {}
    Staging(const Staging&) = delete;
    Staging& operator=(const Staging&) = delete;
    ~Staging();

    int directory() const { return directory_.get(); }
    const Store& store() const { return store_; }
    // Relative to the store's directory.
    std::string path() const { return "tmp/" + name_; }

    // A new file; it is opened for reading too.
    os::Result<os::UniqueFd> create(const std::string& name) const;
    // A document as a blob.
    os::Result<Descriptor> add_document(std::string_view media_type, std::string_view text,
                                        Digest::Algorithm algorithm = Digest::Algorithm::Sha256);
    // The finished file `name` becomes a blob.
    os::Result<void> adopt_blob(const std::string& name, const Digest& digest);
    // The blob is here or in the store; one of the store's is kept by a second name.
    bool hold_blob(const Digest& digest);
    // Of one that is here: it is what its name says.
    bool is_whole(const Digest& digest) const;
    os::Result<os::UniqueFd> open_blob(const Digest& digest) const;
    bool has_blob(const Digest& digest) const;

    // A root directory to unpack to; one at a time.
    os::Result<os::UniqueFd> make_rootfs();
    os::Result<void> finish_rootfs(const Digest& chain, const TreeFacts& facts);
    bool has_rootfs(const Digest& chain) const;

    const std::vector<Digest>& blobs() const { return blobs_; }
    const std::vector<Digest>& chains() const { return chains_; }
    static std::string blob_name(const Digest& digest);
    static std::string rootfs_name(const Digest& chain);

private:
    const Store& store_;
    std::string name_;
    os::UniqueFd directory_;
    std::vector<Digest> blobs_;
    std::vector<Digest> chains_; // of finished root directories
};

} // namespace image
