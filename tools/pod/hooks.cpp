#include "tools/pod/hooks.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <vector>

#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "agent/os/child_output.hpp"
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

// In the child: the state on stdin. What it says goes to who runs it: the streams of this process
// may be those of a container.
[[noreturn]] void become_hook(const Json& hook, int input, int output) {
    const std::string path = string_of(hook, "path");
    std::vector<std::string> arguments = strings_of(hook, "args");
    std::vector<std::string> environment = strings_of(hook, "env");
    if (arguments.empty())
        arguments.push_back(path);
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    std::signal(SIGPIPE, SIG_DFL);
    if (::dup2(input, STDIN_FILENO) < 0 || ::dup2(output, STDOUT_FILENO) < 0 ||
        ::dup2(output, STDERR_FILENO) < 0)
        ::_exit(1);
    os::close_all_but({});
    ::execve(path.c_str(), pointers(arguments).data(), pointers(environment).data());
    const int error = errno;
    const std::string why = os::text(path, ": ", os::describe(error));
    static_cast<void>(!::write(STDERR_FILENO, why.data(), why.size()));
    ::_exit(error == ENOENT ? 127 : 126);
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
    std::array<int, 2> ends{-1, -1};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0)
        return os::fail_errno(errno, "make a pipe");
    const os::UniqueFd near(ends[0]);
    os::UniqueFd far(ends[1]);
    const pid_t child = ::fork();
    if (child == 0)
        become_hook(hook, input, far.get());
    if (child < 0)
        return os::fail_errno(errno, "fork");
    far.reset();
    const os::UniqueFd handle(static_cast<int>(::syscall(SYS_pidfd_open, child, 0)));
    std::string said;
    const bool in_time = os::wait_for_child(handle.get(), near.get(), seconds, said);
    if (!in_time)
        ::kill(child, SIGKILL);
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    said.erase(said.find_last_not_of('\n') + 1);
    const std::string why = said.empty() ? said : ": " + said;
    if (!in_time)
        return os::fail(os::Code::DeadlineExceeded, "error running hook: ", name,
                        ": hook ran past specified timeout of ", seconds, "s", why);
    if (WIFSIGNALED(status))
        return os::fail(os::Code::Internal, "error running hook: ", name, ": ended by signal ",
                        WTERMSIG(status), why);
    if (WEXITSTATUS(status) != 0)
        return os::fail(os::Code::Internal, "error running hook: ", name, ": exit status ",
                        WEXITSTATUS(status), why);
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
