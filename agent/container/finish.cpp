#include "agent/container/finish.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <fcntl.h>
#include <grp.h>

#include <linux/capability.h>
#include <linux/ioprio.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "agent/container/builder_parts.hpp"
#include "agent/spec/json_view.hpp"

namespace container {

namespace {

constexpr std::uint64_t sys_admin = std::uint64_t{1} << CAP_SYS_ADMIN;
constexpr mode_t default_umask = 0022; // as runc

os::Result<void> set_capabilities(std::uint64_t effective, std::uint64_t permitted,
                                  std::uint64_t inheritable) {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    std::array<__user_cap_data_struct, 2> data{};
    for (unsigned half = 0; half < 2; ++half) {
        data[half].effective = static_cast<std::uint32_t>(effective >> (32 * half));
        data[half].permitted = static_cast<std::uint32_t>(permitted >> (32 * half));
        data[half].inheritable = static_cast<std::uint32_t>(inheritable >> (32 * half));
    }
    if (syscall(SYS_capset, &header, data.data()) != 0)
        return os::fail_errno(errno, "process.capabilities");
    return {};
}

std::uint64_t permitted_now() {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    std::array<__user_cap_data_struct, 2> data{};
    syscall(SYS_capget, &header, data.data());
    return std::uint64_t{data[1].permitted} << 32 | data[0].permitted;
}

os::Result<void> bound_capabilities(std::uint64_t bounding) {
    for (int number = 0; number < 64; ++number) {
        const int there = prctl(PR_CAPBSET_READ, number, 0, 0, 0);
        if (there < 0)
            break; // beyond the kernel's last one
        const bool wanted = (bounding >> number & 1) != 0;
        if (there == 1 && !wanted && prctl(PR_CAPBSET_DROP, number, 0, 0, 0) != 0)
            return os::fail_errno(errno, "process.capabilities.bounding");
    }
    return {};
}

os::Result<void> change_ids(const spec::User& user) {
    const std::vector<gid_t> groups(user.additional_gids.begin(), user.additional_gids.end());
    if (setgroups(groups.size(), groups.data()) != 0)
        return os::fail_errno(errno, "process.user.additionalGids");
    if (setresgid(user.gid, user.gid, user.gid) != 0)
        return os::fail_errno(errno, "process.user.gid");
    if (setresuid(user.uid, user.uid, user.uid) != 0)
        return os::fail_errno(errno, "process.user.uid");
    return {};
}

os::Result<void> enter_directory(const std::string& directory) {
    if (chdir(directory.c_str()) != 0)
        return os::fail_errno(errno, "process.cwd ", directory);
    // A directory outside of the root has a name like "(unreachable)/...": nothing opened before
    // the root was changed may serve as a working directory.
    std::array<char, 4096> name{};
    if (syscall(SYS_getcwd, name.data(), name.size()) < 0 || name[0] != '/')
        return os::fail(os::Code::PermissionDenied, "process.cwd ", directory,
                        ": is outside of the container");
    return {};
}

std::string_view variable(const std::vector<std::string>& env, std::string_view name) {
    for (const std::string& entry : env) {
        if (entry.starts_with(name) && entry.size() > name.size() && entry[name.size()] == '=')
            return std::string_view(entry).substr(name.size() + 1);
    }
    return {};
}

// 0: this can be executed.
int check_program(const std::string& path) {
    struct stat about {};
    if (stat(path.c_str(), &about) != 0)
        return errno;
    if (S_ISDIR(about.st_mode))
        return EACCES;
    return faccessat(AT_FDCWD, path.c_str(), X_OK, AT_EACCESS) == 0 ? 0 : errno;
}

os::Result<std::string> find_program(const spec::Process& process) {
    const std::string& name = process.args[0];
    const std::string what = os::text("process.args[0]: exec: ", spec::quote(name));
    if (name.find('/') != std::string::npos) {
        const int error = check_program(name);
        if (error != 0)
            return os::fail(os::code_of(error), what, ": ",
                            error == ENOENT   ? "no such file or directory"
                            : error == EACCES ? "permission denied"
                                              : os::describe(error));
        return name;
    }
    bool forbidden = false;
    std::string_view path = variable(process.env, "PATH");
    while (!name.empty() && !path.empty()) {
        const std::string_view directory = path.substr(0, path.find(':'));
        path.remove_prefix(std::min(directory.size() + 1, path.size()));
        const std::string candidate = os::text(directory.empty() ? "." : directory, "/", name);
        const int error = check_program(candidate);
        if (error == 0)
            return candidate;
        forbidden |= error == EACCES;
    }
    if (forbidden)
        return os::fail(os::Code::PermissionDenied, what, ": permission denied");
    return os::fail(os::Code::NotFound, what, ": executable file not found in $PATH");
}

// The home directory by the container's own /etc/passwd, whatever that is.
std::string home_of(std::uint32_t uid) {
    const int flags = O_RDONLY | O_NONBLOCK | O_CLOEXEC;
    const os::UniqueFd file(open("/etc/passwd", flags));
    struct stat about {};
    if (!file || fstat(file.get(), &about) != 0 || !S_ISREG(about.st_mode))
        return "/";
    std::string text(1 << 20, '\0');
    const ssize_t got = read(file.get(), text.data(), text.size());
    text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    std::string_view rest(text);
    while (!rest.empty()) {
        std::string_view line = rest.substr(0, rest.find('\n'));
        rest.remove_prefix(std::min(line.size() + 1, rest.size()));
        std::array<std::string_view, 6> fields{};
        for (std::string_view& field : fields) {
            field = line.substr(0, line.find(':'));
            line.remove_prefix(std::min(field.size() + 1, line.size()));
        }
        std::uint32_t number = 0;
        const auto parsed =
            std::from_chars(fields[2].data(), fields[2].data() + fields[2].size(), number);
        if (parsed.ec == std::errc() && !fields[2].empty() && number == uid && !fields[5].empty())
            return std::string(fields[5]);
    }
    return "/";
}

// As late as possible: a low limit would hinder the building.
os::Result<void> set_limits(const spec::Process& process) {
    for (const spec::Rlimit& limit : process.rlimits) {
        const rlimit value{limit.soft, limit.hard};
        if (setrlimit(static_cast<__rlimit_resource>(limit.resource), &value) != 0)
            return os::fail_errno(errno, "process.rlimits: resource ", limit.resource);
    }
    return {};
}

os::Result<void> raise_ambient(std::uint64_t ambient) {
    // Fails where there are none; then none are wanted or the raise says so.
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    for (int number = 0; number < 64; ++number) {
        if ((ambient >> number & 1) != 0 &&
            prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0) != 0)
            return os::fail_errno(errno, "process.capabilities.ambient");
    }
    return {};
}

os::Result<void> drop_the_rest(const spec::Process& process, const SeccompFilter& filter) {
    const spec::Capabilities& wanted = process.capabilities;
    if (process.no_new_privileges && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return os::fail_errno(errno, "process.noNewPrivileges");
    // Without no-new-privileges the filter needs CAP_SYS_ADMIN, so it comes before that goes, and
    // has to allow capset, prctl and execve. With it, the filter is the last thing.
    if (!process.no_new_privileges) {
        TRY(filter.install());
    }
    TRY(set_capabilities(wanted.effective, wanted.permitted, wanted.inheritable));
    TRY(raise_ambient(wanted.ambient));
    if (process.no_new_privileges) {
        TRY(filter.install());
    }
    return {};
}

// So that the program's user may open /dev/stdout and its like again. /dev/null is everybody's.
void give_stream(int fd, std::uint32_t uid, bool terminal) {
    struct stat about {};
    const bool own = fstat(fd, &about) == 0 && (terminal || !S_ISCHR(about.st_mode));
    if (own && fchown(fd, uid, static_cast<gid_t>(-1)) != 0)
        return; // in a user namespace the pipes belong to nobody inside
}

// Nothing that is still needed has one of these numbers (ProcessPlan).
bool place_preserved(const std::vector<int>& fds) {
    int number = 3;
    return std::all_of(fds.begin(), fds.end(),
                       [&number](int fd) { return dup2(fd, number++) >= 0; });
}

} // namespace

os::Result<void> connect_streams(const ProcessPlan& plan, const Terminal& terminal) {
    const std::uint32_t uid = plan.process->user.uid;
    for (int number = 0; number < 3; ++number) {
        const int from =
            terminal.slave ? terminal.slave.get() : plan.stdio[static_cast<unsigned>(number)];
        if (dup2(from, number) < 0)
            return os::fail_errno(errno, "connect the standard streams");
        give_stream(number, uid, static_cast<bool>(terminal.slave));
    }
    for (const int number : plan.preserved)
        give_stream(number, uid, false);
    if (terminal.slave && ioctl(STDIN_FILENO, TIOCSCTTY, 0) != 0)
        return os::fail_errno(errno, "process.terminal: make it the controlling one");
    return {};
}

os::Result<void> ask_for_limits(const spec::Process& process, int sync) {
    if (process.rlimits.empty())
        return {};
    TRY(os::send_message(sync, message::limits));
    return wait_for_go(sync);
}

os::Result<std::string> become_user(const spec::Process& process) {
    if (process.io_priority) {
        const auto value = static_cast<int>(
            IOPRIO_PRIO_VALUE(process.io_priority->io_class, process.io_priority->level));
        if (syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) != 0)
            return os::fail_errno(errno, "process.ioPriority");
    }
    umask(static_cast<mode_t>(process.user.umask.value_or(default_umask)));
    // Root may not be let in (a network file system), or the user may not: one of them is enough.
    const bool entered = enter_directory(process.cwd).has_value();
    const std::uint64_t held = permitted_now();
    TRY(bound_capabilities(process.capabilities.bounding));
    if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0)
        return os::fail_errno(errno, "keep capabilities over the change of user");
    TRY(change_ids(process.user));
    const std::uint64_t extra = held & sys_admin;
    TRY(set_capabilities(process.capabilities.effective | extra,
                         process.capabilities.permitted | extra, process.capabilities.inheritable));
    if (!entered) {
        TRY(enter_directory(process.cwd));
    }
    return find_program(process);
}

os::Result<void> wait_for_start(const ProcessPlan& plan, int sync) {
    TRY(os::send_message(sync, message::ready));
    for (;;) {
        TRY(const std::optional<os::Message> word, os::receive_message(plan.start));
        if (!word)
            _exit(1);
        if (word->kind == message::start)
            return {};
    }
}

os::Error execute(const ProcessPlan& plan, const SeccompFilter& filter,
                  const std::string& program) {
    const spec::Process& process = *plan.process;
    std::vector<std::string> env = process.env;
    if (variable(env, "HOME").empty())
        env.push_back(os::text("HOME=", home_of(process.user.uid)));
    const auto pointers = [](const std::vector<std::string>& strings) {
        std::vector<char*> out;
        out.reserve(strings.size() + 1);
        for (const std::string& string : strings)
            out.push_back(const_cast<char*>(string.c_str())); // execve(2) does not write to them
        out.push_back(nullptr);
        return out;
    };
    const std::vector<char*> args = pointers(process.args);
    const std::vector<char*> environment = pointers(env);
    // Everything of ours has the flag already; this is for what a library may have forgotten.
    syscall(SYS_close_range, 3U, ~0U, CLOSE_RANGE_CLOEXEC);
    if (!place_preserved(plan.preserved))
        return {os::code_of(errno), "place the preserved descriptors"};
    const auto limited = set_limits(process);
    if (!limited)
        return limited.error();
    const auto dropped = drop_the_rest(process, filter);
    if (!dropped)
        return dropped.error();
    execve(program.c_str(), args.data(), environment.data());
    const int error = errno;
    return {os::code_of(error),
            os::text("process.args[0]: exec ", spec::quote(program), ": ",
                     error == EACCES ? "permission denied" : os::describe(error))};
}

} // namespace container
