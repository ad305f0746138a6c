// Instances of devpts: each mount has terminals of its own, and /dev/ptmx belongs to the "pts"
// beside it. pts(4), devpts.rst. As root, in a mount namespace of its own.
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <string>
#include <unistd.h>

#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

#include "tests/guest/file_support.hpp"

namespace {

void begin() {
    CHECK(unshare(CLONE_NEWNS) == 0);
    CHECK(mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
    CHECK(mount("base", "/tmp", "tmpfs", 0, "mode=0755") == 0);
    CHECK(chdir("/tmp") == 0);
    for (const char* name : {"a", "a/pts", "b", "b/pts", "c"})
        CHECK(mkdir(name, 0755) == 0);
}

int open_master(const char* name, int& number) {
    const int fd = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    CHECK(fd >= 0);
    CHECK(ioctl(fd, TIOCGPTN, &number) == 0);
    const int unlocked = 0;
    CHECK(ioctl(fd, TIOCSPTLCK, &unlocked) == 0);
    return fd;
}

std::string options_of(const std::string& place) {
    const std::string all = contents_of("/proc/self/mountinfo");
    const size_t at = all.find(" " + place + " ");
    CHECK(at != std::string::npos);
    const std::string line = all.substr(at, all.find('\n', at) - at);
    return line.substr(line.rfind(' ') + 1);
}

int count(const char* directory) {
    DIR* open = opendir(directory);
    CHECK(open != nullptr);
    int found = 0;
    while (readdir(open) != nullptr)
        found++;
    closedir(open);
    return found - 2;
}

void instances() {
    begin();
    CHECK(mount("devpts", "a/pts", "devpts", MS_NOSUID | MS_NOEXEC,
                "newinstance,ptmxmode=0666,mode=0620,gid=5") == 0);
    CHECK(mount("devpts", "b/pts", "devpts", MS_NOSUID | MS_NOEXEC, nullptr) == 0);
    struct statfs status {};
    CHECK(statfs("a/pts", &status) == 0 && status.f_type == DEVPTS_SUPER_MAGIC);
    CHECK(options_of("/tmp/a/pts") == "rw,gid=5,mode=620,ptmxmode=666");
    CHECK(options_of("/tmp/b/pts") == "rw,mode=600,ptmxmode=000");
    const struct stat ptmx = stat_of("a/pts/ptmx");
    CHECK(S_ISCHR(ptmx.st_mode) && (ptmx.st_mode & 0777) == 0666 && ptmx.st_ino == 2);
    CHECK(ptmx.st_rdev == makedev(5, 2));
    CHECK((stat_of("b/pts/ptmx").st_mode & 0777) == 0);
    CHECK(stat_of("a/pts").st_dev != stat_of("b/pts").st_dev);

    int one = -1, two = -1, other = -1;
    const int first = open_master("a/pts/ptmx", one);
    const int second = open_master("a/pts/ptmx", two);
    const int foreign = open_master("b/pts/ptmx", other);
    CHECK(one == 0 && two == 1 && other == 0);
    CHECK(count("a/pts") == 3 && count("b/pts") == 2);
    const struct stat slave = stat_of("a/pts/0");
    CHECK(slave.st_gid == 5 && (slave.st_mode & 0777) == 0620 && slave.st_rdev == makedev(136, 0));
    CHECK(stat_of("b/pts/0").st_gid == 0 && (stat_of("b/pts/0").st_mode & 0777) == 0600);

    const int end = open("a/pts/0", O_RDWR | O_NOCTTY);
    CHECK(end >= 0 && write(first, "x\n", 2) == 2);
    char text[8] = {};
    CHECK(read(end, text, sizeof text) == 2 && text[0] == 'x');
    CHECK(contents_of("/proc/sys/kernel/pty/nr") != "");
    // Without a name in this tree.
    const int peer = ioctl(foreign, TIOCGPTPEER, O_RDWR | O_NOCTTY);
    CHECK(peer >= 0);
    char link[64] = {};
    CHECK(readlink(("/proc/self/fd/" + std::to_string(peer)).c_str(), link, sizeof link) > 0);
    CHECK(std::string(link) == "/tmp/b/pts/0");

    // The number is free again, and what it led to is gone.
    close(end);
    close(first);
    CHECK_FAILS(open("a/pts/0", O_RDWR | O_NOCTTY), ENOENT);
    CHECK(count("a/pts") == 2);
    const int again = open_master("a/pts/ptmx", one);
    CHECK(one == 0);
    close(again);
    close(second);
    close(peer);
    close(foreign);
    CHECK(umount("a/pts") == 0 && umount("b/pts") == 0);
}

void nodes() {
    begin();
    CHECK(mount("devpts", "a/pts", "devpts", 0, "max=2") == 0);
    CHECK(options_of("/tmp/a/pts") == "rw,mode=600,ptmxmode=000,max=2");
    CHECK(mknod("a/ptmx", S_IFCHR | 0666, makedev(5, 2)) == 0);
    CHECK(mknod("c/ptmx", S_IFCHR | 0666, makedev(5, 2)) == 0);
    CHECK(mknod("c/slave", S_IFCHR | 0666, makedev(136, 0)) == 0);
    CHECK(mknod("b/ptmx", S_IFCHR | 0666, makedev(5, 2)) == 0);
    int number = -1;
    const int first = open_master("a/ptmx", number);
    CHECK(number == 0 && count("a/pts") == 2);
    const int second = open_master("a/ptmx", number);
    CHECK(number == 1);
    CHECK_FAILS(open("a/ptmx", O_RDWR | O_NOCTTY), ENOSPC);
    close(second);
    CHECK_FAILS(open("c/ptmx", O_RDWR | O_NOCTTY), ENOENT); // nothing beside it
    CHECK_FAILS(open("b/ptmx", O_RDWR | O_NOCTTY), ENODEV);
    CHECK_FAILS(open("c/slave", O_RDWR | O_NOCTTY), EIO); // a number alone is no terminal
    // A slave over a file, as container engines do for /dev/console.
    make_file("c/console");
    CHECK(mount("a/pts/0", "c/console", nullptr, MS_BIND, nullptr) == 0);
    const int console = open("c/console", O_RDWR | O_NOCTTY);
    CHECK(console >= 0 && isatty(console) == 1);
    CHECK(write(console, "out", 3) == 3);
    char text[8] = {};
    CHECK(read(first, text, sizeof text) == 3);
    close(console);
    // And ptmx over a node elsewhere.
    CHECK(mount("a/pts/ptmx", "c/ptmx", nullptr, MS_BIND, nullptr) == 0);
    const int third = open_master("c/ptmx", number);
    CHECK(number == 1);
    close(third);
    close(first);
    CHECK(umount("c/ptmx") == 0 && umount("c/console") == 0);

    CHECK(mount(nullptr, "a/pts", nullptr, MS_REMOUNT, "mode=640,ptmxmode=0666") == 0);
    CHECK(options_of("/tmp/a/pts") == "rw,mode=640,ptmxmode=666");
    CHECK((stat_of("a/pts/ptmx").st_mode & 0777) == 0666);
    CHECK(chmod("a/pts/ptmx", 0600) == 0 && (stat_of("a/pts/ptmx").st_mode & 0777) == 0600);
    CHECK_FAILS(mount("devpts", "b/pts", "devpts", 0, "nosuch"), EINVAL);
    CHECK_FAILS(mount("devpts", "b/pts", "devpts", 0, "mode=9"), EINVAL);
    CHECK_FAILS(mkdir("a/pts/x", 0755), EPERM);
    CHECK_FAILS(unlink("a/pts/ptmx"), EPERM);
}

} // namespace

int main() {
    if (!is_root()) {
        std::fprintf(stderr, "this test needs root\n");
        return 1;
    }
    in_child(instances);
    in_child(nodes);
    return 0;
}
