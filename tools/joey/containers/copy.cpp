#include "tools/joey/containers/copy.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <fcntl.h>
#include <map>
#include <memory>
#include <optional>
#include <unistd.h>
#include <utility>
#include <vector>

#include <sys/stat.h>
#include <sys/xattr.h>

#include "tools/image/beneath.hpp"
#include "tools/joey/containers/copy_steps.hpp"

namespace joey::containers {

namespace {

using namespace copying;
using os::UniqueFd;

struct Style {
    bool owners = false;   // as they are
    bool modes = false;    // set-id and sticky bits too
    bool specials = false; // devices, pipes and sockets
};

os::Result<void> copy_data(int from, int to, const std::string& name) {
    const std::unique_ptr<char[]> buffer(new char[piece]);
    for (;;) {
        const ssize_t got = ::read(from, buffer.get(), piece);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return failed(name);
        if (got == 0)
            return {};
        for (ssize_t done = 0; done < got;) {
            const ssize_t written =
                ::write(to, buffer.get() + done, static_cast<std::size_t>(got - done));
            if (written < 0 && errno == EINTR)
                continue;
            if (written < 0)
                return failed(name);
            done += written;
        }
    }
}

os::Result<void> set_attributes(int fd, const struct stat& from, const Style& style,
                                const std::string& name) {
    const std::array<timespec, 2> times = {from.st_atim, from.st_mtim};
    // chown(2) takes set-id bits away: the mode comes after it.
    if (style.owners && ::fchown(fd, from.st_uid, from.st_gid) != 0)
        return failed(name);
    if (::fchmod(fd, from.st_mode & (style.modes ? 07777U : 0777U)) != 0 ||
        ::futimens(fd, times.data()) != 0)
        return failed(name);
    return {};
}

class Copier {
public:
    // What is mounted in what is copied, and in what is copied to.
    Copier(Style style, const Below& below, const Below& covering)
        : style_(style), below_(below), covering_(covering) {}

    // `node` was opened by O_PATH. `place`: in what is copied.
    os::Result<void> copy(int node, const Target& target, int depth,
                          const std::string& place = {}) {
        TRY(const struct stat status, about(node, target.name));
        if (S_ISDIR(status.st_mode))
            return copy_directory(node, status, target, depth, place);
        if (!S_ISREG(status.st_mode) && !S_ISLNK(status.st_mode) && !style_.specials)
            return {};
        if (covering_.contains(target.place))
            return os::fail(os::Code::FailedPrecondition, target.place,
                            ": something is mounted where a file should be put");
        TRY(clear(target));
        if (S_ISREG(status.st_mode))
            return copy_file(node, status, target);
        if (S_ISLNK(status.st_mode)) {
            TRY(const std::string link, read_link(node, target.name));
            if (::symlinkat(link.c_str(), target.directory, target.name.c_str()) != 0)
                return failed(target.name);
        } else if (::mknodat(target.directory, target.name.c_str(), status.st_mode,
                             status.st_rdev) != 0) {
            return failed(target.name);
        }
        if (style_.owners && ::fchownat(target.directory, target.name.c_str(), status.st_uid,
                                        status.st_gid, AT_SYMLINK_NOFOLLOW) != 0)
            return failed(target.name);
        return {};
    }

    // What is in the directory. `onto`: the place of `to` in what is copied to.
    os::Result<void> copy_content(int from, int to, int depth, const std::string& place = {},
                                  const std::string& onto = {}) {
        if (depth == deepest)
            return os::fail(os::Code::ResourceExhausted, "more than ", deepest,
                            " directories in each other");
        return for_each_in(from, place, below_, [&](const std::string& name, int node) {
            return copy(node, {to, name, place_in(onto, name)}, depth + 1, place_in(place, name));
        });
    }

private:
    os::Result<void> copy_file(int node, const struct stat& status, const Target& target) const {
        TRY(const UniqueFd from, reopen(node, O_RDONLY | O_NONBLOCK, target.name));
        const UniqueFd to(::openat(target.directory, target.name.c_str(),
                                   O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
        if (!to)
            return failed(target.name);
        TRY(copy_data(from.get(), to.get(), target.name));
        return set_attributes(to.get(), status, style_, target.name);
    }

    os::Result<void> copy_directory(int node, const struct stat& status, const Target& target,
                                    int depth, const std::string& place) {
        TRY(const UniqueFd from, reopen(node, O_RDONLY | O_DIRECTORY, target.name));
        TRY(const UniqueFd to, make_directory(target));
        TRY(copy_content(from.get(), to.get(), depth, place, target.place));
        return set_attributes(to.get(), status, style_, target.name);
    }

    // Or takes the one that is there.
    os::Result<UniqueFd> make_directory(const Target& target) const {
        if (const auto mounted = covering_.find(target.place); mounted != covering_.end())
            return open_mounted(mounted->second, target.place);
        if (::mkdirat(target.directory, target.name.c_str(), 0700) != 0 && errno != EEXIST)
            return failed(target.name);
        UniqueFd made(::openat(target.directory, target.name.c_str(),
                               O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
        if (!made)
            return failed(target.name);
        return made;
    }

    const Style style_;
    const Below& below_;
    const Below& covering_;
};

os::Result<UniqueFd> open_host_node(const std::string& path, bool follow) {
    UniqueFd node(::open(path.c_str(), O_PATH | O_CLOEXEC | (follow ? 0 : O_NOFOLLOW)));
    if (!node)
        return failed(path);
    return node;
}

// Copies by Docker's rules: into what is a directory, else under the name that was given.
// `parent`: of the place, open; `existing`: the place itself, if something is there.
struct Goal {
    UniqueFd existing;
    UniqueFd parent;
    std::string name;
};
os::Result<void> copy_node(int node, const std::string& own_name, bool contents, const Goal& goal,
                           Copier copier) {
    const bool from_directory = is_directory(node);
    const bool to_directory = goal.existing && is_directory(goal.existing.get());
    if (from_directory && goal.existing && !to_directory)
        return os::fail(os::Code::FailedPrecondition, goal.name,
                        ": a directory cannot be copied to a file");
    if (to_directory) {
        TRY(const UniqueFd place, reopen(goal.existing.get(), O_RDONLY | O_DIRECTORY, goal.name));
        if (!from_directory || (!contents && !own_name.empty()))
            return copier.copy(node, {place.get(), own_name, own_name}, 0);
        TRY(const UniqueFd from, reopen(node, O_RDONLY | O_DIRECTORY, own_name));
        return copier.copy_content(from.get(), place.get(), 0);
    }
    if (goal.name.empty() || !goal.parent)
        return os::fail(os::Code::NotFound, "the directory to copy to does not exist");
    return copier.copy(node, {goal.parent.get(), goal.name, {}}, 0);
}

// What is there makes way for the copy: /dev/null and its like must not.
os::Result<void> check_replaceable(const UniqueFd& existing, const std::string& name) {
    struct stat status {};
    if (!existing)
        return {};
    if (::fstat(existing.get(), &status) != 0)
        return failed(name);
    if (S_ISDIR(status.st_mode) || S_ISREG(status.st_mode))
        return {};
    return os::fail(os::Code::InvalidArgument, name,
                    ": what is copied to must be a directory or a regular file; - writes an "
                    "archive to stdout");
}

} // namespace

os::Result<void> copy_to_host(const Copied& from, const std::string& to, bool contents) {
    TRY(const UniqueFd node, open_node(from.root, from.path));
    Goal goal;
    goal.existing = UniqueFd(::open(to.c_str(), O_PATH | O_CLOEXEC));
    TRY(check_replaceable(goal.existing, to));
    // A link of the user's is followed: the file that it leads to is replaced, and not the link.
    char resolved[PATH_MAX];
    const bool is_there = goal.existing && ::realpath(to.c_str(), resolved) != nullptr;
    const Split place = split(is_there ? resolved : to);
    goal.name = place.name;
    goal.parent = UniqueFd(::open(place.parent.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (to.ends_with('/') && !goal.existing && !is_directory(node.get()))
        return os::fail(os::Code::NotFound, to, ": no such directory");
    static const Below nothing;
    return copy_node(node.get(), from.name, contents, goal, Copier({}, from.below, nothing));
}

os::Result<void> copy_from_host(const std::string& from, bool follow, const Destination& to,
                                bool must_be_directory, bool owners) {
    const bool contents = from.ends_with("/.");
    TRY(const UniqueFd node, open_host_node(from, follow || from.ends_with('/') || contents));
    char resolved[PATH_MAX];
    const Split own = split(from);
    std::string name = own.name;
    // "." and ".." have their directory's name.
    if (name.empty() && !contents && ::realpath(from.c_str(), resolved) != nullptr)
        name = split(resolved).name;
    Goal goal;
    const Split place = split(to.path);
    goal.name = place.name == "/" ? std::string() : place.name;
    if (auto existing = image::open_in_root(to.root, to.path, O_PATH))
        goal.existing = std::move(*existing);
    auto parent = image::open_in_root(to.root, place.parent, O_PATH | O_DIRECTORY);
    if (!parent)
        return os::fail_errno(parent.error(), place.parent);
    goal.parent = std::move(*parent);
    if (must_be_directory && !goal.existing && !is_directory(node.get()))
        return os::fail(os::Code::NotFound, to.path, ": no such directory");
    static const Below nothing;
    return copy_node(node.get(), name, contents, goal,
                     Copier({owners, true, true}, nothing, to.below));
}

os::Result<void> copy_content(int from, int to) {
    static const Below nothing;
    return Copier({true, true, true}, nothing, nothing).copy_content(from, to, 0);
}

} // namespace joey::containers
