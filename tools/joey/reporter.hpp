// Reporter: what joey itself, and the guest's kernel through it, say on stderr. One write per line,
// so that lines of several threads do not mix; in raw mode a line ends with CR LF.
#pragma once

#include <atomic>
#include <string_view>

#include "boot/protocol/control.hpp"

namespace joey {

class Reporter {
public:
    // While the terminal that stderr leads to is in raw mode, a newline alone does not return the
    // carriage.
    void set_raw(bool raw) { raw_.store(raw, std::memory_order_relaxed); }
    // From any thread; `text` may have several lines and any bytes. Control characters that a guest
    // could use to drive the terminal are shown as `?`.
    void print(std::string_view prefix, std::string_view text) const;
    void log(boot::LogLevel level, std::string_view text) const;

private:
    std::atomic<bool> raw_{false};
};

} // namespace joey
