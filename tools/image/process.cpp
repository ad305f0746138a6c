#include "tools/image/process.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <csignal>
#include <nlohmann/json.hpp>

namespace image {
namespace {

constexpr std::string_view default_path =
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

std::string_view name_of(std::string_view variable) {
    return variable.substr(0, variable.find('='));
}

void remove_variable(std::vector<std::string>& env, std::string_view name) {
    std::erase_if(env, [name](const std::string& other) { return name_of(other) == name; });
}

bool has_variable(const std::vector<std::string>& env, std::string_view name) {
    return std::any_of(env.begin(), env.end(),
                       [name](const std::string& other) { return name_of(other) == name; });
}

// In the place of one of the same name, or at the end.
void set_variable(std::vector<std::string>& env, const std::string& variable) {
    const auto same = std::find_if(env.begin(), env.end(), [&](const std::string& other) {
        return name_of(other) == name_of(variable);
    });
    if (same != env.end())
        *same = variable;
    else
        env.push_back(variable);
}

// What Docker sets goes first, so that the image and then the caller have the last word.
std::vector<std::string> make_env(const ImageConfig& config, const Overrides& overrides,
                                  const Account& account) {
    std::vector<std::string> env = {std::string(default_path)};
    if (!overrides.hostname.empty())
        env.push_back("HOSTNAME=" + overrides.hostname);
    if (overrides.terminal)
        env.emplace_back("TERM=xterm");
    for (const std::string& variable : config.env)
        set_variable(env, variable);
    env = merge_env(std::move(env), overrides.env);
    if (!has_variable(env, "HOME"))
        env.push_back("HOME=" + account.home);
    return env;
}

os::Result<std::vector<std::string>> make_args(const ImageConfig& config,
                                               const Overrides& overrides) {
    std::vector<std::string> args = overrides.entrypoint.value_or(config.entrypoint);
    if (args.size() == 1 && args.front().empty())
        args.clear();
    if (!overrides.args.empty())
        args.insert(args.end(), overrides.args.begin(), overrides.args.end());
    else if (!overrides.entrypoint)
        args.insert(args.end(), config.command.begin(), config.command.end());
    if (args.empty() || args.front().empty())
        return os::fail(os::Code::InvalidArgument,
                        "the image names no command; say what to run in it");
    return args;
}

// Absolute, without "." and ".." and double slashes, as Go's path.Clean makes it.
std::string clean(std::string_view path) {
    std::vector<std::string_view> parts;
    while (!path.empty()) {
        const std::size_t slash = std::min(path.find('/'), path.size());
        const std::string_view part = path.substr(0, slash);
        path.remove_prefix(std::min(slash + 1, path.size()));
        if (part == "..") {
            if (!parts.empty())
                parts.pop_back();
        } else if (!part.empty() && part != ".") {
            parts.push_back(part);
        }
    }
    std::string out;
    for (const std::string_view part : parts) {
        out += '/';
        out += part;
    }
    return out.empty() ? "/" : out;
}

struct NamedSignal {
    std::string_view name;
    int number;
};
constexpr std::array named_signals = {
    NamedSignal{"ABRT", SIGABRT},     NamedSignal{"ALRM", SIGALRM},
    NamedSignal{"BUS", SIGBUS},       NamedSignal{"CHLD", SIGCHLD},
    NamedSignal{"CLD", SIGCHLD},      NamedSignal{"CONT", SIGCONT},
    NamedSignal{"FPE", SIGFPE},       NamedSignal{"HUP", SIGHUP},
    NamedSignal{"ILL", SIGILL},       NamedSignal{"INT", SIGINT},
    NamedSignal{"IO", SIGIO},         NamedSignal{"IOT", SIGABRT},
    NamedSignal{"KILL", SIGKILL},     NamedSignal{"PIPE", SIGPIPE},
    NamedSignal{"POLL", SIGIO},       NamedSignal{"PROF", SIGPROF},
    NamedSignal{"PWR", SIGPWR},       NamedSignal{"QUIT", SIGQUIT},
    NamedSignal{"SEGV", SIGSEGV},     NamedSignal{"STKFLT", SIGSTKFLT},
    NamedSignal{"STOP", SIGSTOP},     NamedSignal{"SYS", SIGSYS},
    NamedSignal{"TERM", SIGTERM},     NamedSignal{"TRAP", SIGTRAP},
    NamedSignal{"TSTP", SIGTSTP},     NamedSignal{"TTIN", SIGTTIN},
    NamedSignal{"TTOU", SIGTTOU},     NamedSignal{"URG", SIGURG},
    NamedSignal{"USR1", SIGUSR1},     NamedSignal{"USR2", SIGUSR2},
    NamedSignal{"VTALRM", SIGVTALRM}, NamedSignal{"WINCH", SIGWINCH},
    NamedSignal{"XCPU", SIGXCPU},     NamedSignal{"XFSZ", SIGXFSZ},
};

// What the C library keeps for itself lies between 32 and its SIGRTMIN.
constexpr int first_realtime = 34;
constexpr int last_signal = 64;

std::optional<int> parse_int(std::string_view text) {
    int value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (text.empty() || error != std::errc() || end != text.data() + text.size())
        return std::nullopt;
    return value;
}

// "RTMIN", "RTMIN+3", "RTMAX-2".
std::optional<int> parse_realtime(std::string_view name) {
    const bool from_first = name.starts_with("RTMIN");
    if (!from_first && !name.starts_with("RTMAX"))
        return std::nullopt;
    const std::string_view rest = name.substr(5);
    if (rest.empty())
        return from_first ? first_realtime : last_signal;
    const auto offset = parse_int(rest.substr(1));
    if (rest.front() != (from_first ? '+' : '-') || !offset || *offset < 0 ||
        *offset > last_signal - first_realtime)
        return std::nullopt;
    return from_first ? first_realtime + *offset : last_signal - *offset;
}

} // namespace

os::Result<int> parse_signal(std::string_view text) {
    std::string name(text.substr(0, 20));
    for (char& c : name)
        c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
    if (const auto number = parse_int(name); number && *number >= 1 && *number <= last_signal)
        return *number;
    std::string_view bare = name;
    if (bare.starts_with("SIG"))
        bare.remove_prefix(3);
    for (const NamedSignal& known : named_signals) {
        if (bare == known.name)
            return known.number;
    }
    if (const auto number = parse_realtime(bare))
        return *number;
    return os::fail(os::Code::InvalidArgument, "'", text.substr(0, 40),
                    "' is no signal; give a name such as SIGTERM or a number");
}

std::vector<std::string> merge_env(std::vector<std::string> env,
                                   const std::vector<std::string>& changes) {
    for (const std::string& variable : changes) {
        if (variable.find('=') == std::string::npos)
            remove_variable(env, variable);
        else
            set_variable(env, variable);
    }
    return env;
}

os::Result<ProcessDescription> describe_process(const ImageConfig& config,
                                                const Overrides& overrides, int root) {
    ProcessDescription process;
    TRY(process.args, make_args(config, overrides));
    for (const std::string& variable : overrides.env) {
        if (variable.empty() || variable.front() == '=')
            return os::fail(os::Code::InvalidArgument, "'", variable.substr(0, 80),
                            "' is no variable; give NAME=VALUE");
    }
    TRY(process.account, find_account_in(overrides.user.value_or(config.user), root));
    process.env = make_env(config, overrides, process.account);
    if (overrides.working_directory) {
        if (!overrides.working_directory->starts_with('/'))
            return os::fail(os::Code::InvalidArgument, "working directory '",
                            overrides.working_directory->substr(0, 200),
                            "': give an absolute path");
        process.working_directory = clean(*overrides.working_directory);
    } else {
        process.working_directory = clean(config.working_directory);
    }
    const std::string& signal = overrides.stop_signal.value_or(config.stop_signal);
    process.stop_signal = SIGTERM;
    if (!signal.empty()) {
        TRY(process.stop_signal, parse_signal(signal));
    }
    for (const std::string& volume : config.volumes)
        process.volumes.push_back(clean(volume));
    std::sort(process.volumes.begin(), process.volumes.end());
    process.volumes.erase(std::unique(process.volumes.begin(), process.volumes.end()),
                          process.volumes.end());
    process.exposed_ports = config.exposed_ports;
    if (config.healthcheck && config.healthcheck->kind != Healthcheck::Kind::None)
        process.healthcheck = config.healthcheck;
    if (process.healthcheck && process.healthcheck->kind == Healthcheck::Kind::Shell) {
        // As Docker runs it: the image's shell, or the usual one, with the line as one argument.
        std::vector<std::string> args = config.shell;
        if (args.empty())
            args = {"/bin/sh", "-c"};
        args.push_back(process.healthcheck->args.front());
        process.healthcheck->args = std::move(args);
        process.healthcheck->kind = Healthcheck::Kind::Command;
    }
    return process;
}

std::string oci_process(const ProcessDescription& process, bool terminal) {
    nlohmann::json user = {{"uid", process.account.uid}, {"gid", process.account.gid}};
    if (!process.account.groups.empty())
        user["additionalGids"] = process.account.groups;
    const nlohmann::json out = {{"terminal", terminal},
                                {"user", std::move(user)},
                                {"args", process.args},
                                {"env", process.env},
                                {"cwd", process.working_directory}};
    return out.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

} // namespace image
