// joey-boot: boots a kernel image without devices, for work on the kernel. Its log goes to stderr.
#include <csignal>
#include <cstdlib>
#include <string_view>
#include <unistd.h>

#include <sys/signalfd.h>
#include <sys/wait.h>

#include <fmt/format.h>

#include "vmm/machine/vm.hpp"

namespace {

constexpr int own_failure = 125;

int usage() {
    fmt::print(stderr, "usage: joey-boot KERNEL.elf [--cpus N] [--memory MIB] [--privilege "
                       "auto|ring0|ring3] [--timing] [-- ARGS...]\n");
    return own_failure;
}

bool parse_privilege(std::string_view word, vmm::PrivilegeChoice& choice) {
    if (word == "auto")
        choice = vmm::PrivilegeChoice::Auto;
    else if (word == "ring0")
        choice = vmm::PrivilegeChoice::Ring0;
    else if (word == "ring3")
        choice = vmm::PrivilegeChoice::Ring3;
    else
        return false;
    return true;
}

void print_timing(const vmm::Vm& vm) {
    const auto marks = vm.timing();
    for (const vmm::TimingMark& mark : marks) {
        const auto ticks = static_cast<double>(mark.tsc - marks.front().tsc);
        fmt::print(stderr, "{:9.3f} ms  {}{}\n", ticks / static_cast<double>(vm.tsc_khz()),
                   mark.from_guest ? "guest: " : "", mark.name);
    }
}

// SIGQUIT (Ctrl-\\): where the guest's CPUs stand.
void report_on_quit(vmm::Vm& vm) {
    sigset_t quit;
    sigemptyset(&quit);
    sigaddset(&quit, SIGQUIT);
    sigprocmask(SIG_BLOCK, &quit, nullptr);
    static const virtio::UniqueFd fd(signalfd(-1, &quit, SFD_CLOEXEC | SFD_NONBLOCK));
    const auto watched = vm.event_loop().add(fd.get(), {.read = true}, [&vm](virtio::Readiness) {
        signalfd_siginfo signal{};
        if (read(fd.get(), &signal, sizeof(signal)) > 0)
            fmt::print(stderr, "{}\n", vm.describe_cpus());
    });
    if (!watched)
        fmt::print(stderr, "joey-boot: SIGQUIT will not report\n");
}

int report(const vmm::EndReason& end) {
    using Kind = vmm::EndReason::Kind;
    switch (end.kind) {
    case Kind::ProgramExited:
        if (WIFSIGNALED(end.wait_status))
            return 128 + WTERMSIG(end.wait_status);
        return WEXITSTATUS(end.wait_status);
    case Kind::ExecFailed:
        fmt::print(stderr, "joey-boot: the program could not be started: errno {}\n",
                   end.exec_errno);
        return end.exec_errno == ENOENT ? 127 : 126;
    case Kind::Stopped:
        fmt::print(stderr, "joey-boot: stopped\n");
        return own_failure;
    default:
        fmt::print(stderr, "joey-boot: {}\n", end.report);
        return own_failure;
    }
}

} // namespace

int main(int argc, char** argv) {
    vmm::VmConfig config;
    bool timing = false;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        const bool has_value = i + 1 < argc;
        if (word == "--") {
            config.guest.args.assign(argv + i + 1, argv + argc);
            break;
        }
        if (word == "--timing")
            timing = true;
        else if (word == "--cpus" && has_value)
            config.cpus = static_cast<unsigned>(std::strtoul(argv[++i], nullptr, 10));
        else if (word == "--memory" && has_value)
            config.memory_bytes = std::strtoull(argv[++i], nullptr, 10) << 20;
        else if (word == "--privilege" && has_value) {
            if (!parse_privilege(argv[++i], config.privilege))
                return usage();
        } else if (config.kernel_path.empty() && !word.starts_with("-"))
            config.kernel_path = word;
        else
            return usage();
    }
    if (config.kernel_path.empty())
        return usage();
    config.guest.log_level = boot::LogLevel::Debug;

    vmm::VmHooks hooks;
    hooks.log = [](boot::LogLevel, std::string_view text) { fmt::print(stderr, "{}\n", text); };
    auto vm = vmm::Vm::create(std::move(config), std::move(hooks));
    if (!vm) {
        fmt::print(stderr, "joey-boot: {}\n", vmm::describe(vm.error()));
        return own_failure;
    }
    report_on_quit(**vm);
    const vmm::EndReason end = (*vm)->run();
    if (timing)
        print_timing(**vm);
    return report(end);
}
