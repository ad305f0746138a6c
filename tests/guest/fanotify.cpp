// fanotify(7): who may ask for what, which events come by descriptor and by handle, questions, and
// what fdinfo shows.
#include <map>
#include <poll.h>
#include <thread>
#include <vector>

#include <linux/fanotify.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <sys/syscall.h>

#include "tests/guest/file_support.hpp"

namespace {

constexpr int here = AT_FDCWD;

int make_group(unsigned flags, unsigned event_flags = O_RDONLY) {
    return static_cast<int>(syscall(SYS_fanotify_init, flags, event_flags));
}
int mark(int group, unsigned flags, uint64_t mask, const char* name, int directory = here) {
    return static_cast<int>(syscall(SYS_fanotify_mark, group, flags, mask, directory, name));
}

struct Record {
    int type = 0;
    std::string handle, name;
};
struct Event {
    uint64_t mask = 0;
    int pid = 0, fd = -1;
    std::string name; // of what the descriptor is for
    std::vector<Record> records;
    int pidfd = -3;
    std::string file_system; // of the first record
};

void parse_records(Event& event, const char* at, const char* end) {
    while (at < end) {
        fanotify_event_info_header head;
        std::memcpy(&head, at, sizeof head);
        CHECK(head.len >= sizeof head && at + head.len <= end && head.len % 4 == 0);
        if (head.info_type == FAN_EVENT_INFO_TYPE_PIDFD) {
            std::memcpy(&event.pidfd, at + sizeof head, sizeof event.pidfd);
        } else {
            const char* handle = at + sizeof head + sizeof(__kernel_fsid_t);
            if (event.records.empty())
                event.file_system = std::string(at + sizeof head, sizeof(__kernel_fsid_t));
            unsigned bytes = 0;
            std::memcpy(&bytes, handle, sizeof bytes);
            Record record;
            record.type = head.info_type;
            record.handle = std::string(handle, 8 + bytes);
            const char* name = handle + 8 + bytes;
            if (name < at + head.len && record.type != FAN_EVENT_INFO_TYPE_FID &&
                record.type != FAN_EVENT_INFO_TYPE_DFID)
                record.name = name;
            event.records.push_back(record);
        }
        at += head.len;
    }
}

std::vector<Event> events(int group) {
    std::vector<Event> out;
    alignas(fanotify_event_metadata) static char buffer[65536];
    for (;;) {
        const ssize_t bytes = read(group, buffer, sizeof buffer);
        if (bytes < 0) {
            CHECK(errno == EAGAIN);
            return out;
        }
        for (ssize_t at = 0; at < bytes;) {
            fanotify_event_metadata head;
            std::memcpy(&head, buffer + at, sizeof head);
            CHECK(head.vers == FANOTIFY_METADATA_VERSION && head.metadata_len == sizeof head);
            Event event;
            event.mask = head.mask;
            event.pid = head.pid;
            event.fd = head.fd;
            if (head.fd >= 0) {
                char name[4096];
                const std::string link = "/proc/self/fd/" + std::to_string(head.fd);
                const ssize_t length = readlink(link.c_str(), name, sizeof name);
                CHECK(length > 0);
                event.name = std::string(name, static_cast<size_t>(length));
                close(head.fd);
            }
            parse_records(event, buffer + at + sizeof head, buffer + at + head.event_len);
            out.push_back(event);
            at += head.event_len;
        }
    }
}

// One event, with this mask and about this file.
void expect_one(int group, uint64_t mask, const std::string& name) {
    const std::vector<Event> got = events(group);
    for (const Event& event : got)
        if (got.size() != 1 || event.mask != mask || event.name != name)
            std::fprintf(stderr, "got: mask %#lx name '%s'; wanted %#lx '%s'\n",
                         static_cast<unsigned long>(event.mask), event.name.c_str(),
                         static_cast<unsigned long>(mask), name.c_str());
    CHECK(got.size() == 1 && got[0].mask == mask && got[0].name == name);
    CHECK(got[0].pid == getpid() && got[0].records.empty());
}

void refusals(const ScratchDirectory& dir) {
    CHECK_FAILS(make_group(0x10'0000), EINVAL);
    CHECK_FAILS(make_group(FAN_CLASS_CONTENT | FAN_CLASS_PRE_CONTENT), EINVAL);
    CHECK_FAILS(make_group(0, O_CREAT), EINVAL);
    CHECK_FAILS(make_group(0, 3), EINVAL);
    CHECK_FAILS(make_group(FAN_REPORT_NAME), EINVAL);
    CHECK_FAILS(make_group(FAN_REPORT_TID | FAN_REPORT_PIDFD), EINVAL);
    CHECK_FAILS(make_group(FAN_REPORT_TARGET_FID | FAN_REPORT_DFID_NAME), EINVAL);
    const int group = make_group(FAN_NONBLOCK | FAN_CLOEXEC);
    CHECK(group >= 0 && (fcntl(group, F_GETFD) & FD_CLOEXEC) != 0);
    const char* name = dir.name().c_str();
    CHECK_FAILS(mark(group, FAN_MARK_ADD, uint64_t{1} << 40, name), EINVAL);
    CHECK_FAILS(mark(group, FAN_MARK_ADD, 0, name), EINVAL);
    CHECK_FAILS(mark(group, 0, FAN_OPEN, name), EINVAL);
    CHECK_FAILS(mark(group, FAN_MARK_ADD | FAN_MARK_REMOVE, FAN_OPEN, name), EINVAL);
    CHECK_FAILS(mark(group, FAN_MARK_ADD | 0x8000, FAN_OPEN, name), EINVAL);
    CHECK_FAILS(mark(group, FAN_MARK_ADD | FAN_MARK_MOUNT | FAN_MARK_FILESYSTEM, FAN_OPEN, name),
                EINVAL);
    CHECK_FAILS(mark(group, FAN_MARK_ADD, FAN_OPEN_PERM, name), EINVAL);
    CHECK_FAILS(mark(group, FAN_MARK_ADD, FAN_CREATE, name), EINVAL);
    CHECK_FAILS(mark(group, FAN_MARK_ADD, FAN_ATTRIB, name), EINVAL);
    CHECK_FAILS(mark(group, FAN_MARK_ADD | FAN_MARK_MOUNT | FAN_MARK_EVICTABLE, FAN_OPEN, name),
                EINVAL);
    CHECK_FAILS(mark(group, FAN_MARK_FLUSH | FAN_MARK_ONLYDIR, 0, name), EINVAL);
    CHECK_FAILS(mark(group, FAN_MARK_REMOVE, FAN_OPEN, name), ENOENT);
    CHECK_FAILS(mark(group, FAN_MARK_ADD, FAN_OPEN, dir.path("none").c_str()), ENOENT);
    CHECK_FAILS(mark(0, FAN_MARK_ADD, FAN_OPEN, name), EINVAL);
    CHECK_FAILS(mark(-1, FAN_MARK_ADD, FAN_OPEN, name), EBADF);
    make_file(dir.path("plain"));
    CHECK_FAILS(mark(group, FAN_MARK_ADD | FAN_MARK_ONLYDIR, FAN_OPEN, dir.path("plain").c_str()),
                ENOTDIR);
    CHECK_FAILS(mark(group, FAN_MARK_ADD | FAN_MARK_IGNORE, FAN_OPEN, name), EISDIR);
    CHECK_FAILS(mark(group, FAN_MARK_ADD | FAN_MARK_IGNORE | FAN_MARK_MOUNT, FAN_OPEN, name),
                EINVAL);
    CHECK_FAILS(write(group, "12345678", 8), EINVAL);
    char small[8];
    CHECK_FAILS(read(group, small, sizeof small), EAGAIN);
    CHECK(mark(group, FAN_MARK_FLUSH, 0, name) == 0);
    close(group);
    in_child([&] {
        CHECK(setuid(12345) == 0);
        CHECK_FAILS(make_group(0), EPERM);
        CHECK_FAILS(make_group(FAN_REPORT_FID | FAN_UNLIMITED_MARKS), EPERM);
        CHECK_FAILS(make_group(FAN_REPORT_FID | FAN_CLASS_CONTENT), EPERM);
        const int own = make_group(FAN_REPORT_FID);
        CHECK(own >= 0);
        CHECK_FAILS(mark(own, FAN_MARK_ADD | FAN_MARK_MOUNT, FAN_OPEN, name), EPERM);
        CHECK_FAILS(mark(own, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_OPEN, name), EPERM);
    });
}

void by_descriptor(const ScratchDirectory& dir) {
    const std::string name = dir.path("file");
    make_file(name, "text");
    const int group = make_group(FAN_NONBLOCK, O_RDWR);
    CHECK(group >= 0);
    CHECK(mark(group, FAN_MARK_ADD, FAN_OPEN | FAN_ACCESS | FAN_MODIFY | FAN_CLOSE, name.c_str()) ==
          0);
    int fd = open(name.c_str(), O_RDWR);
    int bytes = 0;
    CHECK(ioctl(group, FIONREAD, &bytes) == 0 && bytes == FAN_EVENT_METADATA_LEN);
    pollfd ready{group, POLLIN, 0};
    CHECK(poll(&ready, 1, 0) == 1 && ready.revents == POLLIN);
    expect_one(group, FAN_OPEN, name);
    CHECK(poll(&ready, 1, 0) == 0);
    // What happens before it is read is told together.
    char byte = 0;
    CHECK(read(fd, &byte, 1) == 1 && write(fd, "x", 1) == 1);
    close(fd);
    expect_one(group, FAN_ACCESS | FAN_MODIFY | FAN_CLOSE_WRITE, name);
    CHECK(mark(group, FAN_MARK_REMOVE, FAN_OPEN | FAN_ACCESS | FAN_CLOSE, name.c_str()) == 0);
    CHECK(contents_of(name).size() == 4);
    CHECK(events(group).empty());
    // Its descriptor is its own: what the listener does with it is told to nobody.
    CHECK(mark(group, FAN_MARK_ADD, FAN_ACCESS, name.c_str()) == 0);
    CHECK(contents_of(name).size() == 4);
    fanotify_event_metadata head;
    CHECK(read(group, &head, sizeof head) == sizeof head && head.mask == FAN_ACCESS);
    CHECK((fcntl(head.fd, F_GETFL) & O_ACCMODE) == O_RDWR);
    CHECK(pread(head.fd, &byte, 1, 0) == 1 && pwrite(head.fd, "y", 1, 0) == 1);
    close(head.fd);
    CHECK(events(group).empty());
    CHECK(mark(group, FAN_MARK_FLUSH, 0, "/") == 0);
    CHECK_FAILS(mark(group, FAN_MARK_REMOVE, FAN_MODIFY, name.c_str()), ENOENT);
    close(group);
}

void children_and_ignored(const ScratchDirectory& dir) {
    const std::string name = dir.path("child");
    make_file(name, "text");
    CHECK(mkdir(dir.path("inner").c_str(), 0755) == 0);
    const int group = make_group(FAN_NONBLOCK);
    const char* whole = dir.name().c_str();
    CHECK(mark(group, FAN_MARK_ADD, FAN_OPEN, whole) == 0);
    close(open(name.c_str(), O_RDONLY));
    close(open(whole, O_RDONLY | O_DIRECTORY));
    CHECK(events(group).empty());
    CHECK(mark(group, FAN_MARK_ADD, FAN_OPEN | FAN_EVENT_ON_CHILD, whole) == 0);
    close(open(name.c_str(), O_RDONLY));
    expect_one(group, FAN_OPEN, name);
    close(open(dir.path("inner").c_str(), O_RDONLY | O_DIRECTORY));
    CHECK(events(group).empty());
    CHECK(mark(group, FAN_MARK_ADD, FAN_OPEN | FAN_ONDIR, whole) == 0);
    close(open(dir.path("inner").c_str(), O_RDONLY | O_DIRECTORY));
    expect_one(group, FAN_OPEN, dir.path("inner"));
    close(open(whole, O_RDONLY | O_DIRECTORY));
    expect_one(group, FAN_OPEN, dir.name());
    // What is ignored of the file ends when it is written, unless asked otherwise.
    CHECK(mark(group, FAN_MARK_ADD | FAN_MARK_IGNORED_MASK, FAN_OPEN, name.c_str()) == 0);
    close(open(name.c_str(), O_RDONLY));
    CHECK(events(group).empty());
    make_file(name, "text");
    CHECK(events(group).empty());
    close(open(name.c_str(), O_RDONLY));
    expect_one(group, FAN_OPEN, name);
    CHECK(mark(group, FAN_MARK_ADD | FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORED_SURV_MODIFY, FAN_OPEN,
               name.c_str()) == 0);
    make_file(name, "text");
    close(open(name.c_str(), O_RDONLY));
    CHECK(events(group).empty());
    close(group);
}

void whole_mounts(const ScratchDirectory& dir) {
    const std::string top = dir.path("mounted");
    CHECK(mkdir(top.c_str(), 0755) == 0);
    CHECK(mount("joey-test", top.c_str(), "tmpfs", 0, nullptr) == 0);
    const std::string second = dir.path("second");
    CHECK(mkdir(second.c_str(), 0755) == 0);
    CHECK(mount(top.c_str(), second.c_str(), nullptr, MS_BIND, nullptr) == 0);
    make_file(top + "/file", "text");
    const int by_mount = make_group(FAN_NONBLOCK);
    const int by_system = make_group(FAN_NONBLOCK);
    CHECK(mark(by_mount, FAN_MARK_ADD | FAN_MARK_MOUNT, FAN_OPEN, top.c_str()) == 0);
    CHECK(mark(by_system, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_OPEN, top.c_str()) == 0);
    close(open((top + "/file").c_str(), O_RDONLY));
    expect_one(by_mount, FAN_OPEN, top + "/file");
    expect_one(by_system, FAN_OPEN, top + "/file");
    close(open((second + "/file").c_str(), O_RDONLY));
    CHECK(events(by_mount).empty());
    expect_one(by_system, FAN_OPEN, second + "/file");
    close(open(dir.path("plain").c_str(), O_RDONLY));
    CHECK(events(by_mount).empty() && events(by_system).empty());
    // Marks go with what they are on.
    CHECK(umount(second.c_str()) == 0 && umount(top.c_str()) == 0);
    const std::string info = contents_of("/proc/self/fdinfo/" + std::to_string(by_mount));
    CHECK(info.find("fanotify mnt_id:") == std::string::npos);
    CHECK_FAILS(mark(by_mount, FAN_MARK_REMOVE | FAN_MARK_MOUNT, FAN_OPEN, top.c_str()), ENOENT);
    close(by_mount);
    close(by_system);
    CHECK(rmdir(top.c_str()) == 0 && rmdir(second.c_str()) == 0);
}

std::string handle_of(const std::string& name) {
    alignas(file_handle) char room[sizeof(file_handle) + MAX_HANDLE_SZ];
    auto* handle = reinterpret_cast<file_handle*>(room);
    handle->handle_bytes = MAX_HANDLE_SZ;
    int mount_id = 0;
    CHECK(name_to_handle_at(here, name.c_str(), handle, &mount_id, 0) == 0);
    return std::string(room, 8 + handle->handle_bytes);
}

void expect_records(int group, uint64_t mask, const std::vector<Record>& wanted) {
    const std::vector<Event> got = events(group);
    bool same = got.size() == 1 && got[0].mask == mask && got[0].records.size() == wanted.size() &&
                got[0].fd == FAN_NOFD;
    for (size_t i = 0; same && i < wanted.size(); i++)
        same = got[0].records[i].type == wanted[i].type &&
               got[0].records[i].name == wanted[i].name &&
               got[0].records[i].handle == wanted[i].handle;
    if (same)
        return;
    for (const Event& event : got) {
        std::fprintf(stderr, "got: mask %#lx\n", static_cast<unsigned long>(event.mask));
        for (const Record& record : event.records)
            std::fprintf(stderr, "  type %d name '%s'%s\n", record.type, record.name.c_str(),
                         !wanted.empty() && record.handle == wanted[0].handle ? " first" : "");
    }
    std::fprintf(stderr, "wanted: mask %#lx, %zu records\n", static_cast<unsigned long>(mask),
                 wanted.size());
    CHECK(same);
}

void by_handle(const ScratchDirectory& dir) {
    const std::string name = dir.path("by-handle");
    const std::string inner = dir.path("inner");
    const std::string whole = handle_of(dir.name());
    constexpr int fid = FAN_EVENT_INFO_TYPE_FID, named = FAN_EVENT_INFO_TYPE_DFID_NAME,
                  dfid = FAN_EVENT_INFO_TYPE_DFID;
    constexpr uint64_t entries = FAN_CREATE | FAN_DELETE | FAN_MOVE | FAN_ONDIR;
    struct Groups {
        int files, directories, names, targets;
    };
    const Groups all{make_group(FAN_NONBLOCK | FAN_REPORT_FID),
                     make_group(FAN_NONBLOCK | FAN_REPORT_DIR_FID),
                     make_group(FAN_NONBLOCK | FAN_REPORT_DFID_NAME | FAN_REPORT_FID),
                     make_group(FAN_NONBLOCK | FAN_REPORT_DFID_NAME_TARGET)};
    const std::vector<int> each{all.files, all.directories, all.names, all.targets};
    for (const int group : each) {
        CHECK(group >= 0);
        CHECK(mark(group, FAN_MARK_ADD, entries, dir.name().c_str()) == 0);
    }
    make_file(name, "text");
    const std::string file = handle_of(name);
    expect_records(all.files, FAN_CREATE, {{fid, whole, ""}});
    expect_records(all.directories, FAN_CREATE, {{dfid, whole, ""}});
    expect_records(all.names, FAN_CREATE, {{named, whole, "by-handle"}});
    expect_records(all.targets, FAN_CREATE, {{named, whole, "by-handle"}, {fid, file, ""}});
    const std::string moved = dir.path("moved");
    CHECK(rename(name.c_str(), moved.c_str()) == 0);
    expect_records(all.files, FAN_MOVE, {{fid, whole, ""}});
    for (const int group : {all.names, all.targets}) {
        const std::vector<Event> got = events(group);
        CHECK(got.size() == 2 && got[0].mask == FAN_MOVED_FROM && got[1].mask == FAN_MOVED_TO);
        CHECK(got[0].records[0].name == "by-handle" && got[1].records[0].name == "moved");
    }
    (void)events(all.directories);
    // Directories say so.
    CHECK(mkdir(dir.path("fresh").c_str(), 0755) == 0);
    const std::string fresh = handle_of(dir.path("fresh"));
    expect_records(all.files, FAN_CREATE | FAN_ONDIR, {{fid, whole, ""}});
    expect_records(all.directories, FAN_CREATE | FAN_ONDIR, {{dfid, whole, ""}});
    expect_records(all.names, FAN_CREATE | FAN_ONDIR, {{named, whole, "fresh"}});
    expect_records(all.targets, FAN_CREATE | FAN_ONDIR,
                   {{named, whole, "fresh"}, {fid, fresh, ""}});
    CHECK(rmdir(dir.path("fresh").c_str()) == 0);
    for (const int group : each)
        CHECK(events(group).size() == 1);
    // Events of the children, and of the directory itself.
    for (const int group : each) {
        CHECK(mark(group, FAN_MARK_REMOVE, entries & ~uint64_t{FAN_ONDIR}, dir.name().c_str()) ==
              0);
        CHECK(mark(group, FAN_MARK_ADD, FAN_ATTRIB | FAN_EVENT_ON_CHILD | FAN_ONDIR,
                   dir.name().c_str()) == 0);
    }
    CHECK(chmod(moved.c_str(), 0600) == 0);
    expect_records(all.files, FAN_ATTRIB, {{fid, file, ""}});
    expect_records(all.names, FAN_ATTRIB, {{named, whole, "moved"}, {fid, file, ""}});
    expect_records(all.targets, FAN_ATTRIB, {{named, whole, "moved"}, {fid, file, ""}});
    (void)events(all.directories);
    CHECK(chmod(dir.name().c_str(), 0755) == 0);
    expect_records(all.files, FAN_ATTRIB | FAN_ONDIR, {{fid, whole, ""}});
    expect_records(all.directories, FAN_ATTRIB | FAN_ONDIR, {{dfid, whole, ""}});
    expect_records(all.names, FAN_ATTRIB | FAN_ONDIR, {{named, whole, "."}});
    for (const int group : each)
        close(group);

    // Both names of a rename in one event; the end of a file; the handle opens what it names.
    const int renames = make_group(FAN_NONBLOCK | FAN_REPORT_DFID_NAME);
    CHECK(mark(renames, FAN_MARK_ADD, FAN_RENAME, dir.name().c_str()) == 0);
    const std::string into = handle_of(inner);
    CHECK(rename(moved.c_str(), (inner + "/end").c_str()) == 0);
    expect_records(renames, FAN_RENAME, {{FAN_EVENT_INFO_TYPE_OLD_DFID_NAME, whole, "moved"}});
    CHECK(mark(renames, FAN_MARK_ADD, FAN_RENAME, inner.c_str()) == 0);
    CHECK(rename((inner + "/end").c_str(), moved.c_str()) == 0);
    expect_records(renames, FAN_RENAME,
                   {{FAN_EVENT_INFO_TYPE_OLD_DFID_NAME, into, "end"},
                    {FAN_EVENT_INFO_TYPE_NEW_DFID_NAME, whole, "moved"}});
    close(renames);
    const int ends = make_group(FAN_NONBLOCK | FAN_REPORT_FID);
    CHECK_FAILS(mark(ends, FAN_MARK_ADD, FAN_RENAME, dir.name().c_str()), EINVAL);
    CHECK(mark(ends, FAN_MARK_ADD, FAN_DELETE_SELF | FAN_OPEN, moved.c_str()) == 0);
    close(open(moved.c_str(), O_RDONLY));
    const std::vector<Event> opened = events(ends);
    CHECK(opened.size() == 1 && opened[0].mask == FAN_OPEN && opened[0].records.size() == 1);
    struct statfs system {};
    CHECK(statfs(moved.c_str(), &system) == 0);
    CHECK(std::memcmp(&system.f_fsid, opened[0].file_system.data(), sizeof system.f_fsid) == 0);
    alignas(file_handle) char room[sizeof(file_handle) + MAX_HANDLE_SZ];
    std::memcpy(room, opened[0].records[0].handle.data(), opened[0].records[0].handle.size());
    const int again = open_by_handle_at(dir.fd(), reinterpret_cast<file_handle*>(room), O_PATH);
    CHECK(again >= 0);
    struct stat a {};
    CHECK(fstat(again, &a) == 0 && a.st_ino == stat_of(moved).st_ino);
    close(again);
    const std::string info = contents_of("/proc/self/fdinfo/" + std::to_string(ends));
    CHECK(info.find("fanotify flags:202 event-flags:8000\n") != std::string::npos);
    char line[64];
    std::snprintf(line, sizeof line,
                  "fanotify ino:%lx sdev:", static_cast<unsigned long>(stat_of(moved).st_ino));
    CHECK(info.find(line) != std::string::npos);
    CHECK(info.find(" mflags:0 mask:420 ignored_mask:0 fhandle-bytes:") != std::string::npos);
    CHECK(unlink(moved.c_str()) == 0);
    bool ended = false;
    for (int i = 0; !ended && i < 2000; i++) {
        for (const Event& event : events(ends))
            ended = ended || (event.mask & FAN_DELETE_SELF) != 0;
        if (!ended)
            usleep(1000);
    }
    CHECK(ended);
    close(ends);
}

// Answers questions until a file named "end" is opened.
void answer(int group, const std::string& forbidden) {
    for (bool end = false; !end;) {
        fanotify_event_metadata head;
        CHECK(read(group, &head, sizeof head) == sizeof head && head.fd >= 0);
        CHECK((head.mask & (FAN_OPEN_PERM | FAN_ACCESS_PERM | FAN_OPEN_EXEC_PERM)) != 0);
        char name[4096] = {};
        const std::string link = "/proc/self/fd/" + std::to_string(head.fd);
        CHECK(readlink(link.c_str(), name, sizeof name - 1) > 0);
        end = std::string(name).ends_with("/end");
        // The listener may look at it without being asked.
        char byte = 0;
        (void)!pread(head.fd, &byte, 1, 0);
        fanotify_response response{head.fd,
                                   forbidden == name ? uint32_t{FAN_DENY} : uint32_t{FAN_ALLOW}};
        CHECK(write(group, &response, sizeof response) == sizeof response);
        CHECK_FAILS(write(group, &response, sizeof response), ENOENT);
        close(head.fd);
    }
}

void questions(const ScratchDirectory& dir) {
    for (const char* name : {"good", "bad", "end"})
        make_file(dir.path(name), "text");
    const int group = make_group(FAN_CLASS_CONTENT, O_RDONLY);
    CHECK(group >= 0);
    CHECK_FAILS(make_group(FAN_CLASS_CONTENT | FAN_REPORT_FID), EINVAL);
    CHECK(mark(group, FAN_MARK_ADD, FAN_OPEN_PERM | FAN_ACCESS_PERM | FAN_EVENT_ON_CHILD,
               dir.name().c_str()) == 0);
    fanotify_response response{-1, FAN_ALLOW};
    CHECK_FAILS(write(group, &response, sizeof response), EINVAL);
    response = {5, 7};
    CHECK_FAILS(write(group, &response, sizeof response), EINVAL);
    response = {12345, FAN_ALLOW};
    CHECK_FAILS(write(group, &response, sizeof response), ENOENT);
    std::thread listener([&] { answer(group, dir.path("bad")); });
    CHECK(contents_of(dir.path("good")) == "text");
    CHECK_FAILS(open(dir.path("bad").c_str(), O_RDONLY), EPERM);
    CHECK(contents_of(dir.path("good")) == "text");
    close(open(dir.path("end").c_str(), O_RDONLY));
    listener.join();
    // Who waits when the listener goes may go on.
    std::thread late([&] { CHECK(contents_of(dir.path("good")) == "text"); });
    pollfd ready{group, POLLIN, 0};
    CHECK(poll(&ready, 1, 20000) == 1);
    close(group);
    late.join();
}

void processes(const ScratchDirectory& dir) {
    const std::string name = dir.path("used");
    make_file(name, "text");
    const int group = make_group(FAN_NONBLOCK | FAN_REPORT_FID | FAN_REPORT_PIDFD);
    const int threads = make_group(FAN_NONBLOCK | FAN_REPORT_TID);
    CHECK(group >= 0 && threads >= 0);
    CHECK(mark(group, FAN_MARK_ADD, FAN_OPEN, name.c_str()) == 0);
    CHECK(mark(threads, FAN_MARK_ADD, FAN_OPEN, name.c_str()) == 0);
    int tid = 0;
    std::thread other([&] {
        tid = gettid();
        close(open(name.c_str(), O_RDONLY));
    });
    other.join();
    std::vector<Event> got = events(group);
    CHECK(got.size() == 1 && got[0].pid == getpid() && got[0].pidfd >= 0);
    const std::string info = contents_of("/proc/self/fdinfo/" + std::to_string(got[0].pidfd));
    CHECK(info.find("Pid:\t" + std::to_string(getpid()) + "\n") != std::string::npos);
    close(got[0].pidfd);
    got = events(threads);
    CHECK(got.size() == 1 && got[0].pid == tid && tid != getpid());
    in_child([&] { close(open(name.c_str(), O_RDONLY)); });
    got = events(group);
    CHECK(got.size() == 1 && got[0].pid != getpid() && got[0].pidfd == FAN_NOPIDFD);
    close(group);
    close(threads);
}

// Without CAP_SYS_ADMIN one is not told who did it, unless it was oneself.
void users(const ScratchDirectory& dir) {
    const std::string name = dir.path("used");
    CHECK(chmod(dir.name().c_str(), 0755) == 0);
    in_child([&] {
        constexpr unsigned user = 1000;
        CHECK(setresgid(user, user, user) == 0 && setresuid(user, user, user) == 0);
        const int group = make_group(FAN_NONBLOCK | FAN_REPORT_FID);
        CHECK(group >= 0);
        CHECK(mark(group, FAN_MARK_ADD, FAN_OPEN, name.c_str()) == 0);
        close(open(name.c_str(), O_RDONLY));
        std::vector<Event> got = events(group);
        CHECK(got.size() == 1 && got[0].pid == getpid());
        in_child([&] { close(open(name.c_str(), O_RDONLY)); });
        got = events(group);
        CHECK(got.size() == 1 && got[0].pid == 0);
        close(group);
    });
}

void limits(const ScratchDirectory& dir) {
    const std::string before = contents_of("/proc/sys/fs/fanotify/max_queued_events");
    CHECK(std::stoul(before) > 0);
    CHECK(std::stoul(contents_of("/proc/sys/fs/fanotify/max_user_groups")) > 0);
    CHECK(std::stoul(contents_of("/proc/sys/fs/fanotify/max_user_marks")) > 0);
    make_file("/proc/sys/fs/fanotify/max_queued_events", "2\n");
    const int group = make_group(FAN_NONBLOCK);
    make_file("/proc/sys/fs/fanotify/max_queued_events", before);
    CHECK(mark(group, FAN_MARK_ADD, FAN_OPEN | FAN_EVENT_ON_CHILD, dir.name().c_str()) == 0);
    for (const char* name : {"good", "bad", "end", "used"})
        close(open(dir.path(name).c_str(), O_RDONLY));
    const std::vector<Event> got = events(group);
    CHECK(got.size() == 3 && got[0].mask == FAN_OPEN && got[1].mask == FAN_OPEN);
    CHECK(got[2].mask == FAN_Q_OVERFLOW && got[2].fd == FAN_NOFD && got[2].name.empty());
    close(group);
}

void programs(const ScratchDirectory& dir) {
    const int group = make_group(FAN_NONBLOCK);
    CHECK(mark(group, FAN_MARK_ADD, FAN_OPEN_EXEC, "/proc/self/exe") == 0);
    close(open("/proc/self/exe", O_RDONLY));
    CHECK(events(group).empty());
    in_child([] {
        execl("/proc/self/exe", "fanotify", "again", nullptr);
        _exit(1);
    });
    const std::vector<Event> got = events(group);
    CHECK(got.size() == 1 && got[0].mask == FAN_OPEN_EXEC);
    close(group);
    (void)dir;
}

} // namespace

int main(int count, char**) {
    if (count > 1)
        return 0;
    umask(022);
    const ScratchDirectory dir("/dev/shm");
    refusals(dir);
    by_descriptor(dir);
    children_and_ignored(dir);
    whole_mounts(dir);
    by_handle(dir);
    questions(dir);
    processes(dir);
    users(dir);
    limits(dir);
    programs(dir);
}
