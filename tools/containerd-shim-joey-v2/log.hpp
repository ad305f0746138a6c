// Log: lines for containerd, which shows them among its own: the fifo "log" in the bundle, in the
// format of Go's logrus.
#pragma once

#include <string>
#include <string_view>

#include "agent/os/unique_fd.hpp"

namespace shim {

class Log {
public:
    // Without the fifo, nothing is written anywhere.
    static Log open(const std::string& bundle, const std::string& name_space, bool debug);

    void error(std::string_view text) const { write("error", text); }
    void warning(std::string_view text) const { write("warning", text); }
    void info(std::string_view text) const { write("info", text); }
    void debug(std::string_view text) const {
        if (debug_)
            write("debug", text);
    }
    static std::string line(std::string_view time, const char* level, std::string_view text,
                            const std::string& name_space, int pid);

private:
    void write(const char* level, std::string_view text) const;
    os::UniqueFd fifo_;
    std::string name_space_;
    bool debug_ = false;
};

} // namespace shim
