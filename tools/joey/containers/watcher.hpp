// Watcher: the terminal or the pipes of whoever runs or attaches to a container, until that ends or
// he detaches.
#pragma once

#include <string>

#include "tools/joey/containers/monitor.hpp"

namespace joey::containers {

struct WatchOptions {
    bool input = false;
    bool terminal = false; // the container has one
    bool proxy_signals = true;
    std::string detach_keys = "ctrl-p,ctrl-q";
};

// "ctrl-p,ctrl-q" or "a,ctrl-]" as the bytes that a terminal sends; empty: never.
os::Result<std::string> parse_keys(std::string_view text);

// Finds a sequence of keys in what is typed, however it is cut in pieces.
class KeyFinder {
public:
    explicit KeyFinder(std::string keys) : keys_(std::move(keys)) {}
    // What goes on to the program. After the keys: found(), and nothing more.
    std::string pass(std::string_view typed);
    bool found() const { return found_; }

private:
    const std::string keys_;
    std::size_t matched_ = 0;
    bool found_ = false;
};

// The size of the caller's terminal.
Size own_size();

// Waits for the container's start: nothing if it has, else the exit status, and why is told.
os::Result<std::optional<int>> await_start(int socket);
// Until the end: the container's status; 0 if the caller detached.
os::Result<int> watch(Registry& registry, const Container& container, os::UniqueFd socket,
                      const WatchOptions& options);

} // namespace joey::containers
