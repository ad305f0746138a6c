#include "tools/joey/progress_bar.hpp"

#include <algorithm>
#include <unistd.h>

#include <sys/ioctl.h>

#include <fmt/format.h>

namespace joey {
namespace {

// What is over sooner needs no bar.
constexpr auto patience = std::chrono::milliseconds(300);
constexpr auto redraw_after = std::chrono::milliseconds(100);
constexpr std::size_t widest_bar = 40;

std::size_t columns_of(int fd) {
    winsize size{};
    return ::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

void write_text(int fd, std::string_view text) {
    // A terminal that takes no more is nobody's loss.
    static_cast<void>(::write(fd, text.data(), text.size()) > 0);
}

} // namespace

ProgressBar::ProgressBar(int fd) : fd_(fd), visible_(::isatty(fd) == 1) {}

void ProgressBar::begin(std::string_view what, std::optional<std::uint64_t> total) {
    clear();
    what_ = what;
    total_ = total;
    done_ = 0;
    started_ = Clock::now();
    drawn_ = started_;
}

void ProgressBar::advance(std::uint64_t bytes) {
    done_ += bytes;
    if (!visible_)
        return;
    const auto now = Clock::now();
    if (now - started_ >= patience && now - drawn_ >= redraw_after)
        draw(now);
}

void ProgressBar::draw(Clock::time_point now) {
    const double seconds = std::chrono::duration<double>(now - started_).count();
    const auto speed = static_cast<std::uint64_t>(static_cast<double>(done_) / seconds);
    const std::string rate = image::human_size(speed) + "/s";
    std::string line;
    if (total_ && *total_ > 0) {
        const std::uint64_t done = std::min(done_, *total_);
        const double part = static_cast<double>(done) / static_cast<double>(*total_);
        const std::string tail =
            fmt::format(" {:3.0f} %  {} of {}, {}", part * 100, image::human_size(done),
                        image::human_size(*total_), rate);
        const std::size_t columns = columns_of(fd_);
        const std::size_t taken = what_.size() + tail.size() + 4;
        const std::size_t width = columns > taken ? std::min(columns - taken, widest_bar) : 0;
        const auto full = static_cast<std::size_t>(part * static_cast<double>(width));
        line = fmt::format("{} [{}{}]{}", what_, std::string(full, '='),
                           std::string(width - full, ' '), tail);
        line.resize(std::min(line.size(), columns - 1));
    } else {
        line = fmt::format("{}  {}, {}", what_, image::human_size(done_), rate);
    }
    // To the line's beginning; what was longer before is erased.
    write_text(fd_, "\r" + line + "\x1b[K");
    drawn_ = now;
    on_screen_ = true;
}

void ProgressBar::clear() {
    if (on_screen_)
        write_text(fd_, "\r\x1b[K");
    on_screen_ = false;
}

} // namespace joey
