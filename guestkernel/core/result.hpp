// The kernel's errors: a Linux error number that becomes a negative return value in dispatch()
// only.
#pragma once

#include "base/result.hpp"

namespace kernel {

// Holds an E... constant from the UAPI headers; kernel headers themselves do not include those.
struct Errno {
    int code = 0;
    friend bool operator==(Errno, Errno) = default;
};

template <typename T = void>
using Result = base::Result<T, Errno>;

constexpr base::Failure<Errno> fail(int code) {
    return base::Failure(Errno{code});
}

} // namespace kernel
