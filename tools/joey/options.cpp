#include "tools/joey/options.hpp"

#include <algorithm>
#include <charconv>
#include <fcntl.h>
#include <string_view>

#include <boost/program_options.hpp>
#include <fmt/format.h>

#include "boot/protocol/layout.hpp"
#include "tools/joey/sizes.hpp"
#include "virtio/backend/vsock/broker.hpp"
#include "virtio/device/vsock/vsock.hpp"

namespace joey {
namespace {

namespace po = boost::program_options;

constexpr std::string_view usage_text =
    "usage: joey do [OPTIONS] [--] CMD [ARG...]\n"
    "       joey [--root DIR] [--data-root DIR] [--store DIR] COMMAND ...    (containers):\n"
    "            run|create|start|stop|restart|kill|rm|pause|unpause|wait|exec|attach|ps|logs|\n"
    "            stats|top|inspect|cp|events|metrics|rename|update|port|diff|export|prune|\n"
    "            system-prune|df|info|volume    (see 'joey COMMAND --help')\n"
    "       joey image COMMAND | joey images|load|save|tag|rmi|history    (see 'joey image help')\n"
    "       joey completion bash|zsh|fish\n"
    "       joey "
    "create|start|state|kill|delete|exec|ps|pause|resume|update|events|list|spec|features\n"
    "                             (an OCI runtime's commands, with runc's options)\n"
    "       joey help | joey --version\n"
    "\n"
    "joey do runs CMD in a fresh micro-VM. Its root directory is this machine's, shared read-only\n"
    "under an overlay in memory: CMD may write anywhere, and the host keeps nothing of it.\n"
    "\n";

constexpr std::string_view status_text =
    "\nThe exit status is CMD's own; 128+N if signal N killed it; 127 if CMD was not found, 126 "
    "if\n"
    "it could not be run; 125 if joey itself failed, with one line on stderr that says why.\n";

constexpr std::string_view see_help = "see 'joey help'";

// Raw strings; they get their meaning in `interpret`.
struct RawOptions {
    std::string cpus;
    std::string memory;
    std::string privilege;
    std::string log_level;
    std::string kernel_log;
    std::string log_format;
    std::string log_fd;
    std::string strace;
    std::vector<std::string> volumes;
    std::string vsock;
    RawNetworkOptions network;
};

// clang-format off
po::options_description describe_options(DoOptions& options, RawOptions& raw) {
    po::options_description all("Options", 100, 60);
    all.add_options()
        ("cpus", po::value(&raw.cpus)->value_name("N"), "virtual CPUs (default: the CPUs that joey itself may use)")
        ("memory", po::value(&raw.memory)->value_name("SIZE"),
            "memory, as 512M or 2G (default: half of the host's, at most 4G); the host backs only what is touched")
        ("env", po::value(&options.env)->value_name("K=V"),
            "set a variable (may be repeated); the rest of the environment is the caller's")
        ("cwd", po::value<std::string>()->value_name("DIR"), "working directory (default: the caller's)")
        ("user", po::value<std::string>()->value_name("UID[:GID]"), "user and group, by number or name (default: the caller's)")
        ("hostname", po::value(&options.hostname)->value_name("NAME"), "host name inside (default: joey)")
        ("privilege", po::value(&raw.privilege)->value_name("MODE"), "auto, ring0 or ring3: where the guest's kernel runs (default: auto)")
        ("strace", po::value(&raw.strace)->implicit_value("")->value_name("WHAT"),
            "print system calls to stderr, from inside the guest's kernel: all, or WHAT=open,%file,!read; WHAT=missing lists what was refused or is partial")
        ("strace-time", po::bool_switch(&options.strace_time), "with --strace: also when each call began, and how long it took")
        ("core", po::value(&options.core_directory)->value_name("DIR"),
            "write the core files of programs that die to this directory of the host, as core.NAME.PID")
        ("timing", po::bool_switch(&options.timing), "print where start-up time went to stderr, at the end")
        ("tty,t", po::bool_switch(&options.terminal),
            "give CMD a terminal (default: when stdin and stdout both are one)")
        ("rw", po::bool_switch(&options.read_write), "share the root directory writable: what CMD writes stays")
        ("rootfs", po::value(&options.rootfs)->value_name("DIR"), "share another directory as the root (default: /)")
        ("volume", po::value(&raw.volumes)->value_name("SRC:DST[:ro]"),
            "share a directory or file of the host, writable unless :ro (may be repeated)")
        ("vsock", po::value(&raw.vsock)->value_name("PATH[,cid=N]"),
            "give the VM a vsock device: programs here connect to the Unix socket PATH and send 'CONNECT PORT'; the guest's connections to port N of CID 2 go to PATH_N")
        ("metrics", po::value(&options.metrics)->value_name("PATH"),
            "tell what the VM does (exits, system calls, faults, devices, memory, start) on the Unix socket PATH, by HTTP and in Prometheus's text format")
        ("kernel", po::value(&options.kernel)->value_name("FILE"), "boot another kernel image")
        ("kernel-log", po::value(&raw.kernel_log)->value_name("LEVEL"),
            "what the guest's kernel says on stderr: error, warning, info or debug (default: warning)")
        ("log-level", po::value(&raw.log_level)->value_name("LEVEL"), "the same, by its older name")
        ("log-format", po::value(&raw.log_format)->value_name("FORMAT"), "what joey and the guest's kernel say: text, or json, one object a line (default: text)")
        ("log-fd", po::value(&raw.log_fd)->value_name("N"), "where they say it: an open descriptor (default: 2, stderr)")
        ("help,h", "print this text");
    return all;
}

po::options_description describe_network_options(RawOptions& raw) {
    po::options_description network("Network", 100, 60);
    network.add_options()
        ("net", po::value<std::string>()->value_name("KIND"),
            "the network: user (connections that joey makes for CMD, without privileges), tap=NAME or tap-fd=N[,N...] (an interface of this machine), none (default: user)")
        ("publish", po::value(&raw.network.publish)->value_name("[IP:]PORT:GUEST"),
            "with --net user: lead a TCP port of this machine, or with /udp at the end a UDP port, to a port inside (may be repeated)")
        ("ip", po::value(&raw.network.ip)->value_name("ADDRESS/PREFIX"), "with a TAP: an address of the guest (may be repeated)")
        ("route", po::value(&raw.network.route)->value_name("NET=GATEWAY"), "with a TAP: a route, as default=10.0.0.1 (may be repeated)")
        ("dns", po::value(&raw.network.dns)->value_name("ADDRESS"), "a resolver for /etc/resolv.conf (may be repeated)")
        ("mac", po::value<std::string>()->value_name("MAC"), "the address of the guest's network interface (default: a random one)")
        ("mtu", po::value<std::string>()->value_name("BYTES"), "its largest packet (default: the TAP's; 65520 with --net user)")
        ("net-in", po::value<std::string>()->value_name("RATE"),
            "how much may reach the guest in a second: bytes as 10M, or 10M/2M with a burst of 2M; packets as 5000p; both as 10M,5000p (default: no limit)")
        ("net-out", po::value<std::string>()->value_name("RATE"), "the same of what it sends");
    return network;
}
// clang-format on

std::string help_text() {
    DoOptions options;
    RawOptions raw;
    std::ostringstream text;
    text << usage_text << describe_options(options, raw) << '\n'
         << describe_network_options(raw) << status_text;
    return text.str();
}

// How many of `words` are joey's options and their values; what comes after is the command.
Outcome<std::size_t> count_option_words(std::span<const std::string> words,
                                        const po::options_description& known) {
    std::size_t at = 0;
    while (at < words.size()) {
        const std::string& word = words[at];
        if (word.size() < 2 || word[0] != '-' || word == "--")
            break;
        const bool is_long = word[1] == '-';
        const std::size_t equals = word.find('=');
        const std::string name = is_long ? word.substr(2, equals - 2) : word.substr(0, 2);
        const po::option_description* option = is_long
                                                   ? known.find_nothrow(name, false)
                                                   : known.find_nothrow(name, false, false, true);
        if (option == nullptr)
            return fail(fmt::format("unknown option '{}'; {}", word.substr(0, equals), see_help));
        // One that is optional comes with '='.
        const bool takes_value = option->semantic()->min_tokens() > 0;
        const bool value_follows = takes_value && equals == std::string::npos;
        if (value_follows && at + 1 == words.size())
            return fail(fmt::format("option '{}' needs a value; {}", word, see_help));
        at += value_follows ? 2 : 1;
    }
    return at;
}

template <typename T>
std::optional<T> parse_number(std::string_view text) {
    T value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (text.empty() || error != std::errc() || end != text.data() + text.size())
        return std::nullopt;
    return value;
}

} // namespace

Outcome<unsigned> interpret_cpus(std::string_view option, const std::string& text) {
    const auto cpus = parse_number<unsigned>(text);
    if (!cpus || *cpus < 1 || *cpus > boot::max_cpus)
        return fail(fmt::format("{} {}: give a number from 1 to {}", option, text, boot::max_cpus));
    return *cpus;
}

Outcome<std::uint64_t> interpret_memory(std::string_view option, const std::string& text) {
    const auto bytes = parse_size(text);
    if (!bytes)
        return fail(fmt::format("{} {}: give a size such as 512M or 2G", option, text));
    if (*bytes < vmm::min_memory_bytes || *bytes > vmm::max_memory_bytes)
        return fail(fmt::format("{} {}: give at least {}M and at most {}G", option, text,
                                vmm::min_memory_bytes >> 20, vmm::max_memory_bytes >> 30));
    return *bytes & ~(boot::page_size - 1);
}

Outcome<vmm::PrivilegeChoice> interpret_privilege(const std::string& text) {
    if (text == "auto")
        return vmm::PrivilegeChoice::Auto;
    if (text == "ring0")
        return vmm::PrivilegeChoice::Ring0;
    if (text == "ring3")
        return vmm::PrivilegeChoice::Ring3;
    return fail(fmt::format("--privilege {}: give auto, ring0 or ring3", text));
}

namespace {

Outcome<boot::LogLevel> interpret_log_level(std::string_view option, const std::string& text) {
    constexpr std::pair<std::string_view, boot::LogLevel> levels[] = {
        {"error", boot::LogLevel::Error},
        {"warning", boot::LogLevel::Warning},
        {"info", boot::LogLevel::Info},
        {"debug", boot::LogLevel::Debug},
    };
    for (const auto& [name, level] : levels) {
        if (text == name)
            return level;
    }
    return fail(fmt::format("--{} {}: give error, warning, info or debug", option, text));
}

// Names of calls and groups are the guest kernel's affair; what no filter can be is told here.
Outcome<std::string> interpret_strace(const std::string& text) {
    constexpr std::string_view allowed = "abcdefghijklmnopqrstuvwxyz0123456789_%!,";
    constexpr std::size_t longest = 2000;
    if (text.find_first_not_of(allowed) != std::string::npos || text.size() > longest)
        return fail(fmt::format("--strace={}: give names of calls and %groups, or missing", text));
    return text;
}

Outcome<VolumeOption> interpret_volume(const std::string& text) {
    VolumeOption volume;
    std::string_view rest = text;
    if (rest.ends_with(":ro")) {
        volume.read_only = true;
        rest.remove_suffix(3);
    } else if (rest.ends_with(":rw")) {
        rest.remove_suffix(3);
    }
    const std::size_t colon = rest.rfind(':');
    if (colon == std::string_view::npos || colon == 0 || colon + 1 == rest.size())
        return fail(fmt::format("--volume {}: give SRC:DST or SRC:DST:ro", text));
    volume.source = rest.substr(0, colon);
    volume.destination = rest.substr(colon + 1);
    if (volume.destination[0] != '/')
        return fail(fmt::format("--volume {}: the path in the guest must begin with /", text));
    return volume;
}

Outcome<VsockOption> interpret_vsock(const std::string& text) {
    constexpr std::string_view cid_key = ",cid=";
    VsockOption vsock;
    vsock.path = text;
    if (const std::size_t at = text.rfind(cid_key); at != std::string::npos) {
        vsock.path = text.substr(0, at);
        const auto cid =
            parse_number<std::uint32_t>(std::string_view(text).substr(at + cid_key.size()));
        // 0 to 2 and the last one have meanings of their own (vsock(7)).
        if (!cid || *cid < virtio::Vsock::first_cid || *cid == UINT32_MAX)
            return fail(fmt::format("--vsock {}: give a CID from {} to {}", text,
                                    virtio::Vsock::first_cid, UINT32_MAX - 1));
        vsock.cid = *cid;
    }
    if (vsock.path.empty() || vsock.path.size() > virtio::longest_vsock_path)
        return fail(fmt::format("--vsock {}: give a path of 1 to {} bytes", text,
                                virtio::longest_vsock_path));
    return vsock;
}

Outcome<NetworkOptions> interpret_network_of(const po::variables_map& given,
                                             RawNetworkOptions network) {
    const auto text_of = [&given](const char* name) {
        return given.count(name) != 0 ? std::optional(given[name].as<std::string>()) : std::nullopt;
    };
    network.net = text_of("net");
    network.mac = text_of("mac");
    network.mtu = text_of("mtu");
    network.receive_limit = text_of("net-in");
    network.send_limit = text_of("net-out");
    return interpret_network(network);
}

Outcome<void> interpret_log(const po::variables_map& given, const RawOptions& raw,
                            DoOptions& options) {
    if (given.count("log-format") != 0) {
        if (raw.log_format != "text" && raw.log_format != "json")
            return fail(fmt::format("--log-format {}: give text or json", raw.log_format));
        options.log_format = raw.log_format == "json" ? ReportFormat::Json : ReportFormat::Text;
    }
    if (given.count("log-fd") == 0)
        return {};
    const auto fd = parse_number<int>(raw.log_fd);
    if (!fd || *fd < 1 || ::fcntl(*fd, F_GETFD) < 0)
        return fail(fmt::format("--log-fd {}: give the number of an open descriptor", raw.log_fd));
    options.log_fd = *fd;
    return {};
}

// What joey says of the kernel and of the program: logs, traces, core files.
Outcome<void> interpret_reports(const po::variables_map& given, const RawOptions& raw,
                                DoOptions& options) {
    if (given.count("log-level") != 0) {
        TRY(options.log_level, interpret_log_level("log-level", raw.log_level));
    }
    if (given.count("kernel-log") != 0) {
        TRY(options.log_level, interpret_log_level("kernel-log", raw.kernel_log));
    }
    TRY(interpret_log(given, raw, options));
    if (given.count("strace") != 0) {
        TRY(options.strace_filter, interpret_strace(raw.strace));
        options.strace = true;
    }
    if (options.strace_time && !options.strace)
        return fail("--strace-time: goes with --strace");
    if (given.count("core") != 0 && options.core_directory.empty())
        return fail("--core: give a directory of this machine");
    return {};
}

Outcome<void> interpret(const po::variables_map& given, const RawOptions& raw, DoOptions& options) {
    if (given.count("cpus") != 0) {
        TRY(options.cpus, interpret_cpus("--cpus", raw.cpus));
    }
    if (given.count("memory") != 0) {
        TRY(options.memory_bytes, interpret_memory("--memory", raw.memory));
    }
    if (given.count("privilege") != 0) {
        TRY(options.privilege, interpret_privilege(raw.privilege));
    }
    TRY(interpret_reports(given, raw, options));
    if (given.count("cwd") != 0)
        options.cwd = given["cwd"].as<std::string>();
    if (given.count("user") != 0)
        options.user = given["user"].as<std::string>();
    for (const std::string& variable : options.env) {
        if (variable.find('=') == std::string::npos || variable[0] == '=')
            return fail(fmt::format("--env {}: give NAME=VALUE", variable));
    }
    for (const std::string& text : raw.volumes) {
        TRY(VolumeOption volume, interpret_volume(text));
        options.volumes.push_back(std::move(volume));
    }
    if (given.count("vsock") != 0) {
        TRY(options.vsock, interpret_vsock(raw.vsock));
    }
    if (given.count("metrics") != 0 &&
        (options.metrics.empty() || options.metrics.size() > virtio::longest_vsock_path))
        return fail(fmt::format("--metrics {}: give a path of 1 to {} bytes", options.metrics,
                                virtio::longest_vsock_path));
    TRY(options.network, interpret_network_of(given, raw.network));
    if (options.hostname.empty() || options.hostname.size() > 64)
        return fail("--hostname: give a name of 1 to 64 characters");
    return {};
}

Outcome<Command> parse_do(std::span<const std::string> words) {
    DoOptions options;
    RawOptions raw;
    po::options_description known = describe_options(options, raw);
    known.add(describe_network_options(raw));
    TRY(const std::size_t option_words, count_option_words(words, known));

    po::variables_map given;
    const std::vector<std::string> option_list(
        words.begin(), words.begin() + static_cast<std::ptrdiff_t>(option_words));
    try {
        using po::command_line_style::style_t;
        const auto style = style_t::allow_long | style_t::allow_short | style_t::long_allow_next |
                           style_t::long_allow_adjacent | style_t::short_allow_next |
                           style_t::allow_dash_for_short | style_t::allow_sticky;
        po::store(po::command_line_parser(option_list).options(known).style(style).run(), given);
        po::notify(given);
    } catch (const po::error& error) {
        return fail(fmt::format("{}; {}", error.what(), see_help));
    }
    if (given.count("help") != 0)
        return Command(ShowText{help_text()});
    TRY(interpret(given, raw, options));

    std::span<const std::string> command = words.subspan(option_words);
    if (!command.empty() && command.front() == "--")
        command = command.subspan(1);
    if (command.empty())
        return fail(fmt::format("no command to run; {}", see_help));
    options.command.assign(command.begin(), command.end());
    return Command(std::move(options));
}

} // namespace

Outcome<Command> parse_command_line(std::span<char* const> arguments) {
    const std::vector<std::string> words(arguments.begin(), arguments.end());
    if (words.empty())
        return fail(fmt::format("no command given; {}", see_help));
    const std::string& verb = words.front();
    if (verb == "do")
        return parse_do(std::span(words).subspan(1));
    if (verb == "help" || verb == "--help" || verb == "-h")
        return Command(ShowText{help_text()});
    if (verb == "--version" || verb == "version")
        return Command(ShowText{"joey " JOEY_VERSION "\n"});
    if (verb == "container" || verb == "system")
        return fail(fmt::format("'{}' stands before a command, such as 'joey {}'; {}", verb,
                                verb == "system" ? "system df" : "container ls", see_help));
    if (verb.starts_with('-'))
        return fail(fmt::format("unknown option '{}', or one that goes behind the command; {}",
                                verb.substr(0, verb.find('=')), see_help));
    return fail(fmt::format("unknown command '{}'; {}", verb, see_help));
}

} // namespace joey
