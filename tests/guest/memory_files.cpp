// What /proc tells of a process's memory page by page: pagemap, smaps, clear_refs, and which memory
// is left out of core files (coredump_filter), map_files; MOVE_MOUNT_SET_GROUP of move_mount(2).
#include <cstdint>
#include <dirent.h>
#include <sched.h>
#include <sstream>
#include <tuple>
#include <vector>

#include <linux/mount.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/syscall.h>

#include "tests/guest/file_support.hpp"

namespace {

constexpr size_t page = 4096;
constexpr uint64_t present = uint64_t{1} << 63, of_file = uint64_t{1} << 61,
                   alone = uint64_t{1} << 56, frame = (uint64_t{1} << 55) - 1;

std::vector<uint64_t> pages_of(void* at, size_t count) {
    const int fd = open("/proc/self/pagemap", O_RDONLY);
    CHECK(fd >= 0);
    std::vector<uint64_t> out(count);
    const auto bytes = static_cast<ssize_t>(count * sizeof(uint64_t));
    const auto offset =
        static_cast<off_t>(reinterpret_cast<uintptr_t>(at) / page * sizeof(uint64_t));
    CHECK(pread(fd, out.data(), static_cast<size_t>(bytes), offset) == bytes);
    CHECK_FAILS(pread(fd, out.data(), 8, offset + 1), EINVAL);
    CHECK_FAILS(pread(fd, out.data(), 7, offset), EINVAL);
    CHECK(pread(fd, out.data(), 0, offset) == 0);
    close(fd);
    return out;
}

// A figure in kilobytes of the mapping that begins at an address, or its flags.
std::string line_of(void* at, const std::string& label) {
    std::istringstream in(contents_of("/proc/self/smaps"));
    char start[32];
    std::snprintf(start, sizeof start, "%08lx-",
                  static_cast<unsigned long>(reinterpret_cast<uintptr_t>(at)));
    bool found = false;
    for (std::string line; std::getline(in, line);) {
        if (line.rfind(start, 0) == 0)
            found = true;
        else if (found && line.rfind(label + ":", 0) == 0)
            return line.substr(label.size() + 1);
    }
    return "";
}
long kilobytes(void* at, const std::string& label) {
    const std::string text = line_of(at, label);
    CHECK(!text.empty());
    return std::stol(text);
}

char* map(size_t pages, int flags, int fd = -1) {
    void* at = mmap(nullptr, pages * page, PROT_READ | PROT_WRITE, flags, fd, 0);
    CHECK(at != MAP_FAILED);
    return static_cast<char*>(at);
}

void page_map() {
    char* own = map(4, MAP_PRIVATE | MAP_ANONYMOUS);
    CHECK(madvise(own, 4 * page, MADV_NOHUGEPAGE) == 0 || errno == EINVAL);
    // Neighbours may come with a page that is touched; those that are given back are gone.
    for (size_t i = 0; i < 4; i++)
        own[i * page] = 1;
    for (const size_t i : {1, 3})
        CHECK(madvise(own + i * page, page, MADV_DONTNEED) == 0);
    std::vector<uint64_t> seen = pages_of(own, 4);
    CHECK((seen[0] & present) != 0 && (seen[1] & present) == 0 && (seen[2] & present) != 0 &&
          (seen[3] & present) == 0);
    CHECK((seen[0] & of_file) == 0 && (seen[0] & alone) != 0);
    CHECK((seen[0] & frame) != 0 && (seen[0] & frame) != (seen[2] & frame)); // for root
    const int fd = memfd_create("pages", 0);
    CHECK(fd >= 0 && ftruncate(fd, page) == 0);
    char* shared = map(1, MAP_SHARED, fd);
    char* again = map(1, MAP_SHARED, fd);
    shared[0] = 1;
    CHECK(again[0] == 1);
    seen = pages_of(shared, 1);
    const std::vector<uint64_t> other = pages_of(again, 1);
    CHECK((seen[0] & present) != 0 && (seen[0] & of_file) != 0 && (seen[0] & alone) == 0);
    CHECK((seen[0] & frame) == (other[0] & frame));
    // Shared by two, each counts half.
    CHECK(kilobytes(shared, "Rss") == 4 && kilobytes(shared, "Pss") == 2);
    CHECK(kilobytes(own, "Rss") == 8 && kilobytes(own, "Pss") == 8);
    in_child([&] {
        CHECK(setuid(12345) == 0);
        const int closed = open("/proc/self/pagemap", O_RDONLY);
        if (closed < 0)
            return; // not dumpable any more: not even that
        uint64_t entry = 0;
        CHECK(pread(closed, &entry, sizeof entry,
                    static_cast<off_t>(reinterpret_cast<uintptr_t>(own) / page * 8)) == 8);
        CHECK((entry & present) != 0 && (entry & frame) == 0);
    });
    CHECK(munmap(own, 4 * page) == 0 && munmap(shared, page) == 0 && munmap(again, page) == 0);
    close(fd);
}

void flags() {
    char* at = map(2, MAP_PRIVATE | MAP_ANONYMOUS);
    const auto has = [&](const char* flag) {
        return (line_of(at, "VmFlags") + " ").find(std::string(" ") + flag + " ") !=
               std::string::npos;
    };
    CHECK(has("rd") && has("wr") && has("mr") && has("mw") && has("me") && !has("sh"));
    for (const auto& [advice, back, flag] : {std::tuple{MADV_DONTDUMP, MADV_DODUMP, "dd"},
                                             {MADV_DONTFORK, MADV_DOFORK, "dc"},
                                             {MADV_WIPEONFORK, MADV_KEEPONFORK, "wf"},
                                             {MADV_RANDOM, MADV_NORMAL, "rr"}}) {
        CHECK(!has(flag));
        CHECK(madvise(at, 2 * page, advice) == 0 && has(flag));
        CHECK(madvise(at, 2 * page, back) == 0 && !has(flag));
    }
    at[0] = at[page] = 1;
    CHECK(kilobytes(at, "Locked") == 0);
    CHECK(mlock(at, 2 * page) == 0 && has("lo") && kilobytes(at, "Locked") == 8);
    CHECK(!has("lf") && munlock(at, 2 * page) == 0 && !has("lo"));
    CHECK(mlock2(at, 2 * page, MLOCK_ONFAULT) == 0 && has("lo") && has("lf"));
    CHECK(munlock(at, 2 * page) == 0 && !has("lo") && !has("lf") && munmap(at, 2 * page) == 0);
}

long status_figure(const std::string& label) {
    const std::string text = contents_of("/proc/self/status");
    return std::stol(text.substr(text.find(label + ":") + label.size() + 1));
}

void peak() {
    constexpr size_t pages = 8192;
    char* at = map(pages, MAP_PRIVATE | MAP_ANONYMOUS);
    for (size_t i = 0; i < pages; i++)
        at[i * page] = 1;
    CHECK(munmap(at, pages * page) == 0);
    CHECK(status_figure("VmHWM") - status_figure("VmRSS") > 16384);
    make_file("/proc/self/clear_refs", "5");
    CHECK(status_figure("VmHWM") - status_figure("VmRSS") < 16384);
    const int fd = open("/proc/self/clear_refs", O_WRONLY);
    CHECK(write(fd, "1", 1) == 1);
    CHECK_FAILS(write(fd, "9", 1), EINVAL);
    CHECK_FAILS(write(fd, "x", 1), EINVAL);
    close(fd);
}

void core_filter() {
    const std::string name = "/proc/self/coredump_filter";
    CHECK(contents_of(name) == "00000033\n");
    make_file(name, "0x7f\n");
    CHECK(contents_of(name) == "0000007f\n");
    in_child([&] { CHECK(contents_of(name) == "0000007f\n"); });
    make_file(name, "010");
    CHECK(contents_of(name) == "00000008\n");
    make_file(name, "51");
    CHECK(contents_of(name) == "00000033\n");
    const int fd = open(name.c_str(), O_WRONLY);
    CHECK_FAILS(write(fd, "words", 5), EINVAL);
    close(fd);
}

std::string mapping_link(const void* at, size_t bytes) {
    const auto start = reinterpret_cast<uintptr_t>(at);
    char name[80];
    std::snprintf(name, sizeof name, "/proc/self/map_files/%lx-%lx",
                  static_cast<unsigned long>(start), static_cast<unsigned long>(start + bytes));
    return name;
}

std::string target_of(const std::string& link) {
    char text[512];
    const ssize_t length = readlink(link.c_str(), text, sizeof text);
    return length < 0 ? "" : std::string(text, static_cast<size_t>(length));
}

// The files behind mappings, by the ranges of these, also where no other name leads any more.
void map_files() {
    const ScratchDirectory scratch("/var/tmp");
    make_file(scratch.path("gone"), "deleted");
    const int gone = open(scratch.path("gone").c_str(), O_RDONLY);
    const int memory = memfd_create("named", 0);
    CHECK(gone >= 0 && memory >= 0 && ftruncate(memory, 3 * page) == 0);
    CHECK(pwrite(memory, "memory", 6, 0) == 6);
    void* const of_gone = mmap(nullptr, page, PROT_READ, MAP_PRIVATE, gone, 0);
    char* const of_memory = map(3, MAP_SHARED, memory);
    char* const anonymous = map(1, MAP_PRIVATE | MAP_ANONYMOUS);
    CHECK(of_gone != MAP_FAILED);
    CHECK(unlink(scratch.path("gone").c_str()) == 0);
    close(gone);
    close(memory);

    const std::string gone_link = mapping_link(of_gone, page);
    const std::string memory_link = mapping_link(of_memory, 3 * page);
    CHECK(target_of(gone_link) == scratch.path("gone") + " (deleted)");
    CHECK(target_of(memory_link) == "/memfd:named (deleted)");
    CHECK(contents_of(gone_link) == "deleted");
    CHECK(contents_of(memory_link).substr(0, 6) == "memory");
    struct stat status = {};
    CHECK(lstat(gone_link.c_str(), &status) == 0 && status.st_mode == (S_IFLNK | 0400u));
    CHECK(lstat(memory_link.c_str(), &status) == 0 && status.st_mode == (S_IFLNK | 0600u));
    CHECK(status.st_size == 64);
    CHECK(stat("/proc/self/map_files", &status) == 0 && status.st_mode == (S_IFDIR | 0500u));
    // It can be written through, too.
    const int again = open(memory_link.c_str(), O_RDWR);
    CHECK(again >= 0 && pwrite(again, "M", 1, 0) == 1 && of_memory[0] == 'M');
    close(again);

    // A segment of System V has a file of the kernel's.
    const int segment = shmget(IPC_PRIVATE, page, 0600);
    CHECK(segment >= 0);
    void* const attached = shmat(segment, nullptr, 0);
    CHECK(shmctl(segment, IPC_RMID, nullptr) == 0);
    CHECK(target_of(mapping_link(attached, page)) == "/SYSV00000000 (deleted)");
    CHECK(shmdt(attached) == 0);

    // Nothing but the very ranges.
    const auto missing = [](const std::string& name) { return access(name.c_str(), F_OK) != 0; };
    CHECK(missing(mapping_link(anonymous, page)));
    CHECK(missing(mapping_link(of_memory, page)));
    CHECK(missing(memory_link + "0") && missing(memory_link + "-"));
    CHECK(missing("/proc/self/map_files/0" + memory_link.substr(memory_link.rfind('/') + 1)));
    CHECK(missing("/proc/self/map_files/5"));
    CHECK(missing("/proc/thread-self/map_files"));
    CHECK(mprotect(of_memory + page, page, PROT_READ) == 0);
    CHECK(missing(memory_link));
    CHECK(target_of(mapping_link(of_memory + page, page)) == "/memfd:named (deleted)");

    // Each file's mapping is listed once, in order.
    std::vector<std::string> expected, listed;
    std::istringstream maps(contents_of("/proc/self/maps"));
    for (std::string line; std::getline(maps, line);)
        if (line.find(" 00:00 0 ") == std::string::npos && line.find('/') != std::string::npos)
            expected.push_back(line.substr(0, line.find(' ')));
    DIR* const directory = opendir("/proc/self/map_files");
    CHECK(directory != nullptr);
    while (const dirent* entry = readdir(directory))
        if (entry->d_name[0] != '.') {
            CHECK(entry->d_type == DT_LNK);
            listed.push_back(entry->d_name);
        }
    closedir(directory);
    for (std::string& range : expected) // maps has leading zeros where an address is short
        range = mapping_link(reinterpret_cast<void*>(std::stoul(range, nullptr, 16)),
                             std::stoul(range.substr(range.find('-') + 1), nullptr, 16) -
                                 std::stoul(range, nullptr, 16))
                    .substr(sizeof "/proc/self/map_files");
    CHECK(listed == expected && listed.size() >= 4);
    // The kernel's own part of a program is no file.
    maps.clear();
    maps.seekg(0);
    for (std::string line; std::getline(maps, line);)
        if (line.find("[vdso]") != std::string::npos)
            CHECK(missing("/proc/self/map_files/" + line.substr(0, line.find(' '))));

    // Only the privileged are led anywhere.
    in_child([&] {
        CHECK(setresuid(1000, 1000, 1000) == 0 && prctl(PR_SET_DUMPABLE, 1) == 0);
        CHECK(!target_of(gone_link).empty());
        CHECK_FAILS(open(gone_link.c_str(), O_RDONLY), EPERM);
        CHECK(opendir(("/proc/" + std::to_string(getppid()) + "/map_files").c_str()) == nullptr);
    });
}

// Where a thread is in the kernel is for the privileged.
void stack() {
    struct stat status = {};
    CHECK(stat("/proc/self/stack", &status) == 0 && status.st_mode == (S_IFREG | 0400u));
    char text[4096];
    const int fd = open("/proc/self/stack", O_RDONLY);
    CHECK(fd >= 0 && read(fd, text, sizeof text) >= 0);
    close(fd);
    in_child([&] {
        CHECK(setresuid(1000, 1000, 1000) == 0 && prctl(PR_SET_DUMPABLE, 1) == 0);
        const int own = open("/proc/self/stack", O_RDONLY);
        CHECK(own >= 0);
        CHECK_FAILS(read(own, text, sizeof text), EACCES);
    });
}

// A mount that comes to be of another one's group hears of what happens there.
void mount_groups() {
    in_child([] {
        CHECK(unshare(CLONE_NEWNS) == 0);
        CHECK(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
        CHECK(mount("joey", "/mnt", "tmpfs", 0, nullptr) == 0);
        for (const char* name : {"/mnt/a", "/mnt/a/sub", "/mnt/b", "/mnt/c"})
            CHECK(mkdir(name, 0755) == 0);
        const auto share = [](const char* from, const char* with) {
            return syscall(SYS_move_mount, AT_FDCWD, from, AT_FDCWD, with, MOVE_MOUNT_SET_GROUP);
        };
        CHECK(mount("/mnt/a", "/mnt/b", nullptr, MS_BIND, nullptr) == 0);
        CHECK(mount("/mnt/a", "/mnt/a", nullptr, MS_BIND, nullptr) == 0);
        CHECK_FAILS(share("/mnt/a", "/mnt/b"), EINVAL); // it has no group
        CHECK(mount(nullptr, "/mnt/a", nullptr, MS_SHARED, nullptr) == 0);
        CHECK_FAILS(share("/mnt/a", "/mnt/c"), EINVAL); // no mount
        CHECK_FAILS(share("/mnt/a", "/proc"), EINVAL);  // another file system
        CHECK(share("/mnt/a", "/mnt/b") == 0);
        CHECK_FAILS(share("/mnt/a", "/mnt/b"), EINVAL); // it has one now
        CHECK(mount("inner", "/mnt/a/sub", "tmpfs", 0, nullptr) == 0);
        make_file("/mnt/a/sub/file", "x");
        CHECK(contents_of("/mnt/b/sub/file") == "x");
    });
}

} // namespace

int main() {
    umask(022);
    page_map();
    flags();
    peak();
    core_filter();
    map_files();
    stack();
    mount_groups();
}
