// What inspect shows of a container as Docker's users know it: Config and HostConfig, from the
// words of `joey run` and what its image says.
#include <algorithm>

#include "tools/joey/containers/run_request.hpp"
#include "tools/joey/sizes.hpp"

namespace joey::containers {

namespace {

using pod::Json;

// Docker's lists are null while there is nothing in them.
Json list_or_null(const std::vector<std::string>& words) {
    return words.empty() ? Json() : Json(words);
}

Json set_or_null(const std::vector<std::string>& names) {
    Json out;
    for (const std::string& name : names)
        out[name] = Json::object();
    return out;
}

// "NAME=VALUE" and "NAME:VALUE".
Json map_of(const std::vector<std::string>& words, char separator) {
    Json out = Json::object();
    for (const std::string& word : words) {
        const std::size_t cut = std::min(word.find(separator), word.size());
        out[word.substr(0, cut)] = word.substr(std::min(cut + 1, word.size()));
    }
    return out;
}

// What -v said, with whole paths. Requires: it has been read before.
Json binds_of(const Arguments& arguments) {
    std::vector<std::string> out;
    for (const std::string& text : arguments.values("volume")) {
        const auto volume = parse_volume(text);
        if (!volume || volume->kind == Volume::Kind::Own)
            continue;
        const std::size_t options = text.find(':', text.find(':') + 1);
        out.push_back(os::text(volume->source, ":", volume->target,
                               options == std::string::npos ? "" : text.substr(options)));
    }
    return list_or_null(out);
}

Json ulimits_of(const Json& config) {
    Json out = Json::array();
    const Json* process = pod::find(config, "process");
    const Json* limits = process != nullptr ? pod::find(*process, "rlimits") : nullptr;
    for (const Json& limit : limits != nullptr ? *limits : Json::array()) {
        std::string name = pod::string_of(limit, "type").substr(std::string_view("RLIMIT_").size());
        std::transform(name.begin(), name.end(), name.begin(),
                       [](char c) { return static_cast<char>(c | 0x20); });
        // As Docker has it, -1 is none.
        out.push_back(
            Json{{"Name", name},
                 {"Soft", static_cast<std::int64_t>(limit["soft"].get<std::uint64_t>())},
                 {"Hard", static_cast<std::int64_t>(limit["hard"].get<std::uint64_t>())}});
    }
    return out;
}

Json config_of(const Arguments& arguments, const image::Overrides& overrides,
               const RunRequest& request) {
    const image::ImageConfig& image = request.base.config;
    std::vector<std::string> entrypoint = overrides.entrypoint.value_or(image.entrypoint);
    if (entrypoint.size() == 1 && entrypoint.front().empty())
        entrypoint.clear();
    std::vector<std::string> command = overrides.args;
    if (command.empty() && !overrides.entrypoint)
        command = image.command;
    std::vector<std::string> volumes = image.volumes;
    for (const Volume& volume : request.volumes) {
        if (volume.kind == Volume::Kind::Own)
            volumes.push_back(volume.target);
    }
    Json out = {{"AttachStdin", (request.wants & wants_input) != 0},
                {"AttachStdout", (request.wants & wants_output) != 0},
                {"AttachStderr", (request.wants & wants_errors) != 0},
                {"Cmd", list_or_null(command)},
                {"Domainname", arguments.value("domainname")},
                {"Entrypoint", list_or_null(entrypoint)},
                {"Env", image::merge_env(image.env, overrides.env)},
                {"OnBuild", nullptr},
                {"User", overrides.user.value_or(image.user)},
                {"Volumes", set_or_null(volumes)},
                {"WorkingDir", overrides.working_directory.value_or(image.working_directory)}};
    if (!request.container.exposed.empty())
        out["ExposedPorts"] = set_or_null(request.container.exposed);
    const std::string signal = overrides.stop_signal.value_or(image.stop_signal);
    if (!signal.empty())
        out["StopSignal"] = signal;
    return out;
}

} // namespace

void describe_request(const Arguments& arguments, const image::Overrides& overrides,
                      RunRequest& request) {
    Container& container = request.container;
    container.config = config_of(arguments, overrides, request);
    const auto list = [&](const char* option) { return list_or_null(arguments.values(option)); };
    const auto mode = [&](const char* option) { return arguments.value(option, "private"); };
    // Those that limit it are there already, if they were given.
    Json host = {{"Binds", binds_of(arguments)},
                 {"CapAdd", list("cap-add")},
                 {"CapDrop", list("cap-drop")},
                 {"CgroupParent", arguments.value("cgroup-parent")},
                 {"CgroupnsMode", "private"},
                 {"ContainerIDFile", arguments.value("cidfile")},
                 {"CpuPeriod", 0},
                 {"CpuQuota", 0},
                 {"CpuShares", 0},
                 {"CpusetCpus", ""},
                 {"CpusetMems", ""},
                 {"Dns", arguments.values("dns")},
                 {"DnsOptions", arguments.values("dns-option")},
                 {"DnsSearch", arguments.values("dns-search")},
                 {"ExtraHosts", list("add-host")},
                 {"GroupAdd", list("group-add")},
                 {"Init", arguments.has("init")},
                 {"IpcMode", mode("ipc")},
                 {"Memory", 0},
                 {"MemoryReservation", 0},
                 {"NanoCpus", 0},
                 {"OomScoreAdj", pod::int_of(request.config["process"], "oomScoreAdj")},
                 {"PidMode", mode("pid")},
                 {"PidsLimit", 0},
                 {"Privileged", arguments.has("privileged")},
                 {"PublishAllPorts", arguments.has("publish-all")},
                 {"Runtime", "joey"},
                 {"SecurityOpt", list("security-opt")},
                 {"ShmSize", parse_size(arguments.value("shm-size", "64m")).value_or(0)},
                 {"Sysctls", map_of(arguments.values("sysctl"), '=')},
                 {"Tmpfs", map_of(arguments.values("tmpfs"), ':')},
                 {"UTSMode", ""},
                 {"Ulimits", ulimits_of(request.config)},
                 {"UsernsMode", arguments.value("userns")},
                 {"VolumesFrom", list("volumes-from")}};
    host.update(container.limits);
    container.limits = std::move(host);
}

} // namespace joey::containers
