#include "tools/image/config.hpp"

#include <charconv>
#include <nlohmann/json.hpp>

#include "agent/spec/json_view.hpp"

namespace image {
namespace {

using spec::JsonView;

std::optional<std::uint16_t> parse_port(std::string_view text) {
    std::uint16_t port = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
    if (text.empty() || error != std::errc() || end != text.data() + text.size())
        return std::nullopt;
    return port;
}

// "80", "80/tcp", "8000-8010/udp".
std::optional<ExposedPort> parse_exposed_port(std::string_view text) {
    ExposedPort out;
    const std::size_t slash = text.find('/');
    out.protocol = slash == std::string_view::npos ? "tcp" : text.substr(slash + 1);
    const std::string_view range = text.substr(0, slash);
    const std::size_t dash = range.find('-');
    const auto first = parse_port(range.substr(0, dash));
    const auto last = dash == std::string_view::npos ? first : parse_port(range.substr(dash + 1));
    if (!first || !last || *last < *first ||
        (out.protocol != "tcp" && out.protocol != "udp" && out.protocol != "sctp"))
        return std::nullopt;
    out.first = *first;
    out.last = *last;
    return out;
}

os::Result<void> read_time(const JsonView& view, std::string_view name, std::int64_t& out) {
    std::optional<std::int64_t> value;
    TRY(view.read(name, value));
    // 0 means: not told.
    if (value && *value < 0)
        return view.wrong(name, " must not be negative");
    if (value && *value != 0)
        out = *value;
    return {};
}

os::Result<std::optional<Healthcheck>> read_healthcheck(const JsonView& view) {
    if (!view.exists())
        return std::optional<Healthcheck>();
    Healthcheck check;
    std::vector<std::string> test;
    TRY(view.read("Test", test));
    // An empty list inherits what the base has, which an image's configuration has merged already.
    if (test.empty())
        return std::optional<Healthcheck>();
    if (test.front() == "CMD")
        check.kind = Healthcheck::Kind::Command;
    else if (test.front() == "CMD-SHELL")
        check.kind = Healthcheck::Kind::Shell;
    else if (test.front() != "NONE")
        return view.wrong("Test must begin with NONE, CMD or CMD-SHELL");
    check.args.assign(test.begin() + 1, test.end());
    if (check.kind != Healthcheck::Kind::None && check.args.empty())
        return view.wrong("Test names no command");
    TRY(read_time(view, "Interval", check.interval_ns));
    TRY(read_time(view, "Timeout", check.timeout_ns));
    TRY(read_time(view, "StartPeriod", check.start_period_ns));
    TRY(read_time(view, "StartInterval", check.start_interval_ns));
    TRY(read_time(view, "Retries", check.retries));
    return std::optional(std::move(check));
}

// Sets are written as objects with empty values.
os::Result<void> read_set(const JsonView& view, std::string_view name,
                          std::vector<std::string>& out) {
    TRY(const JsonView member, view.member(name));
    TRY(const auto entries, member.members());
    for (const auto& [key, value] : entries)
        out.push_back(key);
    return {};
}

os::Result<void> read_ports(const JsonView& view, ImageConfig& config) {
    // Each is written out for a container: a few words must not become billions.
    constexpr std::size_t most_ports = 3 * 65536; // all of each protocol
    std::size_t count = 0;
    std::vector<std::string> ports;
    TRY(read_set(view, "ExposedPorts", ports));
    for (const std::string& text : ports) {
        const auto port = parse_exposed_port(text);
        if (!port)
            return view.wrong("ExposedPorts has '", text.substr(0, 80),
                              "'; a port looks like 80/tcp");
        count += std::size_t{port->last} - port->first + 1;
        if (count > most_ports)
            return view.wrong("ExposedPorts names more ports than there are");
        config.exposed_ports.push_back(*port);
    }
    return {};
}

os::Result<void> read_run_part(const JsonView& view, ImageConfig& config) {
    TRY(view.read("User", config.user));
    TRY(view.read("Entrypoint", config.entrypoint));
    TRY(view.read("Cmd", config.command));
    TRY(view.read("Shell", config.shell));
    TRY(view.read("Env", config.env));
    for (const std::string& variable : config.env) {
        if (variable.find('=') == std::string::npos || variable.front() == '=')
            return view.wrong("Env has '", variable.substr(0, 80), "', which is no NAME=VALUE");
    }
    TRY(view.read("WorkingDir", config.working_directory));
    TRY(read_set(view, "Volumes", config.volumes));
    TRY(read_ports(view, config));
    TRY(view.read("StopSignal", config.stop_signal));
    TRY(view.read("Labels", config.labels));
    TRY(const JsonView healthcheck, view.member("Healthcheck"));
    TRY(config.healthcheck, read_healthcheck(healthcheck));
    return {};
}

os::Result<void> read_rootfs(const JsonView& view, ImageConfig& config, const Limits& limits) {
    std::string type;
    std::vector<std::string> diff_ids;
    TRY(view.read("type", type));
    TRY(view.read("diff_ids", diff_ids));
    if (type != "layers")
        return view.wrong("type must be 'layers'");
    if (diff_ids.size() > limits.layers)
        return view.wrong("names ", diff_ids.size(), " layers; at most ", limits.layers,
                          " are taken");
    for (const std::string& text : diff_ids) {
        auto digest = Digest::parse(text);
        if (!digest)
            return view.wrong(digest.error().message);
        config.diff_ids.push_back(std::move(*digest));
    }
    return {};
}

} // namespace

os::Result<ImageConfig> parse_config(std::string_view text, const Limits& limits) {
    TRY(const spec::JsonDocument document,
        spec::JsonDocument::parse(text, "the image's configuration"));
    const JsonView root = document.root();
    ImageConfig config;
    config.platform = {"", "", ""};
    TRY(root.read("os", config.platform.os));
    TRY(root.read("architecture", config.platform.architecture));
    TRY(root.read("variant", config.platform.variant));
    TRY(root.read("created", config.created));
    TRY(root.read("author", config.author));
    TRY(const JsonView run, root.member("config"));
    TRY(read_run_part(run, config));
    TRY(const JsonView rootfs, root.member("rootfs"));
    if (!rootfs.exists())
        return root.wrong("has no rootfs");
    TRY(read_rootfs(rootfs, config, limits));
    return config;
}

std::string make_config(const Platform& platform, const std::vector<Digest>& diff_ids) {
    nlohmann::json out = {{"architecture", platform.architecture},
                          {"os", platform.os},
                          {"config", nlohmann::json::object()},
                          {"rootfs", {{"type", "layers"}, {"diff_ids", nlohmann::json::array()}}}};
    if (!platform.variant.empty())
        out["variant"] = platform.variant;
    for (const Digest& diff_id : diff_ids)
        out["rootfs"]["diff_ids"].push_back(diff_id.text());
    return out.dump();
}

std::string with_layers(const std::string& text, const std::vector<Digest>& diff_ids) {
    nlohmann::json out = nlohmann::json::parse(text, nullptr, false);
    // What is no object is refused by who reads the result.
    if (!out.is_object())
        return text;
    nlohmann::json layers = nlohmann::json::array();
    for (const Digest& diff_id : diff_ids)
        layers.push_back(diff_id.text());
    out["rootfs"] = {{"type", "layers"}, {"diff_ids", std::move(layers)}};
    return out.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

Digest chain_id(const std::vector<Digest>& diff_ids) {
    if (diff_ids.empty())
        return Hasher::of("");
    Digest chain = diff_ids.front();
    for (std::size_t i = 1; i < diff_ids.size(); ++i)
        chain = Hasher::of(os::text(chain.text(), " ", diff_ids[i].text()));
    return chain;
}

} // namespace image
