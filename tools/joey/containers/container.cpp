#include "tools/joey/containers/container.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <fcntl.h>

#include <sys/random.h>

#include "agent/os/files.hpp"
#include "tools/pod/state_files.hpp"

namespace joey::containers {

namespace {

using pod::Json;

struct KnownPolicy {
    std::string_view name;
    RestartPolicy::Kind kind;
};
constexpr std::array policies = {
    KnownPolicy{"no", RestartPolicy::Kind::No},
    KnownPolicy{"on-failure", RestartPolicy::Kind::OnFailure},
    KnownPolicy{"always", RestartPolicy::Kind::Always},
    KnownPolicy{"unless-stopped", RestartPolicy::Kind::UnlessStopped},
};

constexpr std::array<std::string_view, 6> phases = {"created", "starting",   "running",
                                                    "paused",  "restarting", "exited"};

template <typename T>
std::optional<T> number_of(std::string_view text) {
    T value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (text.empty() || error != std::errc() || end != text.data() + text.size())
        return std::nullopt;
    return value;
}

Json object_of(const Json& value, std::string_view name) {
    const Json* found = pod::find(value, name);
    return found != nullptr && found->is_object() ? *found : Json::object();
}

Json array_of(const Json& value, std::string_view name) {
    const Json* found = pod::find(value, name);
    return found != nullptr && found->is_array() ? *found : Json::array();
}

Json to_json(const HealthCheck& check) {
    return Json{{"command", check.command},
                {"interval", check.interval_ns},
                {"timeout", check.timeout_ns},
                {"startPeriod", check.start_period_ns},
                {"startInterval", check.start_interval_ns},
                {"retries", check.retries}};
}

HealthCheck health_of(const Json& value) {
    HealthCheck out{pod::strings_of(value, "command"),
                    pod::int_of(value, "interval"),
                    pod::int_of(value, "timeout"),
                    pod::int_of(value, "startPeriod"),
                    0,
                    pod::int_of(value, "retries")};
    // A record of an earlier joey does not say it, and then it is as the others are.
    out.start_interval_ns = pod::int_of(value, "startInterval");
    if (out.start_interval_ns == 0)
        out.start_interval_ns = out.interval_ns;
    return out;
}

} // namespace

os::Result<RestartPolicy> RestartPolicy::parse(std::string_view text) {
    RestartPolicy out;
    const std::size_t colon = text.find(':');
    const std::string_view name = text.substr(0, colon);
    const auto known = std::find_if(policies.begin(), policies.end(),
                                    [&](const KnownPolicy& one) { return one.name == name; });
    const auto wrong = [&] {
        return os::fail(os::Code::InvalidArgument, "--restart ", text,
                        ": give no, on-failure[:N], always or unless-stopped");
    };
    if (known == policies.end())
        return wrong();
    out.kind = known->kind;
    if (colon == std::string_view::npos)
        return out;
    const auto most = number_of<std::int64_t>(text.substr(colon + 1));
    if (out.kind != Kind::OnFailure || !most || *most < 0)
        return wrong();
    out.most = *most;
    return out;
}

std::string RestartPolicy::text() const {
    const auto* known = std::find_if(policies.begin(), policies.end(),
                                     [&](const KnownPolicy& one) { return one.kind == kind; });
    return most != 0 ? os::text(known->name, ":", most) : std::string(known->name);
}

bool RestartPolicy::restarts(int status, std::int64_t restarts_so_far) const {
    switch (kind) {
    case Kind::No:
        return false;
    case Kind::OnFailure:
        return status != 0 && (most == 0 || restarts_so_far < most);
    case Kind::Always:
    case Kind::UnlessStopped:
        break;
    }
    return true;
}

os::Result<Container> Container::parse(std::string_view text, const std::string& what) {
    TRY(const Json value, pod::parse_object(text, what));
    Container out;
    out.id = pod::string_of(value, "id");
    out.name = pod::string_of(value, "name");
    TRY(pod::check_id(out.id));
    TRY(check_name(out.name));
    out.created = pod::string_of(value, "created");
    out.image = pod::string_of(value, "image");
    out.image_id = pod::string_of(value, "imageId");
    out.store = pod::string_of(value, "store");
    out.vm_memory = pod::string_of(value, "vmMemory");
    out.vm_cpus = pod::string_of(value, "vmCpus");
    out.privilege = pod::string_of(value, "privilege");
    out.lower = pod::string_of(value, "lower");
    out.root = pod::string_of(value, "root");
    out.layer = pod::string_of(value, "layer");
    out.pod = pod::string_of(value, "pod");
    out.vm_options = pod::strings_of(value, "vmOptions");
    out.network = pod::string_of(value, "network");
    out.hostname = pod::string_of(value, "hostname");
    out.dns = pod::strings_of(value, "dns");
    out.hosts = pod::strings_of(value, "hosts");
    out.resolver = pod::strings_of(value, "resolver");
    out.shared_namespaces = pod::strings_of(value, "sharedNamespaces");
    out.terminal = pod::bool_of(value, "terminal");
    out.open_stdin = pod::bool_of(value, "openStdin");
    out.attached_stdin = pod::bool_of(value, "attachedStdin");
    out.remove = pod::bool_of(value, "remove");
    TRY(out.restart, RestartPolicy::parse(pod::string_of(value, "restart")));
    out.health = health_of(object_of(value, "health"));
    const Json log = object_of(value, "log");
    out.log = {pod::bool_of(log, "none"), static_cast<std::uint64_t>(pod::int_of(log, "bytes")),
               static_cast<std::uint64_t>(pod::int_of(log, "files"))};
    out.stop_signal = static_cast<int>(pod::int_of(value, "stopSignal"));
    out.stop_timeout = pod::int_of(value, "stopTimeout");
    out.labels = pod::string_map_of(value, "labels");
    out.published = pod::strings_of(value, "published");
    out.exposed = pod::strings_of(value, "exposed");
    out.mounts = array_of(value, "mounts");
    out.limits = object_of(value, "limits");
    out.config = object_of(value, "config");
    out.command = pod::strings_of(value, "command");
    return out;
}

std::string Container::to_text() const {
    const Json log_json = {{"none", log.none}, {"bytes", log.file_bytes}, {"files", log.files}};
    return pod::to_text(Json{{"id", id},
                             {"name", name},
                             {"created", created},
                             {"image", image},
                             {"imageId", image_id},
                             {"store", store},
                             {"vmMemory", vm_memory},
                             {"vmCpus", vm_cpus},
                             {"privilege", privilege},
                             {"lower", lower},
                             {"root", root},
                             {"layer", layer},
                             {"pod", pod},
                             {"vmOptions", vm_options},
                             {"network", network},
                             {"hostname", hostname},
                             {"dns", dns},
                             {"hosts", hosts},
                             {"resolver", resolver},
                             {"sharedNamespaces", shared_namespaces},
                             {"terminal", terminal},
                             {"openStdin", open_stdin},
                             {"attachedStdin", attached_stdin},
                             {"remove", remove},
                             {"restart", restart.text()},
                             {"health", to_json(health)},
                             {"log", log_json},
                             {"stopSignal", stop_signal},
                             {"stopTimeout", stop_timeout},
                             {"labels", labels},
                             {"published", published},
                             {"exposed", exposed},
                             {"mounts", mounts},
                             {"limits", limits},
                             {"config", config},
                             {"command", command}});
}

std::string_view name_of(Phase phase) {
    return phases[static_cast<std::size_t>(phase)];
}

os::Result<Condition> Condition::parse(std::string_view text, const std::string& what) {
    TRY(const Json value, pod::parse_object(text, what));
    Condition out;
    const std::string phase = pod::string_of(value, "phase");
    const auto* known = std::find(phases.begin(), phases.end(), phase);
    if (known == phases.end())
        return os::fail(os::Code::Internal, what, ": there is no phase '", phase, "'");
    out.phase = static_cast<Phase>(known - phases.begin());
    out.monitor = pod::ProcessId::from_json(object_of(value, "monitor"));
    out.boot = pod::string_of(value, "boot");
    out.started = pod::string_of(value, "started");
    out.finished = pod::string_of(value, "finished");
    out.status = static_cast<int>(pod::int_of(value, "status"));
    out.error = pod::string_of(value, "error");
    out.restarts = pod::int_of(value, "restarts");
    out.out_of_memory = pod::bool_of(value, "outOfMemory");
    const Json health = object_of(value, "health");
    out.health = {pod::string_of(health, "status"), pod::int_of(health, "failures"),
                  array_of(health, "log")};
    return out;
}

namespace {

// Of what the guest says. A record that is too long to be read again would hide the container from
// every command, also from those that end it.
constexpr std::size_t longest_words = 16U << 10;

Json shortened(const Json& log) {
    Json out = log;
    for (Json& one : out) {
        if (Json* words = pod::find(one, "Output"); words != nullptr && words->is_string())
            *words = words->get<std::string>().substr(0, longest_words);
    }
    return out;
}

} // namespace

std::string Condition::to_text() const {
    return pod::to_text(Json{{"phase", name_of(phase)},
                             {"monitor", monitor.to_json()},
                             {"boot", boot},
                             {"started", started},
                             {"finished", finished},
                             {"status", status},
                             {"error", error.substr(0, longest_words)},
                             {"restarts", restarts},
                             {"outOfMemory", out_of_memory},
                             {"health",
                              {{"status", health.status},
                               {"failures", health.failures},
                               {"log", shortened(health.log)}}}});
}

std::string boot_id() {
    auto text = os::read_file(AT_FDCWD, "/proc/sys/kernel/random/boot_id");
    if (!text)
        return {};
    while (text->ends_with('\n'))
        text->pop_back();
    return std::move(*text);
}

os::Result<void> check_name(std::string_view name) {
    constexpr std::size_t longest = 128;
    const auto is_alphanumeric = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    };
    const auto is_good = [&](char c) {
        return is_alphanumeric(c) || c == '_' || c == '.' || c == '-';
    };
    if (name.size() < 2 || name.size() > longest || !is_alphanumeric(name.front()) ||
        !std::all_of(name.begin(), name.end(), is_good))
        return os::fail(os::Code::InvalidArgument, "'", name.substr(0, 80),
                        "' is no name for a container; give 2 to 128 letters, digits, '_', '.' and "
                        "'-', a letter or digit first");
    return {};
}

namespace {

// Short only if the host has no entropy at all; then the clash shows when the name is taken.
template <std::size_t count>
std::array<unsigned char, count> random_bytes() {
    std::array<unsigned char, count> bytes{};
    static_cast<void>(::getrandom(bytes.data(), bytes.size(), 0) == 0);
    return bytes;
}

constexpr std::array<std::string_view, 48> qualities = {
    "agile",  "amber",   "bold",   "brave",  "breezy",  "bright", "brisk",  "calm",
    "cheery", "clever",  "cosy",   "crisp",  "curious", "dapper", "daring", "eager",
    "fair",   "fancy",   "fleet",  "fluffy", "gentle",  "golden", "hardy",  "honest",
    "jolly",  "keen",    "kind",   "lively", "lucid",   "mellow", "merry",  "mighty",
    "nimble", "patient", "plucky", "polite", "quick",   "quiet",  "ready",  "rosy",
    "sandy",  "sleek",   "snug",   "spry",   "steady",  "sunny",  "tidy",   "witty"};
constexpr std::array<std::string_view, 32> animals = {
    "antechinus", "bandicoot", "bettong",  "bilby",   "cuscus",  "dibbler",  "dingo",
    "dunnart",    "echidna",   "emu",      "galah",   "glider",  "kangaroo", "koala",
    "kookaburra", "kowari",    "monjon",   "mulgara", "ningaui", "numbat",   "pademelon",
    "planigale",  "platypus",  "possum",   "potoroo", "quokka",  "quoll",    "rosella",
    "thylacine",  "wallaby",   "wallaroo", "wombat"};

} // namespace

std::string fresh_id() {
    constexpr std::string_view digits = "0123456789abcdef";
    std::string out;
    for (const unsigned char byte : random_bytes<32>()) {
        out += digits[byte >> 4];
        out += digits[byte & 15];
    }
    return out;
}

std::string fresh_name() {
    const auto bytes = random_bytes<2>();
    return os::text(qualities[bytes[0] % qualities.size()], "_",
                    animals[bytes[1] % animals.size()]);
}

} // namespace joey::containers
