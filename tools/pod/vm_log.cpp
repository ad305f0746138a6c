#include "tools/pod/vm_log.hpp"

#include <array>
#include <cerrno>
#include <cstdio>
#include <fcntl.h>

#include <sys/stat.h>

namespace pod {

os::Result<VmLog> VmLog::open(const std::string& directory) {
    os::UniqueFd place(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    VmLog out(std::move(place));
    if (!out.directory_ || !out.begin())
        return os::fail_errno(errno, "open the VM's log");
    return out;
}

// By the directory's descriptor: its name may be another pod's by then.
bool VmLog::begin() {
    file_ = os::UniqueFd(::openat(directory_.get(), "log",
                                  O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
    struct stat about {};
    size_ = file_ && ::fstat(file_.get(), &about) == 0 ? about.st_size : 0;
    return static_cast<bool>(file_);
}

void VmLog::write(const char* data, std::size_t size) {
    if (size_ + static_cast<off_t>(size) > largest) {
        file_.reset();
        if (::renameat(directory_.get(), "log", directory_.get(), "log.1") != 0 || !begin())
            return;
    }
    while (size > 0 && file_) {
        const ssize_t written = ::write(file_.get(), data, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return;
        size_ += written;
        data += written;
        size -= static_cast<std::size_t>(written);
    }
}

void VmLog::keep(int pipe) {
    std::array<char, 4096> data{};
    for (;;) {
        const ssize_t got = ::read(pipe, data.data(), data.size());
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return;
        write(data.data(), static_cast<std::size_t>(got));
    }
}

} // namespace pod
