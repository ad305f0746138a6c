// What the programs share that the cases run inside the VM to talk to the host.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unistd.h>
#include <vector>

namespace peer {

[[noreturn]] inline void give_up(const char* what) {
    std::fprintf(stderr, "peer: %s: %s\n", what, std::strerror(errno));
    std::exit(1);
}

// RFC 1950, as Python's zlib.adler32 has it.
class Adler {
public:
    void add(const char* data, std::size_t bytes) {
        constexpr std::size_t before_overflow = 5552;
        while (bytes > 0) {
            std::size_t part = bytes < before_overflow ? bytes : before_overflow;
            bytes -= part;
            for (; part > 0; --part) {
                a_ += static_cast<unsigned char>(*data++);
                b_ += a_;
            }
            a_ %= 65521;
            b_ %= 65521;
        }
    }
    std::uint32_t sum() const { return b_ << 16 | a_; }

private:
    std::uint32_t a_ = 1, b_ = 0;
};

inline void write_all(int fd, const char* data, std::size_t bytes) {
    while (bytes > 0) {
        const ssize_t sent = write(fd, data, bytes);
        if (sent <= 0)
            give_up("write");
        data += sent;
        bytes -= static_cast<std::size_t>(sent);
    }
}

// Sends a pattern that does not repeat soon; prints its sum.
inline int send_pattern(int fd, std::size_t bytes) {
    std::vector<char> block(std::size_t{1} << 20);
    std::uint32_t state = 1;
    Adler sum;
    while (bytes > 0) {
        for (std::size_t i = 0; i < block.size(); i += 64) {
            state = state * 1664525 + 1013904223;
            std::memcpy(&block[i], &state, sizeof state);
        }
        const std::size_t part = bytes < block.size() ? bytes : block.size();
        sum.add(block.data(), part);
        write_all(fd, block.data(), part);
        bytes -= part;
    }
    std::printf("%u\n", sum.sum());
    return 0;
}

// Reads to the end; prints how many bytes, and their sum.
inline int sum_up(int fd) {
    std::vector<char> block(std::size_t{1} << 18);
    Adler sum;
    unsigned long long bytes = 0;
    ssize_t got = 0;
    while ((got = read(fd, block.data(), block.size())) > 0) {
        sum.add(block.data(), static_cast<std::size_t>(got));
        bytes += static_cast<unsigned long long>(got);
    }
    if (got < 0)
        give_up("read");
    std::printf("%llu %u\n", bytes, sum.sum());
    return 0;
}

} // namespace peer
