// volume ls, create, inspect, rm, prune: directories with names that containers mount.
//
// What is said of one (labels, whether somebody chose its name) is in a file of its own beside the
// directory of volumes, VOLUMES-records/NAME: one without it was made by `run`, and has neither.
#include <algorithm>
#include <array>
#include <cerrno>
#include <ctime>
#include <fcntl.h>
#include <unistd.h>

#include <sys/stat.h>

#include "tools/image/beneath.hpp"
#include "tools/image/bytes.hpp"
#include "tools/joey/containers/commands.hpp"
#include "tools/joey/containers/format_functions.hpp"
#include "tools/joey/containers/format_template.hpp"
#include "tools/joey/containers/table.hpp"
#include "tools/joey/containers/variables.hpp"

namespace joey::containers {

namespace {

using pod::Json;

// As with Docker, a label says so.
constexpr const char* anonymous_label = "com.docker.volume.anonymous";

std::string records_of(const Session& session) {
    return session.registry.volumes() + "-records";
}

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

std::map<std::string, std::string> labels_of(const Session& session, const std::string& name) {
    const auto record = pod::read_json(records_of(session) + "/" + name);
    return record ? pod::string_map_of(*record, "labels") : std::map<std::string, std::string>();
}

std::string time_of(const std::string& path) {
    struct stat about {};
    tm parts{};
    char text[32] = {};
    if (::stat(path.c_str(), &about) != 0 || ::gmtime_r(&about.st_mtim.tv_sec, &parts) == nullptr)
        return {};
    static_cast<void>(std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts));
    return text;
}

// As Docker's inspect has it.
Json description(const Session& session, const std::string& name) {
    const std::string path = session.registry.volumes() + "/" + name;
    const std::string record = records_of(session) + "/" + name;
    const auto labels = labels_of(session, name);
    return Json{{"CreatedAt", time_of(pod::exists(record) ? record : path)},
                {"Driver", "local"},
                {"Labels", labels.empty() ? Json() : Json(labels)},
                {"Mountpoint", path},
                {"Name", name},
                {"Options", nullptr},
                {"Scope", "local"}};
}

// As Docker's ls has it: all is text.
Json row_of(const Session& session, const std::string& name) {
    std::string labels;
    for (const auto& [label, value] : labels_of(session, name))
        labels += os::text(labels.empty() ? "" : ",", label, "=", value);
    return Json{{"Driver", "local"}, {"Labels", labels},
                {"Links", "N/A"},    {"Mountpoint", session.registry.volumes() + "/" + name},
                {"Name", name},      {"Scope", "local"},
                {"Size", "N/A"}};
}

Json heading() {
    return Json{{"Driver", "DRIVER"},    {"Labels", "LABELS"},
                {"Links", "LINKS"},      {"Mountpoint", "MOUNTPOINT"},
                {"Name", "VOLUME NAME"}, {"Scope", "SCOPE"},
                {"Size", "SIZE"},        {"Label", ""}};
}

struct Filter {
    std::string name;
    std::string value;
};

os::Result<std::vector<Filter>> read_filters(const Arguments& arguments) {
    constexpr std::array<std::string_view, 4> known = {"dangling", "driver", "label", "name"};
    std::vector<Filter> out;
    for (const std::string& text : arguments.values("filter")) {
        const std::size_t equals = text.find('=');
        Filter one{text.substr(0, equals),
                   equals == std::string::npos ? std::string() : text.substr(equals + 1)};
        const bool is_known = std::find(known.begin(), known.end(), one.name) != known.end();
        const bool is_truth =
            one.value == "true" || one.value == "false" || one.value == "1" || one.value == "0";
        if (!is_known || equals == std::string::npos || (one.name == "dangling" && !is_truth))
            return os::fail(os::Code::InvalidArgument, "--filter ", text.substr(0, 200),
                            ": give dangling=true|false, driver=local, label=NAME[=VALUE] or "
                            "name=PART");
        out.push_back(std::move(one));
    }
    return out;
}

bool fits(const Session& session, const std::string& name, const Filter& filter) {
    if (filter.name == "name")
        return name.find(filter.value) != std::string::npos;
    if (filter.name == "driver")
        return filter.value == "local";
    if (filter.name == "label")
        return has_label(labels_of(session, name), filter.value);
    const bool is_dangling = filter.value == "true" || filter.value == "1";
    return users_of(session, name).empty() == is_dangling;
}

// One after the other; what fails is told, and the rest is done all the same.
template <typename Each>
int for_each_name(const Arguments& arguments, Each each) {
    int status = 0;
    for (const std::string& name : arguments.words()) {
        const os::Result<void> done = each(name);
        if (!done) {
            complain(printable(done.error().message));
            status = 1;
        }
    }
    return status;
}

} // namespace

os::Result<Json> describe_volume(const Session& session, const std::string& name) {
    TRY(existing(session, name));
    return description(session, name);
}

bool mounts_volume(const Container& container, const std::string& volume) {
    return std::any_of(container.mounts.begin(), container.mounts.end(),
                       [&](const Json& mount) { return pod::string_of(mount, "Name") == volume; });
}

os::Result<void> remove_volume(const Session& session, const std::string& name) {
    TRY(existing(session, name));
    // Whoever makes a container that has the volume, has a record of it when he lets this go.
    TRY(const pod::Lock held, pod::Lock::take(session.registry.volumes_lock()));
    TRY(existing(session, name));
    if (const auto users = users_of(session, name); !users.empty())
        return os::fail(os::Code::FailedPrecondition, "volume ", name, " is in use by container ",
                        users.front());
    const os::UniqueFd place(
        ::open(session.registry.volumes().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    const auto removed = place ? image::remove_tree(place.get(), name) : base::Failure(errno);
    if (!removed)
        return os::fail_errno(removed.error(), "remove volume ", name);
    ::unlink((records_of(session) + "/" + name).c_str());
    return {};
}

namespace {

std::vector<std::string> unused_volumes(const Session& session, bool all,
                                        const PruneFilters& filters) {
    std::vector<std::string> out;
    for (const std::string& name : pod::names_in(session.registry.volumes())) {
        const auto labels = labels_of(session, name);
        const bool is_wanted = (all || labels.contains(anonymous_label)) && filters.fits(labels);
        if (is_wanted && users_of(session, name).empty())
            out.push_back(name);
    }
    return out;
}

} // namespace

os::Result<int> volume(Session&, const Arguments& arguments) {
    return os::fail(os::Code::InvalidArgument, "volume ", arguments.words().front().substr(0, 200),
                    ": give ls, create [NAME], inspect NAME..., rm NAME... or prune");
}

os::Result<int> volume_list(Session& session, const Arguments& arguments) {
    const std::string format = arguments.value("format", "table");
    const bool is_json = is_json_format(format);
    const bool is_template = !is_json && FormatTemplate::is_template(format);
    if (format != "table" && !is_json && !is_template)
        return os::fail(os::Code::InvalidArgument, "volume ls: --format ", format,
                        ": give table, json or a template such as {{.Name}}");
    TRY(const std::vector<Filter> filters, read_filters(arguments));
    std::string out;
    std::vector<std::vector<std::string>> rows = {{"DRIVER", "VOLUME NAME"}};
    std::vector<Json> documents;
    for (const std::string& name : pod::names_in(session.registry.volumes())) {
        if (!std::all_of(filters.begin(), filters.end(),
                         [&](const Filter& filter) { return fits(session, name, filter); }))
            continue;
        if (arguments.has("quiet")) {
            out += name + "\n";
        } else if (is_json) {
            out += pod::to_text(row_of(session, name)) + "\n";
        } else if (is_template) {
            documents.push_back(row_of(session, name));
            documents.back()["Label"] = labels_of(session, name);
        } else {
            rows.push_back({"local", name});
        }
    }
    if (is_template && !arguments.has("quiet")) {
        TRY(out, format_all(format, documents, heading()));
        return print(out);
    }
    return print(arguments.has("quiet") || is_json ? out : table(rows));
}

os::Result<int> volume_create(Session& session, const Arguments& arguments) {
    const bool is_named = !arguments.words().empty() || arguments.has("name");
    if (!arguments.words().empty() && arguments.has("name"))
        return os::fail(os::Code::InvalidArgument, "volume create: --name and a name say the same");
    const std::string driver = arguments.value("driver", "local");
    if (driver != "local")
        return os::fail(os::Code::InvalidArgument, "--driver ", driver.substr(0, 200),
                        ": there is local only");
    if (arguments.has("opt"))
        return os::fail(os::Code::InvalidArgument, "--opt ", arguments.value("opt").substr(0, 200),
                        ": a volume is a directory of this machine, and has no options");
    std::string name = arguments.value("name");
    if (name.empty())
        name = is_named ? arguments.words().front() : fresh_id();
    TRY(check_name(name));
    TRY(auto labels, read_labels(arguments));
    // As Docker: one that is there is no mistake, and stays as it is.
    const std::string path = session.registry.volumes() + "/" + name;
    if (pod::exists(path))
        return print(name + "\n");
    if (!is_named)
        labels.emplace(anonymous_label, "");
    // Before the directory: that is what makes it a volume.
    TRY(pod::make_directories(records_of(session)));
    TRY(pod::write_whole(records_of(session) + "/" + name, pod::to_text(Json{{"labels", labels}})));
    TRY(pod::make_directories(path));
    // As Docker's: a container's programs need not be root's.
    if (::chmod(path.c_str(), 0755) != 0)
        return os::fail_errno(errno, path);
    return print(name + "\n");
}

os::Result<int> volume_inspect(Session& session, const Arguments& arguments) {
    const std::string format = arguments.value("format", "json");
    const bool is_json = is_json_format(format);
    if (!is_json && !FormatTemplate::is_template(format))
        return os::fail(
            os::Code::InvalidArgument,
            "volume inspect: --format: give json or a template such as {{.Mountpoint}}");
    std::vector<Json> all;
    const int status = for_each_name(arguments, [&](const std::string& name) -> os::Result<void> {
        TRY(Json one, describe_volume(session, name));
        all.push_back(std::move(one));
        return {};
    });
    std::string out;
    if (!is_json) {
        TRY(out, format_all(format, all, Json()));
    } else if (arguments.has("format")) {
        for (const Json& one : all)
            out += pod::to_text(one) + "\n";
    } else {
        out = Json(all).dump(4, ' ', false, Json::error_handler_t::replace) + "\n";
    }
    TRY(print(out));
    return status;
}

os::Result<int> volume_remove(Session& session, const Arguments& arguments) {
    return for_each_name(arguments, [&](const std::string& name) -> os::Result<void> {
        auto removed = remove_volume(session, name);
        if (!removed && !(arguments.has("force") && removed.error().code == os::Code::NotFound))
            return removed;
        TRY(print(name + "\n"));
        return {};
    });
}

os::Result<int> volume_prune(Session& session, const Arguments& arguments) {
    TRY(const PruneFilters filters, PruneFilters::of_volumes(arguments));
    const bool all = arguments.has("all") || filters.wants_all();
    if (!may_go_on(arguments, all ? "all volumes that no container uses"
                                  : "the volumes without a chosen name that no container uses"))
        return 0;
    TRY(const std::uint64_t freed, prune_volumes(session, all, filters));
    return print("Total reclaimed space: " + image::human_size(freed) + "\n");
}

os::Result<std::uint64_t> prune_volumes(const Session& session, bool all,
                                        const PruneFilters& filters) {
    std::uint64_t freed = 0;
    std::string removed;
    for (const std::string& name : unused_volumes(session, all, filters)) {
        const std::uint64_t bytes = disk_bytes(session.registry.volumes() + "/" + name);
        const auto done = remove_volume(session, name);
        // A container has just taken it, or somebody was faster.
        if (!done && (done.error().code == os::Code::FailedPrecondition ||
                      done.error().code == os::Code::NotFound))
            continue;
        if (!done)
            return base::Failure(done.error());
        freed += bytes;
        removed += name + "\n";
    }
    if (!removed.empty()) {
        TRY(print("Deleted Volumes:\n" + removed + "\n"));
    }
    return freed;
}

} // namespace joey::containers
