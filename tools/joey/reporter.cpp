#include "tools/joey/reporter.hpp"

#include <algorithm>
#include <cerrno>

#include "tools/joey/control_characters.hpp"
#include "tools/pod/vm_log.hpp"

namespace joey {

namespace {

const char* name_of(boot::LogLevel level) {
    switch (level) {
    case boot::LogLevel::Error:
        return "error";
    case boot::LogLevel::Warning:
        return "warning";
    case boot::LogLevel::Debug:
        return "debug";
    case boot::LogLevel::Strace:
        return "trace";
    case boot::LogLevel::Info:
        break;
    }
    return "info";
}

} // namespace

void Reporter::write(std::string_view line) const {
    while (!line.empty()) {
        const ssize_t written = ::write(fd_, line.data(), line.size());
        if (written < 0 && errno != EINTR)
            return; // nobody listens
        if (written > 0)
            line.remove_prefix(static_cast<std::size_t>(written));
    }
}

void Reporter::print(std::string_view prefix, std::string_view text) const {
    if (format_ == ReportFormat::Json)
        return write(pod::log_line(prefix.empty() ? "info" : "error", "vmm", text));
    const std::string_view line_end = raw_.load(std::memory_order_relaxed) ? "\r\n" : "\n";
    std::string out;
    out.reserve(prefix.size() + text.size() + 16);
    out += prefix;
    while (!text.empty()) {
        const char c = text.front();
        const std::size_t control = c == '\t' ? 0 : control_length(text);
        if (c == '\n')
            out += line_end;
        else
            out += control != 0 ? '?' : c;
        text.remove_prefix(std::max<std::size_t>(control, 1));
    }
    out += line_end;
    write(out);
}

void Reporter::log(boot::LogLevel level, std::string_view text) const {
    if (format_ == ReportFormat::Json)
        return write(pod::log_line(name_of(level), "kernel", text));
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
