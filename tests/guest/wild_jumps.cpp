// Programs that go where they must not: into the kernel's half of the address space and into the
// gap before it, by a jump, by a signal handler's address, by what they return to from a handler
// and by a program file's entry. With "ring0" the kernel's own code and memory are among the places
// (in ring3 mode, hardware does not keep programs out of them).
#include <csetjmp>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <elf.h>
#include <fcntl.h>
#include <ucontext.h>
#include <unistd.h>
#include <vector>

#include <sys/mman.h>
#include <sys/wait.h>

#include "tests/guest/check.hpp"

namespace {

sigjmp_buf back;
volatile std::uint64_t seen_address;
volatile int seen_code;

void on_fault(int, siginfo_t* info, void*) {
    seen_address = reinterpret_cast<std::uint64_t>(info->si_addr);
    seen_code = info->si_code;
    siglongjmp(back, 1);
}

// With four or with five levels of tables: the places between those two are not in the list.
bool canonical(std::uint64_t address) {
    return address < 0x800000000000 || address >= 0xffff800000000000;
}

[[gnu::noinline]] void jump(std::uint64_t place, std::uint64_t stack_pointer) {
    seen_code = 0;
    if (sigsetjmp(back, 1) == 0)
        asm volatile("mov %0, %%rsp\n\tjmp *%1" : : "r"(stack_pointer), "r"(place) : "memory");
}

// The stack pointer is anything, too: nothing may be written there.
void jumps(const std::vector<std::uint64_t>& places) {
    static char stack[64 << 10];
    const stack_t alternate{stack, 0, sizeof stack};
    CHECK(sigaltstack(&alternate, nullptr) == 0);
    struct sigaction action {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    CHECK(sigaction(SIGSEGV, &action, nullptr) == 0);
    static std::uint64_t untouched[64];
    const std::uint64_t stacks[] = {0x1000, 0xffff888000200000, 0xffffffff80200000,
                                    reinterpret_cast<std::uint64_t>(untouched + 64)};
    for (const std::uint64_t place : places) {
        for (const std::uint64_t stack_pointer : stacks) {
            jump(place, stack_pointer);
            const int code = canonical(place) ? int{SEGV_MAPERR} : int{SI_KERNEL};
            CHECK(seen_code == code);
            CHECK(seen_address == (canonical(place) ? place : 0));
        }
    }
    for (const std::uint64_t word : untouched)
        CHECK(word == 0);
    CHECK(signal(SIGSEGV, SIG_DFL) != SIG_ERR);
}

template <class Function>
int status_of(Function function) {
    const pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        function();
        _exit(99);
    }
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid);
    return status;
}

std::uint64_t wanted;
int wanted_register;

void handlers(const std::vector<std::uint64_t>& places) {
    for (const std::uint64_t place : places) {
        wanted = place;
        if (place != ~std::uint64_t{0}) { // SIG_ERR
            CHECK(status_of([] {
                      // NOLINTNEXTLINE(performance-no-int-to-ptr)
                      signal(SIGUSR1, reinterpret_cast<void (*)(int)>(wanted));
                      raise(SIGUSR1);
                  }) == SIGSEGV);
        }
        for (const int which : {REG_RIP, REG_RSP}) {
            wanted_register = which;
            CHECK(status_of([] {
                      struct sigaction action {};
                      action.sa_flags = SA_SIGINFO;
                      action.sa_sigaction = [](int, siginfo_t*, void* context) {
                          static_cast<ucontext_t*>(context)->uc_mcontext.gregs[wanted_register] =
                              static_cast<greg_t>(wanted);
                      };
                      sigaction(SIGUSR1, &action, nullptr);
                      raise(SIGUSR1);
                  }) == SIGSEGV);
        }
    }
    // The fault is at the place itself, with the registers of the frame.
    for (const std::uint64_t place : places) {
        wanted = place;
        CHECK(status_of([] {
                  struct sigaction action {};
                  action.sa_flags = SA_SIGINFO;
                  action.sa_sigaction = [](int, siginfo_t*, void* context) {
                      auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
                      registers[REG_RIP] = static_cast<greg_t>(wanted);
                      registers[REG_RAX] = 0x1234;
                  };
                  sigaction(SIGUSR1, &action, nullptr);
                  action.sa_sigaction = [](int, siginfo_t* info, void* context) {
                      const auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
                      const auto at = reinterpret_cast<std::uint64_t>(info->si_addr);
                      const bool mapped = canonical(wanted);
                      const int code = mapped ? int{SEGV_MAPERR} : int{SI_KERNEL};
                      if (registers[REG_RIP] != static_cast<greg_t>(wanted) ||
                          registers[REG_RAX] != 0x1234 || info->si_code != code ||
                          at != (mapped ? wanted : 0) ||
                          registers[REG_TRAPNO] != (mapped ? 14 : 13))
                          _exit(1);
                      _exit(0);
                  };
                  sigaction(SIGSEGV, &action, nullptr);
                  raise(SIGUSR1);
              }) == 0);
    }
    // All flags that there are, in the frame: those of the kernel do not change, and IRETQ takes
    // the others.
    CHECK(WIFEXITED(status_of([] {
        struct sigaction action {};
        action.sa_flags = SA_SIGINFO;
        action.sa_sigaction = [](int, siginfo_t*, void* context) {
            static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_EFL] |=
                0x7fff'f6ff & ~0x40000; // but single steps, alignment
        };
        sigaction(SIGUSR1, &action, nullptr);
        raise(SIGUSR1);
    })));
    // A nested task's flag at a system call and at a fault.
    CHECK(WIFEXITED(status_of([] {
        asm volatile("pushfq; orl $0x4000, (%%rsp); popfq" : : : "memory", "cc");
        getppid();
    })));
}

// A file whose entry lies at such a place is refused, or dies; Linux takes the latter for what it
// has begun.
void entries(const std::vector<std::uint64_t>& places) {
    for (const std::uint64_t place : places) {
        struct {
            Elf64_Ehdr header;
            Elf64_Phdr segment;
        } file{};
        std::memcpy(file.header.e_ident, ELFMAG, SELFMAG);
        file.header.e_ident[EI_CLASS] = ELFCLASS64;
        file.header.e_ident[EI_DATA] = ELFDATA2LSB;
        file.header.e_ident[EI_VERSION] = EV_CURRENT;
        file.header.e_type = ET_EXEC;
        file.header.e_machine = EM_X86_64;
        file.header.e_version = EV_CURRENT;
        file.header.e_entry = place;
        file.header.e_phoff = sizeof file.header;
        file.header.e_ehsize = sizeof file.header;
        file.header.e_phentsize = sizeof file.segment;
        file.header.e_phnum = 1;
        file.segment = {PT_LOAD, PF_R | PF_X, 0,           0x10000,
                        0x10000, sizeof file, sizeof file, 0x1000};
        const int descriptor = memfd_create("entry", MFD_CLOEXEC);
        CHECK(write(descriptor, &file, sizeof file) == sizeof file);
        static int program;
        program = descriptor;
        const int status = status_of([] {
            char* const none[] = {nullptr};
            fexecve(program, none, none);
            _exit(98);
        });
        CHECK(status == SIGSEGV || (WIFEXITED(status) && WEXITSTATUS(status) == 98));
        close(descriptor);
    }
}

// SYSCALL in 32-bit mode enters the kernel elsewhere than in 64-bit mode, if at all. What becomes
// of the program differs; nothing else does.
void narrow_system_call() {
    constexpr size_t bytes = 4096;
    auto* low = static_cast<std::uint8_t*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE | PROT_EXEC,
                                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0));
    CHECK(low != MAP_FAILED);
    // mov $0xffff, %eax; mov %esp, %ebp; syscall; hlt
    const std::uint8_t code[] = {0xb8, 0xff, 0xff, 0, 0, 0x89, 0xe5, 0x0f, 0x05, 0xf4};
    std::memcpy(low, code, sizeof code);
    // By a jump: QEMU's emulation never gets through a far return in user mode where there is SMAP.
    static struct [[gnu::packed]] {
        std::uint32_t offset;
        std::uint16_t selector;
    } place;
    place = {static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(low)), 0x23};
    const int status = status_of([low] {
        asm volatile("lea 4000(%0), %%rsp\n\tljmp *(%1)" : : "r"(low), "r"(&place) : "memory");
    });
    CHECK(WIFSIGNALED(status));
    CHECK(munmap(low, bytes) == 0);
}

} // namespace

int main(int argc, char** argv) {
    std::vector<std::uint64_t> places = {0xffff800000000000, 0xfffffffffffff000, ~std::uint64_t{0},
                                         0x0100000000000000, 0x8000000000000000, 0x7ffffffff000};
    if (argc > 1 && std::strcmp(argv[1], "ring0") == 0) {
        places.push_back(0xffff888000000000); // all memory
        places.push_back(0xffff888000200000);
        for (std::uint64_t place = 0xffffffff80000000; place < 0xffffffff80000400; place += 7)
            places.push_back(place);
    }
    jumps(places);
    handlers(places);
    entries(places);
    narrow_system_call();
    return 0;
}
