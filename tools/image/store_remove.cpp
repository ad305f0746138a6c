// Removing images from the store, and what nothing refers to any more.
#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <unistd.h>

#include <sys/file.h>
#include <sys/stat.h>

#include "tools/image/beneath.hpp"
#include "tools/image/store.hpp"
#include "tools/image/store_lock.hpp"

namespace image {
namespace {

os::Result<os::UniqueFd> open_directory(int store, const std::string& path) {
    os::UniqueFd fd(::openat(store, path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!fd)
        return os::fail_errno(errno, "cannot open the image store's ", path);
    return fd;
}

os::Result<std::vector<std::string>> names_in(int directory, const char* what) {
    auto names = list_names(directory);
    if (!names)
        return os::fail_errno(names.error(), "cannot read the image store's ", what);
    return std::move(*names);
}

bool contains(const std::vector<std::string>& sorted, const std::string& name) {
    return std::binary_search(sorted.begin(), sorted.end(), name);
}

// Bytes on disk; a file with several names counts once, at the last of them.
std::uint64_t disk_bytes(int directory, const std::string& name) {
    std::uint64_t bytes = 0;
    static_cast<void>(
        walk_beneath(directory, name, [&](const WalkEntry& entry) -> base::Result<void, int> {
            struct stat status {};
            if (::fstatat(entry.directory, entry.name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0 &&
                (entry.is_directory || status.st_nlink == 1))
                bytes += static_cast<std::uint64_t>(status.st_blocks) * 512;
            return {};
        }));
    return bytes;
}

void forget(Index& index, const Image& image, Collected& out) {
    std::erase_if(index.manifests, [&](const Descriptor& entry) {
        return entry.digest == image.manifest_descriptor.digest;
    });
    for (const Reference& name : image.names)
        out.removed_names.push_back(name.familiar());
    out.removed_images.push_back(image.id);
}

} // namespace

bool Store::is_in_use(const Image& image) const {
    const os::UniqueFd fd(::openat(directory_.get(),
                                   rootfs_path(chain_id(image.config.diff_ids)).c_str(),
                                   O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    return fd && ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0;
}

os::Result<void> Store::collect_blobs(const std::vector<Digest>& wanted, Collected& out) const {
    for (const auto algorithm : {Digest::Algorithm::Sha256, Digest::Algorithm::Sha512}) {
        std::vector<std::string> kept;
        for (const Digest& digest : wanted) {
            if (digest.algorithm() == algorithm)
                kept.push_back(digest.hex());
        }
        std::sort(kept.begin(), kept.end());
        const std::string path =
            os::text("blobs/", Digest(algorithm, std::string()).algorithm_name());
        TRY(const os::UniqueFd directory, open_directory(directory_.get(), path));
        TRY(const std::vector<std::string> names, names_in(directory.get(), path.c_str()));
        for (const std::string& name : names) {
            if (contains(kept, name))
                continue;
            out.freed_bytes += disk_bytes(directory.get(), name);
            if (::unlinkat(directory.get(), name.c_str(), 0) != 0)
                return os::fail_errno(errno, "cannot remove blob ", name);
        }
    }
    return {};
}

os::Result<void> Store::collect_rootfs(const std::vector<Digest>& wanted, Collected& out) const {
    std::vector<std::string> kept;
    kept.reserve(wanted.size());
    for (const Digest& chain : wanted)
        kept.push_back(rootfs_path(chain).substr(sizeof "rootfs/" - 1));
    std::sort(kept.begin(), kept.end());
    TRY(const os::UniqueFd directory, open_directory(directory_.get(), "rootfs"));
    TRY(const std::vector<std::string> names, names_in(directory.get(), "rootfs"));
    for (const std::string& name : names) {
        if (contains(kept, name))
            continue;
        const os::UniqueFd fd(
            ::openat(directory.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (fd && ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
            ++out.kept_in_use;
            continue;
        }
        out.freed_bytes += disk_bytes(directory.get(), name);
        // First it loses its name: half of a root directory must never be found.
        const std::string gone = os::text("tmp/gone-", name);
        static_cast<void>(remove_tree(directory_.get(), gone));
        if (::renameat(directory.get(), name.c_str(), directory_.get(), gone.c_str()) != 0)
            return os::fail_errno(errno, "cannot remove root directory ", name);
        if (auto removed = remove_tree(directory_.get(), gone); !removed)
            return os::fail_errno(removed.error(), "cannot remove root directory ", name);
    }
    return {};
}

os::Result<void> Store::collect_staging(Collected& out) const {
    TRY(const os::UniqueFd directory, open_directory(directory_.get(), "tmp"));
    TRY(const std::vector<std::string> names, names_in(directory.get(), "tmp"));
    for (const std::string& name : names) {
        const os::UniqueFd fd(
            ::openat(directory.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (fd && ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0)
            continue; // an import that runs
        out.freed_bytes += disk_bytes(directory.get(), name);
        if (auto removed = remove_tree(directory.get(), name); !removed)
            return os::fail_errno(removed.error(), "cannot remove ", name);
    }
    return {};
}

// Requires: the lock, and that the index on disk is `index`.
os::Result<void> Store::collect(const Index& index, Collected& out) const {
    std::vector<Digest> blobs;
    std::vector<Digest> chains;
    for (const Descriptor& entry : index.manifests) {
        blobs.push_back(entry.digest);
        const auto image = read_image(entry);
        if (!image)
            continue; // it can only be imported again
        blobs.push_back(image->manifest.config.digest);
        for (const Descriptor& layer : image->manifest.layers)
            blobs.push_back(layer.digest);
        chains.push_back(chain_id(image->config.diff_ids));
    }
    TRY(collect_blobs(blobs, out));
    TRY(collect_rootfs(chains, out));
    return collect_staging(out);
}

os::Result<Collected> Store::remove(std::string_view text, bool force) const {
    TRY(const Lock held, lock(LOCK_EX));
    TRY(Index index, read_index());
    TRY(const ImageList list, list_locked(index));
    Collected out;
    TRY(const Image* image, find_in(list, text));
    const auto name = Reference::parse(text);
    const bool by_name =
        name && !name->digest() &&
        std::any_of(image->names.begin(), image->names.end(),
                    [&](const Reference& other) { return other.full() == name->full(); });
    if (by_name && image->names.size() > 1) {
        std::erase_if(index.manifests, [&](const Descriptor& entry) {
            const auto found = entry.annotations.find(std::string(annotation::reference_name));
            return found != entry.annotations.end() && found->second == name->full();
        });
        out.removed_names.push_back(name->familiar());
        TRY(write_index(index));
        return out;
    }
    if (image->names.size() > 1 && !force)
        return os::fail(os::Code::FailedPrecondition, "image ", image->id.short_id(), " has ",
                        image->names.size(), " names, ", image->names.front().familiar(),
                        " among them; remove them by name, or all with --force");
    if (const auto owners = owners_of(*image); !force && !owners.empty())
        return os::fail(os::Code::FailedPrecondition, "image ", text.substr(0, 200),
                        " is used by container ", owners.front().substr(0, 12),
                        "; remove that with 'joey rm', or forget the image with --force");
    if (!force && is_in_use(*image))
        return os::fail(os::Code::FailedPrecondition, "image ", text.substr(0, 200),
                        " is in use; end what runs in it, or forget it with --force");
    forget(index, *image, out);
    TRY(write_index(index));
    TRY(collect(index, out));
    return out;
}

os::Result<Collected> Store::prune(bool all) const {
    TRY(const Lock held, lock(LOCK_EX));
    TRY(Index index, read_index());
    TRY(const ImageList list, list_locked(index));
    Collected out;
    // Damaged images serve nobody.
    std::erase_if(index.manifests, [&](const Descriptor& entry) {
        return std::none_of(list.images.begin(), list.images.end(), [&](const Image& image) {
            return image.manifest_descriptor.digest == entry.digest;
        });
    });
    for (const Image& image : list.images) {
        if ((all || image.names.empty()) && !is_in_use(image) && owners_of(image).empty())
            forget(index, image, out);
    }
    for (const DamagedImage& damaged : list.damaged)
        out.removed_names.insert(out.removed_names.end(), damaged.names.begin(),
                                 damaged.names.end());
    TRY(write_index(index));
    TRY(collect(index, out));
    return out;
}

} // namespace image
