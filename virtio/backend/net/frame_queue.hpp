// FrameQueue: frames that wait, in one block of memory of fixed size. One thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

namespace virtio {

class FrameQueue {
public:
    explicit FrameQueue(std::size_t capacity) : memory_(capacity) {}

    bool empty() const { return count_ == 0; }
    // False: there is no room; nothing changed.
    bool push(std::span<const std::byte> frame) {
        const std::size_t needed = sizeof(std::uint32_t) + frame.size();
        if (count_ == 0) {
            head_ = tail_ = 0;
            wrapped_ = false;
        }
        const std::size_t room = (wrapped_ ? head_ : memory_.size()) - tail_;
        if (room < needed) {
            // A frame lies in one piece: if not behind the last one, then at the beginning again.
            if (wrapped_ || head_ < needed)
                return false;
            wrap_ = std::exchange(tail_, 0);
            wrapped_ = true;
        }
        const auto length = static_cast<std::uint32_t>(frame.size());
        std::memcpy(memory_.data() + tail_, &length, sizeof length);
        if (!frame.empty())
            std::memcpy(memory_.data() + tail_ + sizeof length, frame.data(), frame.size());
        tail_ += needed;
        ++count_;
        return true;
    }
    // Requires: not empty.
    std::span<const std::byte> front() const {
        std::uint32_t length = 0;
        std::memcpy(&length, memory_.data() + head_, sizeof length);
        return std::span(memory_).subspan(head_ + sizeof length, length);
    }
    void pop() {
        head_ += sizeof(std::uint32_t) + front().size();
        --count_;
        if (wrapped_ && head_ == wrap_) {
            head_ = 0;
            wrapped_ = false;
        }
    }

private:
    std::vector<std::byte> memory_;
    std::size_t head_ = 0; // of the first frame
    std::size_t tail_ = 0; // behind the last one
    std::size_t wrap_ = 0; // where the frames end that lie behind head_, if wrapped
    bool wrapped_ = false; // the last ones lie before the first one
    std::size_t count_ = 0;
};

} // namespace virtio
