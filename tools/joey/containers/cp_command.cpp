// cp: files between the host and a container, by the host's side of what the container has mounted.
// Not by a program in the container: it may have none that could, and need not run.
#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <deque>
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
    std::string whole; // in the container, without links
};

// Of one container: where on the host its paths are.
class Places {
public:
    Places(Session& session, const Container& container)
        : session_(session), container_(container) {}

    // `to_the_end`: the last name is followed, too, if it is a link.
    os::Result<Inside> find(const std::string& path, bool to_the_end) {
        TRY(const image::PathBeneath parsed, image::PathBeneath::parse(path));
        if (mounted_.empty())
            find_mounts();
        TRY(const std::string whole, walk(parsed, to_the_end));
        TRY(Inside out, at(whole));
        out.whole = whole;
        return out;
    }

    // What is mounted below a place that was found. What is in the container's memory is not on
    // this machine, and what that covers is there instead.
    os::Result<Below> below(const std::string& whole) const {
        const std::string above = whole == "/" ? whole : whole + "/";
        Below out;
        for (const Mounted& one : mounted_) {
            if (!one.target.starts_with(above) || pod::string_of(*one.mount, "Type") == "tmpfs")
                continue;
            const std::string source = pod::string_of(*one.mount, "Source");
            os::UniqueFd node(::open(source.c_str(), O_PATH | O_CLOEXEC));
            if (!node)
                return os::fail_errno(errno, source);
            out.insert_or_assign(one.target.substr(above.size()),
                                 Mount{std::move(node), !pod::bool_of(*one.mount, "RW")});
        }
        return out;
    }

private:
    struct Mounted {
        std::string target;
        const Json* mount;
    };

    // From the outside in, as they were mounted: the way to each led through links, too.
    void find_mounts() {
        for (const Json& mount : container_.mounts) {
            std::string target = pod::string_of(mount, "Destination");
            if (const auto parsed = image::PathBeneath::parse(target)) {
                if (auto found = walk(*parsed, true))
                    target = std::move(*found);
            }
            mounted_.push_back({std::move(target), &mount});
        }
    }

    // As its programs come there. A link may lead into what is mounted or out of it, where the
    // host's side of one directory has nothing, or something that is covered inside.
    os::Result<std::string> walk(const image::PathBeneath& path, bool to_the_end) {
        std::deque<std::string> left;
        for (std::size_t i = 0; i < path.depth(); ++i)
            left.push_back(path.part(i));
        std::vector<std::string> done;
        for (int links = 0; !left.empty();) {
            std::string name = std::move(left.front());
            left.pop_front();
            if (name == "..") {
                if (!done.empty())
                    done.pop_back();
                continue;
            }
            done.push_back(std::move(name));
            if (left.empty() && !to_the_end)
                break;
            const auto target = link_at(joined(done));
            if (!target)
                continue;
            if (++links > most_links)
                return os::fail_errno(ELOOP, container_.name, ":", path.text());
            done.pop_back();
            if (target->starts_with('/'))
                done.clear();
            const std::vector<std::string> names = names_of(*target);
            left.insert(left.begin(), names.begin(), names.end());
        }
        return joined(done);
    }

    static std::string joined(const std::vector<std::string>& names) {
        std::string out;
        for (const std::string& name : names)
            out += "/" + name;
        return out.empty() ? "/" : out;
    }

    static std::vector<std::string> names_of(std::string_view path) {
        std::vector<std::string> out;
        while (!path.empty()) {
            const std::size_t slash = std::min(path.find('/'), path.size());
            if (slash > 0 && path.substr(0, slash) != ".")
                out.emplace_back(path.substr(0, slash));
            path.remove_prefix(std::min(slash + 1, path.size()));
        }
        return out;
    }

    // Where the link leads that is at the place; nothing: it is none, or not there.
    std::optional<std::string> link_at(const std::string& whole) {
        const auto inside = at(whole);
        if (!inside || inside->path == "/")
            return std::nullopt;
        const auto node =
            image::open_in_root(inside->root.get(), inside->path, O_PATH | O_NOFOLLOW);
        std::string target(PATH_MAX, '\0');
        const ssize_t length =
            node ? ::readlinkat(node->get(), "", target.data(), target.size()) : -1;
        if (length <= 0)
            return std::nullopt;
        target.resize(static_cast<std::size_t>(length));
        return target;
    }

    os::Result<Inside> at(const std::string& whole) {
        const Json* best = nullptr;
        std::size_t length = 0;
        for (const Mounted& one : mounted_) {
            if ((whole == one.target || whole.starts_with(one.target + "/")) &&
                one.target.size() >= length) {
                best = one.mount;
                length = one.target.size();
            }
        }
        Inside out;
        if (best == nullptr) {
            TRY(out.root, own_root());
            out.path = whole;
            return out;
        }
        if (pod::string_of(*best, "Type") == "tmpfs")
            return os::fail(os::Code::InvalidArgument, container_.name, ":", whole,
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
        return os::fail(os::Code::InvalidArgument, container_.name, ":", whole,
                        " is a file of the host; copy ", source);
    }

    // Once: of a container that has ended it is mounted for that.
    os::Result<os::UniqueFd> own_root() {
        if (!root_.directory) {
            TRY(root_, open_root(session_.registry, container_));
        }
        os::UniqueFd out(::fcntl(root_.directory.get(), F_DUPFD_CLOEXEC, 3));
        if (!out)
            return os::fail_errno(errno, container_.name);
        return out;
    }

    static constexpr int most_links = 40; // as the kernel

    Session& session_;
    const Container& container_;
    OpenRoot root_;
    std::vector<Mounted> mounted_;
};

// "/a/b/" is called b; the root directory has no name.
os::Result<std::string> name_of(const std::string& path) {
    TRY(const image::PathBeneath parsed, image::PathBeneath::parse(path));
    return parsed.is_root() ? std::string() : parsed.name();
}

os::Result<void> copy_out(Session& session, const Place& from, const std::string& to, bool follow,
                          bool volumes) {
    // What is copied by its name is called by it, also if it is a link that is followed.
    const bool contents = from.path.ends_with("/.");
    Places places(session, *from.container);
    TRY(const Inside inside, places.find(from.path, contents || follow));
    Below below;
    if (volumes) {
        TRY(below, places.below(inside.whole));
    }
    TRY(const std::string name, name_of(from.path));
    const Copied copied{inside.root.get(), inside.path, name, below};
    return to == "-" ? write_archive(copied, STDOUT_FILENO) : copy_to_host(copied, to, contents);
}

os::Result<void> copy_in(Session& session, const std::string& from, const Place& to, bool follow,
                         bool archive) {
    // Until all is copied: it holds the lock of a container that has ended.
    Places places(session, *to.container);
    TRY(const Inside inside, places.find(to.path, true));
    if (inside.read_only)
        return os::fail(os::Code::FailedPrecondition, to.container->name, ":", to.path,
                        " is mounted read-only");
    TRY(const Below below, places.below(inside.whole));
    const Destination into{inside.root.get(), inside.path, below};
    if (from == "-")
        return read_archive(STDIN_FILENO, into);
    return copy_from_host(from, follow, into, to.path.ends_with('/'), archive);
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
    TRY(copy_out(session, {container, "/"}, "-", false, false));
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
        TRY(copy_out(session, from, to.path, follow, true));
    } else {
        TRY(copy_in(session, from.path, to, follow, arguments.has("archive")));
    }
    return 0;
}

} // namespace joey::containers
