#include <algorithm>
#include <array>
#include <cerrno>

#include <linux/seccomp.h>

#include <seccomp.h>

#include "agent/spec/parts.hpp"

namespace spec {

namespace {

template <typename T>
struct Name {
    std::string_view name;
    T value;
};

constexpr std::array architectures = {
    Name<std::uint32_t>{"SCMP_ARCH_X86", SCMP_ARCH_X86},
    Name<std::uint32_t>{"SCMP_ARCH_X86_64", SCMP_ARCH_X86_64},
    Name<std::uint32_t>{"SCMP_ARCH_X32", SCMP_ARCH_X32},
};
// Architectures that exist, but whose programs cannot run on this one: their rules say nothing
// here.
constexpr std::array foreign_architectures = {
    "SCMP_ARCH_ARM",        "SCMP_ARCH_AARCH64", "SCMP_ARCH_MIPS",     "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",  "SCMP_ARCH_MIPSEL",  "SCMP_ARCH_MIPSEL64", "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PPC",        "SCMP_ARCH_PPC64",   "SCMP_ARCH_PPC64LE",  "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",      "SCMP_ARCH_PARISC",  "SCMP_ARCH_PARISC64", "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_LOONGARCH64"};
constexpr std::array flags = {
    Name<std::uint32_t>{"SECCOMP_FILTER_FLAG_TSYNC", SECCOMP_FILTER_FLAG_TSYNC},
    Name<std::uint32_t>{"SECCOMP_FILTER_FLAG_LOG", SECCOMP_FILTER_FLAG_LOG},
    Name<std::uint32_t>{"SECCOMP_FILTER_FLAG_SPEC_ALLOW", SECCOMP_FILTER_FLAG_SPEC_ALLOW},
};
constexpr std::array comparisons = {
    Name<int>{"SCMP_CMP_NE", SCMP_CMP_NE},
    Name<int>{"SCMP_CMP_LT", SCMP_CMP_LT},
    Name<int>{"SCMP_CMP_LE", SCMP_CMP_LE},
    Name<int>{"SCMP_CMP_EQ", SCMP_CMP_EQ},
    Name<int>{"SCMP_CMP_GE", SCMP_CMP_GE},
    Name<int>{"SCMP_CMP_GT", SCMP_CMP_GT},
    Name<int>{"SCMP_CMP_MASKED_EQ", SCMP_CMP_MASKED_EQ},
};

template <typename T, std::size_t N>
const Name<T>* find(const std::array<Name<T>, N>& names, std::string_view wanted) {
    const auto* found = std::find_if(names.begin(), names.end(),
                                     [&](const Name<T>& known) { return known.name == wanted; });
    return found == names.end() ? nullptr : found;
}

os::Result<std::uint32_t> read_action(const JsonView& view, std::string_view name,
                                      std::string_view errno_name) {
    std::string action;
    std::optional<std::uint32_t> number;
    TRY(view.read(name, action));
    TRY(view.read(errno_name, number));
    const bool takes_number = action == "SCMP_ACT_ERRNO" || action == "SCMP_ACT_TRACE";
    if (number && !takes_number)
        return view.wrong(errno_name, " goes with SCMP_ACT_ERRNO and SCMP_ACT_TRACE only");
    if (number && *number > 4095)
        return view.wrong(errno_name, " must lie between 0 and 4095");
    const auto data = static_cast<std::uint16_t>(number.value_or(EPERM));
    if (action == "SCMP_ACT_KILL" || action == "SCMP_ACT_KILL_THREAD")
        return std::uint32_t{SCMP_ACT_KILL_THREAD};
    if (action == "SCMP_ACT_KILL_PROCESS")
        return std::uint32_t{SCMP_ACT_KILL_PROCESS};
    if (action == "SCMP_ACT_TRAP")
        return std::uint32_t{SCMP_ACT_TRAP};
    if (action == "SCMP_ACT_ERRNO")
        return std::uint32_t{SCMP_ACT_ERRNO(data)};
    if (action == "SCMP_ACT_TRACE")
        return std::uint32_t{SCMP_ACT_TRACE(data)};
    if (action == "SCMP_ACT_ALLOW")
        return std::uint32_t{SCMP_ACT_ALLOW};
    if (action == "SCMP_ACT_LOG")
        return std::uint32_t{SCMP_ACT_LOG};
    if (action == "SCMP_ACT_NOTIFY")
        return view.wrong(name, ": SCMP_ACT_NOTIFY is not supported");
    return view.wrong(name, ": there is no action ", quote(action));
}

os::Result<SeccompArg> read_arg(const JsonView& view) {
    SeccompArg out;
    std::string op;
    std::optional<std::uint64_t> value;
    std::optional<std::uint64_t> value_two;
    std::uint32_t index = 0;
    TRY(view.read("index", index));
    TRY(view.read("value", value));
    TRY(view.read("valueTwo", value_two));
    TRY(view.read("op", op));
    const Name<int>* comparison = find(comparisons, op);
    if (comparison == nullptr)
        return view.wrong("op: there is no comparison ", quote(op));
    if (index > 5)
        return view.wrong("index must lie between 0 and 5");
    out.index = index;
    out.comparison = comparison->value;
    out.value = value.value_or(0);
    out.value_two = value_two.value_or(0);
    return out;
}

os::Result<SeccompRule> read_rule(const JsonView& view) {
    SeccompRule out;
    TRY(view.read("names", out.names));
    if (out.names.empty())
        return view.wrong("names must name a system call");
    TRY(out.action, read_action(view, "action", "errnoRet"));
    TRY(const JsonView args, view.member("args"));
    TRY(const std::vector<JsonView> items, args.items());
    for (const JsonView& item : items) {
        TRY(const SeccompArg arg, read_arg(item));
        out.args.push_back(arg);
    }
    return out;
}

} // namespace

os::Result<Seccomp> read_seccomp(const JsonView& view) {
    Seccomp out;
    std::string listener;
    TRY(view.read("listenerPath", listener));
    if (!listener.empty())
        return view.wrong("listenerPath is not supported");
    TRY(out.default_action, read_action(view, "defaultAction", "defaultErrnoRet"));
    std::vector<std::string> names;
    TRY(view.read("architectures", names));
    for (const std::string& name : names) {
        const Name<std::uint32_t>* found = find(architectures, name);
        if (found != nullptr)
            out.architectures.push_back(found->value);
        else if (std::find(foreign_architectures.begin(), foreign_architectures.end(), name) ==
                 foreign_architectures.end())
            return view.wrong("architectures: there is no architecture ", quote(name));
    }
    names.clear();
    TRY(view.read("flags", names));
    for (const std::string& name : names) {
        const Name<std::uint32_t>* found = find(flags, name);
        // It is about waiting for a listener, and there is none.
        if (name == "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV")
            return view.wrong("flags: ", name, " is not supported");
        if (found == nullptr)
            return view.wrong("flags: there is no flag ", quote(name));
        out.flags |= found->value;
    }
    TRY(const JsonView list, view.member("syscalls"));
    TRY(const std::vector<JsonView> items, list.items());
    for (const JsonView& item : items) {
        TRY(SeccompRule rule, read_rule(item));
        out.rules.push_back(std::move(rule));
    }
    return out;
}

} // namespace spec
