// "tmpcopyup": a tmpfs that begins with what it covers.
#include <array>
#include <cerrno>
#include <climits>
#include <dirent.h>
#include <fcntl.h>
#include <memory>

#include <sys/sendfile.h>
#include <sys/stat.h>

#include "agent/container/rootfs.hpp"

namespace container {

namespace {

constexpr int max_depth = 128;

struct CloseListing {
    void operator()(DIR* listing) const { closedir(listing); }
};

os::Result<void> copy_file(int from, int to, const char* name, const struct stat& about) {
    // Not O_NOFOLLOW alone: what was a file a moment ago may be a FIFO now.
    const os::UniqueFd source(openat(from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    const os::UniqueFd copy(openat(to, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!source || !copy)
        return os::fail_errno(errno, "copy up ", name);
    for (;;) {
        const ssize_t some = sendfile(copy.get(), source.get(), nullptr, 1 << 20);
        if (some < 0)
            return os::fail_errno(errno, "copy up ", name);
        if (some == 0)
            break;
    }
    if (fchown(copy.get(), about.st_uid, about.st_gid) != 0 ||
        fchmod(copy.get(), about.st_mode & 07777) != 0)
        return os::fail_errno(errno, "copy up ", name);
    return {};
}

os::Result<void> copy_link(int from, int to, const char* name, const struct stat& about) {
    std::array<char, PATH_MAX> target{};
    if (readlinkat(from, name, target.data(), target.size() - 1) < 0 ||
        symlinkat(target.data(), to, name) != 0 ||
        fchownat(to, name, about.st_uid, about.st_gid, AT_SYMLINK_NOFOLLOW) != 0)
        return os::fail_errno(errno, "copy up ", name);
    return {};
}

os::Result<void> copy_directory(int from, int to, int depth);

os::Result<void> copy_entry(int from, int to, const char* name, int depth) {
    struct stat about {};
    if (fstatat(from, name, &about, AT_SYMLINK_NOFOLLOW) != 0)
        return os::fail_errno(errno, "copy up ", name);
    if (S_ISREG(about.st_mode))
        return copy_file(from, to, name, about);
    if (S_ISLNK(about.st_mode))
        return copy_link(from, to, name, about);
    if (!S_ISDIR(about.st_mode))
        return {}; // devices, sockets and FIFOs are not contents
    const os::UniqueFd below(openat(from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!below || mkdirat(to, name, 0700) != 0)
        return os::fail_errno(errno, "copy up ", name);
    const os::UniqueFd copy(openat(to, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!copy)
        return os::fail_errno(errno, "copy up ", name);
    TRY(copy_directory(below.get(), copy.get(), depth - 1));
    if (fchown(copy.get(), about.st_uid, about.st_gid) != 0 ||
        fchmod(copy.get(), about.st_mode & 07777) != 0)
        return os::fail_errno(errno, "copy up ", name);
    return {};
}

os::Result<void> copy_directory(int from, int to, int depth) {
    if (depth == 0)
        return os::fail_errno(ELOOP, "copy up");
    const int again = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const std::unique_ptr<DIR, CloseListing> listing(again < 0 ? nullptr : fdopendir(again));
    if (!listing)
        return os::fail_errno(errno, "copy up");
    while (const dirent* entry = readdir(listing.get())) {
        const std::string name = entry->d_name;
        if (name != "." && name != "..") {
            TRY(copy_entry(from, to, name.c_str(), depth));
        }
    }
    return {};
}

} // namespace

os::Result<void> copy_up(int from, int to) {
    return copy_directory(from, to, max_depth);
}

} // namespace container
