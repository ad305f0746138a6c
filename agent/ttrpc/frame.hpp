// ttrpc's framing: a header of ten bytes (length and stream, big-endian; type; flags), then
// `length` bytes. FrameReader takes bytes as they come from a peer that may be hostile and hands
// out frames.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace ttrpc {

constexpr std::size_t header_size = 10;
// The protocol's own limit of one message.
constexpr std::uint32_t max_message = 4U << 20;

enum class FrameType : std::uint8_t { Request = 1, Response = 2, Data = 3 };

struct FrameHeader {
    std::uint32_t length = 0;
    std::uint32_t stream = 0;
    std::uint8_t type = 0;
    std::uint8_t flags = 0;
};

struct Frame {
    FrameHeader header;
    std::string payload;
};

std::array<char, header_size> encode(const FrameHeader& header);
FrameHeader decode(std::string_view bytes); // Requires: header_size bytes.
// A whole frame, ready to be sent. Requires: payload.size() <= max_message.
std::string make_frame(std::uint32_t stream, FrameType type, std::string_view payload);

class FrameReader {
public:
    struct Events {
        std::function<void(Frame)> frame;
        // A message above the limit: its bytes are passed over, none is kept.
        std::function<void(const FrameHeader&)> too_long;
    };
    explicit FrameReader(Events events) : events_(std::move(events)) {}

    // Calls back for every frame that is complete; keeps the rest. What it keeps grows with the
    // bytes that came, not with the length that a header promises.
    void take(std::string_view bytes);
    // Bytes of a frame that is not complete yet.
    std::size_t held() const { return header_bytes_.size() + payload_.size(); }
    bool in_frame() const { return have_header_ || !header_bytes_.empty(); }

private:
    std::string_view take_header(std::string_view bytes);

    Events events_;
    std::string header_bytes_;
    FrameHeader header_;
    bool have_header_ = false;
    std::size_t to_skip_ = 0;
    std::string payload_;
};

} // namespace ttrpc
