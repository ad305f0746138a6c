// A FUSE server that is an ordinary program: fuse(4), by the messages themselves. As root, in a
// mount namespace of its own.
#include <atomic>
#include <csignal>
#include <dirent.h>
#include <fcntl.h>
#include <map>
#include <poll.h>
#include <sched.h>
#include <set>
#include <string>
#include <thread>
#include <unistd.h>
#include <utility>

#include <linux/fuse.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include "tests/guest/file_support.hpp"

namespace {

constexpr uint64_t hang_node = 100; // reading it is never answered
constexpr uint64_t circle_node = 101, huge_node = 102;

// What a test and its server tell each other.
struct Control {
    std::atomic<unsigned> hold{0};       // the next request of this kind is not answered yet
    std::atomic<int> held{0};            // there it is
    std::atomic<int> other{0};           // it is answered once this process sleeps
    std::atomic<int> other_done{0};      // or is done
    std::atomic<int> syncs{0}, early{0}; // FSYNC requests; those that came before the answer
    std::atomic<int> fail_writes{0}, failed{0};
    std::atomic<unsigned> listed{~0u};     // entries in an answer to READDIR, at most
    std::atomic<unsigned> many{0};         // files more than there are, for listings
    std::atomic<int> fail_listings{0};     // but for the first entries
    std::atomic<int> faster{0};            // another client makes what is to be created
    std::atomic<int> released{0}, late{0}; // RELEASE requests; those of forgotten nodes
    std::atomic<int> maps{0};              // reads change the server's own mappings
    std::atomic<int> looks{0};             // how often others have looked at them
};
Control* control;

// Asleep, or gone.
bool sleeps(int process) {
    char text[256] = {};
    const int fd = open(("/proc/" + std::to_string(process) + "/stat").c_str(), O_RDONLY);
    if (fd < 0)
        return true;
    const ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    const char* end = std::strrchr(text, ')');
    return got <= 0 || end == nullptr || end[2] != 'R';
}

// Files in memory, all in one directory.
class Server {
public:
    explicit Server(int fd) : fd_(fd) {
        files_[2] = {"hello", "hello from the server\n", 0644};
        files_[hang_node] = {"hang", "never", 0644};
        files_[3] = {"full", std::string(4096, 'x'), 0644};
    }

    void add(const std::string& name, const std::string& data) {
        files_[make(name, 0644)].data = data;
    }

    // Until the file system is unmounted.
    void run() {
        static char message[1 << 17];
        for (;;) {
            const ssize_t got = read(fd_, message, sizeof message);
            if (got < 0 && errno == ENODEV)
                return;
            if (got < 0 && (errno == EINTR || errno == ENOENT))
                continue;
            CHECK(got >= static_cast<ssize_t>(sizeof(fuse_in_header)));
            in_ = reinterpret_cast<const fuse_in_header*>(message);
            CHECK(in_->len == static_cast<unsigned>(got));
            body_ = message + sizeof(fuse_in_header);
            if (control->hold != 0 && control->hold == in_->opcode)
                hold(std::string(message, static_cast<size_t>(got)));
            else
                serve();
        }
    }

private:
    // Answers it, as the file is now, when the other process waits for something that is none of
    // this server's to give.
    void hold(const std::string& request) {
        control->hold = 0;
        const uint64_t node = reinterpret_cast<const fuse_in_header*>(request.data())->nodeid;
        const std::string before = files_[node].data;
        control->held = 1;
        static char message[1 << 17];
        for (;;) {
            const bool over =
                control->other_done != 0 || (control->other != 0 && sleeps(control->other));
            pollfd ready{fd_, POLLIN, 0};
            CHECK(poll(&ready, 1, 0) >= 0);
            if ((ready.revents & POLLIN) != 0) {
                const ssize_t got = read(fd_, message, sizeof message);
                CHECK(got >= static_cast<ssize_t>(sizeof(fuse_in_header)));
                in_ = reinterpret_cast<const fuse_in_header*>(message);
                body_ = message + sizeof(fuse_in_header);
                control->early += in_->opcode == FUSE_FSYNC ? 1 : 0;
                serve();
            } else if (over) {
                break;
            } else {
                sched_yield();
            }
        }
        const std::string now = std::exchange(files_[node].data, before);
        in_ = reinterpret_cast<const fuse_in_header*>(request.data());
        body_ = request.data() + sizeof(fuse_in_header);
        serve();
        if (in_->opcode == FUSE_READ)
            files_[node].data = now;
    }

    // As malloc(3) does for something large; and others look at the mappings meanwhile.
    static void change_mappings() {
        constexpr size_t size = 1 << 20;
        void* memory =
            mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(memory != MAP_FAILED && munmap(memory, size) == 0);
        const int seen = control->looks;
        while (control->looks < seen + 2)
            sched_yield();
        control->maps++;
    }

    struct File {
        std::string name, data;
        mode_t mode;
    };

    void answer(const void* data, size_t bytes, int error = 0) {
        std::string out(sizeof(fuse_out_header), '\0');
        auto* header = reinterpret_cast<fuse_out_header*>(out.data());
        header->unique = in_->unique;
        header->error = -error;
        header->len = static_cast<unsigned>(sizeof *header + bytes);
        out.append(static_cast<const char*>(data), bytes);
        // ENOENT: of a file system that is gone by now, nobody waits for the answer.
        const ssize_t put = write(fd_, out.data(), out.size());
        CHECK(put == static_cast<ssize_t>(out.size()) || errno == ENOENT);
    }
    template <typename T>
    void answer_with(const T& out) {
        answer(&out, sizeof out);
    }
    void fail(int error) { answer(nullptr, 0, error); }

    fuse_attr attributes(uint64_t node) {
        fuse_attr out{};
        out.ino = node;
        out.nlink = 1;
        out.blksize = 4096;
        out.uid = 0;
        if (node == 1 || node == circle_node) {
            out.mode = S_IFDIR | 0755;
            out.size = 1 << 20;
        } else if (node == huge_node) {
            out.mode = S_IFREG | 0644;
            out.size = uint64_t{1} << 63;
        } else {
            out.mode = S_IFREG | files_[node].mode;
            out.size = files_[node].data.size();
        }
        return out;
    }
    fuse_entry_out entry(uint64_t node) {
        forgotten_.erase(node);
        fuse_entry_out out{};
        out.nodeid = node;
        out.attr_valid = 1;
        out.attr = attributes(node);
        return out;
    }
    uint64_t find(const std::string& name) {
        if (name == "circle") // in itself, too
            return circle_node;
        if (name == "above")
            return 1;
        if (name == "huge")
            return huge_node;
        for (const auto& [node, file] : files_)
            if (file.name == name)
                return node;
        return 0;
    }
    uint64_t make(const std::string& name, mode_t mode) {
        files_[++last_] = {name, "", mode & 07777};
        return last_;
    }
    void list() {
        const auto* in = reinterpret_cast<const fuse_read_in*>(body_);
        if (control->fail_listings != 0 && in->offset != 0) {
            fail(EIO);
            return;
        }
        std::string out;
        uint64_t position = 0;
        unsigned listed = 0;
        bool full = false;
        const auto add = [&](uint64_t node, const std::string& name, unsigned type) {
            if (position++ < in->offset || full)
                return;
            fuse_dirent head{};
            head.ino = node;
            head.off = position;
            head.namelen = static_cast<unsigned>(name.size());
            head.type = type;
            std::string one(reinterpret_cast<const char*>(&head), FUSE_NAME_OFFSET);
            one += name;
            one.resize(FUSE_DIRENT_ALIGN(one.size()));
            full = out.size() + one.size() > in->size || listed++ == control->listed;
            if (!full)
                out += one;
        };
        add(1, ".", DT_DIR);
        add(1, "..", DT_DIR);
        for (const auto& [node, file] : files_)
            add(node, file.name, DT_REG);
        for (unsigned i = 0; i < control->many; i++)
            add(1000 + i, std::string(200, 'n') + std::to_string(i), DT_REG);
        answer(out.data(), out.size());
    }
    void set_attributes() {
        const auto* in = reinterpret_cast<const fuse_setattr_in*>(body_);
        if ((in->valid & FATTR_SIZE) != 0)
            files_[in_->nodeid].data.resize(in->size);
        if ((in->valid & FATTR_MODE) != 0)
            files_[in_->nodeid].mode = in->mode & 07777;
        fuse_attr_out out{};
        out.attr = attributes(in_->nodeid);
        answer_with(out);
    }
    void serve() {
        switch (in_->opcode) {
        case FUSE_INIT: {
            const auto* in = reinterpret_cast<const fuse_init_in*>(body_);
            CHECK(in->major == FUSE_KERNEL_VERSION && in->minor >= 23);
            fuse_init_out out{};
            out.major = FUSE_KERNEL_VERSION;
            out.minor = 31;
            out.max_write = 65536;
            answer_with(out);
            return;
        }
        case FUSE_FORGET:
            forgotten_.insert(in_->nodeid);
            return;
        case FUSE_BATCH_FORGET:
            return;
        case FUSE_INTERRUPT: {
            // What hangs ends when it is interrupted.
            const auto* in = reinterpret_cast<const fuse_interrupt_in*>(body_);
            fuse_out_header out{sizeof out, -EINTR, in->unique};
            (void)!write(fd_, &out, sizeof out);
            return;
        }
        case FUSE_LOOKUP: {
            const uint64_t node = find(body_);
            node == 0 ? fail(ENOENT) : answer_with(entry(node));
            return;
        }
        case FUSE_GETATTR: {
            fuse_attr_out out{};
            out.attr = attributes(in_->nodeid);
            answer_with(out);
            return;
        }
        case FUSE_SETATTR:
            set_attributes();
            return;
        case FUSE_OPEN:
            if (in_->uid != 0 && (files_[in_->nodeid].mode & 4) == 0) {
                fail(EACCES);
                return;
            }
            [[fallthrough]];
        case FUSE_OPENDIR: {
            fuse_open_out out{};
            out.fh = in_->nodeid;
            answer_with(out);
            return;
        }
        case FUSE_READ: {
            if (in_->nodeid == hang_node) {
                control->held = 1;
                return;
            }
            if (control->maps != 0)
                change_mappings();
            const auto* in = reinterpret_cast<const fuse_read_in*>(body_);
            const std::string& data = files_[in->fh].data;
            const std::string part =
                in->offset < data.size() ? data.substr(in->offset, in->size) : "";
            answer(part.data(), part.size());
            return;
        }
        case FUSE_WRITE: {
            if (control->fail_writes != 0) {
                fail(EIO);
                control->failed++;
                return;
            }
            const auto* in = reinterpret_cast<const fuse_write_in*>(body_);
            std::string& data = files_[in_->nodeid].data;
            if (data.size() < in->offset + in->size)
                data.resize(in->offset + in->size);
            data.replace(in->offset, in->size, body_ + sizeof *in, in->size);
            fuse_write_out out{};
            out.size = in->size;
            answer_with(out);
            return;
        }
        case FUSE_CREATE: {
            const auto* in = reinterpret_cast<const fuse_create_in*>(body_);
            struct {
                fuse_entry_out entry;
                fuse_open_out open;
            } out{};
            const uint64_t node = make(body_ + sizeof *in, in->mode);
            if (control->faster != 0) {
                files_[node].data = "of another";
                if ((in->flags & O_EXCL) != 0) {
                    fail(EEXIST);
                    return;
                }
            }
            out.entry = entry(node);
            out.open.fh = node;
            answer_with(out);
            return;
        }
        case FUSE_UNLINK:
            files_.erase(find(body_));
            answer(nullptr, 0);
            return;
        case FUSE_RENAME:
        case FUSE_RENAME2: {
            const char* names = body_ + (in_->opcode == FUSE_RENAME ? sizeof(fuse_rename_in)
                                                                    : sizeof(fuse_rename2_in));
            const uint64_t node = find(names);
            const std::string to = names + std::strlen(names) + 1;
            files_.erase(find(to));
            files_[node].name = to;
            answer(nullptr, 0);
            return;
        }
        case FUSE_READDIR:
            list();
            return;
        case FUSE_STATFS: {
            fuse_statfs_out out{};
            out.st.bsize = out.st.frsize = 4096;
            out.st.blocks = 77;
            out.st.namelen = 255;
            answer_with(out);
            return;
        }
        case FUSE_GETXATTR:
            std::strcmp(body_ + sizeof(fuse_getxattr_in), "user.flavour") == 0 &&
                    reinterpret_cast<const fuse_getxattr_in*>(body_)->size >= 5
                ? answer("sweet", 5)
                : fail(ENODATA);
            return;
        case FUSE_FSYNC:
            control->syncs++;
            answer(nullptr, 0);
            return;
        case FUSE_MKNOD: {
            const auto* in = reinterpret_cast<const fuse_mknod_in*>(body_);
            answer_with(entry(make(body_ + sizeof *in, in->mode)));
            return;
        }
        case FUSE_RELEASE:
            control->late += static_cast<int>(forgotten_.count(in_->nodeid));
            control->released++;
            [[fallthrough]];
        case FUSE_FLUSH:
        case FUSE_RELEASEDIR:
            answer(nullptr, 0);
            return;
        default:
            fail(ENOSYS);
        }
    }

    const int fd_;
    const fuse_in_header* in_ = nullptr;
    const char* body_ = nullptr;
    std::map<uint64_t, File> files_;
    std::set<uint64_t> forgotten_;
    uint64_t last_ = 10;
};

// Mounts it at `m`; what its server reads from.
int mount_served(const char* extra = "", const char* type = "fuse.test") {
    void* shared =
        mmap(nullptr, sizeof(Control), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    control = new (shared) Control;
    CHECK(unshare(CLONE_NEWNS) == 0);
    CHECK(mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
    CHECK(mount("base", "/tmp", "tmpfs", 0, "mode=0755") == 0);
    CHECK(chdir("/tmp") == 0 && mkdir("m", 0755) == 0);
    CHECK(mknod("fuse", S_IFCHR | 0600, makedev(10, 229)) == 0);
    const int fd = open("fuse", O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0);
    char text[8192];
    CHECK_FAILS(read(fd, text, sizeof text), EPERM);
    const std::string options =
        "fd=" + std::to_string(fd) + ",rootmode=40000,user_id=0,group_id=0" + extra;
    CHECK(mount("server", "m", type, MS_NOSUID | MS_NODEV, options.c_str()) == 0);
    CHECK_FAILS(read(fd, text, 100), EINVAL); // too small for any message
    pollfd ready{fd, POLLIN, 0};
    CHECK(poll(&ready, 1, 1000) == 1 && ready.revents == POLLIN);
    return fd;
}

pid_t begin(const char* extra = "", const char* type = "fuse.test") {
    const int fd = mount_served(extra, type);
    const pid_t server = fork();
    CHECK(server >= 0);
    if (server == 0) {
        Server(fd).run();
        _exit(0);
    }
    close(fd);
    return server;
}

void end(pid_t server) {
    CHECK(umount("m") == 0);
    int status = -1;
    CHECK(waitpid(server, &status, 0) == server && status == 0);
}

int names_in(const char* directory) {
    int names = 0;
    DIR* listing = opendir(directory);
    CHECK(listing != nullptr);
    while (readdir(listing) != nullptr)
        names++;
    closedir(listing);
    return names;
}

void files() {
    const pid_t server = begin();
    struct statfs status {};
    CHECK(statfs("m", &status) == 0);
    CHECK(status.f_type == FUSE_SUPER_MAGIC && status.f_blocks == 77);
    CHECK(contents_of("/proc/self/mountinfo").find(" - fuse.test server rw,user_id=0,group_id=0") !=
          std::string::npos);
    CHECK(contents_of("m/hello") == "hello from the server\n");
    CHECK_FAILS(open("m/none", O_RDONLY), ENOENT);
    make_file("m/new", "some text", 0640);
    CHECK(contents_of("m/new") == "some text");
    CHECK(stat_of("m/new").st_size == 9 && stat_of("m/new").st_mode == (S_IFREG | 0640));
    const int fd = open("m/new", O_RDWR | O_APPEND);
    CHECK(fd >= 0 && write(fd, "!", 1) == 1);
    CHECK(contents_of("m/new") == "some text!");
    CHECK(ftruncate(fd, 4) == 0 && contents_of("m/new") == "some");
    close(fd);
    const std::string large(300000, 'x');
    make_file("m/large", large);
    CHECK(contents_of("m/large") == large);
    const int mapped = open("m/large", O_RDONLY);
    void* at = mmap(nullptr, large.size(), PROT_READ, MAP_PRIVATE, mapped, 0);
    CHECK(at != MAP_FAILED && std::memcmp(at, large.data(), large.size()) == 0);
    CHECK(munmap(at, large.size()) == 0);
    close(mapped);
    CHECK(rename("m/new", "m/renamed") == 0 && contents_of("m/renamed") == "some");
    CHECK(unlink("m/renamed") == 0);
    CHECK_FAILS(open("m/renamed", O_RDONLY), ENOENT);
    CHECK(chmod("m/hello", 0600) == 0 && stat_of("m/hello").st_mode == (S_IFREG | 0600));
    CHECK(names_in("m") == 6); // ., .., hello, full, hang, large
    char value[16] = {};
    CHECK(getxattr("m/hello", "user.flavour", value, sizeof value) == 5);
    CHECK_FAILS(getxattr("m/hello", "user.other", value, sizeof value), ENODATA);
    CHECK_FAILS(symlink("x", "m/link"), ENOSYS);
    end(server);
}

// A server answers with as many entries as it likes, and only an empty answer is the end. However
// large the directory, the answers fit into its messages.
void listings() {
    const pid_t server = begin();
    control->listed = 1;
    CHECK(names_in("m") == 5); // ., .., hello, full, hang
    control->listed = ~0u;
    control->many = 1000;
    CHECK(names_in("m") == 1005);
    // What comes before an error is told once.
    control->listed = 2;
    control->fail_listings = 1;
    const int fd = open("m", O_RDONLY | O_DIRECTORY);
    char text[1024];
    CHECK(fd >= 0 && syscall(SYS_getdents64, fd, text, sizeof text) > 0);
    CHECK_FAILS(syscall(SYS_getdents64, fd, text, sizeof text), EIO);
    close(fd);
    end(server);
}

// Who may use it: the mounter alone, unless it allows others.
void rights() {
    const pid_t server = begin();
    in_child([] {
        CHECK(setresgid(1000, 1000, 1000) == 0 && setresuid(1000, 1000, 1000) == 0);
        CHECK_FAILS(open("m/hello", O_RDONLY), EACCES);
    });
    end(server);
    in_child([] {
        const pid_t other = begin(",allow_other");
        CHECK(chmod("m/hello", 0004) == 0);
        const int mine = open("m/full", O_RDONLY);
        CHECK(mine >= 0 && chmod("m/full", 0600) == 0);
        in_child([] {
            CHECK(setresgid(1000, 1000, 1000) == 0 && setresuid(1000, 1000, 1000) == 0);
            // Nobody but the server could object, and it does, whoever has the file open.
            CHECK(open("m/hello", O_RDWR) >= 0);
            CHECK_FAILS(open("m/full", O_RDONLY), EACCES);
        });
        CHECK(chmod("m/full", 0604) == 0);
        in_child([] {
            CHECK(setresgid(1000, 1000, 1000) == 0 && setresuid(1000, 1000, 1000) == 0);
            CHECK(contents_of("m/full").size() == 4096);
        });
        char byte = 0;
        CHECK(pread(mine, &byte, 1, 0) == 1 && byte == 'x');
        close(mine);
        end(other);
    });
    in_child([] {
        const pid_t other = begin(",allow_other,default_permissions");
        CHECK(chmod("m/hello", 0600) == 0);
        in_child([] {
            CHECK(setresgid(1000, 1000, 1000) == 0 && setresuid(1000, 1000, 1000) == 0);
            CHECK_FAILS(open("m/hello", O_RDONLY), EACCES);
        });
        end(other);
    });
}

// A server that does not answer, and one that is gone.
void failures() {
    const pid_t server = begin();
    const pid_t reader = fork();
    CHECK(reader >= 0);
    if (reader == 0) {
        const int fd = open("m/hang", O_RDONLY);
        char text[8];
        (void)!read(fd, text, sizeof text);
        _exit(1);
    }
    usleep(100000);
    CHECK(kill(reader, SIGKILL) == 0);
    int status = 0;
    CHECK(waitpid(reader, &status, 0) == reader && WIFSIGNALED(status));
    CHECK(contents_of("m/hello") == "hello from the server\n");
    CHECK(kill(server, SIGKILL) == 0);
    CHECK(waitpid(server, &status, 0) == server);
    CHECK_FAILS(open("m/other", O_RDONLY), ENOTCONN);
    CHECK(umount("m") == 0);
}

// A server says what it likes: a directory that is in itself, the root below the root, a size that
// no offset reaches.
void lies() {
    const pid_t server = begin();
    CHECK(stat_of("m/circle").st_nlink == 1);
    struct stat status {};
    CHECK_FAILS(stat("m/circle/circle", &status), ELOOP);
    CHECK_FAILS(rmdir("m/circle/circle"), ELOOP);
    CHECK_FAILS(rename("m/circle/circle", "m/new"), ELOOP);
    CHECK_FAILS(rename("m/circle", "m/circle/circle"), ELOOP);
    CHECK_FAILS(stat("m/above", &status), EIO);
    CHECK_FAILS(stat("m/huge", &status), EIO);
    CHECK_FAILS(open("m/huge", O_RDONLY), EIO);
    CHECK(contents_of("m/hello") == "hello from the server\n");
    end(server);
}

void finish(pid_t child) {
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}
void wait_for(const std::atomic<int>& value) {
    while (value == 0)
        sched_yield();
}

// fsync(2) comes back when what others are writing has arrived as well.
void writes_of_others() {
    const pid_t server = begin();
    const int fd = open("m/hello", O_RDWR);
    CHECK(fd >= 0);
    control->hold = FUSE_WRITE;
    const pid_t writer = start([&] { CHECK(pwrite(fd, "HELLO", 5, 0) == 5); });
    wait_for(control->held);
    const pid_t syncer = start([&] {
        control->other = getpid();
        CHECK(fsync(fd) == 0);
        control->other_done = 1;
    });
    finish(writer);
    finish(syncer);
    CHECK(control->syncs == 1 && control->early == 0);
    close(fd);
    end(server);
}

// Another client of the server made the file after this one had found that there is none.
void made_by_others() {
    const pid_t server = begin();
    control->faster = 1;
    const int fd = open("m/new", O_CREAT | O_RDWR, 0644);
    CHECK(fd >= 0 && contents_of("m/new") == "of another");
    close(fd);
    CHECK_FAILS(open("m/newer", O_CREAT | O_EXCL | O_RDWR, 0644), EEXIST);
    CHECK(contents_of("m/newer") == "of another");
    end(server);
}

// What mknod(2) makes is closed, if it was opened at all, before the server may forget it.
void made_and_not_opened() {
    const pid_t server = begin();
    CHECK(mknod("m/node", S_IFREG | 0644, 0) == 0 && unlink("m/node") == 0);
    const int released = control->released;
    close(open("m/hello", O_RDONLY));
    while (control->released == released) // and those before it
        sched_yield();
    CHECK(control->late == 0);
    end(server);
}

// A page that is being read while the file is cut: what was cut off does not come back.
void cut_while_read() {
    const pid_t server = begin();
    const int fd = open("m/full", O_RDWR);
    CHECK(fd >= 0);
    control->hold = FUSE_READ;
    const pid_t reader = start([&] {
        char byte = 0;
        CHECK(pread(fd, &byte, 1, 0) == 1 && byte == 'x');
    });
    wait_for(control->held);
    const pid_t cutter = start([&] {
        control->other = getpid();
        CHECK(ftruncate(fd, 100) == 0);
        control->other_done = 1;
    });
    finish(reader);
    finish(cutter);
    CHECK(ftruncate(fd, 4096) == 0);
    char text[4096];
    CHECK(pread(fd, text, sizeof text, 0) == sizeof text);
    CHECK(text[99] == 'x' && text[100] == 0 && text[4095] == 0);
    close(fd);
    end(server);
}

// A file of an overlay loses its name while it is copied up: the copy does not take the place of
// the whiteout, nor of what was moved there.
void copied_while_removed() {
    const pid_t server = begin();
    for (const char* name : {"u", "w", "o"})
        CHECK(mkdir(name, 0755) == 0);
    CHECK(mount("overlay", "o", "overlay", 0, "lowerdir=/tmp/m,upperdir=/tmp/u,workdir=/tmp/w") ==
          0);
    make_file("o/new", "new");
    for (const char* name : {"o/hello", "o/full"}) {
        const bool replace = std::strcmp(name, "o/full") == 0;
        CHECK(stat_of(name).st_size > 0);
        control->held = control->other = control->other_done = 0;
        control->hold = FUSE_READ;
        const pid_t copier = start([&] { close(open(name, O_WRONLY)); });
        wait_for(control->held);
        const pid_t remover = start([&] {
            control->other = getpid();
            CHECK(replace ? rename("o/new", name) == 0 : unlink(name) == 0);
            control->other_done = 1;
        });
        finish(copier);
        finish(remover);
    }
    CHECK_FAILS(open("o/hello", O_RDONLY), ENOENT);
    CHECK(S_ISCHR(stat_of("u/hello").st_mode));
    CHECK(contents_of("o/full") == "new" && contents_of("u/full") == "new");
    CHECK(umount("o") == 0);
    end(server);
}

// msync(2) is as good as fsync(2), and an error that nobody was told of is told by the next.
void stores() {
    const pid_t server = begin();
    const int fd = open("m/hello", O_RDWR);
    void* shared = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(shared != MAP_FAILED);
    auto* text = static_cast<volatile char*>(shared);
    text[0] = 'H';
    CHECK(msync(shared, 4096, MS_SYNC) == 0);
    CHECK(control->syncs == 1);
    control->fail_writes = 1;
    text[0] = 'h';
    sync();
    wait_for(control->failed);
    control->fail_writes = 0;
    CHECK_FAILS(fsync(fd), EIO);
    CHECK(fsync(fd) == 0);
    CHECK(munmap(shared, 4096) == 0);
    close(fd);
    end(server);
}

// A program whose own thread serves the file that it has mapped: whoever waits for a page keeps
// neither the server from changing the mappings before it answers, nor others from looking at them.
void pages_of_own_server() {
    const int fd = mount_served();
    Server server(fd);
    const std::string data(4096, 'x');
    const auto name_of = [](int i) { return "page" + std::to_string(i); };
    constexpr int accesses = 8;
    for (int i = 0; i < accesses; i++)
        server.add(name_of(i), data);
    std::thread serving([&] { server.run(); });
    int pipes[2];
    CHECK(pipe(pipes) == 0);
    void* mapped[accesses];
    for (int i = 0; i < accesses; i++) {
        const int file = open(("m/" + name_of(i)).c_str(), O_RDWR);
        const int flags = i % 2 == 0 ? MAP_PRIVATE : MAP_SHARED;
        mapped[i] = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, flags, file, 0);
        CHECK(mapped[i] != MAP_FAILED && close(file) == 0);
    }
    std::atomic<bool> over{false};
    std::thread looking([&] {
        while (!over) {
            CHECK(contents_of("/proc/self/maps").find("/m/page") != std::string::npos);
            control->looks++;
        }
    });
    control->maps = 1;
    const auto use = [&](int i) {
        auto* text = static_cast<volatile char*>(mapped[i]);
        char byte = 0;
        iovec to{&byte, 1}, from{mapped[i], 1};
        switch (i) {
        case 0:
        case 1:
            CHECK(text[1] == 'x');
            return;
        case 2:
        case 3:
            text[0] = 'X';
            return;
        case 4:
            CHECK(mlock(mapped[i], 4096) == 0);
            return;
        case 5:
            CHECK(madvise(mapped[i], 4096, MADV_POPULATE_READ) == 0);
            return;
        case 6:
            CHECK(process_vm_readv(getpid(), &to, 1, &from, 1, 0) == 1 && byte == 'x');
            return;
        default:
            CHECK(write(pipes[1], mapped[i], 1) == 1 && read(pipes[0], &byte, 1) == 1);
            CHECK(byte == 'x');
        }
    };
    for (int i = 0; i < accesses; i++) {
        const int before = control->maps;
        use(i);
        CHECK(control->maps == before + 1); // it was read from the server
    }
    over = true;
    looking.join();
    for (void* page : mapped) {
        CHECK(static_cast<char*>(page)[4095] == 'x');
        // The server must not be asked by munmap(2), which keeps it from changing mappings.
        CHECK(msync(page, 4096, MS_SYNC) == 0 && munmap(page, 4096) == 0);
    }
    CHECK(umount("m") == 0);
    serving.join();
    close(fd);
}

// Whoever waits for a page that never comes can be looked at and killed, whatever his other threads
// do.
void pages_that_never_come() {
    const pid_t server = begin();
    const pid_t waiting = start([] {
        const int fd = open("m/hang", O_RDONLY);
        const void* page = mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
        CHECK(page != MAP_FAILED);
        std::thread changing([] {
            wait_for(control->held);
            const void* more = mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            CHECK(more != MAP_FAILED);
            control->other_done = 1;
        });
        (void)*static_cast<const volatile char*>(page);
        changing.join();
    });
    wait_for(control->other_done);
    const std::string process = "/proc/" + std::to_string(waiting);
    CHECK(contents_of(process + "/maps").find("/m/hang") != std::string::npos);
    CHECK(!contents_of(process + "/cmdline").empty());
    CHECK(kill(waiting, SIGKILL) == 0);
    int status = 0;
    CHECK(waitpid(waiting, &status, 0) == waiting && WIFSIGNALED(status));
    CHECK(WTERMSIG(status) == SIGKILL);
    end(server);
}

void errors() {
    CHECK(unshare(CLONE_NEWNS) == 0);
    CHECK(mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
    const ScratchDirectory scratch("/dev/shm");
    const auto attempt = [&](const char* options) {
        return mount("server", scratch.name().c_str(), "fuse", 0, options);
    };
    CHECK_FAILS(attempt(""), EINVAL);
    CHECK_FAILS(attempt("fd=0,rootmode=40000,user_id=0"), EINVAL);
    const int null = open("/dev/null", O_RDWR);
    const std::string options =
        "fd=" + std::to_string(null) + ",rootmode=40000,user_id=0,group_id=0";
    CHECK_FAILS(attempt(options.c_str()), EINVAL);
    close(null);
}

} // namespace

int main() {
    if (!is_root()) {
        std::fprintf(stderr, "this test needs root\n");
        return 1;
    }
    in_child(files);
    in_child(listings);
    in_child(rights);
    in_child(failures);
    in_child(lies);
    in_child(writes_of_others);
    in_child(made_by_others);
    in_child(made_and_not_opened);
    in_child(cut_while_read);
    in_child(copied_while_removed);
    in_child(stores);
    in_child(pages_of_own_server);
    in_child(pages_that_never_come);
    in_child(errors);
    return 0;
}
