#include "tools/joey/reporter.hpp"

#include <cerrno>
#include <string>
#include <unistd.h>

namespace joey {

void Reporter::print(std::string_view prefix, std::string_view text) const {
    const std::string_view line_end = raw_.load(std::memory_order_relaxed) ? "\r\n" : "\n";
    std::string out;
    out.reserve(prefix.size() + text.size() + 16);
    out += prefix;
    for (const char c : text) {
        if (c == '\n')
            out += line_end;
        else
            out += (static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7f ? '?' : c;
    }
    out += line_end;
    std::string_view rest = out;
    while (!rest.empty()) {
        const ssize_t written = ::write(STDERR_FILENO, rest.data(), rest.size());
        if (written < 0 && errno != EINTR)
            return; // nobody listens
        if (written > 0)
            rest.remove_prefix(static_cast<std::size_t>(written));
    }
}

void Reporter::log(boot::LogLevel level, std::string_view text) const {
    switch (level) {
    case boot::LogLevel::Strace:
        print("", text);
        return;
    case boot::LogLevel::Error:
        print("kernel: error: ", text);
        return;
    case boot::LogLevel::Warning:
        print("kernel: warning: ", text);
        return;
    default:
        print("kernel: ", text);
    }
}

} // namespace joey
