#include "tools/joey/runtime/log.hpp"

#include <cerrno>
#include <cstdio>
#include <ctime>
#include <fcntl.h>

#include "agent/os/unique_fd.hpp"
#include "tools/joey/control_characters.hpp"
#include "tools/pod/json.hpp"

namespace joey::runtime {

namespace {

std::string now() {
    const std::time_t seconds = std::time(nullptr);
    tm parts{};
    ::gmtime_r(&seconds, &parts);
    char text[32];
    std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
    return text;
}

os::UniqueFd open_log(const std::string& path) {
    return os::UniqueFd(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
}

} // namespace

os::Result<Log> Log::open(std::string path, const std::string& format, bool debug) {
    if (format != "text" && format != "json")
        return os::fail(os::Code::InvalidArgument, "invalid log-format: ", format);
    Log out;
    out.path_ = std::move(path);
    out.json_ = format == "json";
    out.debug_ = debug;
    if (!out.path_.empty() && !open_log(out.path_))
        return os::fail_errno(errno, "open ", out.path_);
    return out;
}

// One write per line: several processes may have the file.
void Log::write(const char* level, std::string_view text) const {
    std::string line;
    if (json_)
        line = pod::to_text(pod::Json{{"level", level}, {"msg", text}, {"time", now()}});
    else
        line =
            os::text("time=\"", now(), "\" level=", level, " msg=", pod::to_text(pod::Json(text)));
    line += '\n';
    const os::UniqueFd file = path_.empty() ? os::UniqueFd() : open_log(path_);
    static_cast<void>(!::write(file ? file.get() : STDERR_FILENO, line.data(), line.size()));
}

void Log::error(std::string_view text) const {
    write("error", text);
    // Who has no log at hand sees it too.
    if (!path_.empty())
        std::fprintf(stderr, "%s\n", with_controls_as(text, '?', "\n\t").c_str());
}

void Log::warning(std::string_view text) const {
    // Without a log, stderr is the container's.
    if (!path_.empty() || debug_)
        write("warning", text);
}

void Log::debug(std::string_view text) const {
    if (debug_)
        write("debug", text);
}

} // namespace joey::runtime
