// The control page: the kernel's few words to the VMM besides virtio. It is backed by no memory
// slot, so every write exits, on the writing vCPU's own thread, and has taken effect when it
// returns. Reads return 0. All values are little-endian; a write of another size than stated, or of
// an address outside RAM and kernel image, ends the VM with a report.
#pragma once

#include <cstdint>

namespace boot {

enum class Control : std::uint32_t {
    log = 0x00,       // 8 bytes: guest-physical address of a LogRecord
    exit = 0x08,      // 4 bytes: the program's wait status (wait(2)); the VM ends
    panic = 0x10,     // 8 bytes: guest-physical address of a PanicRecord; the VM ends with a report
    mark = 0x18,      // 4 bytes: a Mark, noted with the time for --timing
    start_cpu = 0x20, // 4 bytes: index of a vCPU that shall start (each once)
    // 4 bytes: what became of starting the program, sent before `exit`: an errno; joey's exit
    // status is then 127 (ENOENT), 126 (anything else) and one line says which program and why.
    exec_failed = 0x28,
};

enum class LogLevel : std::uint32_t { Error = 0, Warning = 1, Info = 2, Debug = 3, Strace = 4 };

struct LogRecord {
    LogLevel level;
    std::uint32_t length; // of the text, at most max_log_length; no newline at its end
    char text[1];         // `length` bytes, not NUL-terminated
};
inline constexpr std::uint32_t max_log_length = 4000;

enum class Mark : std::uint32_t {
    kernel_entered = 1,
    memory_ready = 2,
    devices_ready = 3,
    root_mounted = 4,
    exec_started = 5,
    first_user_instruction = 6,
    program_exited = 7,
};

struct PanicRecord {
    std::uint32_t cpu;
    std::uint32_t has_registers; // 0: only the message
    std::uint64_t rip, rsp, rflags, cr2, error_code, vector;
    std::uint64_t rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15;
    std::uint32_t message_length; // at most 1000
    std::uint32_t reserved;
    char message[1000];
};

} // namespace boot
