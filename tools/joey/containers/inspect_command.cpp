// inspect: all that is known of a container, in the form of Docker's.
#include "tools/image/process.hpp"
#include "tools/joey/containers/commands.hpp"
#include "tools/joey/containers/format_template.hpp"

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
Json ports_json(const Container& container) {
    Json out = Json::object();
    for (const std::string& port : container.exposed)
        out[port] = nullptr;
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

Json host_config(const Container& container, const Json& config) {
    Json out = container.limits;
    out["AutoRemove"] = container.remove;
    out["NetworkMode"] = container.network;
    out["ReadonlyRootfs"] = pod::bool_of(config["root"], "readonly");
    out["RestartPolicy"] =
        Json{{"Name", container.restart.text()}, {"MaximumRetryCount", container.restart.most}};
    out["LogConfig"] = Json{{"Type", container.log.none ? "none" : "json-file"},
                            {"Config",
                             {{"max-size", std::to_string(container.log.file_bytes)},
                              {"max-file", std::to_string(container.log.files)}}}};
    out["PortBindings"] = ports_json(container);
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
    Json health = nullptr;
    if (!container.health.command.empty())
        health = Json{{"Test", container.health.command},
                      {"Interval", container.health.interval_ns},
                      {"Timeout", container.health.timeout_ns},
                      {"StartPeriod", container.health.start_period_ns},
                      {"Retries", container.health.retries}};
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
        {"NetworkSettings", {{"Ports", ports_json(container)}}},
        {"Config",
         {{"Hostname", container.hostname},
          {"Image", container.image},
          {"Cmd", command},
          {"Env", process.value("env", Json::array())},
          {"User", pod::find(process, "user") != nullptr ? process["user"] : Json()},
          {"WorkingDir", pod::string_of(process, "cwd")},
          {"Tty", container.terminal},
          {"OpenStdin", container.open_stdin},
          {"StdinOnce", container.attached_stdin},
          {"Labels", container.labels},
          {"StopSignal", container.stop_signal},
          {"StopTimeout", container.stop_timeout},
          {"Healthcheck", health}}},
    };
}

} // namespace

os::Result<int> inspect(Session& session, const Arguments& arguments) {
    const std::string format = arguments.value("format", "json");
    if (format != "json" && !FormatTemplate::is_template(format))
        return os::fail(os::Code::InvalidArgument,
                        "inspect: --format: give json or a template such as {{.State.Status}}");
    std::vector<Json> all;
    const int status =
        for_each_container(session, arguments.words(),
                           [&](const Container& container, const std::string&) -> os::Result<void> {
                               TRY(Json one, describe(session.registry, container));
                               // To a template of Docker's it is there, and false.
                               if (format != "json" && !one["State"].contains("Health"))
                                   one["State"]["Health"] = nullptr;
                               all.push_back(std::move(one));
                               return {};
                           });
    if (format != "json") {
        TRY(const std::string out, format_all(format, all, Json()));
        TRY(print(out));
        return status;
    }
    TRY(print(Json(all).dump(4, ' ', false, Json::error_handler_t::replace) + "\n"));
    return status;
}

} // namespace joey::containers
