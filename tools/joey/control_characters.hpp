// What drives a terminal: in texts that come from a guest or an image it is not passed on to a
// person's.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>

namespace joey {

// How many bytes at the start of `text` are one control character; 0: it begins with none. Those
// are C0 and DEL, and in UTF-8 the 32 of C1, of which U+009B begins a sequence as ESC [ does
// (ECMA-48, 8.3.16).
inline std::size_t control_length(std::string_view text) {
    const auto byte = [&](std::size_t at) { return static_cast<unsigned char>(text[at]); };
    if (text.empty())
        return 0;
    if (byte(0) < 0x20 || byte(0) == 0x7f)
        return 1;
    return text.size() >= 2 && byte(0) == 0xc2 && byte(1) >= 0x80 && byte(1) < 0xa0 ? 2 : 0;
}

// `sign` in place of each, but for those in `kept`.
inline std::string with_controls_as(std::string_view text, char sign, std::string_view kept = {}) {
    std::string out;
    out.reserve(text.size());
    while (!text.empty()) {
        const char c = text.front();
        const std::size_t control =
            kept.find(c) != std::string_view::npos ? 0 : control_length(text);
        out += control != 0 ? sign : c;
        text.remove_prefix(std::max<std::size_t>(control, 1));
    }
    return out;
}

} // namespace joey
