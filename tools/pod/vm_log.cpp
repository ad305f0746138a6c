#include "tools/pod/vm_log.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <fcntl.h>
#include <poll.h>

#include <sys/stat.h>

#include "tools/pod/json.hpp"

namespace pod {

namespace {

// By the calendar alone: gmtime(3) may ask files of time zones, which a sandbox forbids.
std::string time_text() {
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    constexpr std::int64_t day = 86'400;
    const std::chrono::year_month_day date{
        std::chrono::sys_days(std::chrono::days(now.tv_sec / day))};
    const auto second = static_cast<int>(now.tv_sec % day);
    std::array<char, 48> out{};
    std::snprintf(out.data(), out.size(), "%04d-%02u-%02uT%02d:%02d:%02d.%09ldZ",
                  static_cast<int>(date.year()), static_cast<unsigned>(date.month()),
                  static_cast<unsigned>(date.day()), second / 3600, second / 60 % 60, second % 60,
                  now.tv_nsec);
    return out.data();
}

} // namespace

std::string log_line(std::string_view level, std::string_view source, std::string_view message) {
    return to_text(Json{
               {"time", time_text()}, {"level", level}, {"source", source}, {"message", message}}) +
           "\n";
}

os::Result<VmLog> VmLog::open(const std::string& directory) {
    os::UniqueFd place(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    VmLog out(std::move(place));
    if (!out.directory_ || !out.begin())
        return os::fail_errno(errno, "open the VM's log");
    return out;
}

// By the directory's descriptor: its name may be another pod's by then.
bool VmLog::begin() {
    file_ = os::UniqueFd(::openat(directory_.get(), "log",
                                  O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
    struct stat about {};
    size_ = file_ && ::fstat(file_.get(), &about) == 0 ? about.st_size : 0;
    return static_cast<bool>(file_);
}

void VmLog::write(std::string_view lines) {
    if (size_ + static_cast<off_t>(lines.size()) > largest) {
        file_.reset();
        if (::renameat(directory_.get(), "log", directory_.get(), "log.1") != 0 || !begin())
            return;
    }
    while (!lines.empty() && file_) {
        const ssize_t written = ::write(file_.get(), lines.data(), lines.size());
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return;
        size_ += written;
        lines.remove_prefix(static_cast<std::size_t>(written));
    }
}

// False: it has ended.
bool VmLog::take(Source& source) {
    std::array<char, 4096> data{};
    const ssize_t got = ::read(source.fd, data.data(), data.size());
    if (got < 0 && errno == EINTR)
        return true;
    const bool goes_on = got > 0;
    source.rest.append(data.data(), goes_on ? static_cast<std::size_t>(got) : 0);
    // The VMM's are whole lines already; only where they are cut decides when a file is full.
    if (!source.is_console) {
        const std::size_t end = source.rest.rfind('\n');
        if (end != std::string::npos || !goes_on) {
            write(std::string_view(source.rest).substr(0, end + 1));
            source.rest.erase(0, goes_on ? end + 1 : source.rest.size());
        }
        // No line of the VMM's is so long: somebody else speaks for it.
        if (source.rest.size() > longest_message)
            source.rest.clear();
        return goes_on;
    }
    for (;;) {
        std::size_t end = source.rest.find('\n');
        if (end == std::string::npos && source.rest.size() < longest_line &&
            (goes_on || source.rest.empty()))
            return goes_on;
        end = std::min({end, source.rest.size(), longest_line});
        std::string_view line = std::string_view(source.rest).substr(0, end);
        if (line.ends_with('\r'))
            line.remove_suffix(1);
        write(log_line("info", "agent", line));
        const bool ended = end < source.rest.size() && source.rest[end] == '\n';
        source.rest.erase(0, end + (ended ? 1 : 0));
    }
}

void VmLog::keep(int console, int messages) {
    std::array<Source, 2> sources = {Source{console, true, {}}, Source{messages, false, {}}};
    std::array<pollfd, 2> wanted = {pollfd{console, POLLIN, 0}, pollfd{messages, POLLIN, 0}};
    while (wanted[0].fd >= 0 || wanted[1].fd >= 0) {
        if (::poll(wanted.data(), wanted.size(), -1) < 0 && errno != EINTR)
            return;
        for (std::size_t i = 0; i < sources.size(); ++i) {
            if (wanted[i].fd >= 0 && wanted[i].revents != 0 && !take(sources[i]))
                wanted[i].fd = -1;
            wanted[i].revents = 0;
        }
    }
}

void read_vm_log(std::string_view text, const std::function<void(const VmLogLine&)>& each) {
    while (!text.empty()) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        const auto line = parse_object(text.substr(0, end), "log");
        text.remove_prefix(std::min(end + 1, text.size()));
        if (line)
            each({string_of(*line, "time"), string_of(*line, "level"), string_of(*line, "source"),
                  string_of(*line, "message")});
    }
}

} // namespace pod
