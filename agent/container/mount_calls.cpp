#include "agent/container/mount_calls.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <fcntl.h>

#include <linux/mount.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>

namespace container {

namespace {

int system_call(long result) {
    return static_cast<int>(result);
}

// What the kernel wrote about the last failure on a file system context: "e tmpfs: Bad value ...".
std::string complaint_of(int context) {
    std::array<char, 512> text{};
    const ssize_t got = read(context, text.data(), text.size());
    if (got <= 2)
        return {};
    std::string out(text.data() + 2, static_cast<std::size_t>(got) - 2);
    while (!out.empty() && out.back() == '\n')
        out.pop_back();
    return os::text(" (", out, ")");
}

os::Result<void> configure(int context, unsigned command, const char* key, const char* value,
                           const std::string& what) {
    if (syscall(SYS_fsconfig, context, command, key, value, 0) != 0) {
        const int error = errno;
        return os::fail_errno(error, what, complaint_of(context));
    }
    return {};
}

std::string_view without_leading_slashes(std::string_view path) {
    path.remove_prefix(std::min(path.find_first_not_of('/'), path.size()));
    return path;
}

} // namespace

os::Result<os::UniqueFd> clone_tree(int directory, const char* path, bool recursive) {
    const unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC |
                           (recursive ? unsigned{AT_RECURSIVE} : 0U) |
                           (*path == '\0' ? unsigned{AT_EMPTY_PATH} : 0U);
    os::UniqueFd tree(system_call(syscall(SYS_open_tree, directory, path, flags)));
    if (!tree)
        return os::fail_errno(errno, *path == '\0' ? "copy a mount" : path);
    return tree;
}

os::Result<os::UniqueFd> clone_read_only(const char* path) {
    TRY(os::UniqueFd tree, clone_tree(AT_FDCWD, path, false));
    TRY(set_attributes(tree.get(), {.set = MOUNT_ATTR_RDONLY}));
    return tree;
}

os::Result<os::UniqueFd> new_filesystem(const std::string& type, const std::string& source,
                                        const std::vector<std::string>& options,
                                        std::uint64_t attributes) {
    const os::UniqueFd context(system_call(syscall(SYS_fsopen, type.c_str(), FSOPEN_CLOEXEC)));
    if (!context)
        return os::fail_errno(errno, "file system type ", type);
    if (!source.empty()) {
        TRY(configure(context.get(), FSCONFIG_SET_STRING, "source", source.c_str(),
                      os::text("source ", source)));
    }
    for (const std::string& option : options) {
        const std::size_t equals = option.find('=');
        const std::string what = os::text("option ", option);
        if (equals == std::string::npos) {
            TRY(configure(context.get(), FSCONFIG_SET_FLAG, option.c_str(), nullptr, what));
        } else {
            TRY(configure(context.get(), FSCONFIG_SET_STRING, option.substr(0, equals).c_str(),
                          option.c_str() + equals + 1, what));
        }
    }
    TRY(configure(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr,
                  os::text("make a file system of type ", type)));
    os::UniqueFd mount(
        system_call(syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, attributes)));
    if (!mount) {
        const int error = errno;
        return os::fail_errno(error, "mount a file system of type ", type,
                              complaint_of(context.get()));
    }
    return mount;
}

os::Result<void> set_attributes(int mount, const Attributes& attributes) {
    mount_attr wanted{};
    wanted.attr_set = attributes.set;
    wanted.attr_clr = attributes.clear;
    wanted.propagation = attributes.propagation;
    if (wanted.attr_set == 0 && wanted.attr_clr == 0 && wanted.propagation == 0)
        return {};
    const unsigned flags = AT_EMPTY_PATH | (attributes.recursive ? unsigned{AT_RECURSIVE} : 0U);
    if (syscall(SYS_mount_setattr, mount, "", flags, &wanted, sizeof wanted) != 0)
        return os::fail_errno(errno, "set the attributes of a mount");
    return {};
}

os::Result<void> attach(int mount, int target) {
    if (syscall(SYS_move_mount, mount, "", target, "",
                MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) != 0)
        return os::fail_errno(errno, "attach a mount");
    return {};
}

os::Result<os::UniqueFd> open_in_root(int root, std::string_view path, int flags,
                                      std::uint64_t resolve, unsigned mode) {
    const std::string relative(without_leading_slashes(path));
    open_how how{};
    how.flags = static_cast<std::uint64_t>(flags | O_CLOEXEC);
    how.mode = mode;
    how.resolve = RESOLVE_IN_ROOT | resolve;
    int fd = -1;
    // EAGAIN: a rename elsewhere came between ".." and its check (openat2(2)).
    for (int attempt = 0; attempt < 64; ++attempt) {
        fd = system_call(syscall(SYS_openat2, root, relative.empty() ? "." : relative.c_str(), &how,
                                 sizeof how));
        if (fd >= 0 || errno != EAGAIN)
            break;
    }
    if (fd < 0)
        return os::fail_errno(errno, path);
    return os::UniqueFd(fd);
}

namespace {

constexpr int max_links = 40; // as the kernel

// Follows a symbolic link whose target is missing: what would have to be made instead of `path`.
os::Result<std::string> through_link(int directory, const std::string& done,
                                     const std::string& name, std::string_view rest) {
    std::array<char, PATH_MAX> target{};
    const ssize_t length = readlinkat(directory, name.c_str(), target.data(), target.size());
    if (length <= 0)
        return os::fail_errno(length == 0 ? ENOENT : errno, done, "/", name);
    const std::string_view link(target.data(), static_cast<std::size_t>(length));
    const std::string more = rest.empty() ? "" : os::text("/", rest);
    if (link[0] == '/')
        return os::text(link, more);
    return os::text(done, "/", link, more);
}

} // namespace

os::Result<os::UniqueFd> make_directory_in_root(int root, std::string_view path, unsigned mode) {
    std::string wanted(path);
    for (int links = 0; links < max_links;) {
        std::string_view rest = without_leading_slashes(wanted);
        std::string done;
        TRY(os::UniqueFd current, open_in_root(root, "", O_PATH | O_DIRECTORY));
        bool restarted = false;
        while (!rest.empty() && !restarted) {
            const std::string name(rest.substr(0, rest.find('/')));
            rest = without_leading_slashes(rest.substr(name.size()));
            const std::string next = os::text(done, "/", name);
            auto opened = open_in_root(root, next, O_PATH | O_DIRECTORY);
            if (!opened && opened.error().code == os::Code::NotFound) {
                if (name == "..")
                    return os::fail(os::Code::InvalidArgument, path,
                                    ": \"..\" of a directory that is not there");
                if (mkdirat(current.get(), name.c_str(), mode) != 0) {
                    if (errno != EEXIST)
                        return os::fail_errno(errno, "make the directory ", next);
                    // A link to what is missing, or somebody was faster: look again from the start.
                    struct stat about {};
                    if (fstatat(current.get(), name.c_str(), &about, AT_SYMLINK_NOFOLLOW) == 0 &&
                        S_ISLNK(about.st_mode)) {
                        TRY(wanted, through_link(current.get(), done, name, rest));
                    }
                    restarted = true;
                    ++links;
                    continue;
                }
                opened = open_in_root(root, next, O_PATH | O_DIRECTORY);
            }
            if (!opened)
                return base::Failure(std::move(opened.error()));
            current = std::move(*opened);
            done = next;
        }
        if (!restarted)
            return current;
    }
    return os::fail_errno(ELOOP, path);
}

os::Result<Place> place_in_root(int root, std::string_view path) {
    while (path.ends_with('/'))
        path.remove_suffix(1);
    const std::size_t slash = path.rfind('/');
    const std::string_view parent = slash == std::string_view::npos ? "" : path.substr(0, slash);
    const std::string name(slash == std::string_view::npos ? path : path.substr(slash + 1));
    if (name.empty() || name == "." || name == "..")
        return os::fail(os::Code::InvalidArgument, path, ": names no file");
    TRY(os::UniqueFd directory, make_directory_in_root(root, parent, 0755));
    return Place{std::move(directory), name};
}

os::Result<os::UniqueFd> make_file_in_root(int root, std::string_view path) {
    std::string wanted(path);
    for (int links = 0; links < max_links; ++links) {
        auto opened = open_in_root(root, wanted, O_PATH);
        if (opened || opened.error().code != os::Code::NotFound)
            return opened;
        TRY(const Place place, place_in_root(root, wanted));
        const os::UniqueFd made(openat(place.directory.get(), place.name.c_str(),
                                       O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644));
        if (!made && errno != EEXIST)
            return os::fail_errno(errno, "make the file ", path);
        struct stat about {};
        // A link to what is missing: /etc/resolv.conf of many images.
        if (!made &&
            fstatat(place.directory.get(), place.name.c_str(), &about, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISLNK(about.st_mode)) {
            const std::string parent = wanted.substr(0, wanted.rfind(place.name));
            TRY(wanted, through_link(place.directory.get(), parent, place.name, ""));
        }
    }
    return os::fail_errno(ELOOP, path);
}

} // namespace container
