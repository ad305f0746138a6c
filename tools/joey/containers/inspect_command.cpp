// inspect: all that is known of a container, an image or a volume, in the form of Docker's.
#include <cstring>
#include <fcntl.h>

#include "agent/os/files.hpp"
#include "tools/image/store.hpp"
#include "tools/joey/containers/commands.hpp"
#include "tools/joey/containers/format_functions.hpp"
#include "tools/joey/containers/format_template.hpp"
#include "tools/joey/image_report.hpp"

namespace joey::containers {

namespace {

using pod::Json;

Json state_json(Registry& registry, const Container& container) {
    const Condition now = registry.condition(container);
    pid_t pid = 0;
    if (now.phase == Phase::Running || now.phase == Phase::Paused) {
        if (const auto state = registry.engine().state(container.id))
            pid = state->record.process.pid;
    }
    Json out = {{"Status", now.phase == Phase::Starting ? "created" : name_of(now.phase)},
                {"Running", now.phase == Phase::Running || now.phase == Phase::Paused},
                {"Paused", now.phase == Phase::Paused},
                {"Restarting", now.phase == Phase::Restarting},
                {"OOMKilled", now.out_of_memory},
                {"Dead", false},
                {"Pid", pid},
                {"ExitCode", now.status},
                {"Error", now.error},
                {"StartedAt", now.started},
                {"FinishedAt", now.finished}};
    if (!container.health.command.empty())
        out["Health"] = Json{{"Status", now.health.status},
                             {"FailingStreak", now.health.failures},
                             {"Log", now.health.log}};
    return out;
}

// "0.0.0.0:8080->80/tcp" as {"80/tcp": [{"HostIp": ..., "HostPort": ...}]}.
Json bindings_json(const Container& container) {
    Json out = Json::object();
    for (const std::string& text : container.published) {
        const std::size_t arrow = text.find("->");
        const std::size_t colon = text.rfind(':', arrow);
        if (arrow == std::string::npos || colon == std::string::npos)
            continue;
        Json& list = out[text.substr(arrow + 2)];
        if (!list.is_array())
            list = Json::array();
        list.push_back(Json{{"HostIp", text.substr(0, colon)},
                            {"HostPort", text.substr(colon + 1, arrow - colon - 1)}});
    }
    return out;
}

// The same with what is exposed only.
Json ports_json(const Container& container) {
    Json out = Json::object();
    for (const std::string& port : container.exposed)
        out[port] = nullptr;
    out.update(bindings_json(container));
    return out;
}

// The one that it has in its network: the line of its /etc/hosts that names it, which each start
// writes. Nothing: it does not run, or has the loopback alone.
std::string address_of(const Registry& registry, const Container& container) {
    const Condition now = registry.peek(container);
    const auto text =
        os::read_file(AT_FDCWD, (registry.directory(container) + "/hosts").c_str(), 1U << 20);
    if (!text || container.network == "none" ||
        !(now.phase == Phase::Running || now.phase == Phase::Paused))
        return {};
    const std::string end = "\t" + container.hostname;
    for (std::size_t at = 0; at < text->size();) {
        const std::size_t stop = std::min(text->find('\n', at), text->size());
        const std::string line = text->substr(at, stop - at);
        at = stop + 1;
        if (line.ends_with(end) && line.find(':') == std::string::npos && !line.starts_with("127."))
            return line.substr(0, line.size() - end.size());
    }
    return {};
}

Json network_json(const Registry& registry, const Container& container) {
    const std::string address = address_of(registry, container);
    // A network of its own: the gateway is its second address (docs/design/user-mode-network.md).
    const bool has_network = container.network == "user" && !address.empty();
    const std::string gateway =
        has_network ? address.substr(0, address.rfind('.')) + ".2" : std::string();
    constexpr int prefix = 24;
    const Json one = {{"IPAddress", address},
                      {"IPPrefixLen", has_network ? prefix : 0},
                      {"Gateway", gateway},
                      {"MacAddress", ""}};
    Json out = one;
    out["Ports"] = ports_json(container);
    out["Networks"] = Json{{container.network, one}};
    return out;
}

Json health_json(const HealthCheck& check) {
    if (check.command.empty())
        return nullptr;
    const bool is_line =
        check.command.size() == 3 && check.command[0] == "/bin/sh" && check.command[1] == "-c";
    std::vector<std::string> test = {is_line ? "CMD-SHELL" : "CMD"};
    test.insert(test.end(), check.command.begin() + (is_line ? 2 : 0), check.command.end());
    return Json{{"Test", test},
                {"Interval", check.interval_ns},
                {"Timeout", check.timeout_ns},
                {"StartPeriod", check.start_period_ns},
                {"StartInterval", check.start_interval_ns},
                {"Retries", check.retries}};
}

Json config_json(const Container& container, const Json& process) {
    Json out = {{"Hostname", container.hostname},
                {"Image", container.image},
                {"Cmd", container.command},
                {"User", ""},
                {"WorkingDir", pod::string_of(process, "cwd")},
                {"Tty", container.terminal},
                {"OpenStdin", container.open_stdin},
                {"StdinOnce", container.attached_stdin},
                {"Labels", container.labels},
                {"StopTimeout", container.stop_timeout},
                {"Healthcheck", health_json(container.health)}};
    const char* signal = ::sigabbrev_np(container.stop_signal);
    out["StopSignal"] =
        signal != nullptr ? os::text("SIG", signal) : std::to_string(container.stop_signal);
    out.update(container.config);
    // All that it has, also what joey sets.
    out["Env"] = process.value("env", Json::array());
    if (pod::string_of(out, "WorkingDir").empty())
        out["WorkingDir"] = pod::string_of(process, "cwd");
    return out;
}

Json host_config(const Container& container, const Json& config) {
    Json out = container.limits;
    out["AutoRemove"] = container.remove;
    out["NetworkMode"] = container.network;
    out["ReadonlyRootfs"] = pod::bool_of(config["root"], "readonly");
    const std::string policy = container.restart.text();
    out["RestartPolicy"] = Json{{"Name", policy.substr(0, policy.find(':'))},
                                {"MaximumRetryCount", container.restart.most}};
    out["LogConfig"] = Json{{"Type", container.log.none ? "none" : "json-file"},
                            {"Config",
                             {{"max-size", std::to_string(container.log.file_bytes)},
                              {"max-file", std::to_string(container.log.files)}}}};
    out["PortBindings"] = bindings_json(container);
    return out;
}

os::Result<Json> describe(Registry& registry, const Container& container) {
    const std::string directory = registry.directory(container);
    TRY(Json config, pod::read_json(directory + "/config.json"));
    if (!config["process"].is_object() || !config["root"].is_object())
        return os::fail(os::Code::Internal, directory, "/config.json is damaged");
    const Json& process = config["process"];
    const std::vector<std::string>& command = container.command;
    std::vector<std::string> args(command.empty() ? command.begin() : command.begin() + 1,
                                  command.end());
    return Json{
        {"Id", container.id},
        {"Name", "/" + container.name},
        {"Created", container.created},
        {"Path", command.empty() ? "" : command.front()},
        {"Args", args},
        {"State", state_json(registry, container)},
        {"Image", container.image_id},
        {"RestartCount", registry.condition(container).restarts},
        {"LogPath", container.log.none ? "" : directory + "/log/container.log"},
        {"HostnamePath", directory + "/hostname"},
        {"HostsPath", directory + "/hosts"},
        {"ResolvConfPath", directory + "/resolv.conf"},
        {"Pod", container.pod},
        {"RootFS",
         {{"Path", container.root}, {"Lower", container.lower}, {"Layer", container.layer}}},
        {"HostConfig", host_config(container, config)},
        {"Mounts", container.mounts},
        {"Driver", container.lower.empty() ? "copy" : "overlay"},
        {"Platform", "linux"},
        {"ExecIDs", nullptr},
        {"NetworkSettings", network_json(registry, container)},
        {"Config", config_json(container, process)},
    };
}

os::Result<Json> container_json(Session& session, const Arguments& arguments,
                                const Container& container) {
    TRY(Json out, describe(session.registry, container));
    if (arguments.has("size")) {
        const Sizes sizes = sizes_of(session, container);
        out["SizeRw"] = sizes.own;
        out["SizeRootFs"] = sizes.own + sizes.image;
    }
    // To a template of Docker's it is there, and false.
    if (arguments.has("format") && !out["State"].contains("Health"))
        out["State"]["Health"] = nullptr;
    return out;
}

os::Result<Json> image_json(const Session& session, const std::string& word) {
    TRY(const image::Store store, image::Store::open(session.store));
    TRY(const image::Image image, store.find(word));
    TRY(const std::string text, describe_image(store, image));
    return pod::parse_object(text, word);
}

// A container before an image before a volume, as Docker looks for them.
os::Result<Json> find_object(Session& session, const Arguments& arguments,
                             const std::string& word) {
    const std::string type = arguments.value("type");
    const auto container = session.registry.find(word);
    if (container && (type.empty() || type == "container"))
        return container_json(session, arguments, *container);
    // Of one that several begin with: it is a mistake, and no image.
    if (type == "container" || (!container && container.error().code != os::Code::NotFound))
        return base::Failure(container.error());
    if (auto image =
            type == "volume" ? os::fail(os::Code::NotFound, word) : image_json(session, word);
        image || type == "image")
        return image;
    auto volume = describe_volume(session, word);
    if (!volume && type.empty())
        return os::fail(os::Code::NotFound, "No such object: ", word.substr(0, 200));
    return volume;
}

} // namespace

os::Result<int> inspect(Session& session, const Arguments& arguments) {
    const std::string format = arguments.value("format", "json");
    const bool is_json = is_json_format(format);
    if (!is_json && !FormatTemplate::is_template(format))
        return os::fail(os::Code::InvalidArgument,
                        "inspect: --format: give json or a template such as {{.State.Status}}");
    const std::string type = arguments.value("type");
    if (!type.empty() && type != "container" && type != "image" && type != "volume")
        return os::fail(os::Code::InvalidArgument, "inspect: --type ", type,
                        ": give container, image or volume");
    std::vector<Json> all;
    int status = 0;
    for (const std::string& word : arguments.words()) {
        auto one = find_object(session, arguments, word);
        if (one) {
            all.push_back(std::move(*one));
            continue;
        }
        complain(printable(one.error().message));
        status = 1;
    }
    if (!is_json) {
        TRY(const std::string out, format_all(format, all, Json()));
        TRY(print(out));
        return status;
    }
    // With the option one line each, without it for people to read.
    std::string out;
    if (arguments.has("format")) {
        for (const Json& one : all)
            out += pod::to_text(one) + "\n";
    } else {
        out = Json(all).dump(4, ' ', false, Json::error_handler_t::replace) + "\n";
    }
    TRY(print(out));
    return status;
}

} // namespace joey::containers
