#include "tools/joey/containers/run_request.hpp"

#include <algorithm>
#include <cstdlib>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "agent/os/unique_fd.hpp"
#include "tools/joey/containers/log_file.hpp"
#include "tools/joey/containers/variables.hpp"
#include "tools/joey/containers/watcher.hpp"
#include "tools/joey/options.hpp"
#include "tools/joey/sizes.hpp"

namespace joey::containers {

namespace {

os::Result<image::Overrides> read_overrides(const Arguments& arguments, const Container& container,
                                            std::size_t first_word) {
    image::Overrides out;
    TRY(out.env, read_variables(arguments));
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
        check = {own->args,
                 own->interval_ns,
                 own->timeout_ns,
                 own->start_period_ns,
                 own->start_interval_ns,
                 own->retries};
    if (arguments.has("no-healthcheck")) {
        check.command.clear();
        return {};
    }
    if (arguments.has("health-cmd"))
        check.command = {"/bin/sh", "-c", arguments.value("health-cmd")};
    TRY(read_time(arguments, "health-interval", check.interval_ns));
    TRY(read_time(arguments, "health-timeout", check.timeout_ns));
    TRY(read_time(arguments, "health-start-period", check.start_period_ns));
    TRY(read_time(arguments, "health-start-interval", check.start_interval_ns));
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

template <typename T>
os::Result<void> told(const Outcome<T>& outcome) {
    if (!outcome)
        return os::fail(os::Code::InvalidArgument, outcome.error().line);
    return {};
}

// What the VM would refuse when it starts, in the words of whoever asks for it.
os::Result<void> check_vm_options(const Arguments& arguments) {
    if (arguments.has("privilege"))
        TRY(told(interpret_privilege(arguments.value("privilege"))));
    if (arguments.has("vm-cpus"))
        TRY(told(interpret_cpus("--vm-cpus", arguments.value("vm-cpus"))));
    if (arguments.has("vm-memory"))
        TRY(told(interpret_memory("--vm-memory", arguments.value("vm-memory"))));
    if (arguments.has("mac-address"))
        TRY(told(interpret_mac("--mac-address", arguments.value("mac-address"))));
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
    TRY(check_vm_options(arguments));
    out.privilege = arguments.value("privilege");
    out.vm_memory = arguments.value("vm-memory");
    out.vm_cpus = arguments.value("vm-cpus");
    TRY(out.stop_timeout, number_of(arguments, "stop-timeout", out.stop_timeout, -1));
    return read_log(arguments, out.log);
}

// By which this machine speaks to others, and which its containers reach it by: what listens on its
// loopback alone is not theirs. Connecting a socket for datagrams sends nothing.
os::Result<std::string> own_address() {
    const os::UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(9);
    address.sin_addr.s_addr = htonl(0xc0000201); // 192.0.2.1, which nobody has (RFC 5737)
    socklen_t length = sizeof address;
    auto* plain = reinterpret_cast<sockaddr*>(&address); // NOLINT: as the call is declared
    char text[INET_ADDRSTRLEN] = {};
    if (!socket || ::connect(socket.get(), plain, length) != 0 ||
        ::getsockname(socket.get(), plain, &length) != 0 ||
        ::inet_ntop(AF_INET, &address.sin_addr, text, sizeof text) == nullptr)
        return os::fail_errno(errno, "--add-host: host-gateway: the address of this machine");
    return std::string(text);
}

} // namespace

os::Result<std::string> line_for_hosts(const std::string& host) {
    const std::size_t cut = host.find_first_of("=:");
    std::string address = cut == std::string::npos ? std::string() : host.substr(cut + 1);
    const std::string name = host.substr(0, cut);
    if (address == "host-gateway") {
        TRY(address, own_address());
    } else if (address.size() > 2 && address.starts_with('[') && address.ends_with(']')) {
        address = address.substr(1, address.size() - 2);
    }
    in6_addr binary{};
    const bool is_address = ::inet_pton(AF_INET, address.c_str(), &binary) == 1 ||
                            ::inet_pton(AF_INET6, address.c_str(), &binary) == 1;
    // It is a line of a file that others are in, too.
    const bool is_name = !name.empty() && name.find_first_of(" \t\r\n#") == std::string::npos;
    if (!is_name || !is_address)
        return os::fail(os::Code::InvalidArgument, "--add-host ", host.substr(0, 200),
                        ": give NAME:ADDRESS or NAME:host-gateway");
    return address + "\t" + name;
}

namespace {

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
        TRY(std::string line, line_for_hosts(host));
        out.hosts.push_back(std::move(line));
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

os::Result<void> read_attachment(const Arguments& arguments, RunRequest& out) {
    out.detach = arguments.has("detach");
    out.detach_keys = arguments.value("detach-keys", "ctrl-p,ctrl-q");
    // Now: the container would run by the time that somebody watches for them.
    TRY(parse_keys(out.detach_keys));
    const std::vector<std::string> attached = arguments.values("attach");
    for (const std::string& stream : attached) {
        if (stream != "stdin" && stream != "stdout" && stream != "stderr")
            return os::fail(os::Code::InvalidArgument, "--attach ", stream,
                            ": give stdin, stdout or stderr");
    }
    const auto wants = [&](const char* stream) {
        return attached.empty() ||
               std::find(attached.begin(), attached.end(), stream) != attached.end();
    };
    if (!out.detach)
        out.wants = (out.container.open_stdin && wants("stdin") ? wants_input : 0U) |
                    (wants("stdout") ? wants_output : 0U) | (wants("stderr") ? wants_errors : 0U);
    return {};
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
    TRY(read_attachment(arguments, out));
    out.proxy_signals = arguments.value("sig-proxy", "true") == "true";
    TRY(add_ports(arguments, out));
    TRY(out.volumes, read_volumes(session, arguments, out.process));
    TRY(make_config(arguments, out));
    describe_request(arguments, overrides, out);
    return out;
}

} // namespace joey::containers
