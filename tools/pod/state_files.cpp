#include "tools/pod/state_files.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <dirent.h>
#include <fcntl.h>
#include <filesystem>

#include <linux/openat2.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "agent/os/files.hpp"

namespace pod {

namespace {

os::Result<void> write_all(int fd, std::string_view text) {
    while (!text.empty()) {
        const ssize_t written = ::write(fd, text.data(), text.size());
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return os::fail_errno(errno, "write");
        text.remove_prefix(static_cast<std::size_t>(written));
    }
    return {};
}

// A directory of the same file system, without following links.
os::UniqueFd open_below(int directory, const char* name) {
    struct open_how how {};
    how.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW;
    how.resolve = RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH;
    return os::UniqueFd(
        static_cast<int>(::syscall(SYS_openat2, directory, name, &how, sizeof how)));
}

std::vector<std::string> list(int directory) {
    std::vector<std::string> names;
    const int fd = ::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR* listing = fd >= 0 ? ::fdopendir(fd) : nullptr;
    if (listing == nullptr)
        return names;
    while (const dirent* entry = ::readdir(listing)) {
        const std::string_view name = entry->d_name;
        if (name != "." && name != "..")
            names.emplace_back(name);
    }
    ::closedir(listing);
    return names;
}

// The states of pods are three levels deep.
constexpr int deepest = 16;

void empty_directory(int directory, int depth) {
    for (const std::string& name : list(directory)) {
        if (::unlinkat(directory, name.c_str(), 0) == 0 || depth == 0)
            continue;
        if (const os::UniqueFd below = open_below(directory, name.c_str()))
            empty_directory(below.get(), depth - 1);
        ::unlinkat(directory, name.c_str(), AT_REMOVEDIR);
    }
}

} // namespace

os::Result<void> check_id(std::string_view id) {
    constexpr std::size_t longest = 255;
    const auto is_good = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               c == '_' || c == '+' || c == '-' || c == '.';
    };
    if (id.empty())
        return os::fail(os::Code::InvalidArgument, "container id cannot be empty");
    if (id == "." || id == ".." || id.size() > longest ||
        !std::all_of(id.begin(), id.end(), is_good))
        return os::fail(os::Code::InvalidArgument, "invalid container ID format");
    return {};
}

namespace {

// Its content and whatever else makes it `finished` come before the name.
template <typename F>
os::Result<void> replace(const std::string& path, std::string_view text, F&& finished) {
    std::string temporary = path + ".XXXXXX";
    const os::UniqueFd file(::mkostemp(temporary.data(), O_CLOEXEC));
    if (!file)
        return os::fail_errno(errno, "make ", temporary);
    const auto written = write_all(file.get(), text);
    if (!written || finished(file.get()) != 0 || ::rename(temporary.c_str(), path.c_str()) != 0) {
        const int error = errno;
        ::unlink(temporary.c_str());
        return os::fail_errno(error, "write ", path);
    }
    return {};
}

} // namespace

os::Result<void> write_whole(const std::string& path, std::string_view text) {
    // To the disk: after a crash of the machine, no empty file has the name.
    return replace(path, text, [](int file) { return ::fsync(file); });
}

os::Result<void> write_quickly(const std::string& path, std::string_view text, unsigned mode) {
    return replace(path, text, [mode](int file) { return ::fchmod(file, mode); });
}

os::Result<Json> read_json(const std::string& path) {
    constexpr std::size_t most = 16u << 20;
    TRY(const std::string text, os::read_file(AT_FDCWD, path.c_str(), most));
    return parse_object(text, path);
}

std::string absolute_path(const std::string& path) {
    std::error_code unknown;
    const std::filesystem::path out = std::filesystem::absolute(path, unknown);
    return unknown ? path : out.string();
}

os::Result<void> make_directories(const std::string& path) {
    // Most often all of it is there but the last.
    if (::mkdir(path.c_str(), 0700) == 0 || errno == EEXIST)
        return {};
    for (std::size_t at = path.find('/', 1);; at = path.find('/', at + 1)) {
        const std::string part = path.substr(0, at);
        if (::mkdir(part.c_str(), 0700) != 0 && errno != EEXIST)
            return os::fail_errno(errno, "make ", part);
        if (at == std::string::npos)
            return {};
    }
}

os::Result<void> remove_tree(const std::string& path) {
    const os::UniqueFd top(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
    if (top)
        empty_directory(top.get(), deepest);
    if (::rmdir(path.c_str()) != 0 && errno != ENOENT)
        return os::fail_errno(errno, "remove ", path);
    return {};
}

std::vector<std::string> names_in(const std::string& directory) {
    const os::UniqueFd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    std::vector<std::string> names = fd ? list(fd.get()) : std::vector<std::string>();
    std::sort(names.begin(), names.end());
    return names;
}

bool exists(const std::string& path) {
    struct stat about {};
    return ::lstat(path.c_str(), &about) == 0;
}

os::Result<Lock> Lock::take(const std::string& path) {
    return acquire(path, LOCK_EX);
}

os::Result<Lock> Lock::share(const std::string& path) {
    return acquire(path, LOCK_SH);
}

os::Result<Lock> Lock::acquire(const std::string& path, int how) {
    for (;;) {
        os::UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
        if (!fd)
            return os::fail_errno(errno, "lock ", path);
        int locked = 0;
        do {
            locked = ::flock(fd.get(), how);
        } while (locked != 0 && errno == EINTR);
        if (locked != 0)
            return os::fail_errno(errno, "lock ", path);
        // Whoever held it may have removed the file: then the lock is on a name of the past.
        struct stat held {};
        struct stat named {};
        if (::fstat(fd.get(), &held) == 0 && ::stat(path.c_str(), &named) == 0 &&
            held.st_ino == named.st_ino && held.st_dev == named.st_dev)
            return Lock(std::move(fd));
    }
}

} // namespace pod
