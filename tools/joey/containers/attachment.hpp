// What a container's monitor and those who watch the container tell each other, over a Unix socket
// that keeps messages apart. The first byte is the kind, the rest is data.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "agent/os/error.hpp"
#include "agent/os/unique_fd.hpp"

namespace joey::containers {

enum class Word : char {
    // To the monitor.
    Hello = 'h', // what is wanted, a sum of `Wants`
    Input = 'i',
    EndOfInput = 'e',
    Size = 'w', // columns and rows, two bytes each, the lower first
    // From it.
    Output = 'o',
    ErrorOutput = 'E',
    Started = 's',
    Failed = 'f', // the exit status, a blank, why
    Ended = 'x',  // the exit status
};

enum Wants : unsigned { wants_input = 1, wants_output = 2, wants_errors = 4 };

struct Telling {
    Word word{};
    std::string data;
};

// Data of one message.
inline constexpr std::size_t largest_piece = 32U << 10;

// False: it takes no more just now (with `wait` that is not waited for) or the other side is gone.
enum class Told : std::uint8_t { Yes, Full, Gone };
Told tell(int socket, Word word, std::string_view data, bool wait);
// Nothing: the other side is gone. Would-block: Unavailable.
os::Result<std::optional<Telling>> hear(int socket, bool wait);

std::string size_text(unsigned columns, unsigned rows);
struct Size {
    std::uint16_t columns = 0;
    std::uint16_t rows = 0;
};
Size size_of(std::string_view data);

struct Line {
    os::UniqueFd near;
    os::UniqueFd far;
};
os::Result<Line> make_line();
// The socket `attach` in a directory, whose path may be longer than a socket's may be.
os::Result<os::UniqueFd> listen_in(const std::string& directory);
os::Result<os::UniqueFd> connect_in(const std::string& directory);

} // namespace joey::containers
