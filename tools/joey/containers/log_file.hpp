// A container's output, kept as lines of JSON, in Docker's form: {"log":"...\n","stream":"stdout",
// "time":"..."}. Files beyond a size are put aside under a number, the oldest go.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "tools/joey/containers/container.hpp"

namespace joey::containers {

enum class Stream : std::uint8_t { Out, Error };

class LogWriter {
public:
    // `directory` is there. Goes on with what another writer left.
    LogWriter(std::string directory, LogLimits limits);
    // Without a line's end: kept until it comes, or the line gets long.
    void write(Stream stream, std::string_view data);
    // What is left without an end.
    void finish();

private:
    void add(Stream stream, std::string_view line);
    void rotate();
    bool open();

    const std::string directory_;
    const LogLimits limits_;
    os::UniqueFd file_;
    std::uint64_t bytes_ = 0;
    std::array<std::string, 2> parts_;
};

struct LogLine {
    Stream stream = Stream::Out;
    std::string text; // its end included, if it has one
    std::string time;
};

// Nothing: not a line of a log.
std::optional<LogLine> parse_log_line(std::string_view text);

// Goes through a log, the oldest line first.
class LogReader {
public:
    explicit LogReader(std::string directory) : directory_(std::move(directory)) {}
    using Each = std::function<void(const LogLine&)>;
    // What is there now, beyond what was read before.
    void read(const Each& each);
    // Waits until there may be more, for a second at most.
    void wait();

private:
    bool read_file(const Each& each);

    const std::string directory_;
    os::UniqueFd file_;
    std::string rest_;
    bool began_ = false;
    os::UniqueFd watch_;
};

// "2024-05-01T10:00:00Z", "2024-05-01" (here), "1714557600.5", "10m" (ago): nanoseconds since 1970.
os::Result<std::int64_t> parse_time(std::string_view text);
std::int64_t nanoseconds_of(std::string_view rfc3339);
std::int64_t now_nanoseconds();
// "1h30m", "500ms", "10s": nanoseconds.
os::Result<std::int64_t> parse_duration(std::string_view text);

} // namespace joey::containers
