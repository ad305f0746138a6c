// Why an image or a description cannot be booted: one sentence for a person, a string literal.
#pragma once

#include "base/result.hpp"

namespace boot {

struct Error {
    const char* reason = "";
};

template <typename T>
using Result = base::Result<T, Error>;

inline base::Failure<Error> fail(const char* reason) {
    return base::Failure(Error{reason});
}

} // namespace boot
