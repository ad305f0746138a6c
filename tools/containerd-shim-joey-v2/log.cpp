#include "tools/containerd-shim-joey-v2/log.hpp"

#include <ctime>
#include <fcntl.h>
#include <unistd.h>

#include "agent/os/error.hpp"
#include "tools/pod/json.hpp"

namespace shim {

namespace {

std::string time_text() {
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    tm parts{};
    ::gmtime_r(&now.tv_sec, &parts);
    char seconds[32];
    std::strftime(seconds, sizeof seconds, "%Y-%m-%dT%H:%M:%S", &parts);
    const std::string fraction = std::to_string(now.tv_nsec);
    constexpr std::size_t digits = 9;
    return os::text(seconds, ".", std::string(digits - fraction.size(), '0'), fraction, "Z");
}

} // namespace

Log Log::open(const std::string& bundle, const std::string& name_space, bool debug) {
    Log out;
    // Both ways: containerd's end may go and come again, and a full fifo must not stop anybody.
    out.fifo_ =
        os::UniqueFd(::open((bundle + "/log").c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
    out.name_space_ = name_space;
    out.debug_ = debug;
    return out;
}

std::string Log::line(std::string_view time, const char* level, std::string_view text,
                      const std::string& name_space, int pid) {
    return os::text("time=\"", time, "\" level=", level, " msg=", pod::to_text(pod::Json(text)),
                    " namespace=", name_space, " pid=", pid, " runtime=io.containerd.joey.v2\n");
}

void Log::write(const char* level, std::string_view text) const {
    if (!fifo_)
        return;
    const std::string out = line(time_text(), level, text, name_space_, ::getpid());
    // What does not fit is lost: a log is not worth waiting for.
    static_cast<void>(!::write(fifo_.get(), out.data(), out.size()));
}

} // namespace shim
