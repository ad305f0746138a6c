#include "agent/os/error.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace os {

Code code_of(int error) {
    switch (error) {
    case ENOENT:
    case ESRCH:
        return Code::NotFound;
    case EEXIST:
        return Code::AlreadyExists;
    case EPERM:
    case EACCES:
        return Code::PermissionDenied;
    case ENOMEM:
    case ENOSPC:
    case EMFILE:
    case ENFILE:
    case EAGAIN:
        return Code::ResourceExhausted;
    case EINVAL:
        return Code::InvalidArgument;
    case ENOSYS:
    case EOPNOTSUPP:
        return Code::Unimplemented;
    default:
        return Code::Internal;
    }
}

std::string_view describe(int error) {
    const char* words = strerrordesc_np(error);
    return words != nullptr ? words : "unknown error";
}

namespace {

// Bytes of the character that `text` begins with; 0: it begins with none (RFC 3629, 4).
std::size_t length_of_character(std::string_view text) {
    const auto byte = [&](std::size_t at) {
        return at < text.size() ? static_cast<unsigned char>(text[at]) : 0U;
    };
    const auto continues = [&](std::size_t at, unsigned least = 0x80, unsigned most = 0xbf) {
        return byte(at) >= least && byte(at) <= most;
    };
    const unsigned first = byte(0);
    if (first < 0x80)
        return 1;
    if (first >= 0xc2 && first <= 0xdf)
        return continues(1) ? 2 : 0;
    // Not what fits into less, and no halves of UTF-16's pairs.
    if (first >= 0xe0 && first <= 0xef)
        return continues(1, first == 0xe0 ? 0xa0 : 0x80, first == 0xed ? 0x9f : 0xbf) &&
                       continues(2)
                   ? 3
                   : 0;
    if (first >= 0xf0 && first <= 0xf4)
        return continues(1, first == 0xf0 ? 0x90 : 0x80, first == 0xf4 ? 0x8f : 0xbf) &&
                       continues(2) && continues(3)
                   ? 4
                   : 0;
    return 0;
}

} // namespace

std::string as_utf8(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    while (!text.empty()) {
        const std::size_t length = length_of_character(text);
        out += length == 0 ? std::string_view("?") : text.substr(0, length);
        text.remove_prefix(std::max<std::size_t>(length, 1));
    }
    return out;
}

} // namespace os
