#include "tools/image/store.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <unistd.h>

#include <sys/file.h>
#include <sys/stat.h>

#include "tools/image/beneath.hpp"
#include "tools/image/store_lock.hpp"

namespace image {
namespace {

constexpr std::uint64_t longest_index = 64 << 20;
constexpr const char* index_name = "index.json";
constexpr const char* layout_name = "oci-layout";
constexpr const char* layout_text = R"({"imageLayoutVersion":"1.0.0"})";

// Each directory on the way; the last one is for the owner alone, since it holds what hostile
// images chose: programs with set-id bits, devices.
os::Result<void> make_directories(const std::string& path) {
    for (std::size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
        const bool last = slash == std::string::npos;
        const std::string part = path.substr(0, slash);
        if (::mkdir(part.c_str(), last ? 0700 : 0755) != 0 && errno != EEXIST)
            return os::fail_errno(errno, "cannot make the image store ", path, " (", part,
                                  "); choose a place with --store");
        if (last)
            return {};
    }
}

bool names_image(const Descriptor& entry, const Reference& name) {
    const auto found = entry.annotations.find(std::string(annotation::reference_name));
    return found != entry.annotations.end() && found->second == name.full();
}

// Takes the name from whoever has it. An image's last entry stays, without a name.
void take_name(Index& index, const Reference& name) {
    for (auto entry = index.manifests.begin(); entry != index.manifests.end();) {
        if (!names_image(*entry, name)) {
            ++entry;
            continue;
        }
        const auto others =
            std::count_if(index.manifests.begin(), index.manifests.end(),
                          [&](const Descriptor& other) { return other.digest == entry->digest; });
        if (others > 1) {
            entry = index.manifests.erase(entry);
        } else {
            entry->annotations.clear();
            ++entry;
        }
    }
}

void give_name(Index& index, Descriptor manifest, const Reference& name) {
    // Without one so far: it has one now.
    std::erase_if(index.manifests, [&](const Descriptor& other) {
        return other.digest == manifest.digest && other.annotations.empty();
    });
    manifest.annotations = {{std::string(annotation::reference_name), name.full()},
                            {std::string(annotation::containerd_name), name.full()}};
    index.manifests.push_back(std::move(manifest));
}

} // namespace

std::string blob_path(const Digest& digest) {
    return os::text("blobs/", digest.algorithm_name(), "/", digest.hex());
}

std::string rootfs_path(const Digest& chain) {
    return os::text("rootfs/", chain.algorithm_name(), "-", chain.hex());
}

os::Result<std::string> Store::default_path() {
    if (::geteuid() == 0)
        return std::string("/var/lib/joey/images");
    if (const char* data = ::getenv("XDG_DATA_HOME"); data != nullptr && data[0] == '/')
        return os::text(data, "/joey/images");
    if (const char* home = ::getenv("HOME"); home != nullptr && home[0] == '/')
        return os::text(home, "/.local/share/joey/images");
    return os::fail(os::Code::FailedPrecondition,
                    "no place for images: neither XDG_DATA_HOME nor HOME is set; choose one with "
                    "--store");
}

os::Result<Store> Store::open(const std::string& path) {
    if (path.empty())
        return os::fail(os::Code::InvalidArgument, "the image store: give a directory");
    std::string absolute = path;
    if (path.front() != '/') {
        char* here = ::getcwd(nullptr, 0);
        if (here == nullptr)
            return os::fail_errno(errno, "the image store ", path);
        absolute = os::text(here, "/", path);
        ::free(here);
    }
    while (absolute.size() > 1 && absolute.back() == '/')
        absolute.pop_back();
    TRY(make_directories(absolute));
    os::UniqueFd fd(::open(absolute.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!fd)
        return os::fail_errno(errno, "cannot open the image store ", absolute);
    Store store(std::move(absolute), std::move(fd));
    TRY(store.check_or_make());
    return store;
}

os::Result<void> Store::check_or_make() const {
    struct stat status {};
    if (::fstat(directory_.get(), &status) != 0)
        return os::fail_errno(errno, "the image store ", path_);
    if (status.st_uid != ::geteuid())
        return os::fail(os::Code::PermissionDenied, "the image store ", path_, " belongs to user ",
                        status.st_uid, "; choose another with --store");
    if ((status.st_mode & 077) != 0)
        return os::fail(os::Code::FailedPrecondition, "the image store ", path_,
                        " is open to others, who could reach what images hold; say chmod 700 ",
                        path_);
    if (::faccessat(directory_.get(), index_name, F_OK, 0) == 0)
        return {};
    TRY(const Lock held, lock(LOCK_EX));
    if (::faccessat(directory_.get(), index_name, F_OK, 0) == 0)
        return {};
    // Anything else that is here is no store's.
    auto names = list_names(directory_.get());
    if (!names)
        return os::fail_errno(names.error(), "the image store ", path_);
    for (const std::string& name : *names) {
        if (name != lock_file_name && name != layout_name && name != "blobs" && name != "rootfs" &&
            name != "tmp")
            return os::fail(os::Code::FailedPrecondition, path_,
                            " is no image store, and not empty; choose another with --store");
    }
    for (const char* name : {"blobs", "blobs/sha256", "blobs/sha512", "rootfs", "tmp"}) {
        if (::mkdirat(directory_.get(), name, 0700) != 0 && errno != EEXIST)
            return os::fail_errno(errno, "cannot make the image store ", path_, "/", name);
    }
    TRY(write_file(".", layout_name, layout_text));
    return write_index(Index{});
}

os::Result<Store::Lock> Store::lock(int operation) const {
    os::UniqueFd fd(::openat(directory_.get(), lock_file_name, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!fd)
        return os::fail_errno(errno, "cannot lock the image store ", path_);
    while (::flock(fd.get(), operation) != 0) {
        if (errno != EINTR)
            return os::fail_errno(errno, "cannot lock the image store ", path_);
    }
    return Lock(std::move(fd));
}

// The old file or the new one, whatever happens meanwhile.
os::Result<void> Store::write_file(const char* directory, const char* name,
                                   std::string_view text) const {
    const std::string path = os::text(directory, "/", name);
    const std::string fresh = path + ".new";
    os::UniqueFd fd(::openat(directory_.get(), fresh.c_str(),
                             O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!fd)
        return os::fail_errno(errno, "cannot write ", path_, "/", path);
    if (auto written = write_all(fd.get(), text); !written)
        return os::fail_errno(written.error(), "cannot write ", path_, "/", path);
    if (::fsync(fd.get()) != 0 ||
        ::renameat(directory_.get(), fresh.c_str(), directory_.get(), path.c_str()) != 0 ||
        ::fsync(directory_.get()) != 0)
        return os::fail_errno(errno, "cannot write ", path_, "/", path);
    return {};
}

os::Result<Index> Store::read_index() const {
    TRY(const std::optional<std::string> text,
        read_in_root(directory_.get(), index_name, longest_index));
    if (!text)
        return os::fail(os::Code::NotFound, "the image store ", path_, " has lost its ",
                        index_name);
    return parse_index(*text, os::text(path_, "/", index_name));
}

os::Result<void> Store::write_index(const Index& index) const {
    return write_file(".", index_name, to_json(index));
}

os::Result<std::string> Store::read_document(const Digest& digest) const {
    TRY(const std::optional<std::string> text,
        read_in_root(directory_.get(), blob_path(digest), Limits{}.document_bytes));
    if (!text)
        return os::fail(os::Code::NotFound, path_, "/", blob_path(digest),
                        " is missing; import the image again");
    if (Hasher::of(*text, digest.algorithm()) != digest)
        return os::fail(os::Code::InvalidArgument, path_, "/", blob_path(digest),
                        " is damaged; import the image again");
    return *text;
}

os::Result<os::UniqueFd> Store::open_blob(const Digest& digest) const {
    auto fd = open_in_root(directory_.get(), blob_path(digest), O_RDONLY | O_NOFOLLOW);
    if (!fd)
        return os::fail_errno(fd.error(), "the store's blob ", digest.text());
    return std::move(*fd);
}

std::optional<Rootfs> Store::find_rootfs(const Digest& chain) const {
    const std::string path = rootfs_path(chain);
    Rootfs rootfs;
    rootfs.path = os::text(path_, "/", path, "/fs");
    rootfs.lock =
        os::UniqueFd(::openat(directory_.get(), path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    // Whoever removes it has the other kind of lock; then it is as good as gone.
    if (!rootfs.lock || ::flock(rootfs.lock.get(), LOCK_SH | LOCK_NB) != 0)
        return std::nullopt;
    // It still has its name, now that it is locked: removal begins with another name.
    struct stat locked {};
    struct stat named {};
    if (::fstat(rootfs.lock.get(), &locked) != 0 ||
        ::fstatat(directory_.get(), path.c_str(), &named, AT_SYMLINK_NOFOLLOW) != 0 ||
        locked.st_ino != named.st_ino)
        return std::nullopt;
    rootfs.directory = os::UniqueFd(
        ::openat(rootfs.lock.get(), "fs", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!rootfs.directory)
        return std::nullopt;
    return rootfs;
}

os::Result<Rootfs> Store::use(const Image& image) const {
    const Digest chain = chain_id(image.config.diff_ids);
    if (auto rootfs = find_rootfs(chain))
        return std::move(*rootfs);
    // Who removes images has it locked for a moment, only to see whether it is in use, and the
    // store's lock meanwhile.
    TRY(const Lock held, lock(LOCK_SH));
    if (auto rootfs = find_rootfs(chain))
        return std::move(*rootfs);
    return os::fail(os::Code::NotFound, "image ", image.id.short_id(),
                    " has lost its root directory; import it again");
}

// ---- changes ------------------------------------------------------------------------------------

os::Result<void> Store::place(Staging& staging) const {
    // What has been written must be on disk before it gets a name that says so.
    if (::syncfs(staging.directory()) != 0)
        return os::fail_errno(errno, "cannot write the image to ", path_);
    for (const Digest& digest : staging.blobs()) {
        // What is there under the name is the same file, and stays (rename(2)), or a damaged one.
        const std::string name = Staging::blob_name(digest);
        if (::renameat(staging.directory(), name.c_str(), directory_.get(),
                       blob_path(digest).c_str()) != 0)
            return os::fail_errno(errno, "cannot put blob ", digest.text(), " into ", path_);
    }
    for (const Digest& chain : staging.chains()) {
        // One that somebody else unpacked meanwhile is as good.
        if (::renameat(staging.directory(), Staging::rootfs_name(chain).c_str(), directory_.get(),
                       rootfs_path(chain).c_str()) != 0 &&
            errno != ENOTEMPTY && errno != EEXIST)
            return os::fail_errno(errno, "cannot put the root directory into ", path_);
    }
    for (const char* name : {"blobs/sha256", "blobs/sha512", "rootfs"}) {
        const os::UniqueFd fd(::openat(directory_.get(), name, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (!fd || ::fsync(fd.get()) != 0)
            return os::fail_errno(errno, "cannot write ", path_, "/", name);
    }
    return {};
}

os::Result<std::vector<bool>> Store::commit(Staging& staging,
                                            const std::vector<NewImage>& images) const {
    TRY(const Lock held, lock(LOCK_EX));
    TRY(Index index, read_index());
    TRY(const ImageList before, list_locked(index));
    TRY(place(staging));
    std::vector<bool> new_ones;
    for (const NewImage& image : images) {
        Descriptor manifest = image.manifest;
        manifest.annotations.clear();
        // The same image, perhaps compressed differently: its first manifest serves.
        const auto known = std::find_if(before.images.begin(), before.images.end(),
                                        [&](const Image& other) { return other.id == image.id; });
        new_ones.push_back(known == before.images.end());
        if (known != before.images.end())
            manifest = known->manifest_descriptor;
        for (const Reference& name : image.names) {
            take_name(index, name);
            give_name(index, manifest, name);
        }
        const bool listed =
            std::any_of(index.manifests.begin(), index.manifests.end(),
                        [&](const Descriptor& other) { return other.digest == manifest.digest; });
        if (!listed)
            index.manifests.push_back(manifest);
    }
    TRY(write_index(index));
    return new_ones;
}

os::Result<void> Store::tag(std::string_view text, const Reference& name) const {
    if (name.digest())
        return os::fail(os::Code::InvalidArgument, "'", name.familiar(),
                        "': the new name must not have a digest");
    TRY(const Lock held, lock(LOCK_EX));
    TRY(Index index, read_index());
    TRY(const ImageList list, list_locked(index));
    TRY(const Image* image, find_in(list, text));
    // By value: taking the name may change the entry.
    Descriptor manifest = image->manifest_descriptor;
    if (std::any_of(index.manifests.begin(), index.manifests.end(), [&](const Descriptor& entry) {
            return entry.digest == manifest.digest && names_image(entry, name);
        }))
        return {};
    take_name(index, name);
    give_name(index, std::move(manifest), name);
    return write_index(index);
}

} // namespace image
