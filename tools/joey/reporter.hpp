// Reporter: what joey itself, and the guest's kernel through it, say on stderr or another
// descriptor, as lines for a person or as JSON. One write per line, so that lines of several
// threads do not mix; in raw mode a line ends with CR LF.
#pragma once

#include <atomic>
#include <cstdint>
#include <string_view>
#include <unistd.h>

#include "boot/protocol/control.hpp"

namespace joey {

enum class ReportFormat : std::uint8_t { Text, Json };

class Reporter {
public:
    explicit Reporter(ReportFormat format = ReportFormat::Text, int fd = STDERR_FILENO)
        : format_(format), fd_(fd) {}

    // While the terminal that stderr leads to is in raw mode, a newline alone does not return the
    // carriage.
    void set_raw(bool raw) { raw_.store(raw, std::memory_order_relaxed); }
    // From any thread; `text` may have several lines and any bytes. Control characters that a guest
    // could use to drive the terminal are shown as `?`. With a prefix it is a failure, without one
    // a report that was asked for.
    void print(std::string_view prefix, std::string_view text) const;
    void log(boot::LogLevel level, std::string_view text) const;

private:
    void write(std::string_view line) const;

    const ReportFormat format_;
    const int fd_;
    std::atomic<bool> raw_{false};
};

} // namespace joey
