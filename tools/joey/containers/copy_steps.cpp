#include "tools/joey/containers/copy_steps.hpp"

#include <climits>
#include <unistd.h>
#include <utility>

namespace joey::containers::copying {

using os::UniqueFd;

base::Failure<os::Error> failed(const std::string& name) {
    return os::fail_errno(errno, name);
}

os::Result<struct stat> about(int fd, const std::string& name) {
    struct stat out {};
    if (::fstatat(fd, "", &out, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0)
        return failed(name);
    return out;
}

os::Result<UniqueFd> reopen(int fd, int flags, const std::string& name) {
    UniqueFd out(::open(os::text("/proc/self/fd/", fd).c_str(), flags | O_CLOEXEC | O_NOCTTY));
    if (!out)
        return failed(name);
    return out;
}

os::Result<std::string> read_link(int fd, const std::string& name) {
    std::string target(PATH_MAX, '\0');
    const ssize_t length = ::readlinkat(fd, "", target.data(), target.size());
    if (length < 0)
        return failed(name);
    target.resize(static_cast<std::size_t>(length));
    return target;
}

os::Result<void> clear(const Target& target) {
    if (::unlinkat(target.directory, target.name.c_str(), 0) == 0 || errno == ENOENT)
        return {};
    if (errno == EISDIR || errno == EPERM)
        return os::fail(os::Code::FailedPrecondition, target.name,
                        ": a directory is where a file should be put");
    return failed(target.name);
}

Split split(std::string path) {
    while (path.size() > 1 && path.ends_with('/'))
        path.pop_back();
    const std::size_t slash = path.rfind('/');
    Split out{slash == std::string::npos ? "."
              : slash == 0               ? "/"
                                         : path.substr(0, slash),
              slash == std::string::npos ? path : path.substr(slash + 1)};
    if (out.name == "." || out.name == "..")
        return {path, {}};
    return out;
}

std::string place_in(const std::string& directory, const std::string& name) {
    return directory.empty() ? name : os::text(directory, "/", name);
}

os::Result<UniqueFd> open_mounted(const Mount& mounted, const std::string& place) {
    if (mounted.read_only)
        return os::fail(os::Code::FailedPrecondition, place, " is mounted read-only");
    return reopen(mounted.node.get(), O_RDONLY | O_DIRECTORY, place);
}

os::Result<UniqueFd> open_node(int root, const std::string& path) {
    auto node = image::open_in_root(root, path, O_PATH | O_NOFOLLOW);
    if (!node)
        return os::fail_errno(node.error(), path);
    return std::move(*node);
}

bool is_directory(int fd) {
    struct stat status {};
    return ::fstat(fd, &status) == 0 && S_ISDIR(status.st_mode);
}

} // namespace joey::containers::copying
