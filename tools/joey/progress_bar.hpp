// ProgressBar: how far something long is, on a terminal; nothing anywhere else.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "tools/image/bytes.hpp"

namespace joey {

class ProgressBar final : public image::Progress {
public:
    // `fd`: where it is drawn, if that is a terminal.
    explicit ProgressBar(int fd);
    ProgressBar(const ProgressBar&) = delete;
    ProgressBar& operator=(const ProgressBar&) = delete;
    ~ProgressBar() override { clear(); }

    void begin(std::string_view what, std::optional<std::uint64_t> total) override;
    void advance(std::uint64_t bytes) override;
    // Takes it off the terminal; what is printed next begins a line.
    void clear();

private:
    using Clock = std::chrono::steady_clock;
    void draw(Clock::time_point now);

    const int fd_;
    const bool visible_;
    std::string what_;
    std::optional<std::uint64_t> total_;
    std::uint64_t done_ = 0;
    Clock::time_point started_;
    Clock::time_point drawn_;
    bool on_screen_ = false;
};

} // namespace joey
