#include "agent/startup/own_program.hpp"

#include <cerrno>
#include <fcntl.h>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "agent/os/files.hpp"

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U // Linux 6.3
#endif

namespace startup {

namespace {

constexpr int all_seals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;

bool is_protected(int program) {
    struct statvfs about {};
    if (fstatvfs(program, &about) == 0 && (about.f_flag & ST_RDONLY) != 0)
        return true;
    const int seals = fcntl(program, F_GET_SEALS);
    return seals >= 0 && (seals & all_seals) == all_seals;
}

os::Result<os::UniqueFd> sealed_copy(int program) {
    os::UniqueFd copy(memfd_create("joey-agent", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC));
    if (!copy && errno == EINVAL) // before 6.3 every one was executable
        copy = os::UniqueFd(memfd_create("joey-agent", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    struct stat about {};
    if (!copy || fstat(program, &about) != 0)
        return os::fail_errno(errno, "make a file in memory");
    off_t at = 0;
    while (at < about.st_size) {
        if (sendfile(copy.get(), program, &at, static_cast<std::size_t>(about.st_size - at)) <= 0)
            return os::fail_errno(errno, "copy the agent's program");
    }
    if (fchmod(copy.get(), 0500) != 0 || fcntl(copy.get(), F_ADD_SEALS, all_seals) != 0)
        return os::fail_errno(errno, "seal the copy of the agent's program");
    return copy;
}

} // namespace

os::Result<void> protect_own_program(char** argv) {
    auto program = os::open_path(AT_FDCWD, "/proc/self/exe", O_RDONLY);
    // As pid 1 there is no /proc yet.
    if (!program)
        program = os::open_path(AT_FDCWD, argv[0], O_RDONLY);
    if (!program)
        return base::Failure(std::move(program.error()));
    if (is_protected(program->get()))
        return {};
    TRY(const os::UniqueFd copy, sealed_copy(program->get()));
    fexecve(copy.get(), argv, environ);
    return os::fail_errno(errno, "start the sealed copy of the agent's program");
}

} // namespace startup
