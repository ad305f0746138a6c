#include "tools/joey/containers/log_file.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <fcntl.h>
#include <poll.h>

#include <sys/inotify.h>
#include <sys/stat.h>

#include "tools/pod/records.hpp"
#include "tools/pod/state_files.hpp"

namespace joey::containers {

namespace {

constexpr const char* file_name = "/container.log";
// Longer lines are cut in pieces, as Docker does it.
constexpr std::size_t longest_line = 16U << 10;

std::string path_of(const std::string& directory, std::uint64_t number) {
    return number == 0 ? directory + file_name : os::text(directory, file_name, ".", number);
}

} // namespace

LogWriter::LogWriter(std::string directory, LogLimits limits)
    : directory_(std::move(directory)), limits_(limits) {}

void LogWriter::write(Stream stream, std::string_view data) {
    if (limits_.none)
        return;
    std::string& part = parts_[static_cast<std::size_t>(stream)];
    while (!data.empty()) {
        const std::size_t newline = data.find('\n');
        const std::size_t room = longest_line - part.size();
        const std::size_t length =
            std::min({newline == std::string_view::npos ? data.size() : newline + 1, room});
        part += data.substr(0, length);
        data.remove_prefix(length);
        if (part.ends_with('\n') || part.size() == longest_line) {
            add(stream, part);
            part.clear();
        }
    }
}

void LogWriter::finish() {
    for (const Stream stream : {Stream::Out, Stream::Error}) {
        std::string& part = parts_[static_cast<std::size_t>(stream)];
        if (!part.empty())
            add(stream, part);
        part.clear();
    }
}

bool LogWriter::open() {
    if (file_)
        return true;
    file_ = os::UniqueFd(::open(path_of(directory_, 0).c_str(),
                                O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY,
                                0600));
    struct stat about {};
    bytes_ =
        file_ && ::fstat(file_.get(), &about) == 0 ? static_cast<std::uint64_t>(about.st_size) : 0;
    return static_cast<bool>(file_);
}

void LogWriter::add(Stream stream, std::string_view line) {
    std::string text =
        pod::to_text(pod::Json{{"log", line},
                               {"stream", stream == Stream::Out ? "stdout" : "stderr"},
                               {"time", pod::timestamp()}});
    text += '\n';
    if (!open())
        return;
    if (limits_.file_bytes != 0 && bytes_ != 0 && bytes_ + text.size() > limits_.file_bytes)
        rotate();
    if (!open())
        return;
    // A full disk costs lines, not the container; a half-written one is skipped by readers.
    const ssize_t written = ::write(file_.get(), text.data(), text.size());
    bytes_ += written > 0 ? static_cast<std::uint64_t>(written) : 0;
}

void LogWriter::rotate() {
    file_.reset();
    const std::uint64_t last = std::max<std::uint64_t>(limits_.files, 1) - 1;
    if (last == 0)
        ::unlink(path_of(directory_, 0).c_str());
    for (std::uint64_t number = last; number > 0; --number)
        static_cast<void>(std::rename(path_of(directory_, number - 1).c_str(),
                                      path_of(directory_, number).c_str()));
}

std::optional<LogLine> parse_log_line(std::string_view text) {
    const auto value = pod::parse_object(text, "log");
    if (!value)
        return std::nullopt;
    LogLine out;
    const std::string stream = pod::string_of(*value, "stream");
    if (stream != "stdout" && stream != "stderr")
        return std::nullopt;
    out.stream = stream == "stdout" ? Stream::Out : Stream::Error;
    out.text = pod::string_of(*value, "log");
    out.time = pod::string_of(*value, "time");
    return out;
}

bool LogReader::read_file(const Each& each) {
    std::string piece(64U << 10, '\0');
    bool any = false;
    for (;;) {
        const ssize_t got = ::read(file_.get(), piece.data(), piece.size());
        if (got <= 0)
            return any;
        any = true;
        rest_.append(piece, 0, static_cast<std::size_t>(got));
        std::size_t at = 0;
        for (std::size_t end = rest_.find('\n'); end != std::string::npos;
             end = rest_.find('\n', at)) {
            if (const auto line = parse_log_line(std::string_view(rest_).substr(at, end - at)))
                each(*line);
            at = end + 1;
        }
        rest_.erase(0, at);
    }
}

void LogReader::read(const Each& each) {
    const auto next = [this](std::uint64_t number) {
        file_ = os::UniqueFd(
            ::open(path_of(directory_, number).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
        rest_.clear();
        return static_cast<bool>(file_);
    };
    if (!began_) {
        began_ = true;
        std::uint64_t oldest = 0;
        while (pod::exists(path_of(directory_, oldest + 1)))
            ++oldest;
        for (; oldest > 0; --oldest) {
            if (next(oldest))
                read_file(each);
        }
        next(0);
    }
    if (!file_ && !next(0))
        return;
    read_file(each);
    // Put aside meanwhile? Then its end has been read, for nothing is added after that.
    struct stat mine {};
    struct stat named {};
    if (::stat(path_of(directory_, 0).c_str(), &named) == 0 && ::fstat(file_.get(), &mine) == 0 &&
        mine.st_ino != named.st_ino) {
        read_file(each);
        if (next(0))
            read_file(each);
    }
}

void LogReader::wait() {
    constexpr int second = 1000;
    if (!watch_) {
        watch_ = os::UniqueFd(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
        ::inotify_add_watch(watch_.get(), directory_.c_str(), IN_MODIFY | IN_CREATE | IN_MOVED_TO);
        return; // what came before the watch
    }
    pollfd wanted{watch_.get(), POLLIN, 0};
    ::poll(&wanted, 1, second);
    alignas(inotify_event) std::array<char, 4096> events{};
    while (::read(watch_.get(), events.data(), events.size()) > 0) {
    }
}

} // namespace joey::containers
