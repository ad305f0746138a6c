#include "agent/ttrpc/frame.hpp"

#include <algorithm>

namespace ttrpc {

namespace {

void put_big(char* out, std::uint32_t value) {
    for (unsigned i = 0; i < 4; ++i)
        out[i] = static_cast<char>(value >> (24 - 8 * i));
}

std::uint32_t get_big(std::string_view bytes) {
    std::uint32_t value = 0;
    for (const char byte : bytes.substr(0, 4))
        value = value << 8 | static_cast<unsigned char>(byte);
    return value;
}

} // namespace

std::array<char, header_size> encode(const FrameHeader& header) {
    std::array<char, header_size> out{};
    put_big(out.data(), header.length);
    put_big(out.data() + 4, header.stream);
    out[8] = static_cast<char>(header.type);
    out[9] = static_cast<char>(header.flags);
    return out;
}

FrameHeader decode(std::string_view bytes) {
    return {.length = get_big(bytes),
            .stream = get_big(bytes.substr(4)),
            .type = static_cast<std::uint8_t>(bytes[8]),
            .flags = static_cast<std::uint8_t>(bytes[9])};
}

std::string make_frame(std::uint32_t stream, FrameType type, std::string_view payload) {
    const auto header = encode({.length = static_cast<std::uint32_t>(payload.size()),
                                .stream = stream,
                                .type = static_cast<std::uint8_t>(type)});
    std::string out;
    out.reserve(header.size() + payload.size());
    out.append(header.data(), header.size());
    out += payload;
    return out;
}

std::string_view FrameReader::take_header(std::string_view bytes) {
    const std::size_t wanted = std::min(header_size - header_bytes_.size(), bytes.size());
    header_bytes_ += bytes.substr(0, wanted);
    if (header_bytes_.size() < header_size)
        return {};
    header_ = decode(header_bytes_);
    header_bytes_.clear();
    have_header_ = true;
    to_skip_ = 0;
    if (header_.length > max_message) {
        to_skip_ = header_.length;
        events_.too_long(header_);
    }
    return bytes.substr(wanted);
}

void FrameReader::take(std::string_view bytes) {
    // A frame without payload is complete with its header, so there is a round when bytes run out.
    while (!bytes.empty() || (have_header_ && to_skip_ == 0 && payload_.size() == header_.length)) {
        if (!have_header_) {
            bytes = take_header(bytes);
            continue;
        }
        if (to_skip_ > 0) {
            const std::size_t skipped = std::min(to_skip_, bytes.size());
            to_skip_ -= skipped;
            bytes.remove_prefix(skipped);
            have_header_ = to_skip_ > 0;
            continue;
        }
        const std::size_t wanted = std::min(header_.length - payload_.size(), bytes.size());
        payload_ += bytes.substr(0, wanted);
        bytes.remove_prefix(wanted);
        if (payload_.size() < header_.length)
            continue;
        have_header_ = false;
        Frame frame{header_, {}};
        frame.payload.swap(payload_);
        events_.frame(std::move(frame));
    }
}

} // namespace ttrpc
