#include "tools/joey/containers/run_request.hpp"

#include <algorithm>
#include <cstdlib>
#include <fcntl.h>

#include "agent/os/files.hpp"
#include "tools/joey/containers/log_file.hpp"
#include "tools/joey/sizes.hpp"

namespace joey::containers {

namespace {

os::Result<std::vector<std::string>> lines_of(const std::string& path) {
    TRY(const std::string text, os::read_file(AT_FDCWD, path.c_str(), 1U << 20));
    std::vector<std::string> out;
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t end = std::min(text.find('\n', at), text.size());
        std::string line = text.substr(at, end - at);
        at = end + 1;
        line.erase(0, std::min(line.find_first_not_of(" \t"), line.size()));
        if (line.ends_with('\r'))
            line.pop_back();
        if (!line.empty() && line.front() != '#')
            out.push_back(std::move(line));
    }
    return out;
}

// A name alone has the caller's value; without one there, it is not set.
void add_variable(std::string text, std::vector<std::string>& out) {
    if (text.find('=') == std::string::npos) {
        const char* value = std::getenv(text.c_str());
        if (value != nullptr)
            text += os::text("=", value);
    }
    out.push_back(std::move(text));
}

os::Result<std::map<std::string, std::string>> read_labels(const Arguments& arguments) {
    std::vector<std::string> all;
    for (const std::string& path : arguments.values("label-file")) {
        TRY(const std::vector<std::string> lines, lines_of(path));
        all.insert(all.end(), lines.begin(), lines.end());
    }
    const std::vector<std::string> given = arguments.values("label");
    all.insert(all.end(), given.begin(), given.end());
    std::map<std::string, std::string> out;
    for (const std::string& label : all) {
        const std::size_t equals = label.find('=');
        out[label.substr(0, equals)] =
            equals == std::string::npos ? std::string() : label.substr(equals + 1);
    }
    return out;
}

os::Result<image::Overrides> read_overrides(const Arguments& arguments, const Container& container,
                                            std::size_t first_word) {
    image::Overrides out;
    for (const std::string& path : arguments.values("env-file")) {
        TRY(const std::vector<std::string> lines, lines_of(path));
        for (const std::string& line : lines)
            add_variable(line, out.env);
    }
    for (const std::string& variable : arguments.values("env"))
        add_variable(variable, out.env);
    const std::vector<std::string>& words = arguments.words();
    out.args.assign(words.begin() + static_cast<std::ptrdiff_t>(first_word), words.end());
    if (arguments.has("entrypoint"))
        out.entrypoint = {arguments.value("entrypoint")};
    if (arguments.has("user"))
        out.user = arguments.value("user");
    if (arguments.has("workdir"))
        out.working_directory = arguments.value("workdir");
    if (arguments.has("stop-signal"))
        out.stop_signal = arguments.value("stop-signal");
    out.hostname = container.hostname;
    out.terminal = container.terminal;
    return out;
}

os::Result<std::int64_t> number_of(const Arguments& arguments, const char* option,
                                   std::int64_t otherwise, std::int64_t least) {
    if (!arguments.has(option))
        return otherwise;
    const std::string text = arguments.value(option);
    char* end = nullptr;
    const std::int64_t value = std::strtoll(text.c_str(), &end, 10);
    if (text.empty() || *end != '\0' || value < least)
        return os::fail(os::Code::InvalidArgument, "--", option, " ", text, ": give a number from ",
                        least);
    return value;
}

os::Result<void> read_time(const Arguments& arguments, const char* option, std::int64_t& out) {
    if (!arguments.has(option))
        return {};
    const auto parsed = parse_duration(arguments.value(option));
    if (!parsed)
        return os::fail(parsed.error().code, "--", option, ": ", parsed.error().message);
    constexpr std::int64_t least = 1'000'000;
    if (*parsed != 0 && *parsed < least)
        return os::fail(os::Code::InvalidArgument, "--", option, ": a millisecond at least");
    if (*parsed != 0)
        out = *parsed;
    return {};
}

os::Result<void> read_health(const Arguments& arguments, RunRequest& request) {
    HealthCheck& check = request.container.health;
    if (const auto& own = request.process.healthcheck)
        check = {own->args, own->interval_ns, own->timeout_ns, own->start_period_ns, own->retries};
    if (arguments.has("no-healthcheck")) {
        check.command.clear();
        return {};
    }
    if (arguments.has("health-cmd"))
        check.command = {"/bin/sh", "-c", arguments.value("health-cmd")};
    TRY(read_time(arguments, "health-interval", check.interval_ns));
    TRY(read_time(arguments, "health-timeout", check.timeout_ns));
    TRY(read_time(arguments, "health-start-period", check.start_period_ns));
    TRY(check.retries, number_of(arguments, "health-retries", check.retries, 1));
    return {};
}

os::Result<void> read_log(const Arguments& arguments, LogLimits& log) {
    const std::string driver = arguments.value("log-driver", "json-file");
    if (driver != "json-file" && driver != "none")
        return os::fail(os::Code::InvalidArgument, "--log-driver ", driver,
                        ": give json-file or none");
    log.none = driver == "none";
    for (const std::string& text : arguments.values("log-opt")) {
        const std::size_t equals = std::min(text.find('='), text.size());
        const std::string name = text.substr(0, equals);
        const std::string value = text.substr(std::min(equals + 1, text.size()));
        const auto number = parse_size(value);
        if (name == "max-size" && value == "-1")
            log.file_bytes = 0;
        else if (name == "max-size" && number && *number > 0)
            log.file_bytes = *number;
        else if (name == "max-file" && number && *number > 0 && *number <= 1000)
            log.files = *number;
        else
            return os::fail(os::Code::InvalidArgument, "--log-opt ", text,
                            ": give max-size=SIZE or max-file=NUMBER");
    }
    return {};
}

os::Result<void> read_identity(const Session& session, const Arguments& arguments, Container& out) {
    out.id = fresh_id();
    out.created = pod::timestamp();
    out.name = arguments.value("name");
    if (out.name.starts_with('/'))
        out.name.erase(0, 1);
    if (!out.name.empty()) {
        TRY(check_name(out.name));
    }
    out.store = session.store;
    out.hostname = arguments.value("hostname", out.short_id());
    out.terminal = arguments.has("tty");
    out.open_stdin = arguments.has("interactive");
    out.attached_stdin = out.open_stdin && !arguments.has("detach");
    out.remove = arguments.has("rm");
    TRY(out.restart, RestartPolicy::parse(arguments.value("restart", "no")));
    if (out.remove && out.restart.kind != RestartPolicy::Kind::No)
        return os::fail(os::Code::InvalidArgument,
                        "--rm and --restart do not go together: one removes what the other needs");
    TRY(out.labels, read_labels(arguments));
    out.pod = arguments.value("pod");
    if (!out.pod.empty()) {
        TRY(pod::check_id(out.pod));
    }
    out.privilege = arguments.value("privilege");
    out.vm_memory = arguments.value("vm-memory");
    out.vm_cpus = arguments.value("vm-cpus");
    TRY(out.stop_timeout, number_of(arguments, "stop-timeout", out.stop_timeout, -1));
    return read_log(arguments, out.log);
}

os::Result<void> read_network(const Arguments& arguments, Container& out) {
    out.network = arguments.value("net", arguments.value("network", "user"));
    if (out.network == "bridge" || out.network == "default")
        out.network = "user"; // what Docker's users type for "a network of its own"
    const bool is_shared = out.network.starts_with("container:");
    if (out.network == "host")
        return os::fail(os::Code::InvalidArgument,
                        "--net host: this machine's network is not in the VM; user, the default, "
                        "reaches what it reaches, and --publish leads in");
    if (out.network != "user" && out.network != "none" && !is_shared)
        return os::fail(os::Code::InvalidArgument, "--net ", out.network,
                        ": give user, none or container:NAME; containers of one --pod share a "
                        "network");
    if (!is_shared)
        out.vm_options = {"--net", out.network};
    if (arguments.has("mac-address")) {
        out.vm_options.emplace_back("--mac");
        out.vm_options.push_back(arguments.value("mac-address"));
    }
    out.dns = arguments.values("dns");
    std::string search;
    for (const std::string& domain : arguments.values("dns-search"))
        search += " " + domain;
    if (!search.empty())
        out.resolver.push_back("search" + search);
    for (const std::string& option : arguments.values("dns-option"))
        out.resolver.push_back("options " + option);
    for (const std::string& host : arguments.values("add-host")) {
        const std::size_t colon = host.find(':');
        if (colon == std::string::npos || colon == 0)
            return os::fail(os::Code::InvalidArgument, "--add-host ", host, ": give NAME:ADDRESS");
        out.hosts.push_back(host.substr(colon + 1) + "\t" + host.substr(0, colon));
    }
    return {};
}

// The first word, or --rootfs.
os::Result<Base> find_base(const Session& session, const Arguments& arguments) {
    if (arguments.has("rootfs"))
        return use_directory(arguments.value("rootfs"));
    if (arguments.words().empty())
        return os::fail(os::Code::InvalidArgument,
                        "run: say which image, or --rootfs DIR; see 'joey run --help'");
    return find_image(session.store, arguments.words().front());
}

void read_attachment(const Arguments& arguments, RunRequest& out) {
    out.detach = arguments.has("detach");
    const std::vector<std::string> attached = arguments.values("attach");
    const auto wants = [&](const char* stream) {
        return attached.empty() ||
               std::find(attached.begin(), attached.end(), stream) != attached.end();
    };
    if (!out.detach)
        out.wants = (out.container.open_stdin && wants("stdin") ? wants_input : 0U) |
                    (wants("stdout") ? wants_output : 0U) | (wants("stderr") ? wants_errors : 0U);
}

} // namespace

os::Result<RunRequest> read_run_request(const Session& session, const Arguments& arguments) {
    RunRequest out;
    Container& container = out.container;
    TRY(read_identity(session, arguments, container));
    TRY(read_network(arguments, container));
    TRY(read_sharing(session, arguments, container));
    TRY(out.base, find_base(session, arguments));
    container.image = out.base.name;
    container.image_id = out.base.id;
    const std::size_t first_word = arguments.has("rootfs") ? 0 : 1;
    TRY(const image::Overrides overrides, read_overrides(arguments, container, first_word));
    TRY(out.process, image::describe_process(out.base.config, overrides, out.base.directory.get()));
    container.command = out.process.args;
    container.stop_signal = out.process.stop_signal;
    for (const auto& [name, value] : out.base.config.labels)
        container.labels.try_emplace(name, value);
    TRY(read_health(arguments, out));
    read_attachment(arguments, out);
    out.detach_keys = arguments.value("detach-keys", "ctrl-p,ctrl-q");
    out.proxy_signals = arguments.value("sig-proxy", "true") == "true";
    TRY(add_ports(arguments, out));
    TRY(out.volumes, read_volumes(session, arguments, out.process));
    TRY(make_config(arguments, out));
    return out;
}

} // namespace joey::containers
