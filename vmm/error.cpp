#include "vmm/error.hpp"

#include <cstring>

namespace vmm {

std::string describe(const Error& error) {
    std::string text = error.action;
    if (error.code != 0) {
        text += ": ";
        text +=
            strerrordesc_np(error.code) != nullptr ? strerrordesc_np(error.code) : "unknown error";
    }
    return text;
}

} // namespace vmm
