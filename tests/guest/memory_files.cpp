// What /proc tells of a process's memory page by page: pagemap, smaps, clear_refs, and which memory
// is left out of core files (coredump_filter); MOVE_MOUNT_SET_GROUP of move_mount(2).
#include <cstdint>
#include <sched.h>
#include <sstream>
#include <tuple>
#include <vector>

#include <linux/mount.h>
#include <sys/mman.h>
#include <sys/mount.h>
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
    CHECK(munlock(at, 2 * page) == 0 && munmap(at, 2 * page) == 0);
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
    mount_groups();
}
