#include "agent/os/child_output.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

namespace os {

namespace {

constexpr std::size_t most_said = 2048;
constexpr std::size_t piece = 1024;
// As much as a pipe holds.
constexpr int pieces_at_end = 64;

} // namespace

bool wait_for_child(int pidfd, int output, std::int64_t seconds, std::string& said) {
    using Clock = std::chrono::steady_clock;
    const auto deadline = Clock::now() + std::chrono::seconds(seconds);
    ::fcntl(output, F_SETFL, O_NONBLOCK);
    const auto take = [&] {
        std::array<char, piece> bytes{};
        const ssize_t got = ::read(output, bytes.data(), bytes.size());
        if (got == 0)
            output = -1;
        said.append(bytes.data(), got > 0 ? static_cast<std::size_t>(got) : 0);
        said.erase(0, said.size() - std::min(said.size(), most_said));
        return got > 0;
    };
    while (pidfd >= 0 || output >= 0) {
        int wait = -1;
        if (seconds > 0) {
            const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
            if (left.count() <= 0)
                return false;
            wait = static_cast<int>(left.count());
        }
        std::array<pollfd, 2> wanted{pollfd{output, POLLIN, 0}, pollfd{pidfd, POLLIN, 0}};
        if (::poll(wanted.data(), wanted.size(), wait) < 0)
            continue;
        const bool ended = wanted[1].revents != 0;
        for (int i = 0; wanted[0].revents != 0 && i < (ended ? pieces_at_end : 1) && take(); ++i) {
        }
        if (ended)
            return true;
    }
    return true;
}

} // namespace os
