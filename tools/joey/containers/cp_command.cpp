// cp: files between the host and a container, by the host's side of what the container has mounted.
// Not by a program in the container: it may have none that could, and need not run.
#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <fcntl.h>
#include <unistd.h>

#include <sys/stat.h>

#include "tools/image/beneath.hpp"
#include "tools/joey/containers/commands.hpp"
#include "tools/joey/containers/copy.hpp"

namespace joey::containers {

namespace {

using pod::Json;

struct Place {
    std::optional<Container> container; // nothing: the host
    std::string path;
};

// "NAME:PATH"; a colon after a slash is part of a path.
os::Result<Place> place_of(Session& session, const std::string& word) {
    const std::size_t colon = word.find(':');
    if (colon == std::string::npos || word.find('/') < colon || colon == 0)
        return Place{std::nullopt, word};
    TRY(Container container, session.registry.find(word.substr(0, colon)));
    return Place{std::move(container), word.substr(colon + 1)};
}

// What the container has at a path is a volume's, or its root directory's.
struct Inside {
    os::UniqueFd root;
    std::string path; // in that
    bool read_only = false;
};

os::Result<Inside> find_inside(Session& session, const Container& container,
                               const std::string& path) {
    TRY(const image::PathBeneath parsed, image::PathBeneath::parse(path));
    const std::string whole = parsed.is_root() ? "/" : "/" + parsed.text();
    const Json* best = nullptr;
    std::size_t length = 0;
    for (const Json& mount : container.mounts) {
        const std::string target = pod::string_of(mount, "Destination");
        if ((whole == target || whole.starts_with(target + "/")) && target.size() >= length) {
            best = &mount;
            length = target.size();
        }
    }
    Inside out;
    if (best == nullptr) {
        TRY(out.root, open_root(session.registry, container));
        out.path = whole;
        return out;
    }
    if (pod::string_of(*best, "Type") == "tmpfs")
        return os::fail(os::Code::InvalidArgument, container.name, ":", path,
                        " is in the container's memory, which cp does not reach");
    const std::string source = pod::string_of(*best, "Source");
    out.read_only = !pod::bool_of(*best, "RW");
    out.path = whole.substr(length).empty() ? "/" : whole.substr(length);
    out.root = os::UniqueFd(::open(source.c_str(), O_PATH | O_CLOEXEC));
    struct stat about {};
    if (!out.root || ::fstat(out.root.get(), &about) != 0)
        return os::fail_errno(errno, source);
    if (S_ISDIR(about.st_mode))
        return out;
    return os::fail(os::Code::InvalidArgument, container.name, ":", path,
                    " is a file of the host; copy ", source);
}

// What is mounted below a directory is elsewhere on the host: who copies that has not got it.
os::Result<void> check_whole(const Container& container, const std::string& path) {
    TRY(const image::PathBeneath parsed, image::PathBeneath::parse(path));
    const std::string above = parsed.is_root() ? "/" : os::text("/", parsed.text(), "/");
    std::string left;
    for (const Json& mount : container.mounts) {
        const std::string target = pod::string_of(mount, "Destination");
        if (target.starts_with(above) && target != above)
            left += os::text(left.empty() ? "" : ", ", target);
    }
    if (left.empty())
        return {};
    return os::fail(os::Code::FailedPrecondition, container.name, ":", path,
                    " is copied, but not what is mounted in it: ", left, "; copy that by its name");
}

os::Result<void> copy_out(Session& session, const Place& from, const std::string& to, bool follow) {
    TRY(const Inside inside, find_inside(session, *from.container, from.path));
    if (to == "-")
        return write_archive(inside.root.get(), inside.path, follow, STDOUT_FILENO);
    return copy_to_host(inside.root.get(), inside.path, follow, to, from.path.ends_with("/."));
}

os::Result<void> copy_in(Session& session, const std::string& from, const Place& to, bool follow,
                         bool archive) {
    TRY(const Inside inside, find_inside(session, *to.container, to.path));
    if (inside.read_only)
        return os::fail(os::Code::FailedPrecondition, to.container->name, ":", to.path,
                        " is mounted read-only");
    if (from == "-")
        return read_archive(STDIN_FILENO, inside.root.get(), inside.path);
    return copy_from_host(from, follow, inside.root.get(), inside.path, to.path.ends_with('/'),
                          archive);
}

} // namespace

// Without volumes, as Docker's export.
os::Result<int> export_container(Session& session, const Arguments& arguments) {
    TRY(const Container container, session.registry.find(arguments.words()[0]));
    if (const std::string path = arguments.value("output"); !path.empty()) {
        const os::UniqueFd file(
            ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644));
        if (!file || ::dup2(file.get(), STDOUT_FILENO) < 0)
            return os::fail_errno(errno, path);
    } else if (::isatty(STDOUT_FILENO) == 1) {
        return os::fail(os::Code::InvalidArgument,
                        "export: stdout is a terminal; name a file with --output");
    }
    TRY(copy_out(session, {container, "/"}, "-", false));
    return 0;
}

os::Result<int> cp(Session& session, const Arguments& arguments) {
    TRY(const Place from, place_of(session, arguments.words()[0]));
    TRY(const Place to, place_of(session, arguments.words()[1]));
    if (from.container.has_value() == to.container.has_value())
        return os::fail(os::Code::InvalidArgument,
                        "cp: one of the two must be CONTAINER:PATH, the other a path of this "
                        "machine or -");
    const bool follow = arguments.has("follow-link");
    if (from.container) {
        TRY(copy_out(session, from, to.path, follow));
        TRY(check_whole(*from.container, from.path));
    } else {
        TRY(copy_in(session, from.path, to, follow, arguments.has("archive")));
    }
    return 0;
}

} // namespace joey::containers
