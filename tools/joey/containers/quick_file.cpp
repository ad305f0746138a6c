#include "tools/joey/containers/quick_file.hpp"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <unistd.h>

#include <sys/stat.h>

#include "agent/os/unique_fd.hpp"

namespace joey::containers {

os::Result<void> write_quickly(const std::string& path, std::string_view text, unsigned mode) {
    std::string temporary = path + ".XXXXXX";
    const os::UniqueFd file(::mkostemp(temporary.data(), O_CLOEXEC));
    if (!file)
        return os::fail_errno(errno, "make ", temporary);
    bool written = ::fchmod(file.get(), mode) == 0;
    while (written && !text.empty()) {
        const ssize_t count = ::write(file.get(), text.data(), text.size());
        written = count > 0 || (count < 0 && errno == EINTR);
        text.remove_prefix(count > 0 ? static_cast<std::size_t>(count) : 0);
    }
    if (!written || std::rename(temporary.c_str(), path.c_str()) != 0) {
        const int error = errno;
        ::unlink(temporary.c_str());
        return os::fail_errno(error, "write ", path);
    }
    return {};
}

} // namespace joey::containers
