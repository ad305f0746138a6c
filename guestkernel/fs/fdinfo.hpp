// Lines of /proc/PID/fdinfo that files write about themselves (File::describe_state()).
#pragma once

#include "guestkernel/core/log.hpp"
#include "guestkernel/lib/string.hpp"

namespace kernel {

// As log::format(); a line is at most 200 bytes.
template <typename... A>
Result<void> append_line(String& out, std::string_view format, const A&... arguments) {
    char line[200];
    return out.append({line, log::format(line, sizeof line, format, arguments...)});
}

// The same number with zeros or blanks before it.
inline Result<void> append_padded(String& out, u64 value, unsigned base, usize width, char fill) {
    char digits[24];
    usize at = sizeof digits;
    do {
        digits[--at] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value != 0);
    while (sizeof digits - at < width && at > 0)
        digits[--at] = fill;
    return out.append({digits + at, sizeof digits - at});
}

} // namespace kernel
