#include "tools/pod/records.hpp"

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <fcntl.h>
#include <unistd.h>

#include "agent/os/files.hpp"

namespace pod {

namespace {

Json to_json(const Shared& shared) {
    return Json{{"name", shared.name},           {"device", shared.device},
                {"inode", shared.inode},         {"readOnly", shared.read_only},
                {"recursive", shared.recursive}, {"mountFlags", shared.mount_flags}};
}

std::uint64_t unsigned_of(const Json& value, std::string_view name) {
    const Json* found = find(value, name);
    return found != nullptr && found->is_number_unsigned() ? found->get<std::uint64_t>() : 0;
}

Json object_of(const Json& value, std::string_view name) {
    const Json* found = find(value, name);
    return found != nullptr && found->is_object() ? *found : Json::object();
}

} // namespace

os::Result<void> StateRoot::make() const {
    TRY(make_directories(path_ + "/containers"));
    return make_directories(path_ + "/pods");
}

os::Result<ContainerRecord> ContainerRecord::parse(std::string_view text, const std::string& what) {
    TRY(const Json value, parse_object(text, what));
    ContainerRecord out;
    out.id = string_of(value, "id");
    out.pod = string_of(value, "pod");
    TRY(check_id(out.id));
    TRY(check_id(out.pod));
    out.bundle = string_of(value, "bundle");
    out.rootfs = string_of(value, "rootfs");
    out.created = string_of(value, "created");
    out.oci_version = string_of(value, "ociVersion");
    out.annotations = string_map_of(value, "annotations");
    out.process = ProcessId::from_json(object_of(value, "process"));
    out.terminal = bool_of(value, "terminal");
    out.started = bool_of(value, "started");
    out.paused = bool_of(value, "paused");
    out.cgroups = strings_of(value, "cgroups");
    out.hooks = object_of(value, "hooks");
    out.process_template = object_of(value, "processTemplate");
    const Json* shared = find(value, "shared");
    if (shared == nullptr || !shared->is_array())
        return out;
    for (const Json& item : *shared) {
        Shared one{string_of(item, "name"),    unsigned_of(item, "device"),
                   unsigned_of(item, "inode"), bool_of(item, "readOnly"),
                   bool_of(item, "recursive"), unsigned_of(item, "mountFlags")};
        TRY(check_id(one.name));
        out.shared.push_back(std::move(one));
    }
    return out;
}

std::string ContainerRecord::to_text() const {
    Json places = Json::array();
    for (const Shared& one : shared)
        places.push_back(to_json(one));
    return pod::to_text(Json{{"id", id},
                             {"pod", pod},
                             {"bundle", bundle},
                             {"rootfs", rootfs},
                             {"created", created},
                             {"ociVersion", oci_version},
                             {"annotations", annotations},
                             {"process", process.to_json()},
                             {"terminal", terminal},
                             {"started", started},
                             {"paused", paused},
                             {"shared", places},
                             {"cgroups", cgroups},
                             {"hooks", hooks},
                             {"processTemplate", process_template}});
}

namespace {

os::Result<ContainerRecord> load_from(const StateRoot& root, const std::string& id,
                                      const char* name) {
    TRY(check_id(id));
    const std::string path = root.container(id) + name;
    constexpr std::size_t most = 16u << 20;
    const auto text = os::read_file(AT_FDCWD, path.c_str(), most);
    if (!text)
        return os::fail(os::Code::NotFound, "container does not exist");
    return ContainerRecord::parse(*text, path);
}

} // namespace

os::Result<ContainerRecord> ContainerRecord::load(const StateRoot& root, const std::string& id) {
    return load_from(root, id, "/record.json");
}

os::Result<ContainerRecord> ContainerRecord::load_begun(const StateRoot& root,
                                                        const std::string& id) {
    return load_from(root, id, "/begun.json");
}

os::Result<void> ContainerRecord::store_begun(const StateRoot& root) const {
    return write_quickly(root.container(id) + "/begun.json", to_text());
}

os::Result<void> ContainerRecord::store(const StateRoot& root) const {
    return write_quickly(root.container(id) + "/record.json", to_text());
}

bool is_used(const StateRoot& root, const std::string& pod, const std::string& except) {
    const std::vector<std::string> names = root.containers();
    return std::any_of(names.begin(), names.end(), [&](const std::string& name) {
        if (name == except)
            return false;
        // In this order: it goes when the record is there.
        const auto begun = ContainerRecord::load_begun(root, name);
        const auto record = ContainerRecord::load(root, name);
        if (!record)
            return begun && begun->pod == pod;
        return record->pod == pod && record->process.is_alive() &&
               !ExitRecord::load(root.container(name) + "/exit.json");
    });
}

std::optional<ExitRecord> ExitRecord::load(const std::string& path) {
    const auto value = read_json(path);
    if (!value)
        return std::nullopt;
    const std::int64_t status = int_of(*value, "status");
    if (status < 0 || status > 255)
        return std::nullopt;
    return ExitRecord{static_cast<int>(status), int_of(*value, "at"), bool_of(*value, "oomKilled")};
}

os::Result<void> ExitRecord::store(const std::string& path) const {
    return write_quickly(path,
                         to_text(Json{{"status", status}, {"at", at}, {"oomKilled", oom_killed}}));
}

namespace {

constexpr std::string_view exec_prefix = "exec-";
constexpr std::string_view exec_suffix = ".json";
constexpr std::string_view exec_exit_suffix = ".exit.json";

} // namespace

std::string ExecRecord::path(const StateRoot& root, const std::string& container,
                             const std::string& exec) {
    return os::text(root.container(container), "/", exec_prefix, exec, exec_suffix);
}

std::string ExecRecord::exit_path(const StateRoot& root, const std::string& container,
                                  const std::string& exec) {
    return os::text(root.container(container), "/", exec_prefix, exec, exec_exit_suffix);
}

os::Result<ExecRecord> ExecRecord::load(const StateRoot& root, const std::string& container,
                                        const std::string& exec) {
    TRY(check_id(container));
    TRY(check_id(exec));
    const auto value = read_json(path(root, container, exec));
    if (!value)
        return os::fail(os::Code::NotFound, "there is no process ", exec, " in container ",
                        container);
    return ExecRecord{exec, ProcessId::from_json(object_of(*value, "process")),
                      bool_of(*value, "terminal")};
}

std::vector<std::string> ExecRecord::names(const StateRoot& root, const std::string& container) {
    std::vector<std::string> out;
    for (const std::string& name : names_in(root.container(container))) {
        const std::string_view view = name;
        if (view.starts_with(exec_prefix) && view.ends_with(exec_suffix) &&
            !view.ends_with(exec_exit_suffix))
            out.emplace_back(view.substr(exec_prefix.size(),
                                         view.size() - exec_prefix.size() - exec_suffix.size()));
    }
    return out;
}

os::Result<void> ExecRecord::store(const StateRoot& root, const std::string& container) const {
    return write_quickly(path(root, container, exec),
                         to_text(Json{{"process", process.to_json()}, {"terminal", terminal}}));
}

void ExecRecord::remove(const StateRoot& root, const std::string& container,
                        const std::string& exec) {
    // The record last: without it, nobody would look for the other.
    ::unlink(exit_path(root, container, exec).c_str());
    ::unlink(path(root, container, exec).c_str());
}

std::string timestamp() {
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    tm parts{};
    ::gmtime_r(&now.tv_sec, &parts);
    char date[32];
    char out[64];
    std::strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &parts);
    std::snprintf(out, sizeof out, "%s.%09ldZ", date, now.tv_nsec);
    return out;
}

} // namespace pod
