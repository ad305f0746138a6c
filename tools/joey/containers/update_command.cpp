// update: limits and restart policy of a container that is there.
#include "tools/joey/containers/commands.hpp"
#include "tools/joey/containers/run_request.hpp"
#include "tools/joey/sizes.hpp"

namespace joey::containers {

namespace {

using pod::Json;

os::Result<void> change_policy(const Arguments& arguments, Container& container) {
    TRY(container.restart, RestartPolicy::parse(arguments.value("restart")));
    if (container.remove && container.restart.kind != RestartPolicy::Kind::No)
        return os::fail(os::Code::InvalidArgument, "--restart: ", container.name,
                        " is removed at its end (--rm)");
    return {};
}

// The VM of a container that runs is as large as it is.
os::Result<void> check_memory(const Container& before, const Json& resources) {
    const Json* memory = pod::find(resources, "memory");
    const Json* limit = memory != nullptr ? pod::find(*memory, "limit") : nullptr;
    const auto most = parse_size(before.vm_memory);
    if (limit == nullptr || !before.pod.empty() || !most || limit->get<std::uint64_t>() <= *most)
        return {};
    return os::fail(os::Code::FailedPrecondition, "--memory: the VM of container ", before.name,
                    " has ", before.vm_memory, "; more is possible when it is stopped");
}

// The next start makes the VM by what the configuration says, and it must hold what the container
// may use.
void change_vm(const Container& changed, Json& config) {
    if (!changed.vm_memory.empty())
        config["annotations"]["io.joey.memory"] = changed.vm_memory;
}

os::Result<void> update_one(Session& session, const Arguments& arguments, const std::string& id) {
    Registry& registry = session.registry;
    TRY(const Container known, registry.find(id));
    static_cast<void>(registry.condition(known));
    TRY(const pod::Lock held, registry.lock(known));
    // As it is now: others have changed it meanwhile.
    TRY(const Container before, registry.find(id));
    Container changed = before;
    Json resources = Json::object();
    TRY(read_limits(arguments, changed, resources));
    if (arguments.has("restart")) {
        TRY(change_policy(arguments, changed));
    } else if (resources.empty()) {
        return os::fail(os::Code::InvalidArgument, "update: give what is to change");
    }
    const std::string directory = registry.directory(before);
    TRY(Json config, pod::read_json(directory + "/config.json"));
    if (!config["linux"].is_object() || !config["linux"]["resources"].is_object())
        return os::fail(os::Code::Internal, directory, "/config.json is damaged");
    const Phase phase = registry.peek(before).phase;
    if ((phase == Phase::Running || phase == Phase::Paused) && !resources.empty()) {
        TRY(check_memory(before, resources));
        TRY(registry.engine().update(before.id, resources));
    }
    config["linux"]["resources"].merge_patch(resources);
    change_vm(changed, config);
    TRY(pod::write_whole(directory + "/config.json", pod::to_text(config)));
    TRY(registry.write_record(changed, true));
    registry.note(changed, "update");
    return {};
}

} // namespace

os::Result<int> update(Session& session, const Arguments& arguments) {
    return for_each_container(
        session, arguments.words(),
        [&](const Container& container, const std::string& word) -> os::Result<void> {
            TRY(update_one(session, arguments, container.id));
            TRY(print(word + "\n"));
            return {};
        });
}

} // namespace joey::containers
