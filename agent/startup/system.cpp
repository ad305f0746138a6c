#include "agent/startup/system.hpp"

#include <array>
#include <cerrno>
#include <fcntl.h>
#include <unistd.h>

#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "agent/os/files.hpp"

namespace startup {

namespace {

struct SystemMount {
    const char* target;
    const char* type;
    unsigned long flags;
    const char* data;
    long magic; // what statfs() says when it is there
};

// A tmpfs and a devtmpfs look alike to statfs(): whatever is in the place of /dev will do, if it
// has /dev/null.
constexpr std::array mounts = {
    SystemMount{"/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "", PROC_SUPER_MAGIC},
    SystemMount{"/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "", SYSFS_MAGIC},
    SystemMount{"/dev", "devtmpfs", MS_NOSUID, "mode=0755", TMPFS_MAGIC},
    SystemMount{"/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666",
                DEVPTS_SUPER_MAGIC},
    SystemMount{"/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777", TMPFS_MAGIC},
    SystemMount{"/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755", TMPFS_MAGIC},
    SystemMount{"/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, "",
                CGROUP2_SUPER_MAGIC},
};

bool is_there(const SystemMount& wanted) {
    struct stat place {};
    struct stat parent {};
    struct statfs about {};
    const std::string target = wanted.target;
    if (statfs(wanted.target, &about) != 0 || about.f_type != wanted.magic)
        return false;
    // A directory of the mount above has the same magic and the same device.
    const std::string above = target.substr(0, std::max<std::size_t>(target.rfind('/'), 1));
    return stat(wanted.target, &place) == 0 && stat(above.c_str(), &parent) == 0 &&
           place.st_dev != parent.st_dev;
}

} // namespace

os::Result<void> set_up_system(bool new_pids) {
    // The one that is there shows another pid namespace's processes.
    if (new_pids)
        umount2("/proc", MNT_DETACH);
    for (const SystemMount& wanted : mounts) {
        if (is_there(wanted))
            continue;
        if (mkdir(wanted.target, 0755) != 0 && errno != EEXIST && errno != EROFS)
            return os::fail_errno(errno, "make ", wanted.target);
        if (mount(wanted.type, wanted.target, wanted.type, wanted.flags, wanted.data) != 0)
            return os::fail_errno(errno, "mount ", wanted.target);
    }
    return {};
}

void outlive_want_of_memory() {
    // A container of a Guaranteed pod has -997, so that the agent with 0 would go before it.
    static_cast<void>(os::write_file(AT_FDCWD, "/proc/self/oom_score_adj", "-1000").has_value());
}

} // namespace startup
