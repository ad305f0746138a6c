// Where programs find their stack, mappings and break: elsewhere at each execve, as far as Linux
// spreads them, unless personality(2) or kernel.randomize_va_space says otherwise. With "all", that
// file is written, too (it is the whole machine's).
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fcntl.h>
#include <string_view>
#include <unistd.h>
#include <vector>

#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "tests/guest/check.hpp"

namespace {

struct Places {
    std::uint64_t stack, mapping, program_break, vdso;
};

int tell() {
    const int local = 0;
    void* const page = mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    const Places places{reinterpret_cast<std::uint64_t>(&local),
                        reinterpret_cast<std::uint64_t>(page),
                        reinterpret_cast<std::uint64_t>(sbrk(0)), getauxval(AT_SYSINFO_EHDR)};
    CHECK(write(STDOUT_FILENO, &places, sizeof places) == sizeof places);
    return 0;
}

template <class Function>
Places places_after(Function prepare) {
    int ends[2];
    CHECK(pipe(ends) == 0);
    const pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        prepare();
        CHECK(dup2(ends[1], STDOUT_FILENO) == STDOUT_FILENO);
        execl("/proc/self/exe", "address_layout", "tell", nullptr);
        _exit(99);
    }
    close(ends[1]);
    Places places{};
    CHECK(read(ends[0], &places, sizeof places) == sizeof places);
    close(ends[0]);
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    return places;
}

// The bits that differ among many runs.
template <class Function>
Places spread(Function prepare) {
    const Places first = places_after(prepare);
    Places bits{};
    for (int i = 0; i < 32; i++) {
        const Places next = places_after(prepare);
        bits.stack |= next.stack ^ first.stack;
        bits.mapping |= next.mapping ^ first.mapping;
        bits.program_break |= next.program_break ^ first.program_break;
        bits.vdso |= next.vdso ^ first.vdso;
    }
    return bits;
}

std::uint64_t bits(unsigned lowest, unsigned highest) {
    return (std::uint64_t{2} << highest) - (std::uint64_t{1} << lowest);
}

void check_spread(const Places& found) {
    CHECK((~found.stack & bits(4, 33)) == 0);
    CHECK((~found.mapping & bits(12, 39)) == 0);
    CHECK((~found.program_break & bits(12, 29)) == 0);
    CHECK(found.vdso != 0);
}

void check_fixed(const Places& found) {
    CHECK(found.stack == 0 && found.mapping == 0 && found.program_break == 0 && found.vdso == 0);
}

constexpr const char* setting = "/proc/sys/kernel/randomize_va_space";

void set_randomization(const char* value) {
    const int fd = open(setting, O_WRONLY);
    CHECK(fd >= 0);
    CHECK(write(fd, value, std::strlen(value)) == static_cast<ssize_t>(std::strlen(value)));
    close(fd);
}

// Puts back what it found.
class Setting {
public:
    Setting() {
        const int fd = open(setting, O_RDONLY);
        CHECK(fd >= 0 && read(fd, before_, sizeof before_ - 1) > 0);
        close(fd);
    }
    Setting(const Setting&) = delete;
    Setting& operator=(const Setting&) = delete;
    ~Setting() { set_randomization(before_); }

private:
    char before_[16] = {};
};

void room_for_the_stack() {
    for (const rlim_t room : {rlim_t{1} << 30, rlim_t{RLIM_INFINITY}}) {
        const Places places = places_after([room] {
            const rlimit limit{room, RLIM_INFINITY};
            CHECK(setrlimit(RLIMIT_STACK, &limit) == 0 || errno == EPERM);
        });
        CHECK(places.stack - places.mapping > bits(30, 30));
    }
}

} // namespace

int main(int argc, char** argv) {
    const std::string_view what = argc > 1 ? argv[1] : "";
    if (what == "tell")
        return tell();
    const auto randomized = [] { CHECK(personality(PER_LINUX) != -1); };
    const auto as_debugged = [] { CHECK(personality(ADDR_NO_RANDOMIZE) != -1); };
    if (what != "all") {
        check_spread(spread(randomized));
        check_fixed(spread(as_debugged));
        room_for_the_stack();
        return 0;
    }
    const Setting kept;
    set_randomization("2\n");
    check_spread(spread(randomized));
    check_fixed(spread(as_debugged));
    room_for_the_stack();
    set_randomization("1\n");
    const Places without_break = spread(randomized);
    CHECK(without_break.program_break == 0 && without_break.stack != 0);
    set_randomization("0\n");
    check_fixed(spread(randomized));
    const int fd = open(setting, O_WRONLY);
    CHECK_FAILS(write(fd, "x", 1), EINVAL);
    close(fd);
    return 0;
}
