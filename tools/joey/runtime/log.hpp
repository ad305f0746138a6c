// Where an engine reads what went wrong: the file it named, in the format it named, and stderr.
#pragma once

#include <string>
#include <string_view>

#include "agent/os/error.hpp"

namespace joey::runtime {

class Log {
public:
    // `path` empty: stderr.
    static os::Result<Log> open(std::string path, const std::string& format, bool debug);

    void error(std::string_view text) const;
    void warning(std::string_view text) const;
    void debug(std::string_view text) const;

private:
    void write(const char* level, std::string_view text) const;
    std::string path_;
    bool json_ = false;
    bool debug_ = false;
};

} // namespace joey::runtime
