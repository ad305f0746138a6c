// exec: one more process, from a file or from the command line.
#include <array>
#include <charconv>
#include <fcntl.h>

#include "agent/os/files.hpp"
#include "tools/joey/runtime/runtime.hpp"

namespace joey::runtime {

namespace {

using pod::Json;

os::Result<std::uint32_t> id_of(const std::string& text, const char* what) {
    std::uint32_t number = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
    if (text.empty() || parsed.ec != std::errc() || parsed.ptr != text.data() + text.size())
        return os::fail(os::Code::InvalidArgument, what, ": ", text, " is no number");
    return number;
}

os::Result<void> set_user(const Flags& flags, Json& process) {
    if (flags.has("user")) {
        const std::string text = flags.value("user");
        const std::size_t colon = text.find(':');
        TRY(process["user"]["uid"], id_of(text.substr(0, colon), "--user"));
        if (colon != std::string::npos) {
            TRY(process["user"]["gid"], id_of(text.substr(colon + 1), "--user"));
        }
    }
    for (const std::string& text : flags.values("additional-gids")) {
        TRY(const std::uint32_t group, id_of(text, "--additional-gids"));
        process["user"]["additionalGids"].push_back(group);
    }
    return {};
}

void add_capabilities(const std::vector<std::string>& names, Json& process) {
    for (const char* set : {"bounding", "effective", "permitted"}) {
        for (const std::string& name : names)
            process["capabilities"][set].push_back(name);
    }
}

// The container's own process with what the command line changes, as runc makes it.
os::Result<Json> process_of(const Flags& flags, Json process) {
    process["args"] = std::vector<std::string>(flags.rest().begin() + 1, flags.rest().end());
    process["terminal"] = flags.has("tty");
    process.erase("consoleSize");
    if (flags.has("cwd"))
        process["cwd"] = flags.value("cwd");
    for (const std::string& variable : flags.values("env"))
        process["env"].push_back(variable);
    if (flags.has("no-new-privs"))
        process["noNewPrivileges"] = true;
    add_capabilities(flags.values("cap"), process);
    TRY(set_user(flags, process));
    return process;
}

os::Result<Json> wanted_process(Invocation& call, const Flags& flags) {
    if (flags.has("process")) {
        const std::string path = flags.value("process");
        TRY(const std::string text, os::read_file(AT_FDCWD, path.c_str()));
        return pod::parse_object(text, path);
    }
    if (flags.rest().size() < 2)
        return os::fail(os::Code::InvalidArgument, "process args cannot be empty");
    TRY(const pod::ContainerState state, call.engine.state(flags.rest().front()));
    return process_of(flags, state.record.process_template);
}

} // namespace

os::Result<int> exec(Invocation& call) {
    constexpr std::array known = {
        Flag{"console-socket", "", true}, Flag{"cwd", "", true},
        Flag{"env", "e", true},           Flag{"tty", "t", false},
        Flag{"user", "u", true},          Flag{"additional-gids", "g", true},
        Flag{"process", "p", true},       Flag{"detach", "d", false},
        Flag{"pid-file", "", true},       Flag{"process-label", "", true},
        Flag{"apparmor", "", true},       Flag{"no-new-privs", "", false},
        Flag{"cap", "c", true},           Flag{"preserve-fds", "", true},
        Flag{"cgroup", "", true},         Flag{"ignore-paused", "", false}};
    TRY(const Flags flags, parse(call, known));
    if (flags.rest().empty())
        return os::fail(os::Code::InvalidArgument,
                        "joey: \"exec\" requires a minimum of 1 argument(s)");
    if (flags.has("cgroup"))
        return os::fail(os::Code::InvalidArgument, "--cgroup: is not supported");
    pod::ExecOptions options{.container = flags.rest().front(),
                             .process = {},
                             .console_socket = flags.value("console-socket"),
                             .pid_file = flags.value("pid-file"),
                             .detach = flags.has("detach")};
    TRY(options.preserve_fds, preserved_count(flags));
    TRY(options.process, wanted_process(call, flags));
    const auto status = call.engine.exec(options);
    if (!status)
        return os::fail(status.error().code, "exec failed: ", status.error().message);
    return *status;
}

} // namespace joey::runtime
