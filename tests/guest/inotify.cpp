// inotify(7): which events come, in which order, and how watches end.
#include <fcntl.h>
#include <map>
#include <poll.h>
#include <sched.h>
#include <string>
#include <unistd.h>
#include <vector>

#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "tests/guest/check.hpp"

namespace {

struct Event {
    int watch;
    uint32_t mask, cookie;
    std::string name;
};

int queue = -1;
std::string directory;

std::vector<Event> events() {
    std::vector<Event> out;
    alignas(inotify_event) char buffer[8192];
    for (;;) {
        const ssize_t bytes = read(queue, buffer, sizeof buffer);
        if (bytes < 0) {
            CHECK(errno == EAGAIN);
            return out;
        }
        for (ssize_t at = 0; at < bytes;) {
            inotify_event event;
            std::memcpy(&event, buffer + at, sizeof event);
            out.push_back({event.wd, event.mask, event.cookie,
                           event.len != 0 ? std::string(buffer + at + sizeof event) : ""});
            at += static_cast<ssize_t>(sizeof event + event.len);
        }
    }
}

void expect(const std::vector<Event>& wanted) {
    const std::vector<Event> got = events();
    bool same = got.size() == wanted.size();
    for (size_t i = 0; same && i < got.size(); i++)
        same = got[i].watch == wanted[i].watch && got[i].mask == wanted[i].mask &&
               got[i].name == wanted[i].name;
    if (same)
        return;
    for (const Event& event : wanted)
        std::fprintf(stderr, "wanted: watch %d mask %#x name '%s'\n", event.watch, event.mask,
                     event.name.c_str());
    for (const Event& event : got)
        std::fprintf(stderr, "got:    watch %d mask %#x name '%s'\n", event.watch, event.mask,
                     event.name.c_str());
    CHECK(same);
}

std::string path(const char* name) {
    return directory + "/" + name;
}

void errors() {
    CHECK_FAILS(inotify_init1(12345), EINVAL);
    CHECK_FAILS(inotify_add_watch(queue, directory.c_str(), 0), EINVAL);
    CHECK_FAILS(inotify_add_watch(queue, path("none").c_str(), IN_OPEN), ENOENT);
    CHECK_FAILS(inotify_add_watch(0x7fff, directory.c_str(), IN_OPEN), EBADF);
    CHECK_FAILS(inotify_rm_watch(queue, 77), EINVAL);
    int pipe_ends[2];
    CHECK(pipe(pipe_ends) == 0);
    CHECK_FAILS(inotify_add_watch(pipe_ends[0], directory.c_str(), IN_OPEN), EINVAL);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
    char byte;
    CHECK_FAILS(read(queue, &byte, 1), EAGAIN);
}

void entries_of_a_directory() {
    const int watch =
        inotify_add_watch(queue, directory.c_str(), IN_CREATE | IN_DELETE | IN_MOVE | IN_ONLYDIR);
    CHECK(watch > 0);
    const int fd = open(path("file").c_str(), O_CREAT | O_RDWR, 0600);
    close(fd);
    CHECK(mkdir(path("sub").c_str(), 0700) == 0);
    pollfd ready{queue, POLLIN, 0};
    CHECK(poll(&ready, 1, 0) == 1);
    int bytes = 0;
    CHECK(ioctl(queue, FIONREAD, &bytes) == 0);
    CHECK(bytes == 2 * (static_cast<int>(sizeof(inotify_event)) + 16));
    char small[20];
    CHECK_FAILS(read(queue, small, sizeof small), EINVAL);
    expect({{watch, IN_CREATE, 0, "file"}, {watch, IN_CREATE | IN_ISDIR, 0, "sub"}});
    CHECK(rename(path("file").c_str(), path("name").c_str()) == 0);
    const std::vector<Event> moved = events();
    CHECK(moved.size() == 2);
    CHECK(moved[0].mask == IN_MOVED_FROM && moved[0].name == "file");
    CHECK(moved[1].mask == IN_MOVED_TO && moved[1].name == "name");
    CHECK(moved[0].cookie != 0 && moved[0].cookie == moved[1].cookie);
    CHECK(symlink("x", path("link").c_str()) == 0);
    CHECK(link(path("name").c_str(), path("hard").c_str()) == 0);
    expect({{watch, IN_CREATE, 0, "link"}, {watch, IN_CREATE, 0, "hard"}});
    for (const char* name : {"name", "link", "hard"})
        CHECK(unlink(path(name).c_str()) == 0);
    CHECK(rmdir(path("sub").c_str()) == 0);
    expect({{watch, IN_DELETE, 0, "name"},
            {watch, IN_DELETE, 0, "link"},
            {watch, IN_DELETE, 0, "hard"},
            {watch, IN_DELETE | IN_ISDIR, 0, "sub"}});
    CHECK(inotify_rm_watch(queue, watch) == 0);
    expect({{watch, IN_IGNORED, 0, ""}});
    CHECK_FAILS(inotify_rm_watch(queue, watch), EINVAL);
}

void life_of_a_file() {
    const std::string name = path("data");
    int fd = open(name.c_str(), O_CREAT | O_RDWR, 0600);
    CHECK(write(fd, "abc", 3) == 3);
    close(fd);
    const int watch = inotify_add_watch(queue, name.c_str(), IN_ALL_EVENTS);
    fd = open(name.c_str(), O_RDWR);
    char buffer[8];
    CHECK(read(fd, buffer, sizeof buffer) == 3);
    CHECK(write(fd, "d", 1) == 1);
    CHECK(write(fd, "e", 1) == 1); // one event with the one before: nobody has read it
    CHECK(fchmod(fd, 0644) == 0);
    close(fd);
    close(open(name.c_str(), O_RDONLY));
    expect({{watch, IN_OPEN, 0, ""},
            {watch, IN_ACCESS, 0, ""},
            {watch, IN_MODIFY, 0, ""},
            {watch, IN_ATTRIB, 0, ""},
            {watch, IN_CLOSE_WRITE, 0, ""},
            {watch, IN_OPEN, 0, ""},
            {watch, IN_CLOSE_NOWRITE, 0, ""}});
    CHECK(truncate(name.c_str(), 1) == 0);
    expect({{watch, IN_MODIFY, 0, ""}});
    CHECK(rename(name.c_str(), path("moved").c_str()) == 0);
    expect({{watch, IN_MOVE_SELF, 0, ""}});
    // It goes when the last descriptor does.
    fd = open(path("moved").c_str(), O_RDONLY);
    CHECK(unlink(path("moved").c_str()) == 0);
    expect({{watch, IN_OPEN, 0, ""}, {watch, IN_ATTRIB, 0, ""}});
    close(fd);
    expect({{watch, IN_CLOSE_NOWRITE, 0, ""},
            {watch, IN_DELETE_SELF, 0, ""},
            {watch, IN_IGNORED, 0, ""}});
}

void masks() {
    const std::string name = path("masked");
    close(open(name.c_str(), O_CREAT | O_RDWR, 0600));
    const int watch = inotify_add_watch(queue, name.c_str(), IN_OPEN);
    CHECK(inotify_add_watch(queue, name.c_str(), IN_CLOSE_NOWRITE | IN_MASK_ADD) == watch);
    CHECK_FAILS(inotify_add_watch(queue, name.c_str(), IN_OPEN | IN_MASK_CREATE), EEXIST);
    close(open(name.c_str(), O_RDONLY));
    expect({{watch, IN_OPEN, 0, ""}, {watch, IN_CLOSE_NOWRITE, 0, ""}});
    CHECK(inotify_add_watch(queue, name.c_str(), IN_CLOSE_NOWRITE | IN_ONESHOT) == watch);
    close(open(name.c_str(), O_RDONLY));
    close(open(name.c_str(), O_RDONLY));
    expect({{watch, IN_CLOSE_NOWRITE, 0, ""}, {watch, IN_IGNORED, 0, ""}});
    CHECK_FAILS(inotify_add_watch(queue, name.c_str(), IN_OPEN | IN_ONLYDIR), ENOTDIR);
    CHECK(unlink(name.c_str()) == 0);
    expect({});
}

void end_of_a_directory() {
    const std::string name = path("ends");
    CHECK(mkdir(name.c_str(), 0700) == 0);
    const int watch = inotify_add_watch(queue, name.c_str(), IN_DELETE_SELF | IN_CREATE);
    CHECK(rmdir(name.c_str()) == 0);
    const std::vector<Event> got = events();
    CHECK(got.size() == 2);
    CHECK(got[0].watch == watch && (got[0].mask & IN_DELETE_SELF) != 0);
    CHECK(got[1].mask == IN_IGNORED);
}

// IN_EXCL_UNLINK: what happens to a child without a name is no event of its directory any more.
void unlinked_children() {
    for (const bool exclude : {false, true}) {
        const std::string name = path("child");
        const int fd = open(name.c_str(), O_CREAT | O_RDWR, 0600);
        const uint32_t flag = exclude ? uint32_t{IN_EXCL_UNLINK} : 0;
        const int watch = inotify_add_watch(queue, directory.c_str(), IN_MODIFY | IN_DELETE | flag);
        CHECK(fd >= 0 && watch > 0);
        CHECK(write(fd, "a", 1) == 1);
        expect({{watch, IN_MODIFY, 0, "child"}});
        CHECK(unlink(name.c_str()) == 0);
        expect({{watch, IN_DELETE, 0, "child"}});
        CHECK(write(fd, "b", 1) == 1);
        if (exclude)
            expect({});
        else
            expect({{watch, IN_MODIFY, 0, "child"}});
        close(fd);
        CHECK(inotify_rm_watch(queue, watch) == 0);
        (void)events();
    }
}

// Who watches what is unmounted is told; the watch does not keep the file system in use.
void unmounts() {
    if (unshare(CLONE_NEWNS) != 0)
        return; // not as root
    CHECK(mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
    const std::string top = directory + "/mount";
    CHECK(mkdir(top.c_str(), 0755) == 0);
    for (const int how : {0, int{MNT_DETACH}}) {
        CHECK(mount("joey-test", top.c_str(), "tmpfs", 0, nullptr) == 0);
        const std::string file = top + "/file";
        close(open(file.c_str(), O_WRONLY | O_CREAT, 0600));
        const int watch = inotify_add_watch(queue, file.c_str(), IN_ALL_EVENTS);
        CHECK(watch >= 0);
        CHECK(umount2(top.c_str(), how) == 0);
        const std::vector<Event> got = events();
        CHECK(got.size() == 2);
        CHECK(got[0].watch == watch && got[0].mask == IN_UNMOUNT);
        CHECK(got[1].watch == watch && got[1].mask == IN_IGNORED);
        CHECK_FAILS(inotify_rm_watch(queue, watch), EINVAL);
    }
    CHECK(rmdir(top.c_str()) == 0);
}

} // namespace

int main() {
    char name[] = "/tmp/joey-inotify-XXXXXX";
    CHECK(mkdtemp(name) != nullptr);
    directory = name;
    queue = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    CHECK(queue >= 0);
    errors();
    entries_of_a_directory();
    life_of_a_file();
    masks();
    end_of_a_directory();
    unlinked_children();
    unmounts();
    close(queue);
    CHECK(rmdir(name) == 0);
}
