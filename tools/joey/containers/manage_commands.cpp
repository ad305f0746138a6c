// rename, port, export, prune, info, df: what is known of containers, and what is done with all of
// them.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <iostream>
#include <unistd.h>

#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>

#include <fmt/format.h>

#include "tools/image/beneath.hpp"
#include "tools/image/store.hpp"
#include "tools/joey/containers/commands.hpp"
#include "tools/joey/containers/format_functions.hpp"
#include "tools/joey/containers/format_template.hpp"
#include "tools/joey/containers/log_file.hpp"
#include "tools/joey/containers/table.hpp"
#include "vmm/kvm/privilege.hpp"

namespace joey::containers {

std::uint64_t disk_bytes(const std::string& path) {
    const std::size_t slash = path.rfind('/');
    const os::UniqueFd place(
        ::open(path.substr(0, slash + 1).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    std::uint64_t bytes = 0;
    constexpr std::uint64_t block = 512;
    if (place)
        static_cast<void>(image::walk_beneath(
            place.get(), path.substr(slash + 1),
            [&](const image::WalkEntry& entry) -> base::Result<void, int> {
                struct stat about {};
                if (::fstatat(entry.directory, entry.name.c_str(), &about, AT_SYMLINK_NOFOLLOW) ==
                        0 &&
                    (entry.is_directory || about.st_nlink == 1))
                    bytes += static_cast<std::uint64_t>(about.st_blocks) * block;
                return {};
            }));
    return bytes;
}

bool may_go_on(const Arguments& arguments, std::string_view what) {
    if (arguments.has("force"))
        return true;
    static_cast<void>(
        print(fmt::format(
                  "WARNING! This will remove {}.\nAre you sure you want to continue? [y/N] ", what))
            .has_value());
    std::string answer;
    std::getline(std::cin, answer);
    return answer == "y" || answer == "Y" || answer == "yes";
}

namespace {

using pod::Json;

os::Result<void> remove_stopped(Session& session, const PruneFilters& filters,
                                std::uint64_t& freed) {
    std::string removed;
    for (const Container& one : session.registry.list()) {
        if (session.registry.condition(one).is_live() ||
            !filters.fits(one.labels, nanoseconds_of(one.created)))
            continue;
        const std::uint64_t bytes = disk_bytes(session.registry.directory(one));
        if (const auto done = remove_container(session, one, false); !done) {
            if (done.error().code == os::Code::FailedPrecondition)
                continue; // it has just been started
            return base::Failure(done.error());
        }
        freed += bytes;
        removed += one.id + "\n";
    }
    if (!removed.empty())
        TRY(print("Deleted Containers:\n" + removed + "\n"));
    return {};
}

struct Usage {
    const char* kind;
    std::size_t total = 0;
    std::size_t active = 0;
    std::uint64_t bytes = 0;
    std::uint64_t reclaimable = 0;
};

os::Result<Usage> usage_of_images(Session& session, const std::vector<Container>& containers) {
    TRY(const image::Store store, image::Store::open(session.store));
    TRY(const image::ImageList list, store.list());
    Usage out{"Images", list.images.size(), 0, 0, 0};
    for (const image::Image& one : list.images) {
        const bool is_used =
            std::any_of(containers.begin(), containers.end(), [&](const Container& container) {
                return container.image_id == one.id.text();
            });
        out.active += is_used ? 1U : 0U;
        out.reclaimable += is_used ? 0 : one.unpacked_bytes;
    }
    out.bytes = disk_bytes(session.store);
    // Images share layers.
    out.reclaimable = std::min(out.reclaimable, out.bytes);
    return out;
}

Usage usage_of_containers(Session& session, const std::vector<Container>& containers) {
    Usage out{"Containers", containers.size(), 0, 0, 0};
    for (const Container& one : containers) {
        const std::uint64_t bytes = disk_bytes(session.registry.directory(one));
        const bool is_live = session.registry.condition(one).is_live();
        out.active += is_live ? 1U : 0U;
        out.bytes += bytes;
        out.reclaimable += is_live ? 0 : bytes;
    }
    return out;
}

bool is_mounted(const std::vector<Container>& containers, const std::string& volume) {
    return std::any_of(containers.begin(), containers.end(),
                       [&](const Container& one) { return mounts_volume(one, volume); });
}

Usage usage_of_volumes(const Session& session, const std::vector<Container>& containers) {
    Usage out{"Local Volumes", 0, 0, 0, 0};
    for (const std::string& name : pod::names_in(session.registry.volumes())) {
        const std::uint64_t bytes = disk_bytes(session.registry.volumes() + "/" + name);
        const bool is_used = is_mounted(containers, name);
        ++out.total;
        out.active += is_used ? 1U : 0U;
        out.bytes += bytes;
        out.reclaimable += is_used ? 0 : bytes;
    }
    return out;
}

const char* name_of_hierarchy() {
    struct stat about {};
    if (::stat("/sys/fs/cgroup/cgroup.controllers", &about) == 0)
        return "v2";
    if (::stat("/sys/fs/cgroup/unified", &about) == 0)
        return "hybrid";
    return ::stat("/sys/fs/cgroup", &about) == 0 ? "v1" : "none";
}

std::string kvm_text() {
    if (::access("/dev/kvm", R_OK | W_OK) != 0)
        return fmt::format("not usable: {}", std::strerror(errno));
    const auto mode = vmm::kvm::choose_privilege(vmm::PrivilegeChoice::Auto);
    if (!mode)
        return vmm::describe(mode.error());
    return *mode == boot::Privilege::Ring0 ? "ring0" : "ring3";
}

Json facts(Session& session) {
    std::size_t running = 0;
    std::size_t paused = 0;
    const std::vector<Container> containers = session.registry.list();
    for (const Container& one : containers) {
        const Phase phase = session.registry.condition(one).phase;
        running += phase == Phase::Running || phase == Phase::Restarting ? 1U : 0U;
        paused += phase == Phase::Paused ? 1U : 0U;
    }
    std::size_t images = 0;
    if (const auto store = image::Store::open(session.store)) {
        if (const auto list = store->list())
            images = list->images.size();
    }
    utsname system{};
    ::uname(&system);
    const auto pages = static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES));
    return Json{{"Containers", containers.size()},
                {"ContainersRunning", running},
                {"ContainersPaused", paused},
                {"ContainersStopped", containers.size() - running - paused},
                {"Images", images},
                {"ServerVersion", JOEY_VERSION},
                {"KernelVersion", system.release},
                {"OSType", "linux"},
                {"Architecture", system.machine},
                {"NCPU", ::sysconf(_SC_NPROCESSORS_ONLN)},
                {"MemTotal", pages * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE))},
                {"Name", system.nodename},
                {"CgroupVersion", name_of_hierarchy()},
                {"KVM", kvm_text()},
                {"StateRoot", session.registry.engine().root().path()},
                {"DataRoot", session.registry.path()},
                {"ImageStore", session.store}};
}

} // namespace

os::Result<int> rename(Session& session, const Arguments& arguments) {
    TRY(const Container known, session.registry.find(arguments.words()[0]));
    TRY(const pod::Lock held, session.registry.lock(known));
    // As it is now: others have changed it meanwhile.
    TRY(Container container, session.registry.find(known.id));
    const std::string before = container.name;
    std::string name = arguments.words()[1];
    if (name.starts_with('/'))
        name.erase(0, 1);
    TRY(session.registry.rename(container, name));
    session.registry.note(container, "rename", {{"oldName", before}});
    return 0;
}

os::Result<int> port(Session& session, const Arguments& arguments) {
    TRY(const Container container, session.registry.find(arguments.words()[0]));
    std::string wanted = arguments.words().size() > 1 ? arguments.words()[1] : std::string();
    if (!wanted.empty() && wanted.find('/') == std::string::npos)
        wanted += "/tcp";
    std::string out;
    // "0.0.0.0:8080->80/tcp"
    for (const std::string& one : container.published) {
        const std::size_t arrow = one.find("->");
        const std::string inside = one.substr(std::min(arrow + 2, one.size()));
        if (wanted.empty())
            out += os::text(inside, " -> ", one.substr(0, arrow), "\n");
        else if (inside == wanted)
            out += one.substr(0, arrow) + "\n";
    }
    if (out.empty() && !wanted.empty())
        return os::fail(os::Code::NotFound, "no public port '", wanted, "' published for ",
                        container.name);
    return print(out);
}

os::Result<int> prune(Session& session, const Arguments& arguments) {
    TRY(const PruneFilters filters, PruneFilters::of_containers(arguments));
    if (!may_go_on(arguments, arguments.has("filter") ? "the stopped containers that fit"
                                                      : "all stopped containers"))
        return 0;
    std::uint64_t freed = 0;
    TRY(remove_stopped(session, filters, freed));
    return print("Total reclaimed space: " + image::human_size(freed) + "\n");
}

os::Result<int> system_prune(Session& session, const Arguments& arguments) {
    const bool all = arguments.has("all");
    const bool volumes = arguments.has("volumes");
    if (!may_go_on(
            arguments,
            fmt::format("all stopped containers{}, and all images {}",
                        volumes ? ", volumes without a chosen name that no container uses" : "",
                        all ? "that no container uses" : "without a name")))
        return 0;
    std::uint64_t freed = 0;
    TRY(remove_stopped(session, {}, freed));
    if (volumes) {
        TRY(const std::uint64_t bytes, prune_volumes(session, false, {}));
        freed += bytes;
    }
    TRY(const image::Store store, image::Store::open(session.store));
    TRY(const image::Collected removed, store.prune(all));
    freed += removed.freed_bytes;
    for (const image::Digest& id : removed.removed_images)
        TRY(print("deleted: " + id.text() + "\n"));
    return print("Total reclaimed space: " + image::human_size(freed) + "\n");
}

os::Result<int> disk_usage(Session& session, const Arguments& arguments) {
    const std::vector<Container> containers = session.registry.list();
    TRY(const Usage images, usage_of_images(session, containers));
    const Usage all[] = {images, usage_of_containers(session, containers),
                         usage_of_volumes(session, containers)};
    if (arguments.value("format", "table") == "json") {
        for (const Usage& one : all)
            TRY(print(pod::to_text(Json{{"Type", one.kind},
                                        {"TotalCount", one.total},
                                        {"Active", one.active},
                                        {"Size", one.bytes},
                                        {"Reclaimable", one.reclaimable}}) +
                      "\n"));
        return 0;
    }
    std::vector<std::vector<std::string>> rows = {
        {"TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"}};
    for (const Usage& one : all)
        rows.push_back({one.kind, std::to_string(one.total), std::to_string(one.active),
                        image::human_size(one.bytes), image::human_size(one.reclaimable)});
    return print(table(rows));
}

namespace {

// In a form that somebody chose; nothing: as text.
os::Result<std::optional<std::string>> in_format(const Arguments& arguments, const char* command,
                                                 const Json& document) {
    const std::string format = arguments.value("format", "text");
    if (format == "text")
        return std::nullopt;
    if (is_json_format(format))
        return pod::to_text(document) + "\n";
    if (!FormatTemplate::is_template(format))
        return os::fail(os::Code::InvalidArgument, command, ": --format ", format,
                        ": give text, json or a template");
    TRY(std::string out, format_all(format, {document}, Json()));
    return std::optional<std::string>(std::move(out));
}

} // namespace

os::Result<int> version(Session&, const Arguments& arguments) {
    utsname system{};
    ::uname(&system);
    constexpr const char* architecture = "amd64";
    // There is no daemon: both are this program.
    const Json client = {{"Version", JOEY_VERSION}, {"Os", "linux"}, {"Arch", architecture}};
    Json server = client;
    server["KernelVersion"] = system.release;
    TRY(const auto chosen,
        in_format(arguments, "version", Json{{"Client", client}, {"Server", server}}));
    if (chosen)
        return print(*chosen);
    return print(fmt::format("Client:\n Version: {0}\n OS/Arch: linux/{1}\n\n"
                             "Server: (this program; there is no daemon)\n Version: {0}\n"
                             " OS/Arch: linux/{1}\n Kernel:  {2}\n",
                             JOEY_VERSION, architecture, system.release));
}

os::Result<int> info(Session& session, const Arguments& arguments) {
    const Json all = facts(session);
    TRY(const auto chosen, in_format(arguments, "info", all));
    if (chosen)
        return print(*chosen);
    std::string out;
    for (const auto& [name, value] : all.items())
        out +=
            os::text(name, ": ", value.is_string() ? value.get<std::string>() : value.dump(), "\n");
    return print(out);
}

} // namespace joey::containers
