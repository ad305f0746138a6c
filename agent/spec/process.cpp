// The process object of a configuration, for containers and for what is executed in them.
#include <algorithm>
#include <array>
#include <cap-ng.h>
#include <functional>
#include <set>

#include <linux/capability.h>
#include <linux/ioprio.h>

#include "agent/spec/parts.hpp"

namespace spec {

namespace {

struct RlimitName {
    std::string_view name;
    int resource;
};
constexpr std::array rlimit_names = {
    RlimitName{"RLIMIT_AS", RLIMIT_AS},
    RlimitName{"RLIMIT_CORE", RLIMIT_CORE},
    RlimitName{"RLIMIT_CPU", RLIMIT_CPU},
    RlimitName{"RLIMIT_DATA", RLIMIT_DATA},
    RlimitName{"RLIMIT_FSIZE", RLIMIT_FSIZE},
    RlimitName{"RLIMIT_LOCKS", RLIMIT_LOCKS},
    RlimitName{"RLIMIT_MEMLOCK", RLIMIT_MEMLOCK},
    RlimitName{"RLIMIT_MSGQUEUE", RLIMIT_MSGQUEUE},
    RlimitName{"RLIMIT_NICE", RLIMIT_NICE},
    RlimitName{"RLIMIT_NOFILE", RLIMIT_NOFILE},
    RlimitName{"RLIMIT_NPROC", RLIMIT_NPROC},
    RlimitName{"RLIMIT_RSS", RLIMIT_RSS},
    RlimitName{"RLIMIT_RTPRIO", RLIMIT_RTPRIO},
    RlimitName{"RLIMIT_RTTIME", RLIMIT_RTTIME},
    RlimitName{"RLIMIT_SIGPENDING", RLIMIT_SIGPENDING},
    RlimitName{"RLIMIT_STACK", RLIMIT_STACK},
};

// A number that setuid() and its like take for "leave it alone".
constexpr std::uint32_t no_id = 0xffff'ffff;

os::Result<User> read_user(const JsonView& process) {
    User user;
    TRY(const JsonView view, process.member("user"));
    TRY(view.read("uid", user.uid));
    TRY(view.read("gid", user.gid));
    TRY(view.read("umask", user.umask));
    TRY(view.read("additionalGids", user.additional_gids));
    if (user.umask && *user.umask > 0777)
        return view.wrong("umask must lie between 0 and 0777");
    if (user.uid == no_id || user.gid == no_id ||
        std::find(user.additional_gids.begin(), user.additional_gids.end(), no_id) !=
            user.additional_gids.end())
        return view.wrong("4294967295 is no user and no group");
    return user;
}

os::Result<std::uint64_t> read_capability_set(const JsonView& view, std::string_view name) {
    std::vector<std::string> names;
    TRY(view.read(name, names));
    std::uint64_t set = 0;
    for (const std::string& capability : names) {
        // libcap-ng's names have no prefix; the specification's must have one.
        const int number =
            capability.starts_with("CAP_") ? capng_name_to_capability(capability.c_str() + 4) : -1;
        if (number < 0)
            return view.wrong(name, ": there is no capability ", quote(capability));
        set |= std::uint64_t{1} << number;
    }
    return set;
}

os::Result<Capabilities> read_capabilities(const JsonView& process) {
    Capabilities out;
    TRY(const JsonView view, process.member("capabilities"));
    out.given = view.exists();
    TRY(out.bounding, read_capability_set(view, "bounding"));
    TRY(out.effective, read_capability_set(view, "effective"));
    TRY(out.inheritable, read_capability_set(view, "inheritable"));
    TRY(out.permitted, read_capability_set(view, "permitted"));
    TRY(out.ambient, read_capability_set(view, "ambient"));
    // capset(2) would refuse these with no more than EPERM.
    if ((out.effective & ~out.permitted) != 0)
        return view.wrong("effective holds capabilities that permitted does not");
    return out;
}

os::Result<rlim_t> read_limit(const JsonView& view, std::string_view name) {
    TRY(const JsonView member, view.member(name));
    if (!member.exists())
        return rlim_t{0};
    TRY(const std::uint64_t value, member.as_unsigned());
    return rlim_t{value};
}

os::Result<std::vector<Rlimit>> read_rlimits(const JsonView& process) {
    std::vector<Rlimit> out;
    TRY(const JsonView list, process.member("rlimits"));
    TRY(const std::vector<JsonView> items, list.items());
    for (const JsonView& item : items) {
        std::string type;
        TRY(item.read("type", type));
        const auto* found =
            std::find_if(rlimit_names.begin(), rlimit_names.end(),
                         [&type](const RlimitName& known) { return known.name == type; });
        if (found == rlimit_names.end())
            return item.wrong("there is no resource limit ", quote(type));
        Rlimit limit{.resource = found->resource};
        TRY(limit.soft, read_limit(item, "soft"));
        TRY(limit.hard, read_limit(item, "hard"));
        if (limit.soft > limit.hard)
            return item.wrong("the soft limit is above the hard one");
        if (std::any_of(out.begin(), out.end(),
                        [&limit](const Rlimit& other) { return other.resource == limit.resource; }))
            return item.wrong(type, " is given twice");
        out.push_back(limit);
    }
    return out;
}

os::Result<void> read_terminal(const JsonView& view, Process& out) {
    TRY(view.read("terminal", out.terminal));
    TRY(const JsonView size, view.member("consoleSize"));
    std::optional<std::uint32_t> rows;
    std::optional<std::uint32_t> columns;
    TRY(size.read("height", rows));
    TRY(size.read("width", columns));
    if (rows.value_or(0) > 0xffff || columns.value_or(0) > 0xffff)
        return size.wrong("height and width must lie between 0 and 65535");
    out.rows = static_cast<std::uint16_t>(rows.value_or(0));
    out.columns = static_cast<std::uint16_t>(columns.value_or(0));
    return {};
}

os::Result<void> read_io_priority(const JsonView& process, Process& out) {
    TRY(const JsonView view, process.member("ioPriority"));
    if (!view.exists())
        return {};
    std::string name;
    TRY(view.read("class", name));
    IoPriority priority;
    if (name == "IOPRIO_CLASS_RT")
        priority.io_class = IOPRIO_CLASS_RT;
    else if (name == "IOPRIO_CLASS_BE" || name.empty())
        priority.io_class = IOPRIO_CLASS_BE;
    else if (name == "IOPRIO_CLASS_IDLE")
        priority.io_class = IOPRIO_CLASS_IDLE;
    else
        return view.wrong("class: there is no class ", quote(name));
    TRY(const JsonView level, view.member("priority"));
    if (level.exists()) {
        TRY(const std::int64_t value, level.as_int(0, 7));
        priority.level = static_cast<int>(value);
    }
    out.io_priority = priority;
    return {};
}

// Of two variables with one name the last counts, as with runc: programs differ in which they would
// see. A HOME that is empty is none.
void tidy(std::vector<std::string>& env) {
    std::set<std::string, std::less<>> seen;
    std::vector<std::string> out;
    for (auto entry = env.rbegin(); entry != env.rend(); ++entry) {
        if (seen.insert(entry->substr(0, entry->find('='))).second && *entry != "HOME=")
            out.push_back(std::move(*entry));
    }
    std::reverse(out.begin(), out.end());
    env = std::move(out);
}

// What the specification lets a system lack, and what must then not be asked for.
os::Result<void> refuse_what_is_not_here(const JsonView& view) {
    std::string label;
    TRY(view.read("selinuxLabel", label));
    if (!label.empty())
        return view.wrong("selinuxLabel: this system has no SELinux");
    TRY(view.read("apparmorProfile", label));
    if (!label.empty() && label != "unconfined")
        return view.wrong("apparmorProfile: this system has no AppArmor");
    for (const char* name : {"scheduler", "execCPUAffinity"}) {
        TRY(const JsonView member, view.member(name));
        if (member.exists())
            return member.wrong("is not supported");
    }
    return {};
}

} // namespace

os::Result<Process> read_process(const JsonView& view) {
    Process out;
    TRY(read_terminal(view, out));
    TRY(out.user, read_user(view));
    TRY(view.read("args", out.args));
    TRY(view.read("env", out.env));
    tidy(out.env);
    TRY(view.read("cwd", out.cwd));
    TRY(out.capabilities, read_capabilities(view));
    TRY(out.rlimits, read_rlimits(view));
    TRY(view.read("noNewPrivileges", out.no_new_privileges));
    TRY(read_io_priority(view, out));
    TRY(refuse_what_is_not_here(view));
    TRY(const JsonView oom, view.member("oomScoreAdj"));
    if (oom.exists()) {
        TRY(const std::int64_t value, oom.as_int(-1000, 1000));
        out.oom_score_adj = static_cast<int>(value);
    }
    if (out.args.empty())
        return view.wrong("args must name a program");
    if (out.cwd.empty() || out.cwd[0] != '/')
        return view.wrong("cwd must be an absolute path");
    return out;
}

os::Result<Process> parse_process(std::string_view process) {
    TRY(const JsonDocument document, JsonDocument::parse(process, "process"));
    return read_process(document.root());
}

} // namespace spec
