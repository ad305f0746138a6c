// What went wrong, for a person and for a caller at the other end of a connection: a status code of
// gRPC's list (ttrpc carries those numbers) and one sentence.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

#include "base/result.hpp"

namespace os {

// The numbers are google.rpc.Code's.
enum class Code : std::int32_t {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
};

struct Error {
    Code code = Code::Internal;
    std::string message;
};

template <typename T>
using Result = base::Result<T, Error>;

// One string out of strings and integers; the static agent has no need of a formatting library.
template <typename... Parts>
std::string text(const Parts&... parts) {
    std::string out;
    const auto add = [&out](const auto& part) {
        if constexpr (std::is_convertible_v<decltype(part), std::string_view>)
            out += std::string_view(part);
        else
            out += std::to_string(part);
    };
    (add(parts), ...);
    return out;
}

template <typename... Parts>
base::Failure<Error> fail(Code code, const Parts&... parts) {
    return base::Failure(Error{code, text(parts...)});
}

// The code that fits an errno best; Internal for most.
Code code_of(int error);
// "No such file or directory", without a locale.
std::string_view describe(int error);

// "WHAT: No such file or directory".
template <typename... Parts>
base::Failure<Error> fail_errno(int error, const Parts&... parts) {
    return base::Failure(Error{code_of(error), text(parts..., ": ", describe(error))});
}

// `text` with a question mark for every byte that is not part of a character in UTF-8, which is all
// that a protobuf string may hold: names of files and words of programs may be anything.
std::string as_utf8(std::string_view text);

} // namespace os
