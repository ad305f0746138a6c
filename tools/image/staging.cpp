// A writer's own folder in the store.
#include <algorithm>
#include <cerrno>
#include <ctime>
#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "tools/image/beneath.hpp"
#include "tools/image/store.hpp"
#include "tools/image/store_lock.hpp"

namespace image {
namespace {

constexpr const char* unfinished_rootfs = "rootfs";

std::string random_name() {
    std::uint64_t bits = 0;
    if (::getrandom(&bits, sizeof bits, 0) != static_cast<ssize_t>(sizeof bits))
        bits = static_cast<std::uint64_t>(::time(nullptr));
    return os::text(::getpid(), "-", bits);
}

} // namespace

os::Result<std::unique_ptr<Staging>> Store::begin() const {
    // Under the lock, so that nobody takes the new folder for one that a crash left.
    TRY(const Lock held, lock(LOCK_EX));
    std::string name = random_name();
    const std::string path = "tmp/" + name;
    if (::mkdirat(directory_.get(), path.c_str(), 0700) != 0)
        return os::fail_errno(errno, "cannot write to the image store ", path_);
    os::UniqueFd fd(::openat(directory_.get(), path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!fd || ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0)
        return os::fail_errno(errno, "cannot write to the image store ", path_);
    return std::make_unique<Staging>(*this, std::move(name), std::move(fd));
}

Staging::~Staging() {
    // What cannot be removed now, prune removes.
    static_cast<void>(remove_tree(store_.directory(), path()));
}

std::string Staging::blob_name(const Digest& digest) {
    return os::text("blob-", digest.algorithm_name(), "-", digest.hex());
}

os::Result<os::UniqueFd> Staging::create(const std::string& name) const {
    os::UniqueFd fd(::openat(directory_.get(), name.c_str(),
                             O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!fd)
        return os::fail_errno(errno, "cannot write to the image store ", store_.path());
    return fd;
}

std::string Staging::rootfs_name(const Digest& chain) {
    return os::text("rootfs-", chain.algorithm_name(), "-", chain.hex());
}

os::Result<Descriptor> Staging::add_document(std::string_view media_type, std::string_view text,
                                             Digest::Algorithm algorithm) {
    Descriptor descriptor{
        std::string(media_type), Hasher::of(text, algorithm), text.size(), std::nullopt, {}};
    if (hold_blob(descriptor.digest))
        return descriptor;
    TRY(const os::UniqueFd fd, create("document"));
    if (auto written = write_all(fd.get(), text); !written)
        return os::fail_errno(written.error(), "cannot write to the image store ", store_.path());
    TRY(adopt_blob("document", descriptor.digest));
    return descriptor;
}

os::Result<void> Staging::adopt_blob(const std::string& name, const Digest& digest) {
    if (::renameat(directory_.get(), name.c_str(), directory_.get(), blob_name(digest).c_str()) !=
        0)
        return os::fail_errno(errno, "cannot write to the image store ", store_.path());
    blobs_.push_back(digest);
    return {};
}

bool Staging::hold_blob(const Digest& digest) {
    if (has_blob(digest))
        return true;
    if (::linkat(store_.directory(), blob_path(digest).c_str(), directory_.get(),
                 blob_name(digest).c_str(), 0) != 0)
        return false;
    // One that is damaged gives way to the one that comes in: to import again is what helps.
    if (!is_whole(digest)) {
        ::unlinkat(directory_.get(), blob_name(digest).c_str(), 0);
        return false;
    }
    blobs_.push_back(digest);
    return true;
}

bool Staging::is_whole(const Digest& digest) const {
    auto fd = open_blob(digest);
    if (!fd)
        return false;
    FileSource file(std::move(*fd), blob_name(digest));
    const auto found = HashingSource(file, digest.algorithm()).finish();
    return found && *found == digest;
}

bool Staging::has_blob(const Digest& digest) const {
    return ::faccessat(directory_.get(), blob_name(digest).c_str(), F_OK, 0) == 0;
}

os::Result<os::UniqueFd> Staging::open_blob(const Digest& digest) const {
    auto fd = open_in_root(directory_.get(), blob_name(digest), O_RDONLY | O_NOFOLLOW);
    if (!fd)
        return os::fail_errno(fd.error(), "blob ", digest.text());
    return std::move(*fd);
}

os::Result<os::UniqueFd> Staging::make_rootfs() {
    const std::string tree = os::text(unfinished_rootfs, "/fs");
    if (::mkdirat(directory_.get(), unfinished_rootfs, 0700) != 0 ||
        ::mkdirat(directory_.get(), tree.c_str(), 0755) != 0)
        return os::fail_errno(errno, "cannot write to the image store ", store_.path());
    os::UniqueFd fd(::openat(directory_.get(), tree.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!fd || ::fchmod(fd.get(), 0755) != 0)
        return os::fail_errno(errno, "cannot write to the image store ", store_.path());
    return fd;
}

os::Result<void> Staging::finish_rootfs(const Digest& chain, const TreeFacts& facts) {
    const nlohmann::json json = {{"bytes", facts.bytes},
                                 {"entries", facts.entries},
                                 {"attributesRecorded", facts.attributes.recorded},
                                 {"attributesLost", facts.attributes.lost}};
    TRY(const os::UniqueFd fd, create(os::text(unfinished_rootfs, "/facts.json")));
    if (auto written = write_all(fd.get(), json.dump()); !written)
        return os::fail_errno(written.error(), "cannot write to the image store ", store_.path());
    if (::renameat(directory_.get(), unfinished_rootfs, directory_.get(),
                   rootfs_name(chain).c_str()) != 0)
        return os::fail_errno(errno, "cannot write to the image store ", store_.path());
    chains_.push_back(chain);
    return {};
}

bool Staging::has_rootfs(const Digest& chain) const {
    return std::find(chains_.begin(), chains_.end(), chain) != chains_.end();
}

} // namespace image
