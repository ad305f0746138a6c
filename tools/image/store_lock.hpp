// What the parts of the store share among each other.
#pragma once

#include <cerrno>
#include <string_view>
#include <unistd.h>

#include "tools/image/store.hpp"

namespace image {

inline constexpr const char* lock_file_name = "lock";

// Held for the short time in which the index is read or changed; the kernel drops it with the
// process.
class Store::Lock {
public:
    explicit Lock(os::UniqueFd fd) : fd_(std::move(fd)) {}

private:
    os::UniqueFd fd_;
};

inline base::Result<void, int> write_all(int fd, std::string_view text) {
    while (!text.empty()) {
        const ssize_t written = ::write(fd, text.data(), text.size());
        if (written < 0 && errno != EINTR)
            return base::Failure(errno);
        if (written > 0)
            text.remove_prefix(static_cast<std::size_t>(written));
    }
    return {};
}

} // namespace image
