// What guest tests share: small static programs that must pass on the build host's Linux and inside
// a VM alike. Exit status 0 is a pass; the first failure is told and ends the program.
#pragma once

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            std::fprintf(stderr, "%s:%d: %s: not so (errno %d, %s)\n", __FILE__, __LINE__,         \
                         #condition, errno, std::strerror(errno));                                 \
            std::exit(1);                                                                          \
        }                                                                                          \
    } while (false)

// The call fails, and with this error.
#define CHECK_FAILS(call, error)                                                                   \
    do {                                                                                           \
        errno = 0;                                                                                 \
        const auto check_result = (call);                                                          \
        if (check_result != -1 || errno != (error)) {                                              \
            std::fprintf(stderr, "%s:%d: %s: result %ld, errno %d (%s), expected %s\n", __FILE__,  \
                         __LINE__, #call, static_cast<long>(check_result), errno,                  \
                         std::strerror(errno), #error);                                            \
            std::exit(1);                                                                          \
        }                                                                                          \
    } while (false)
