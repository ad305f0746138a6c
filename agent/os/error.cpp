#include "agent/os/error.hpp"

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

} // namespace os
