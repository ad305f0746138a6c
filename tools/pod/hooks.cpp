#include "tools/pod/hooks.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <fcntl.h>
#include <poll.h>
#include <vector>

#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "agent/os/files.hpp"

namespace pod {

namespace {

std::vector<char*> pointers(std::vector<std::string>& words) {
    std::vector<char*> out;
    out.reserve(words.size() + 1);
    for (std::string& word : words)
        out.push_back(word.data());
    out.push_back(nullptr);
    return out;
}

// In the child: the state on stdin, everything else as it is.
[[noreturn]] void become_hook(const Json& hook, int input) {
    const std::string path = string_of(hook, "path");
    std::vector<std::string> arguments = strings_of(hook, "args");
    std::vector<std::string> environment = strings_of(hook, "env");
    if (arguments.empty())
        arguments.push_back(path);
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    std::signal(SIGPIPE, SIG_DFL);
    if (::dup2(input, STDIN_FILENO) < 0)
        ::_exit(1);
    os::close_all_but({});
    ::execve(path.c_str(), pointers(arguments).data(), pointers(environment).data());
    ::_exit(errno == ENOENT ? 127 : 126);
}

os::Result<os::UniqueFd> file_of(const std::string& text) {
    os::UniqueFd file(::memfd_create("state", MFD_CLOEXEC));
    if (!file ||
        ::write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()) ||
        ::lseek(file.get(), 0, SEEK_SET) != 0)
        return os::fail_errno(errno, "a hook's input");
    return file;
}

os::Result<void> run_hook(const Json& hook, const std::string& name, int input) {
    constexpr std::int64_t longest = 86400;
    const std::int64_t seconds = std::min(int_of(hook, "timeout"), longest);
    const pid_t child = ::fork();
    if (child == 0)
        become_hook(hook, input);
    if (child < 0)
        return os::fail_errno(errno, "fork");
    bool in_time = true;
    if (const os::UniqueFd handle(static_cast<int>(::syscall(SYS_pidfd_open, child, 0)));
        handle && seconds > 0) {
        pollfd ended{handle.get(), POLLIN, 0};
        in_time = ::poll(&ended, 1, static_cast<int>(seconds * 1000)) > 0;
        if (!in_time)
            ::kill(child, SIGKILL);
    }
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (!in_time)
        return os::fail(os::Code::DeadlineExceeded, "error running hook: ", name,
                        ": hook ran past specified timeout of ", seconds, "s");
    if (WIFSIGNALED(status))
        return os::fail(os::Code::Internal, "error running hook: ", name, ": ended by signal ",
                        WTERMSIG(status));
    if (WEXITSTATUS(status) != 0)
        return os::fail(os::Code::Internal, "error running hook: ", name, ": exit status ",
                        WEXITSTATUS(status));
    return {};
}

} // namespace

os::Result<void> run_hooks(const Json& hooks, const std::string& kind, const std::string& state) {
    const Json* list = find(hooks, kind);
    if (list == nullptr || !list->is_array())
        return {};
    int number = 0;
    for (const Json& hook : *list) {
        const std::string name = os::text(kind, " #", number++);
        if (!string_of(hook, "path").starts_with('/'))
            return os::fail(os::Code::InvalidArgument, "hooks.", name, ": path must be absolute");
        TRY(const os::UniqueFd input, file_of(state));
        TRY(run_hook(hook, name, input.get()));
    }
    return {};
}

} // namespace pod
