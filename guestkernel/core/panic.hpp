// Ends the VM with a report to the host: for our own mistakes only, never for a value that a
// program, a file or the host chose.
#pragma once

namespace kernel {

// Prints `message` with file and line through the control page and stops every vCPU. In hosted
// builds it prints and aborts.
[[noreturn]] void panic(const char* message, const char* file, int line);

} // namespace kernel

#define PANIC(message) ::kernel::panic(message, __FILE_NAME__, __LINE__)
#define ASSERT(condition)                                                                          \
    do {                                                                                           \
        if (__builtin_expect(!(condition), 0))                                                     \
            ::kernel::panic("assertion failed: " #condition, __FILE_NAME__, __LINE__);             \
    } while (false)
#ifndef __FILE_NAME__
#define __FILE_NAME__ __FILE__
#endif
