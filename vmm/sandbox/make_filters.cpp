// Build-time tool: compiles rules.def with libseccomp and prints the BPF programs as C++ tables, so
// that joey installs them without spending start-up time on compiling. Also prints the names of the
// system calls, for the line that a violation ends with.
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>
#include <vector>

#include <asm/ioctls.h>
#include <linux/filter.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <linux/sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include <seccomp.h>

#include "vmm/sandbox/own_process.hpp"

// Linux 6.13; libseccomp 2.5 has no names for these.
#ifndef __SNR_setxattrat
#define __SNR_setxattrat 463
#define __SNR_getxattrat 464
#define __SNR_listxattrat 465
#define __SNR_removexattrat 466
#endif

namespace {

using vmm::own_process;

// A row belongs to one or several of these parts; a filter is made of the rows of its parts.
enum Part : unsigned {
    Loop = 1,
    Vcpu = 2,
    Worker = 4,
    Reading = 8,
    Writing = 16,
    Net = 32,
    UserNet = 64,
    NoFiles = 128,
    All = Loop | Vcpu | Worker | Net,
};

struct Condition {
    unsigned argument;
    std::uint64_t mask;
    std::uint64_t value;
};

struct Rule {
    unsigned parts;
    int syscall;
    std::uint32_t action;
    bool conditional;
    Condition condition;
};

constexpr Rule rules[] = {
#define ALLOW(parts, name, reason) {parts, SCMP_SYS(name), SCMP_ACT_ALLOW, false, {}},
#define ANSWER(parts, name, error, reason)                                                         \
    {parts, SCMP_SYS(name), SCMP_ACT_ERRNO(error), false, {}},
#define UNPACK(...) __VA_ARGS__
#define ALLOW_IF(parts, name, condition, reason)                                                   \
    {parts, SCMP_SYS(name), SCMP_ACT_ALLOW, true, {UNPACK condition}},
#include "vmm/sandbox/rules.def"
#undef ALLOW
#undef ALLOW_IF
#undef ANSWER
};

[[noreturn]] void give_up(const char* what, int error) {
    std::fprintf(stderr, "make_filters: %s: %s\n", what, std::strerror(-error));
    std::exit(1);
}

void print_filter(unsigned parts, const char* name) {
    // TRAP: the handler names the call, then the process ends; the call itself never happens.
    scmp_filter_ctx context = seccomp_init(SCMP_ACT_TRAP);
    if (context == nullptr)
        give_up("seccomp_init", -ENOMEM);
    seccomp_attr_set(context, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    seccomp_attr_set(context, SCMP_FLTATR_CTL_OPTIMIZE, 2); // a binary tree in place of a list
    for (const Rule& rule : rules) {
        if ((rule.parts & parts) == 0)
            continue;
        const scmp_arg_cmp compare{rule.condition.argument, SCMP_CMP_MASKED_EQ, rule.condition.mask,
                                   rule.condition.value};
        const int error = seccomp_rule_add_array(context, rule.action, rule.syscall,
                                                 rule.conditional ? 1 : 0, &compare);
        if (error != 0)
            give_up("seccomp_rule_add", error);
    }
    std::FILE* memory = std::tmpfile();
    if (memory == nullptr)
        give_up("tmpfile", -errno);
    if (const int error = seccomp_export_bpf(context, fileno(memory)); error != 0)
        give_up("seccomp_export_bpf", error);
    std::rewind(memory);
    std::printf("inline constexpr sock_filter %s[] = {\n", name);
    sock_filter step{};
    while (std::fread(&step, sizeof step, 1, memory) == 1)
        std::printf("    {0x%04x, %u, %u, 0x%08x},\n", step.code, step.jt, step.jf, step.k);
    std::printf("};\n");
    std::fclose(memory);
    seccomp_release(context);
}

} // namespace

int main() {
    std::printf("// Made by make_filters from rules.def.\n");
    print_filter(Loop | NoFiles, "event_loop_filter");
    print_filter(Vcpu | Reading, "vcpu_read_filter");
    print_filter(Vcpu | Reading | Writing, "vcpu_write_filter");
    print_filter(Worker | Reading, "worker_read_filter");
    print_filter(Worker | Reading | Writing, "worker_write_filter");
    print_filter(Net | NoFiles, "net_filter");
    print_filter(Net | UserNet, "user_net_filter");
    constexpr int highest = 512;
    std::printf("inline constexpr const char* syscall_names[] = {\n");
    for (int number = 0; number < highest; ++number) {
        char* name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_X86_64, number);
        std::printf("    \"%s\",\n", name == nullptr ? "" : name);
        std::free(name);
    }
    std::printf("};\n");
    return 0;
}
