// delete: what a shim that was killed left of one container. containerd calls it for each.
#include <cstdlib>
#include <fcntl.h>
#include <unistd.h>

#include "agent/os/files.hpp"
#include "tools/containerd-shim-joey-v2/address.hpp"
#include "tools/containerd-shim-joey-v2/commands.hpp"
#include "tools/containerd-shim-joey-v2/engine_work.hpp"

namespace shim {

namespace {

constexpr int killed = 137;

// Files of a bundle may be missing: it may have been killed anywhere.
std::string content_of(const std::string& path) {
    const auto text = os::read_file(AT_FDCWD, path.c_str());
    return text ? *text : std::string();
}

} // namespace

os::Result<std::string> clean_up(const CommandLine& line) {
    std::string bundle = line.bundle;
    if (bundle.empty()) {
        char* here = ::getcwd(nullptr, 0);
        bundle = here == nullptr ? "" : here;
        std::free(here);
    }
    const std::string root = state_root(line.name_space);
    api::DeleteResponse response;
    response.set_exit_status(killed);
    set_time(*response.mutable_exited_at(), now());
    const pod::StateRoot state{root};
    if (const auto exit = pod::ExitRecord::load(state.container(line.id) + "/exit.json")) {
        response.set_exit_status(static_cast<std::uint32_t>(exit->status));
        set_time(*response.mutable_exited_at(), exit->at);
    }
    response.set_pid(
        static_cast<std::uint32_t>(std::atoi(content_of(bundle + "/init.pid").c_str())));
    const std::string address = content_of(bundle + "/address");
    const bool shim_lives = !address.empty() && can_connect(address);
    if (!address.empty() && !shim_lives)
        remove_socket(address);
    // containerd wants this after deletions of the ordinary kind, too: then it is no reason to take
    // the VM from those that share it.
    TRY(shim_lives && has_others(state, line.id) ? forget(root, line.id, bundle + "/rootfs")
                                                 : remove(root, line.id, bundle + "/rootfs"));
    return response.SerializeAsString();
}

} // namespace shim
