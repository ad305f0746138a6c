// volume ls, create, inspect, rm, prune: directories with names that containers mount.
#include <algorithm>
#include <cerrno>
#include <fcntl.h>

#include <sys/stat.h>

#include "tools/image/beneath.hpp"
#include "tools/joey/containers/commands.hpp"
#include "tools/joey/containers/table.hpp"

namespace joey::containers {

namespace {

using pod::Json;

// Who has it, running or not.
std::vector<std::string> users_of(const Session& session, const std::string& volume) {
    std::vector<std::string> out;
    for (const Container& one : session.registry.list()) {
        if (mounts_volume(one, volume))
            out.push_back(one.name);
    }
    return out;
}

os::Result<std::string> existing(const Session& session, const std::string& name) {
    TRY(check_name(name));
    const std::string path = session.registry.volumes() + "/" + name;
    if (!pod::exists(path))
        return os::fail(os::Code::NotFound, "no such volume: ", name);
    return path;
}

Json description(const Session& session, const std::string& name) {
    return Json{{"Name", name},
                {"Driver", "local"},
                {"Mountpoint", session.registry.volumes() + "/" + name},
                {"Scope", "local"}};
}

os::Result<int> list(const Session& session, const Arguments& arguments) {
    const std::vector<std::string> names = pod::names_in(session.registry.volumes());
    const std::string format = arguments.value("format", "table");
    std::string out;
    std::vector<std::vector<std::string>> rows = {{"DRIVER", "VOLUME NAME"}};
    for (const std::string& name : names) {
        if (arguments.has("quiet"))
            out += name + "\n";
        else if (format == "json")
            out += pod::to_text(description(session, name)) + "\n";
        else
            rows.push_back({"local", name});
    }
    return print(arguments.has("quiet") || format == "json" ? out : table(rows));
}

} // namespace

bool mounts_volume(const Container& container, const std::string& volume) {
    return std::any_of(container.mounts.begin(), container.mounts.end(),
                       [&](const Json& mount) { return pod::string_of(mount, "Name") == volume; });
}

os::Result<void> remove_volume(const Session& session, const std::string& name) {
    TRY(existing(session, name));
    if (const auto users = users_of(session, name); !users.empty())
        return os::fail(os::Code::FailedPrecondition, "volume ", name, " is in use by container ",
                        users.front());
    const os::UniqueFd place(
        ::open(session.registry.volumes().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    const auto removed = place ? image::remove_tree(place.get(), name) : base::Failure(errno);
    if (!removed)
        return os::fail_errno(removed.error(), "remove volume ", name);
    return {};
}

os::Result<int> volume(Session& session, const Arguments& arguments) {
    const std::string& verb = arguments.words().front();
    const std::vector<std::string> names(arguments.words().begin() + 1, arguments.words().end());
    if (verb == "ls" || verb == "list")
        return list(session, arguments);
    if (verb == "create") {
        const std::string name = names.empty() ? fresh_id() : names.front();
        TRY(check_name(name));
        TRY(pod::make_directories(session.registry.volumes() + "/" + name));
        return print(name + "\n");
    }
    if (verb == "prune") {
        for (const std::string& name : pod::names_in(session.registry.volumes())) {
            if (!users_of(session, name).empty())
                continue;
            TRY(remove_volume(session, name));
            TRY(print(name + "\n"));
        }
        return 0;
    }
    if (names.empty() || (verb != "rm" && verb != "inspect"))
        return os::fail(os::Code::InvalidArgument, "volume ", verb,
                        ": give ls, create [NAME], inspect NAME..., rm NAME... or prune");
    if (verb == "inspect") {
        Json all = Json::array();
        for (const std::string& name : names) {
            TRY(existing(session, name));
            all.push_back(description(session, name));
        }
        return print(all.dump(4) + "\n");
    }
    for (const std::string& name : names) {
        auto removed = remove_volume(session, name);
        if (!removed && !(arguments.has("force") && removed.error().code == os::Code::NotFound))
            return base::Failure(removed.error());
        TRY(print(name + "\n"));
    }
    return 0;
}

} // namespace joey::containers
