#include "guestkernel/fs/procfs/mount_options.hpp"

#include <linux/capability.h>
#include <linux/errno.h>

#include "guestkernel/fs/procfs/subject.hpp"
#include "guestkernel/namespaces/user_namespace.hpp"

namespace kernel {
namespace procfs {
namespace {

enum class OptionFault : u8 { None, Unknown, Value };

// As C writes it: 0x10, 020, 16.
bool parse_unsigned(std::string_view text, u32& out) {
    if (!text.empty() && text.front() == '+')
        text.remove_prefix(1);
    u64 base = 10;
    if (text.size() > 2 && text[0] == '0' && (text[1] | 0x20) == 'x') {
        base = 16;
        text.remove_prefix(2);
    } else if (text.size() > 1 && text[0] == '0') {
        base = 8;
    }
    if (text.empty())
        return false;
    u64 value = 0;
    for (const char c : text) {
        const char lower = static_cast<char>(c | 0x20);
        u64 digit = base;
        if (c >= '0' && c <= '9')
            digit = static_cast<u64>(c - '0');
        else if (lower >= 'a' && lower <= 'f')
            digit = static_cast<u64>(lower - 'a') + 10;
        if (digit >= base)
            return false;
        value = value * base + digit;
        if (value > ~u32{0})
            return false;
    }
    out = static_cast<u32>(value);
    return true;
}

constexpr struct {
    Hidden hidden;
    std::string_view name;
} hidden_names[] = {{Hidden::Nothing, "off"},
                    {Hidden::Content, "noaccess"},
                    {Hidden::Existence, "invisible"},
                    {Hidden::AllTheMore, "ptraceable"}};

bool parse_hidden(std::string_view value, Hidden& out) {
    u32 number = 0;
    const bool is_number = parse_unsigned(value, number);
    for (const auto& known : hidden_names)
        if (is_number ? number == static_cast<u32>(known.hidden) : value == known.name) {
            out = known.hidden;
            return true;
        }
    return false;
}

OptionFault parse_option(std::string_view option, const UserNamespace* space, MountOptions& out) {
    const std::string_view name = option.substr(0, option.find('='));
    const std::string_view value =
        name.size() < option.size() ? option.substr(name.size() + 1) : std::string_view();
    bool right = false;
    if (name == "hidepid") {
        right = parse_hidden(value, out.hidden);
    } else if (name == "gid") {
        u32 inside = 0;
        right = parse_unsigned(value, inside);
        // One that does not exist there has no members.
        out.gid = to_global_id(space, true, inside);
    } else if (name == "subset") {
        right = value == "pid";
        out.only_processes |= right;
    } else {
        return OptionFault::Unknown;
    }
    return right ? OptionFault::None : OptionFault::Value;
}

Result<void> complain(OptionFault fault, std::string_view option, String& complaint) {
    TRY(complaint.append(fault == OptionFault::Unknown ? "proc: Unknown parameter '"
                                                       : "proc: Bad value for '"));
    TRY(complaint.append(option.substr(0, option.find('='))));
    TRY(complaint.append("'"));
    return fail(EINVAL);
}

// ptrace(2)'s right to look. A process without a thread is a zombie: its last one's user counts.
bool may_look(const TableContext& of) {
    if (auto task = subject_task(of))
        return may_access(**task);
    auto process = subject_process(of);
    const Credentials& own = *current_task().credentials;
    return process && (own.fsuid == (*process)->exit_uid || capable(CAP_SYS_PTRACE));
}

} // namespace

Result<void> parse_mount_options(std::string_view options, const UserNamespace* space,
                                 MountOptions& out, String& complaint) {
    while (!options.empty()) {
        const std::string_view option = options.substr(0, options.find(','));
        options.remove_prefix(option.size() < options.size() ? option.size() + 1 : option.size());
        if (option.empty())
            continue;
        if (const OptionFault fault = parse_option(option, space, out); fault != OptionFault::None)
            return complain(fault, option, complaint);
    }
    return {};
}

Result<void> describe_mount_options(const MountOptions& options, String& out) {
    if (options.gid != 0) {
        const UserNamespace* space = current_task().credentials->user_ns.get();
        const u32 gid = from_global_id(space, true, options.gid);
        char text[24];
        const usize length =
            log::format(text, sizeof text, ",gid={}", gid == invalid_id ? overflow_id : gid);
        TRY(out.append({text, length}));
    }
    for (const auto& known : hidden_names)
        if (known.hidden == options.hidden && options.hidden != Hidden::Nothing) {
            TRY(out.append(",hidepid="));
            TRY(out.append(known.name));
        }
    return options.only_processes ? out.append(",subset=pid") : Result<void>();
}

bool is_hidden(const TableContext& of, Hidden from) {
    const MountOptions options = of.options == nullptr ? MountOptions{} : of.options->load();
    if (options.hidden < from || current_task().credentials == nullptr)
        return false;
    const bool for_group = options.hidden != Hidden::AllTheMore;
    if (for_group && current_task().credentials->in_group(options.gid))
        return false;
    return !may_look(of);
}

} // namespace procfs

Result<void> check_proc_option(std::string_view option, String& complaint) {
    procfs::MountOptions ignored;
    const auto fault = procfs::parse_option(option, nullptr, ignored);
    return fault == procfs::OptionFault::None ? Result<void>()
                                              : procfs::complain(fault, option, complaint);
}

} // namespace kernel
