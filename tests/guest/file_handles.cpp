// name_to_handle_at(2), open_by_handle_at(2).
#include <vector>

#include "tests/guest/file_support.hpp"

namespace {

struct Handle {
    explicit Handle(unsigned bytes = MAX_HANDLE_SZ) : memory(sizeof(file_handle) + MAX_HANDLE_SZ) {
        get()->handle_bytes = bytes;
    }
    file_handle* get() { return reinterpret_cast<file_handle*>(memory.data()); }
    bool operator==(Handle& other) {
        return get()->handle_bytes == other.get()->handle_bytes &&
               get()->handle_type == other.get()->handle_type &&
               std::memcmp(get()->f_handle, other.get()->f_handle, get()->handle_bytes) == 0;
    }
    std::vector<char> memory;
};

void handles(const ScratchDirectory& dir) {
    make_file(dir.path("file"), "by handle");
    CHECK(link(dir.path("file").c_str(), dir.path("other").c_str()) == 0);
    CHECK(symlink("file", dir.path("link").c_str()) == 0);
    CHECK(mkdir(dir.path("sub").c_str(), 0755) == 0);
    Handle file, other, sub, link_itself, small(0);
    int mount = -1, mount2 = -1;
    CHECK(name_to_handle_at(dir.fd(), "file", file.get(), &mount, 0) == 0);
    CHECK(file.get()->handle_bytes > 0 && file.get()->handle_bytes <= MAX_HANDLE_SZ);
    CHECK(name_to_handle_at(dir.fd(), "other", other.get(), &mount2, 0) == 0);
    CHECK(mount == mount2 && file == other); // of the file, not of the name
    CHECK(name_to_handle_at(dir.fd(), "sub", sub.get(), &mount2, 0) == 0 && !(sub == file));
    CHECK(name_to_handle_at(dir.fd(), "link", link_itself.get(), &mount2, 0) == 0);
    CHECK(!(link_itself == file));
    Handle followed;
    CHECK(name_to_handle_at(dir.fd(), "link", followed.get(), &mount2, AT_SYMLINK_FOLLOW) == 0);
    CHECK(followed == file);
    CHECK_FAILS(name_to_handle_at(dir.fd(), "file", small.get(), &mount2, 0), EOVERFLOW);
    CHECK(small.get()->handle_bytes == file.get()->handle_bytes && mount2 == mount);
    Handle large(MAX_HANDLE_SZ + 1), any;
    CHECK_FAILS(name_to_handle_at(dir.fd(), "file", large.get(), &mount2, 0), EINVAL);
    CHECK_FAILS(name_to_handle_at(dir.fd(), "file", any.get(), &mount2, 0x4000'0000), EINVAL);
    CHECK_FAILS(name_to_handle_at(dir.fd(), "none", any.get(), &mount2, 0), ENOENT);
    CHECK_FAILS(name_to_handle_at(dir.fd(), "", any.get(), &mount2, 0), ENOENT);
    CHECK_FAILS(name_to_handle_at(999, "file", any.get(), &mount2, 0), EBADF);
    Handle itself;
    CHECK(name_to_handle_at(dir.fd(), "", itself.get(), &mount2, AT_EMPTY_PATH) == 0);
    small.get()->handle_bytes = 0;
    CHECK_FAILS(name_to_handle_at(AT_FDCWD, "/proc/self/status", any.get(), &mount2, 0),
                EOPNOTSUPP);
    // Only to be compared with others (AT_HANDLE_FID, since Linux 6.5): there is one of every file.
    constexpr int fid = 0x200;
    Handle status, status2, cmdline;
    if (name_to_handle_at(AT_FDCWD, "/proc/self/status", status.get(), &mount2, fid) == 0) {
        CHECK(status.get()->handle_bytes == 12 && status.get()->handle_type == 0x81);
        CHECK(name_to_handle_at(AT_FDCWD, "/proc/self/status", status2.get(), &mount2, fid) == 0);
        CHECK(name_to_handle_at(AT_FDCWD, "/proc/self/cmdline", cmdline.get(), &mount2, fid) == 0);
        CHECK(status == status2 && !(status == cmdline));
        CHECK(name_to_handle_at(dir.fd(), "file", followed.get(), &mount2, fid) == 0);
        CHECK(followed == file);
        CHECK_FAILS(name_to_handle_at(AT_FDCWD, "/proc", small.get(), &mount2, fid), EOVERFLOW);
        const int proc = open("/proc", O_RDONLY);
        const int fd = open_by_handle_at(proc, status.get(), O_RDONLY);
        CHECK(fd == -1 && (errno == ESTALE || errno == EPERM));
        close(proc);
    } else {
        CHECK(errno == EINVAL);
    }

    if (!is_root())
        return;
    int fd = open_by_handle_at(dir.fd(), file.get(), O_RDWR);
    if (fd < 0 && errno == EPERM)
        return; // root without CAP_DAC_READ_SEARCH
    char text[16] = {};
    CHECK(fd >= 0 && read(fd, text, sizeof text) == 9 && std::string(text) == "by handle");
    struct stat s;
    CHECK(fstat(fd, &s) == 0 && s.st_ino == stat_of(dir.path("file")).st_ino);
    close(fd);
    fd = open_by_handle_at(dir.fd(), sub.get(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(fd >= 0 && fcntl(fd, F_GETFD) == FD_CLOEXEC);
    CHECK(fstatat(fd, "..", &s, 0) == 0 && s.st_ino == stat_of(dir.name()).st_ino);
    close(fd);
    CHECK_FAILS(open_by_handle_at(dir.fd(), sub.get(), O_RDWR), EISDIR);
    CHECK_FAILS(open_by_handle_at(dir.fd(), file.get(), O_RDONLY | O_DIRECTORY), ENOTDIR);
    CHECK_FAILS(open_by_handle_at(dir.fd(), link_itself.get(), O_RDONLY), ELOOP);
    fd = open_by_handle_at(dir.fd(), link_itself.get(), O_PATH);
    CHECK(fd >= 0 && readlinkat(fd, "", text, sizeof text) == 4);
    close(fd);
    CHECK_FAILS(open_by_handle_at(999, file.get(), O_RDONLY), EBADF);
    Handle empty(0);
    CHECK_FAILS(open_by_handle_at(dir.fd(), empty.get(), O_RDONLY), EINVAL);
    CHECK_FAILS(open_by_handle_at(dir.fd(), large.get(), O_RDONLY), EINVAL);
    CHECK_FAILS(open_by_handle_at(dir.fd(), nullptr, O_RDONLY), EFAULT);
    // A new name is the same file; one without names is not to be had any more.
    CHECK(rename(dir.path("other").c_str(), dir.path("renamed").c_str()) == 0);
    fd = open_by_handle_at(dir.fd(), file.get(), O_RDONLY);
    CHECK(fd >= 0);
    close(fd);
    CHECK(unlink(dir.path("file").c_str()) == 0 && unlink(dir.path("renamed").c_str()) == 0);
    CHECK_FAILS(open_by_handle_at(dir.fd(), file.get(), O_RDONLY), ESTALE);
    in_child([&] {
        CHECK(setuid(4321) == 0);
        CHECK_FAILS(open_by_handle_at(dir.fd(), sub.get(), O_RDONLY), EPERM);
    });
}

} // namespace

int main() {
    umask(022);
    on_each_file_system(handles);
}
