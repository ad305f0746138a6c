#include <cerrno>
#include <climits>
#include <string>
#include <unistd.h>

#include "vmm/machine/vm.hpp"

namespace vmm {

Result<std::string> find_kernel() {
    char path[PATH_MAX];
    const ssize_t length = readlink("/proc/self/exe", path, sizeof(path));
    if (length < 0)
        return fail(errno, "read /proc/self/exe");
    const std::string executable(path, static_cast<std::size_t>(length));
    const std::string folder = executable.substr(0, executable.rfind('/'));
    // Beside the executable; in the build tree, where the folders are those of the sources; and
    // installed as PREFIX/bin and PREFIX/lib/joey.
    for (const char* place :
         {"/joey-kernel", "/../../guestkernel/joey-kernel", "/../lib/joey/joey-kernel"}) {
        std::string candidate = folder + place;
        if (access(candidate.c_str(), R_OK) == 0)
            return candidate;
    }
    return fail(0, "the guest kernel (joey-kernel) is neither beside joey nor in its lib folder");
}

} // namespace vmm
