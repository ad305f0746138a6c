#include "agent/container/init.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sched.h>

#include <linux/magic.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "agent/container/builder_parts.hpp"
#include "agent/container/finish.hpp"
#include "agent/container/mount_calls.hpp"

namespace container {

namespace {

constexpr mode_t hooks_umask = 0022;

os::Result<void> loopback_up() {
    const os::UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ifreq request{};
    std::strcpy(request.ifr_name, "lo");
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-union-access): the ioctl's own structure
    if (!socket || ioctl(socket.get(), SIOCGIFFLAGS, &request) != 0)
        return os::fail_errno(errno, "set the loopback interface up");
    request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
    if (ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0)
        return os::fail_errno(errno, "set the loopback interface up");
    return {};
}

// Through the runtime's own /proc: the container's could be anything, and the kernel answers by the
// namespaces of who asks.
os::Result<void> write_sysctls(const spec::Linux& part, int proc) {
    for (const auto& [key, value] : part.sysctls) {
        std::string path = key;
        if (key.find('/') == std::string::npos)
            std::replace(path.begin(), path.end(), '.', '/');
        path.insert(0, "/sys/");
        auto file = open_in_root(proc, path, O_WRONLY, RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV);
        if (!file)
            return os::fail(file.error().code, "linux.sysctl[\"", key,
                            "\"]: ", file.error().message);
        if (write(file->get(), value.data(), value.size()) != static_cast<ssize_t>(value.size()))
            return os::fail_errno(errno, "linux.sysctl[\"", key, "\"]: write \"", value, "\"");
    }
    return {};
}

os::Result<os::UniqueFd> open_proc() {
    TRY(os::UniqueFd proc, os::open_path(AT_FDCWD, "/proc", O_PATH | O_DIRECTORY));
    struct statfs about {};
    if (fstatfs(proc.get(), &about) != 0 || about.f_type != PROC_SUPER_MAGIC)
        return os::fail(os::Code::FailedPrecondition, "no proc is mounted at /proc");
    return proc;
}

os::Result<void> take_identity(const InitInputs& inputs) {
    const spec::Spec& spec = *inputs.plan.spec;
    TRY(wait_for_go(inputs.sync));
    if (inputs.in_user_namespace && (setresgid(0, 0, 0) != 0 || setresuid(0, 0, 0) != 0))
        return os::fail_errno(errno, "linux.uidMappings, linux.gidMappings: become root inside");
    // The change of user made this process open to inspection again.
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    if (setsid() < 0)
        return os::fail_errno(errno, "make a session");
    // After the builder has moved this process to its group: that is the namespace's root.
    if (spec.linux_part.is_new(CLONE_NEWCGROUP) && unshare(CLONE_NEWCGROUP) != 0)
        return os::fail_errno(errno, "linux.namespaces: make a cgroup namespace");
    if (inputs.mount_namespace != nullptr) {
        TRY(join(*inputs.mount_namespace));
    }
    if (!spec.hostname.empty() && sethostname(spec.hostname.data(), spec.hostname.size()) != 0)
        return os::fail_errno(errno, "hostname");
    if (!spec.domainname.empty() &&
        setdomainname(spec.domainname.data(), spec.domainname.size()) != 0)
        return os::fail_errno(errno, "domainname");
    if (spec.linux_part.is_new(CLONE_NEWNET)) {
        TRY(loopback_up());
    }
    return {};
}

os::Result<void> build_root(const InitInputs& inputs, Terminal& terminal) {
    const spec::Spec& spec = *inputs.plan.spec;
    umask(0);
    TRY(const os::UniqueFd proc, open_proc());
    Rootfs rootfs(spec, inputs.trees);
    TRY(rootfs.attach_root());
    TRY(rootfs.mount_all());
    TRY(rootfs.make_devices());
    if (spec.process && spec.process->terminal) {
        TRY(terminal, open_terminal(rootfs.root(), spec.process->rows, spec.process->columns));
        TRY(rootfs.connect_console(terminal));
        TRY(os::send_message(inputs.sync, message::terminal, {}, terminal.master.get()));
        terminal.master.reset();
    }
    // What is made now has a mode already; hooks make files of their own.
    umask(hooks_umask);
    if (!spec.hooks.create_runtime.empty()) {
        TRY(os::send_message(inputs.sync, message::hooks));
        TRY(wait_for_go(inputs.sync));
    }
    TRY(run_hooks(spec.hooks.create_container, inputs.plan.state.json("creating", getpid())));
    TRY(rootfs.protect_paths());
    TRY(write_sysctls(spec.linux_part, proc.get()));
    return rootfs.change_root();
}

} // namespace

void run_init(const InitInputs& inputs) {
    const spec::Spec& spec = *inputs.plan.spec;
    const spec::Process& process = *inputs.plan.common.process;
    Terminal terminal;
    std::string program;
    const auto prepare = [&]() -> os::Result<void> {
        TRY(take_identity(inputs));
        TRY(build_root(inputs, terminal));
        if (spec.linux_part.personality && personality(*spec.linux_part.personality) < 0)
            return os::fail_errno(errno, "linux.personality");
        TRY(connect_streams(inputs.plan.common, terminal));
        TRY(ask_for_limits(process, inputs.sync));
        TRY(program, become_user(process));
        return wait_for_start(inputs.plan.common, inputs.sync);
    };
    const auto prepared = prepare();
    if (!prepared)
        give_up(inputs.sync, prepared.error());
    const int agent = inputs.plan.common.start;
    const auto hooked =
        run_hooks(spec.hooks.start_container, inputs.plan.state.json("created", getpid()));
    if (!hooked)
        give_up(agent, hooked.error());
    give_up(agent, execute(inputs.plan.common, inputs.filter, program));
}

} // namespace container
