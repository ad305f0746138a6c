#include "tools/pod/mount_namespace.hpp"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <sched.h>
#include <unistd.h>
#include <vector>

#include <linux/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "agent/os/files.hpp"

// <sys/mount.h> does not stand beside <linux/mount.h>; these are its declarations of the C
// library's.
extern "C" {
int mount(const char* source, const char* target, const char* type, unsigned long flags,
          const void* data) noexcept;
int umount2(const char* target, int flags) noexcept;
}

namespace pod {

namespace {

constexpr unsigned long recursive_slave = (1ul << 14) | (1ul << 19); // MS_REC | MS_SLAVE
constexpr int detach = 2;                                            // MNT_DETACH
constexpr int no_follow = 8;                                         // UMOUNT_NOFOLLOW

// "\040" and its like, as proc(5) writes blanks.
std::string unescaped(std::string_view text) {
    const auto is_octal = [](char c) { return c >= '0' && c <= '7'; };
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '\\' && i + 3 < text.size() && is_octal(text[i + 1]) &&
            is_octal(text[i + 2]) && is_octal(text[i + 3])) {
            out += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 +
                                     (text[i + 3] - '0'));
            i += 3;
        } else {
            out += text[i];
        }
    }
    return out;
}

// The fifth field of each line, in the order in which they were mounted.
std::vector<std::string> mount_points(std::string_view table) {
    std::vector<std::string> out;
    while (!table.empty()) {
        const std::size_t end = std::min(table.find('\n'), table.size());
        std::string_view line = table.substr(0, end);
        table.remove_prefix(std::min(end + 1, table.size()));
        constexpr int fields_before = 4;
        for (int i = 0; i < fields_before; ++i)
            line.remove_prefix(std::min(line.find(' ') + 1, line.size()));
        line = line.substr(0, line.find(' '));
        if (!line.empty())
            out.push_back(unescaped(line));
    }
    return out;
}

bool is_on_the_way(const std::string& mount, std::span<const std::string> needed) {
    return mount == "/" || std::any_of(needed.begin(), needed.end(), [&](const std::string& path) {
               return path == mount || path.starts_with(mount + "/");
           });
}

} // namespace

os::Result<void> enter_private_mounts(std::span<const std::string> needed) {
    if (::unshare(CLONE_NEWNS) != 0)
        return os::fail_errno(errno, "make a mount namespace");
    // What the host unmounts goes here too; what is mounted here stays here.
    if (::mount(nullptr, "/", nullptr, recursive_slave, nullptr) != 0)
        return os::fail_errno(errno, "cut the mount namespace off");
    constexpr std::size_t most = 64u << 20;
    TRY(const std::string table, os::read_file(AT_FDCWD, "/proc/self/mountinfo", most));
    std::vector<std::string> places = mount_points(table);
    // The last first: a mount can lie below an earlier one only.
    std::reverse(places.begin(), places.end());
    for (const std::string& place : places) {
        if (!is_on_the_way(place, needed))
            ::umount2(place.c_str(), detach | no_follow);
    }
    return {};
}

os::Result<os::UniqueFd> copy_of_mount(const std::string& source, bool recursive, bool read_only) {
    const unsigned flags =
        OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (recursive ? unsigned{AT_RECURSIVE} : 0u);
    os::UniqueFd tree(static_cast<int>(::syscall(SYS_open_tree, AT_FDCWD, source.c_str(), flags)));
    if (!tree)
        return os::fail_errno(errno, source);
    mount_attr attributes{};
    constexpr std::uint64_t private_propagation = 1ul << 18; // MS_PRIVATE
    attributes.propagation = private_propagation;
    // The guest's set-id bits and device nodes are the guest's; on the host none of them counts.
    attributes.attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
    if (read_only)
        attributes.attr_set |= MOUNT_ATTR_RDONLY;
    if (::syscall(SYS_mount_setattr, tree.get(), "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes,
                  sizeof attributes) != 0)
        return os::fail_errno(errno, source, ": set the attributes of its copy");
    return tree;
}

os::Result<void> seal_directory(const std::string& directory) {
    TRY(const os::UniqueFd tree, copy_of_mount(directory, false, true));
    if (::syscall(SYS_move_mount, tree.get(), "", AT_FDCWD, directory.c_str(),
                  MOVE_MOUNT_F_EMPTY_PATH) != 0)
        return os::fail_errno(errno, directory, ": mount it read-only");
    return {};
}

os::Result<void> mount_for(const ProcessId& process, std::span<const MountCopy> copies) {
    const std::string proc = os::text("/proc/", process.pid);
    const os::UniqueFd names(::open((proc + "/ns/mnt").c_str(), O_RDONLY | O_CLOEXEC));
    // By its own root: the caller's may be another in that namespace.
    const os::UniqueFd root(::open((proc + "/root").c_str(), O_PATH | O_CLOEXEC));
    const int opened = errno;
    // The number is that process's only if it is alive after both were opened.
    if (!process.is_alive())
        return os::fail(os::Code::Unavailable, "the VM has ended");
    if (!names || !root)
        return os::fail_errno(opened, "look into the VM's mount namespace");
    std::vector<os::UniqueFd> places;
    for (const MountCopy& copy : copies) {
        places.emplace_back(
            ::openat(root.get(), copy.target.substr(1).c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
        if (!places.back())
            return os::fail_errno(errno, "look into the VM's mount namespace for ", copy.target);
    }
    // Whoever enters another mount namespace must have one thread, and cannot come back.
    const pid_t child = ::fork();
    if (child == 0) {
        if (::setns(names.get(), CLONE_NEWNS) != 0)
            ::_exit(errno);
        for (std::size_t i = 0; i < copies.size(); ++i) {
            if (::syscall(SYS_move_mount, copies[i].tree.get(), "", places[i].get(), "",
                          MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) != 0)
                ::_exit(errno);
        }
        ::_exit(0);
    }
    if (child < 0)
        return os::fail_errno(errno, "fork");
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return os::fail_errno(WIFEXITED(status) ? WEXITSTATUS(status) : EIO, "mount ",
                              copies.front().target, " for the VM");
    return {};
}

} // namespace pod
