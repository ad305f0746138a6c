#include "tools/joey/containers/layer.hpp"

#include <cerrno>
#include <fcntl.h>
#include <sched.h>

#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#include "agent/os/files.hpp"
#include "tools/pod/state_files.hpp"

namespace joey::containers {

namespace {

// An overlay cannot be the upper part of another.
bool takes_overlay(const std::string& directory) {
    struct statfs about {};
    return ::statfs(directory.c_str(), &about) == 0 &&
           static_cast<std::uint32_t>(about.f_type) !=
               static_cast<std::uint32_t>(OVERLAYFS_SUPER_MAGIC);
}

os::Result<os::UniqueFd> open_directory(const std::string& path) {
    os::UniqueFd out(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!out)
        return os::fail_errno(errno, path);
    return out;
}

// The layer's own top has the image's mode and owner.
os::Result<void> copy_mode(const std::string& from, const std::string& to) {
    struct stat about {};
    if (::stat(from.c_str(), &about) != 0 || ::chmod(to.c_str(), about.st_mode & 07777) != 0 ||
        ::chown(to.c_str(), about.st_uid, about.st_gid) != 0)
        return os::fail_errno(errno, to);
    return {};
}

} // namespace

os::Result<void> copy_tree(int from, const std::string& to) {
    // cp(1) follows no links below its argument, and knows of reflinks and holes.
    const pid_t child = ::fork();
    if (child == 0) {
        const int source = ::fcntl(from, F_DUPFD, 3);
        os::close_all_but({source});
        const std::string place = os::text("/proc/self/fd/", source, "/.");
        ::execl("/bin/cp", "cp", "-a", "--reflink=auto", "--", place.c_str(), to.c_str(),
                static_cast<char*>(nullptr));
        ::_exit(127);
    }
    if (child < 0)
        return os::fail_errno(errno, "fork");
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return os::fail(os::Code::Internal, "cannot copy to ", to);
    return {};
}

os::Result<void> prepare_layer(Container& container, const std::string& directory,
                               const std::string& image_root) {
    container.layer = directory + "/layer";
    TRY(pod::make_directories(container.layer));
    if (!takes_overlay(directory)) {
        TRY(const os::UniqueFd source, open_directory(image_root));
        container.root = container.layer + "/copy";
        TRY(pod::make_directories(container.root));
        TRY(copy_tree(source.get(), container.root));
        return copy_mode(image_root, container.root);
    }
    container.lower = image_root;
    container.root = directory + "/root";
    TRY(pod::make_directories(container.layer + "/upper"));
    TRY(pod::make_directories(container.layer + "/work"));
    TRY(pod::make_directories(container.root));
    return copy_mode(image_root, container.layer + "/upper");
}

os::Result<void> enter_own_mounts() {
    if (::unshare(CLONE_NEWNS) != 0 ||
        // What the host mounts comes here too; what is mounted here stays here.
        ::mount(nullptr, "/", nullptr, MS_REC | MS_SLAVE, nullptr) != 0)
        return os::fail_errno(errno, "make a mount namespace");
    return {};
}

void unmount_root(const Container& container) {
    if (!container.lower.empty())
        ::umount2(container.root.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW);
}

os::Result<void> mount_root(const Container& container) {
    if (container.lower.empty())
        return {};
    TRY(const os::UniqueFd lower, open_directory(container.lower));
    TRY(const os::UniqueFd upper, open_directory(container.layer + "/upper"));
    TRY(const os::UniqueFd work, open_directory(container.layer + "/work"));
    // By descriptor: commas and colons in paths mean something here.
    const std::string options =
        os::text("lowerdir=/proc/self/fd/", lower.get(), ",upperdir=/proc/self/fd/", upper.get(),
                 ",workdir=/proc/self/fd/", work.get());
    if (::mount("joey", container.root.c_str(), "overlay", MS_NODEV | MS_NOSUID, options.c_str()) !=
        0)
        return os::fail_errno(errno, "mount the container's root directory (overlayfs at ",
                              container.root, ")");
    return {};
}

} // namespace joey::containers
