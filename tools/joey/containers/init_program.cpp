#include "tools/joey/containers/init_program.hpp"

#include <climits>
#include <cstdlib>
#include <unistd.h>

namespace joey::containers {

os::Result<std::string> find_init() {
    char own[PATH_MAX];
    const ssize_t length = ::readlink("/proc/self/exe", own, sizeof own - 1);
    const std::string path(own, length > 0 ? static_cast<std::size_t>(length) : 0);
    const std::string folder = path.substr(0, path.rfind('/'));
    for (const char* place : {"/joey-init", "/../lib/joey/joey-init"}) {
        char resolved[PATH_MAX];
        if (::realpath((folder + place).c_str(), resolved) != nullptr)
            return std::string(resolved);
    }
    return os::fail(os::Code::NotFound, "--init: joey-init is neither beside ", path,
                    " nor where it is installed; build or install joey again");
}

} // namespace joey::containers
