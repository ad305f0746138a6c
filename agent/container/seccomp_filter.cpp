#include "agent/container/seccomp_filter.hpp"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>
#include <unistd.h>

#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <seccomp.h>

#include "agent/os/unique_fd.hpp"

namespace container {

namespace {

struct Release {
    void operator()(void* context) const { seccomp_release(context); }
};
using Context = std::unique_ptr<void, Release>;

os::Result<void> add_rule(scmp_filter_ctx context, const spec::SeccompRule& rule,
                          const std::string& name, int number) {
    std::vector<scmp_arg_cmp> args;
    bool repeated = false;
    for (const spec::SeccompArg& arg : rule.args) {
        repeated |= std::any_of(args.begin(), args.end(),
                                [&](const scmp_arg_cmp& other) { return other.arg == arg.index; });
        args.push_back(
            {arg.index, static_cast<scmp_compare>(arg.comparison), arg.value, arg.value_two});
    }
    const auto add = [&](const scmp_arg_cmp* first, std::size_t count) -> os::Result<void> {
        const int error = seccomp_rule_add_array(context, rule.action, number,
                                                 static_cast<unsigned>(count), first);
        // The same rule twice does no harm.
        if (error != 0 && error != -EEXIST)
            return os::fail_errno(-error, "linux.seccomp: add a rule for ", name);
        return {};
    };
    if (!repeated)
        return add(args.data(), args.size());
    // libseccomp takes one condition per argument; several are alternatives, as with runc.
    for (const scmp_arg_cmp& arg : args)
        TRY(add(&arg, 1));
    return {};
}

os::Result<std::vector<sock_filter>> export_program(scmp_filter_ctx context) {
    const os::UniqueFd file(memfd_create("seccomp", MFD_CLOEXEC));
    if (!file)
        return os::fail_errno(errno, "make a file in memory");
    const int error = seccomp_export_bpf(context, file.get());
    if (error != 0)
        return os::fail_errno(-error, "linux.seccomp: compile the filter");
    const off_t size = lseek(file.get(), 0, SEEK_END);
    std::vector<sock_filter> program(static_cast<std::size_t>(size) / sizeof(sock_filter));
    if (pread(file.get(), program.data(), program.size() * sizeof(sock_filter), 0) != size)
        return os::fail_errno(errno, "read the compiled filter");
    return program;
}

// A system call newer than all that the profile's author knew must fail with ENOSYS, or programs do
// not fall back to older ones: so do calls above the highest number of the profile (runc does
// alike).
void refuse_unknown_calls(std::vector<sock_filter>& program, std::uint32_t highest) {
    const std::vector<sock_filter> prelude = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        // Numbers with bit 30 are x32's.
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x4000'0000, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, highest, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
    };
    program.insert(program.begin(), prelude.begin(), prelude.end());
}

} // namespace

os::Result<SeccompFilter> compile_filter(const spec::Seccomp& seccomp) {
    const Context context(seccomp_init(seccomp.default_action));
    if (!context)
        return os::fail(os::Code::InvalidArgument,
                        "linux.seccomp.defaultAction: libseccomp refuses it");
    for (const std::uint32_t architecture : seccomp.architectures) {
        const int error = seccomp_arch_add(context.get(), architecture);
        if (error != 0 && error != -EEXIST)
            return os::fail_errno(-error, "linux.seccomp.architectures");
    }
    std::uint32_t highest = 0;
    for (const spec::SeccompRule& rule : seccomp.rules) {
        for (const std::string& name : rule.names) {
            const int number = seccomp_syscall_resolve_name(name.c_str());
            // Profiles name the calls of all architectures and of newer kernels.
            if (number == __NR_SCMP_ERROR)
                continue;
            if (number >= 0)
                highest = std::max(highest, static_cast<std::uint32_t>(number));
            // libseccomp refuses a rule that says what the default says.
            if (rule.action == seccomp.default_action)
                continue;
            TRY(add_rule(context.get(), rule, name, number));
        }
    }
    SeccompFilter out{.flags = seccomp.flags};
    TRY(out.program, export_program(context.get()));
    const bool lets_through =
        seccomp.default_action == SCMP_ACT_ALLOW || seccomp.default_action == SCMP_ACT_LOG;
    if (!lets_through && highest > 0)
        refuse_unknown_calls(out.program, highest);
    // The kernel would say no more than EINVAL, at the start; and its count has 16 bits.
    if (out.program.size() > BPF_MAXINSNS)
        return os::fail(os::Code::InvalidArgument, "linux.seccomp: the filter has ",
                        out.program.size(), " instructions, the kernel takes ", BPF_MAXINSNS);
    return out;
}

os::Result<void> SeccompFilter::install() const {
    if (program.empty())
        return {};
    sock_fprog filter{static_cast<unsigned short>(program.size()),
                      const_cast<sock_filter*>(program.data())}; // the kernel only reads it
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &filter) != 0)
        return os::fail_errno(errno, "linux.seccomp: install the filter");
    return {};
}

} // namespace container
