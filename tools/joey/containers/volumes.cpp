// What is mounted in a container: directories of the host, volumes, memory.
#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <optional>

#include <sys/file.h>
#include <sys/stat.h>

#include "tools/image/beneath.hpp"
#include "tools/joey/containers/copy.hpp"
#include "tools/joey/containers/layer.hpp"
#include "tools/joey/containers/run_request.hpp"
#include "tools/joey/sizes.hpp"

namespace joey::containers {

namespace {

using pod::Json;

std::vector<std::string> split(std::string_view text, char separator) {
    std::vector<std::string> out;
    for (;;) {
        const std::size_t end = text.find(separator);
        out.emplace_back(text.substr(0, end));
        if (end == std::string_view::npos)
            return out;
        text.remove_prefix(end + 1);
    }
}

// As its parts say it: "/a/" and "/a" are one place, and cp looks for volumes by these words.
os::Result<std::string> target_of(const std::string& target, std::string_view given) {
    const auto parsed = image::PathBeneath::parse(target);
    if (!target.starts_with('/') || !parsed || parsed->is_root())
        return os::fail(os::Code::InvalidArgument, "'", given.substr(0, 200),
                        "': the place in the container must be an absolute path, and not /");
    return "/" + parsed->text();
}

os::Result<std::string> absolute(const std::string& path) {
    char here[PATH_MAX];
    if (path.starts_with('/'))
        return path;
    if (::getcwd(here, sizeof here) == nullptr)
        return os::fail_errno(errno, "the working directory");
    return os::text(here, "/", path);
}

} // namespace

os::Result<Volume> parse_volume(std::string_view text) {
    const std::vector<std::string> parts = split(text, ':');
    Volume out;
    if (parts.size() > 3 || parts.front().empty())
        return os::fail(os::Code::InvalidArgument, "--volume ", text.substr(0, 200),
                        ": give SOURCE:TARGET[:ro]");
    if (parts.size() == 1) {
        out.kind = Volume::Kind::Own;
        TRY(out.target, target_of(parts[0], text));
        return out;
    }
    out.source = parts[0];
    TRY(out.target, target_of(parts[1], text));
    if (out.source.starts_with('/') || out.source.starts_with('.')) {
        TRY(out.source, absolute(out.source));
        out.make_source = true;
    } else {
        out.kind = Volume::Kind::Named;
        TRY(check_name(out.source));
    }
    // Labels and propagation are nothing that a VM of its own would have.
    constexpr std::array<std::string_view, 11> harmless = {
        "rw",     "z",       "Z",     "cached",  "delegated", "consistent",
        "shared", "rshared", "slave", "private", "rprivate"};
    for (const std::string& option :
         parts.size() == 3 ? split(parts[2], ',') : std::vector<std::string>()) {
        if (option == "ro")
            out.read_only = true;
        else if (std::find(harmless.begin(), harmless.end(), option) == harmless.end())
            return os::fail(os::Code::InvalidArgument, "--volume ", text.substr(0, 200),
                            ": there is no option '", option, "'");
    }
    return out;
}

os::Result<Volume> parse_tmpfs(std::string_view text) {
    Volume out;
    out.kind = Volume::Kind::Memory;
    const std::size_t colon = text.find(':');
    TRY(out.target, target_of(std::string(text.substr(0, colon)), text));
    if (colon != std::string_view::npos)
        out.options = text.substr(colon + 1);
    return out;
}

os::Result<Volume> parse_mount(std::string_view text) {
    Volume out;
    out.kind = Volume::Kind::Named;
    const auto wrong = [&](const auto&... why) {
        return os::fail(os::Code::InvalidArgument, "--mount ", text.substr(0, 200), ": ", why...);
    };
    for (const std::string& part : split(text, ',')) {
        const std::size_t equals = std::min(part.find('='), part.size());
        const std::string name = part.substr(0, equals);
        const std::string value = part.substr(std::min(equals + 1, part.size()));
        if (name == "type") {
            if (value != "bind" && value != "volume" && value != "tmpfs")
                return wrong("the type is bind, volume or tmpfs");
            out.kind = value == "bind"    ? Volume::Kind::Bind
                       : value == "tmpfs" ? Volume::Kind::Memory
                                          : Volume::Kind::Named;
        } else if (name == "source" || name == "src") {
            out.source = value;
        } else if (name == "target" || name == "dst" || name == "destination") {
            out.target = value;
        } else if (name == "readonly" || name == "ro") {
            out.read_only = value.empty() || value == "true" || value == "1";
        } else if (name == "tmpfs-size" || name == "tmpfs-mode") {
            out.options += (out.options.empty() ? "" : ",") + name.substr(6) + "=" + value;
        } else if (name != "bind-propagation" && name != "consistency" && name != "volume-nocopy") {
            return wrong("there is no '", name, "'");
        }
    }
    TRY(out.target, target_of(out.target, text));
    if (out.kind == Volume::Kind::Bind) {
        if (out.source.empty())
            return wrong("source is missing");
        TRY(out.source, absolute(out.source));
    } else if (out.kind == Volume::Kind::Named && out.source.empty()) {
        out.kind = Volume::Kind::Own;
    } else if (out.kind == Volume::Kind::Named) {
        TRY(check_name(out.source));
    }
    return out;
}

os::Result<std::vector<Volume>> read_volumes(const Session& session, const Arguments& arguments,
                                             const image::ProcessDescription& process) {
    std::vector<Volume> out;
    const auto add = [&out](Volume volume) -> os::Result<void> {
        const bool taken = std::any_of(out.begin(), out.end(), [&](const Volume& other) {
            return other.target == volume.target;
        });
        if (taken)
            return os::fail(os::Code::InvalidArgument, "two volumes at ", volume.target);
        out.push_back(std::move(volume));
        return {};
    };
    for (const std::string& text : arguments.values("volume")) {
        TRY(Volume volume, parse_volume(text));
        TRY(add(std::move(volume)));
    }
    for (const std::string& text : arguments.values("mount")) {
        TRY(Volume volume, parse_mount(text));
        TRY(add(std::move(volume)));
    }
    for (const std::string& text : arguments.values("tmpfs")) {
        TRY(Volume volume, parse_tmpfs(text));
        TRY(add(std::move(volume)));
    }
    // Of another container and of the image, where nothing else is.
    TRY(std::vector<Volume> others, volumes_from(session, arguments));
    for (Volume& volume : others)
        static_cast<void>(add(std::move(volume)).has_value());
    for (const std::string& target : process.volumes) {
        Volume volume;
        volume.kind = Volume::Kind::Own;
        volume.target = target;
        if (target != "/")
            static_cast<void>(add(std::move(volume)).has_value());
    }
    // From the outside in, as Docker does it: what is mounted first is covered by what is mounted
    // above it.
    const auto depth = [](const Volume& volume) {
        return std::count(volume.target.begin(), volume.target.end(), '/');
    };
    std::stable_sort(out.begin(), out.end(), [&](const Volume& one, const Volume& other) {
        return depth(one) < depth(other);
    });
    return out;
}

namespace {

// Under its name, unless another command was faster: then the volume is that one's, whose container
// may be writing to it already. rename(2) alone would put this one over it while it is empty.
os::Result<void> take_its_name(const std::string& fresh, const std::string& path) {
    if (::renameat2(AT_FDCWD, fresh.c_str(), AT_FDCWD, path.c_str(), RENAME_NOREPLACE) == 0)
        return {};
    // EINVAL: a file system that does not know this (rename(2)).
    if (errno == EINVAL && std::rename(fresh.c_str(), path.c_str()) == 0)
        return {};
    const int error = errno;
    static_cast<void>(pod::remove_tree(fresh).has_value());
    if (error == EEXIST || error == ENOTEMPTY)
        return {};
    return os::fail_errno(error, path);
}

// What the image has at the volume's place; nothing: no directory.
struct Content {
    os::UniqueFd directory;
    struct stat status {};
};
std::optional<Content> content_at(const RunRequest& request, const std::string& target) {
    Content out;
    auto directory =
        image::open_in_root(request.base.directory.get(), target, O_RDONLY | O_DIRECTORY);
    if (!directory || ::fstat(directory->get(), &out.status) != 0)
        return std::nullopt;
    out.directory = std::move(*directory);
    return out;
}

// One that nobody has yet; if the image has nothing for it, it stays as it is.
os::Result<void> fill_fresh(const std::string& path, const RunRequest& request,
                            const std::string& target) {
    const auto content = content_at(request, target);
    if (!content)
        return {};
    TRY(copy_tree(content->directory.get(), path));
    // chown(2) takes set-id bits away.
    if (::chown(path.c_str(), content->status.st_uid, content->status.st_gid) != 0 ||
        ::chmod(path.c_str(), content->status.st_mode & 07777) != 0)
        return os::fail_errno(errno, path);
    return {};
}

// One that is there and has nothing in it (`volume create` has made it) is filled too, as with
// Docker: by one command at a time, and where it is. A container may have it mounted, and put links
// and directories in the way of the copy, which therefore goes from open directory to open
// directory; cp(1) would follow them to files of this machine.
os::Result<void> fill_if_empty(const std::string& path, const RunRequest& request,
                               const std::string& target) {
    const os::UniqueFd place(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!place || ::flock(place.get(), LOCK_EX) != 0)
        return os::fail_errno(errno, path);
    const auto names = image::list_names(place.get());
    if (!names)
        return os::fail_errno(names.error(), path);
    const auto content = content_at(request, target);
    if (!names->empty() || !content)
        return {};
    TRY(copy_content(content->directory.get(), place.get()));
    if (::fchown(place.get(), content->status.st_uid, content->status.st_gid) != 0 ||
        ::fchmod(place.get(), content->status.st_mode & 07777) != 0)
        return os::fail_errno(errno, path);
    return {};
}

// A fresh volume begins with what the image has at its place.
os::Result<std::string> make_volume(const std::string& path, const RunRequest& request,
                                    const std::string& target) {
    if (pod::exists(path)) {
        TRY(fill_if_empty(path, request, target));
        return path;
    }
    TRY(pod::make_directories(path.substr(0, path.rfind('/'))));
    // Under another name until it is whole.
    const std::string fresh = os::text(path, ".new-", ::getpid());
    TRY(pod::make_directories(fresh));
    if (::chmod(fresh.c_str(), 0755) != 0)
        return os::fail_errno(errno, fresh);
    TRY(fill_fresh(fresh, request, target));
    TRY(take_its_name(fresh, path));
    return path;
}

os::Result<void> make_bind_source(const Volume& volume) {
    if (pod::exists(volume.source))
        return {};
    if (!volume.make_source)
        return os::fail(os::Code::NotFound, "--mount source=", volume.source,
                        ": no such file or directory; make it first, or use --volume, which does");
    for (std::size_t at = volume.source.find('/', 1);; at = volume.source.find('/', at + 1)) {
        const std::string part = volume.source.substr(0, at);
        if (::mkdir(part.c_str(), 0755) != 0 && errno != EEXIST)
            return os::fail_errno(errno, part);
        if (at == std::string::npos)
            return {};
    }
}

os::Result<std::string> source_of(const Session& session, const Volume& volume,
                                  const RunRequest& request, const std::string& directory,
                                  std::size_t number) {
    switch (volume.kind) {
    case Volume::Kind::Bind:
        TRY(make_bind_source(volume));
        return volume.source;
    case Volume::Kind::Named:
        return make_volume(os::text(session.registry.volumes(), "/", volume.source), request,
                           volume.target);
    case Volume::Kind::Own:
        return make_volume(os::text(directory, "/volumes/", number), request, volume.target);
    case Volume::Kind::Memory:
        break;
    }
    return std::string();
}

Json memory_mount(const Volume& volume) {
    Json options = {"nosuid", "nodev", "noexec"};
    for (const std::string& option : split(volume.options, ',')) {
        if (option == "exec" || option == "suid" || option == "dev")
            options.erase(std::remove(options.begin(), options.end(), Json("no" + option)),
                          options.end());
        else if (!option.empty())
            options.push_back(option);
    }
    if (volume.read_only)
        options.push_back("ro");
    return Json{{"destination", volume.target},
                {"type", "tmpfs"},
                {"source", "tmpfs"},
                {"options", std::move(options)}};
}

constexpr std::array<const char*, 4> kind_names = {"bind", "volume", "volume", "tmpfs"};

} // namespace

os::Result<void> place_volumes(const Session& session, RunRequest& request,
                               const std::string& directory) {
    Json& mounts = request.config["mounts"];
    for (std::size_t number = 0; number < request.volumes.size(); ++number) {
        const Volume& volume = request.volumes[number];
        TRY(const std::string source, source_of(session, volume, request, directory, number));
        request.container.mounts.push_back(
            Json{{"Type", kind_names[static_cast<std::size_t>(volume.kind)]},
                 {"Name", volume.kind == Volume::Kind::Named ? volume.source : ""},
                 {"Source", source},
                 {"Destination", volume.target},
                 {"RW", !volume.read_only}});
        if (volume.kind == Volume::Kind::Memory) {
            mounts.push_back(memory_mount(volume));
            continue;
        }
        mounts.push_back(Json{{"destination", volume.target},
                              {"type", "bind"},
                              {"source", source},
                              {"options", {"rbind", volume.read_only ? "ro" : "rw"}}});
    }
    for (const char* name : {"hosts", "resolv.conf", "hostname"}) {
        const std::string target = os::text("/etc/", name);
        const bool taken =
            std::any_of(request.volumes.begin(), request.volumes.end(), [&](const Volume& volume) {
                return volume.target == target || volume.target == "/etc";
            });
        if (taken)
            continue;
        mounts.push_back(Json{{"destination", target},
                              {"type", "bind"},
                              {"source", os::text(directory, "/", name)},
                              {"options", {"rbind", "rw"}}});
    }
    return {};
}

} // namespace joey::containers
