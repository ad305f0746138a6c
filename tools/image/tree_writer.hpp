// TreeWriter: makes a root directory out of the layers of an image, one upon the other (image-spec,
// layer.md). Each layer is hostile: whatever it names, nothing outside the directory is touched.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <unordered_set>

#include "agent/os/error.hpp"
#include "agent/os/unique_fd.hpp"
#include "tools/image/attributes.hpp"
#include "tools/image/beneath.hpp"
#include "tools/image/limits.hpp"
#include "tools/image/tar.hpp"

namespace image {

struct TreeFacts {
    std::uint64_t entries = 0;
    std::uint64_t bytes = 0; // of data written
    AttributeCounts attributes;
};

class TreeWriter {
public:
    // `root`: an empty directory that nobody else changes meanwhile. `privileged`: see
    // AttributeWriter.
    TreeWriter(os::UniqueFd root, const Limits& limits, bool privileged)
        : root_(std::move(root)), limits_(limits), privileged_(privileged),
          attributes_(privileged) {}

    // Puts a layer, a plain tar, on top of what is there. `name` is for messages. What an error
    // leaves behind is of no use.
    os::Result<void> apply(ByteSource& tar, const std::string& name);
    // After the last layer: times of directories, which unpacking has changed.
    os::Result<void> finish();
    TreeFacts facts() const { return {entries_, bytes_, attributes_.counts()}; }

private:
    // An open directory, and what identifies it among others of the tree.
    struct Parent {
        os::UniqueFd fd;
        std::uint64_t ino = 0;
        std::string path; // as the archive spells it
    };

    os::Result<void> apply_entry(TarReader& tar, const TarEntry& entry);
    os::Result<void> count_entry();
    os::Result<void> remember_time(const std::string& path, const timespec& modified);
    os::Result<void> white_out(const TarEntry& entry);
    os::Result<void> white_out_below(const PathBeneath& directory);
    base::Result<void, int> remove_lower(int directory, const std::string& name);
    os::Result<void> write_directory(const TarEntry& entry);
    os::Result<void> write_root(const TarEntry& entry);
    os::Result<void> write_file(TarReader& tar, const TarEntry& entry);
    os::Result<void> write_link(const TarEntry& entry);
    os::Result<void> write_hard_link(const TarEntry& entry);
    os::Result<void> write_node(const TarEntry& entry);
    os::Result<void> copy_data(TarReader& tar, const TarEntry& entry, int fd);

    // The directory that `path` lies in, made if it is missing; valid until the next call.
    os::Result<const Parent*> parent_of(const PathBeneath& path);
    os::Result<void> make_directories(const PathBeneath& path);
    // Clears the place: nothing of that name is in the parent.
    os::Result<void> clear(const Parent& parent, const TarEntry& entry);

    static std::string key(std::uint64_t directory, const std::string& name);
    void touch(const Parent& parent, const std::string& name) {
        touched_.insert(key(parent.ino, name));
    }
    template <typename... Parts>
    base::Failure<os::Error> wrong(const TarEntry& entry, const Parts&... parts) const;
    base::Failure<os::Error> failed(const TarEntry& entry, int error) const;

    const os::UniqueFd root_;
    const Limits limits_;
    const bool privileged_;
    AttributeWriter attributes_;
    std::string layer_; // its name
    // What this layer has made, by the inode of the directory and the name in it: what stays when
    // the layer hides what is below.
    std::unordered_set<std::string> touched_;
    std::map<std::string, timespec> directory_times_;
    std::uint64_t remembered_ = 0; // bytes of its paths
    Parent parent_;
    std::uint64_t entries_ = 0;
    std::uint64_t bytes_ = 0;
};

} // namespace image
