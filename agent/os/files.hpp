// Small files, whole: those of /proc, /sys and control groups, and messages with descriptors.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "agent/os/error.hpp"
#include "agent/os/unique_fd.hpp"

namespace os {

// Relative to `directory`, or to the working directory with AT_FDCWD. `limit` bounds what is kept.
Result<std::string> read_file(int directory, const char* path, std::size_t limit = 1 << 20);
// One write: files of the kernel take a value in one piece.
Result<void> write_file(int directory, const char* path, std::string_view value);

Result<UniqueFd> open_path(int directory, const char* path, int flags);

// What two processes of the agent tell each other: one kind, one text, perhaps a descriptor.
struct Message {
    char kind = 0;
    std::string text;
    UniqueFd fd;
};
struct Channel {
    UniqueFd near;
    UniqueFd far;
};
Result<Channel> make_channel();
Result<void> send_message(int socket, char kind, std::string_view text = {}, int fd = -1);
// Nothing when the other side is gone. Would-block is an error with Code::Unavailable.
Result<std::optional<Message>> receive_message(int socket);

// Closes every descriptor from 3 on but those of `keep`.
void close_all_but(std::vector<int> keep);

} // namespace os
