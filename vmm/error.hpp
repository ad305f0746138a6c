// What the host refused: an errno and the action that met it. Two words, so it crosses threads
// cheaply. `action` is a string literal. With code 0 `action` is the whole sentence.
#pragma once

#include <string>

#include "base/result.hpp"

namespace vmm {

struct Error {
    int code = 0;
    const char* action = "";
};

template <typename T>
using Result = base::Result<T, Error>;

inline base::Failure<Error> fail(int code, const char* action) {
    return base::Failure(Error{code, action});
}

// One line for a person: "open /dev/kvm: Permission denied".
std::string describe(const Error& error);

} // namespace vmm
