// core(5): which ends leave a core file, and that it holds threads, registers, memory and files.
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <dirent.h>
#include <elf.h>
#include <fcntl.h>
#include <pthread.h>
#include <string>
#include <string_view>
#include <unistd.h>
#include <vector>

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/procfs.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/guest/check.hpp"

namespace {

char marker[] = "a string that the core file has";

// The program's own file, all of it, of which only the first page was ever used: the core file has
// what debuggers would find there.
struct WholeFile {
    int fd = -1;
    char* start = nullptr;
    std::size_t bytes = 0;

    void map() {
        fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        struct stat status = {};
        CHECK(fd >= 0 && fstat(fd, &status) == 0);
        bytes = static_cast<std::size_t>(status.st_size);
        void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
        CHECK(at != MAP_FAILED);
        start = static_cast<char*>(at);
        start[0] = 'X';
    }
    void check(const char* in_core) const {
        std::string expected(bytes, '\0');
        CHECK(pread(fd, expected.data(), bytes, 0) == static_cast<ssize_t>(bytes));
        expected[0] = 'X';
        CHECK(std::memcmp(in_core, expected.data(), bytes) == 0);
    }
    void unmap() const {
        CHECK(munmap(start, bytes) == 0);
        close(fd);
    }
} whole_file;

void* wait_forever(void* barrier) {
    pthread_barrier_wait(static_cast<pthread_barrier_t*>(barrier));
    for (;;)
        pause();
}

// How a child ends that has two threads, a limit for core files, and a signal to die of.
int status_of(int signal, rlim_t limit, bool dumpable) {
    const pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        const rlimit value = {limit, limit};
        CHECK(setrlimit(RLIMIT_CORE, &value) == 0);
        CHECK(prctl(PR_SET_DUMPABLE, dumpable ? 1 : 0) == 0);
        pthread_barrier_t barrier;
        pthread_barrier_init(&barrier, nullptr, 2);
        pthread_t thread;
        CHECK(pthread_create(&thread, nullptr, wait_forever, &barrier) == 0);
        pthread_barrier_wait(&barrier);
        raise(signal);
        _exit(1);
    }
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == signal);
    return status;
}

std::string only_file() {
    std::string name;
    DIR* directory = opendir(".");
    CHECK(directory != nullptr);
    while (const dirent* entry = readdir(directory))
        if (entry->d_name[0] != '.') {
            CHECK(name.empty());
            name = entry->d_name;
        }
    closedir(directory);
    return name;
}

// Many threads end by themselves just when another one dies: none of them is in the way of the
// core file.
void ending_threads() {
    for (int attempt = 0; attempt < 20; attempt++) {
        const pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            constexpr unsigned count = 64;
            const rlimit value = {RLIM_INFINITY, RLIM_INFINITY};
            CHECK(setrlimit(RLIMIT_CORE, &value) == 0);
            static pthread_barrier_t barrier;
            pthread_barrier_init(&barrier, nullptr, count + 1);
            const auto end = [](void*) -> void* {
                pthread_barrier_wait(&barrier);
                return nullptr;
            };
            for (unsigned i = 0; i < count; i++) {
                pthread_t thread;
                CHECK(pthread_create(&thread, nullptr, end, nullptr) == 0);
            }
            pthread_barrier_wait(&barrier);
            raise(SIGABRT);
            _exit(1);
        }
        int status = 0;
        CHECK(waitpid(pid, &status, 0) == pid);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT && WCOREDUMP(status));
        const std::string name = only_file();
        CHECK(!name.empty() && unlink(name.c_str()) == 0);
    }
}

std::string contents(const std::string& name) {
    const int fd = open(name.c_str(), O_RDONLY);
    CHECK(fd >= 0);
    struct stat status = {};
    CHECK(fstat(fd, &status) == 0 && (status.st_mode & 07777) == 0600);
    std::string text(static_cast<std::size_t>(status.st_size), '\0');
    CHECK(read(fd, text.data(), text.size()) == status.st_size);
    close(fd);
    return text;
}

struct Counts {
    int threads = 0, fpu = 0, xstate = 0, siginfo = 0, auxv = 0, files = 0, process = 0;
};

Counts count_notes(const std::string& core, const Elf64_Phdr& segment) {
    Counts counts;
    std::size_t at = segment.p_offset;
    const std::size_t end = at + segment.p_filesz;
    while (at < end) {
        Elf64_Nhdr note = {};
        std::memcpy(&note, core.data() + at, sizeof note);
        at += sizeof note + ((note.n_namesz + 3) & ~3u);
        const char* content = core.data() + at;
        if (note.n_type == NT_PRSTATUS) {
            prstatus_t status = {};
            CHECK(note.n_descsz == sizeof status);
            std::memcpy(&status, content, sizeof status);
            CHECK(status.pr_cursig == SIGABRT && status.pr_pid > 0);
            counts.threads++;
        } else if (note.n_type == NT_PRFPREG) {
            counts.fpu++;
        } else if (note.n_type == NT_X86_XSTATE) {
            counts.xstate++;
        } else if (note.n_type == NT_SIGINFO) {
            siginfo_t info = {};
            std::memcpy(&info, content, sizeof info);
            CHECK(info.si_signo == SIGABRT && info.si_code == SI_TKILL);
            counts.siginfo++;
        } else if (note.n_type == NT_AUXV) {
            counts.auxv++;
        } else if (note.n_type == NT_FILE) {
            CHECK(std::string_view(content, note.n_descsz).find("guest-core_files") !=
                      std::string_view::npos ||
                  std::string_view(content, note.n_descsz).find("core_files") !=
                      std::string_view::npos);
            counts.files++;
        } else if (note.n_type == NT_PRPSINFO) {
            counts.process++;
        }
        at += (note.n_descsz + 3) & ~3u;
    }
    CHECK(at == end);
    return counts;
}

void check_core(const std::string& core) {
    Elf64_Ehdr header = {};
    CHECK(core.size() > sizeof header);
    std::memcpy(&header, core.data(), sizeof header);
    CHECK(std::memcmp(header.e_ident, ELFMAG, SELFMAG) == 0 && header.e_type == ET_CORE);
    bool found = false, found_file = false;
    const auto address = reinterpret_cast<std::uintptr_t>(marker);
    for (unsigned i = 0; i < header.e_phnum; i++) {
        Elf64_Phdr segment = {};
        std::memcpy(&segment, core.data() + header.e_phoff + i * sizeof segment, sizeof segment);
        CHECK(segment.p_offset + segment.p_filesz <= core.size());
        if (segment.p_type == PT_NOTE) {
            const Counts counts = count_notes(core, segment);
            CHECK(counts.threads == 2 && counts.fpu == 2 && counts.xstate == 2);
            CHECK(counts.siginfo == 1 && counts.auxv == 1 && counts.files == 1 &&
                  counts.process == 1);
        } else if (segment.p_type == PT_LOAD &&
                   segment.p_vaddr == reinterpret_cast<std::uintptr_t>(whole_file.start)) {
            CHECK(segment.p_filesz >= whole_file.bytes);
            whole_file.check(core.data() + segment.p_offset);
            found_file = true;
        } else if (segment.p_type == PT_LOAD && address >= segment.p_vaddr &&
                   address < segment.p_vaddr + segment.p_filesz) {
            found = std::memcmp(core.data() + segment.p_offset + (address - segment.p_vaddr),
                                marker, sizeof marker) == 0;
        }
    }
    CHECK(found && found_file);
}

} // namespace

int main() {
    marker[0] = 'A'; // changed: the page is the program's own
    char directory[] = "/tmp/core_files.XXXXXX";
    CHECK(mkdtemp(directory) != nullptr && chdir(directory) == 0);
    char pattern[256] = {};
    const int fd = open("/proc/sys/kernel/core_pattern", O_RDONLY);
    CHECK(fd >= 0 && read(fd, pattern, sizeof pattern - 1) > 0);
    close(fd);
    // No file, and no bit that says so: a limit of zero, a program that is not dumpable, a signal
    // that only ends.
    CHECK(!WCOREDUMP(status_of(SIGTERM, RLIM_INFINITY, true)));
    CHECK(!WCOREDUMP(status_of(SIGABRT, RLIM_INFINITY, false)));
    if (pattern[0] != '|')
        CHECK(!WCOREDUMP(status_of(SIGABRT, 0, true)));
    CHECK(only_file().empty());
    // What a pattern with a path or a pipe does is the machine's affair.
    if (std::strchr(pattern, '/') == nullptr && pattern[0] != '|') {
        whole_file.map();
        CHECK(WCOREDUMP(status_of(SIGABRT, RLIM_INFINITY, true)));
        const std::string name = only_file();
        CHECK(name.substr(0, 4) == "core");
        check_core(contents(name));
        whole_file.unmap();
        CHECK(unlink(name.c_str()) == 0);
        ending_threads();
    }
    CHECK(chdir("/") == 0 && rmdir(directory) == 0);
}
