#include "agent/container/hooks.hpp"

#include <array>
#include <cerrno>
#include <csignal>
#include <fcntl.h>

#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "agent/os/child_output.hpp"
#include "agent/os/descriptor_limit.hpp"
#include "agent/os/files.hpp"
#include "agent/os/unique_fd.hpp"
#include "agent/spec/json_view.hpp"

namespace container {

namespace {

std::vector<char*> pointers(const std::vector<std::string>& strings) {
    std::vector<char*> out;
    out.reserve(strings.size() + 1);
    for (const std::string& string : strings)
        out.push_back(const_cast<char*>(string.c_str())); // execve(2) does not write to them
    out.push_back(nullptr);
    return out;
}

os::Result<os::UniqueFd> file_with(const std::string& text) {
    os::UniqueFd file(memfd_create("state", MFD_CLOEXEC));
    if (!file || write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()) ||
        lseek(file.get(), 0, SEEK_SET) != 0)
        return os::fail_errno(errno, "make a hook's standard input");
    return file;
}

[[noreturn]] void become_hook(const spec::Hook& hook, int input, int output) {
    setpgid(0, 0);
    dup2(input, STDIN_FILENO);
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
    os::close_all_but({});
    os::restore_descriptor_limit();
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    execve(hook.path.c_str(), pointers(hook.args).data(), pointers(hook.env).data());
    dprintf(STDERR_FILENO, "%s", os::text("execute: ", os::describe(errno)).c_str());
    _exit(127);
}

os::Result<void> run_hook(const spec::Hook& hook, const std::string& state) {
    TRY(const os::UniqueFd input, file_with(state));
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0)
        return os::fail_errno(errno, hook.name, ": make a pipe");
    const os::UniqueFd near(ends[0]);
    os::UniqueFd far(ends[1]);
    const pid_t pid = fork();
    if (pid < 0)
        return os::fail_errno(errno, hook.name, ": fork");
    if (pid == 0)
        become_hook(hook, input.get(), far.get());
    far.reset();
    const os::UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
    std::string said;
    const bool in_time = os::wait_for_child(pidfd.get(), near.get(), hook.timeout, said);
    if (!in_time)
        kill(-pid, SIGKILL);
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    while (!said.empty() && said.back() == '\n')
        said.pop_back();
    if (!in_time)
        return os::fail(os::Code::DeadlineExceeded, hook.name, " (", hook.path,
                        "): ran longer than ", hook.timeout, " seconds");
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return {};
    const std::string how = WIFEXITED(status) ? os::text("exit status ", WEXITSTATUS(status))
                                              : os::text("ended by signal ", WTERMSIG(status));
    return os::fail(os::Code::Aborted, hook.name, " (", hook.path, "): ", how,
                    said.empty() ? "" : ": ", said);
}

} // namespace

std::string HookState::json(std::string_view status, pid_t pid) const {
    std::string out = os::text("{\"ociVersion\":", spec::quote(oci_version),
                               ",\"id\":", spec::quote(id), ",\"status\":", spec::quote(status));
    if (pid > 0)
        out += os::text(",\"pid\":", pid);
    out += os::text(",\"bundle\":", spec::quote(bundle));
    std::string separator = ",\"annotations\":{";
    for (const auto& [key, value] : annotations) {
        out += os::text(separator, spec::quote(key), ":", spec::quote(value));
        separator = ",";
    }
    if (!annotations.empty())
        out += "}";
    return out + "}";
}

os::Result<void> run_hooks(const std::vector<spec::Hook>& hooks, const std::string& state) {
    for (const spec::Hook& hook : hooks)
        TRY(run_hook(hook, state));
    return {};
}

void run_every_hook(const std::vector<spec::Hook>& hooks, const std::string& state) {
    for (const spec::Hook& hook : hooks)
        static_cast<void>(run_hook(hook, state));
}

} // namespace container
