#include "tools/joey/containers/copy.hpp"

#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <fcntl.h>
#include <memory>
#include <optional>
#include <unistd.h>
#include <vector>

#include <sys/stat.h>

#include "tools/image/archive_library.hpp"
#include "tools/image/beneath.hpp"
#include "tools/image/tar.hpp"

namespace joey::containers {

namespace {

using os::UniqueFd;

// Descriptors are held for each level.
constexpr int deepest = 200;
constexpr std::size_t piece = 256U << 10;

struct Style {
    bool owners = false;   // as they are
    bool modes = false;    // set-id and sticky bits too
    bool specials = false; // devices, pipes and sockets
};

base::Failure<os::Error> failed(const std::string& name) {
    return os::fail_errno(errno, name);
}

os::Result<struct stat> about(int fd, const std::string& name) {
    struct stat out {};
    if (::fstatat(fd, "", &out, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0)
        return failed(name);
    return out;
}

// For use what was opened by O_PATH, so that nothing was done by opening it.
os::Result<UniqueFd> reopen(int fd, int flags, const std::string& name) {
    UniqueFd out(::open(os::text("/proc/self/fd/", fd).c_str(), flags | O_CLOEXEC | O_NOCTTY));
    if (!out)
        return failed(name);
    return out;
}

os::Result<std::string> read_link(int fd, const std::string& name) {
    std::string target(PATH_MAX, '\0');
    const ssize_t length = ::readlinkat(fd, "", target.data(), target.size());
    if (length < 0)
        return failed(name);
    target.resize(static_cast<std::size_t>(length));
    return target;
}

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

// Where something is to be made: a name in an open directory.
struct Target {
    int directory = -1;
    std::string name;
};

os::Result<void> clear(const Target& target) {
    if (::unlinkat(target.directory, target.name.c_str(), 0) == 0 || errno == ENOENT)
        return {};
    if (errno == EISDIR || errno == EPERM)
        return os::fail(os::Code::FailedPrecondition, target.name,
                        ": a directory is where a file should be put");
    return failed(target.name);
}

class Copier {
public:
    explicit Copier(Style style) : style_(style) {}

    // `node` was opened by O_PATH.
    os::Result<void> copy(int node, const Target& target, int depth) {
        TRY(const struct stat status, about(node, target.name));
        if (S_ISDIR(status.st_mode))
            return copy_directory(node, status, target, depth);
        if (!S_ISREG(status.st_mode) && !S_ISLNK(status.st_mode) && !style_.specials)
            return {};
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

    // What is in the directory.
    os::Result<void> copy_content(int from, int to, int depth) {
        if (depth == deepest)
            return os::fail(os::Code::ResourceExhausted, "more than ", deepest,
                            " directories in each other");
        const auto names = image::list_names(from);
        if (!names)
            return os::fail_errno(names.error(), "read a directory");
        for (const std::string& name : *names) {
            const UniqueFd node(::openat(from, name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
            if (!node && errno == ENOENT)
                continue; // gone meanwhile
            if (!node)
                return failed(name);
            TRY(copy(node.get(), {to, name}, depth + 1));
        }
        return {};
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
                                    int depth) {
        TRY(const UniqueFd from, reopen(node, O_RDONLY | O_DIRECTORY, target.name));
        if (::mkdirat(target.directory, target.name.c_str(), 0700) != 0 && errno != EEXIST)
            return failed(target.name);
        const UniqueFd to(::openat(target.directory, target.name.c_str(),
                                   O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
        if (!to)
            return failed(target.name);
        TRY(copy_content(from.get(), to.get(), depth));
        return set_attributes(to.get(), status, style_, target.name);
    }

    const Style style_;
};

os::Result<UniqueFd> open_node(int root, const std::string& path, bool follow) {
    auto node = image::open_in_root(root, path, O_PATH | (follow ? 0 : O_NOFOLLOW));
    if (!node)
        return os::fail_errno(node.error(), path);
    return std::move(*node);
}

os::Result<UniqueFd> open_host_node(const std::string& path, bool follow) {
    UniqueFd node(::open(path.c_str(), O_PATH | O_CLOEXEC | (follow ? 0 : O_NOFOLLOW)));
    if (!node)
        return failed(path);
    return node;
}

// The parts of a path before and after its last name; "." and ".." are none.
struct Split {
    std::string parent;
    std::string name;
};
Split split(std::string path) {
    while (path.size() > 1 && path.ends_with('/'))
        path.pop_back();
    const std::size_t slash = path.rfind('/');
    Split out{slash == std::string::npos ? "."
              : slash == 0               ? "/"
                                         : path.substr(0, slash),
              slash == std::string::npos ? path : path.substr(slash + 1)};
    if (out.name == "." || out.name == "..")
        return {path, {}};
    return out;
}

bool is_directory(int fd) {
    struct stat status {};
    return ::fstat(fd, &status) == 0 && S_ISDIR(status.st_mode);
}

// Copies by Docker's rules: into what is a directory, else under the name that was given.
// `parent`: of the place, open; `existing`: the place itself, if something is there.
struct Goal {
    UniqueFd existing;
    UniqueFd parent;
    std::string name;
};
os::Result<void> copy_node(int node, const std::string& own_name, bool contents, const Goal& goal,
                           Style style) {
    Copier copier(style);
    const bool from_directory = is_directory(node);
    const bool to_directory = goal.existing && is_directory(goal.existing.get());
    if (from_directory && goal.existing && !to_directory)
        return os::fail(os::Code::FailedPrecondition, goal.name,
                        ": a directory cannot be copied to a file");
    if (to_directory) {
        TRY(const UniqueFd place, reopen(goal.existing.get(), O_RDONLY | O_DIRECTORY, goal.name));
        if (!from_directory || (!contents && !own_name.empty()))
            return copier.copy(node, {place.get(), own_name}, 0);
        TRY(const UniqueFd from, reopen(node, O_RDONLY | O_DIRECTORY, own_name));
        return copier.copy_content(from.get(), place.get(), 0);
    }
    if (goal.name.empty() || !goal.parent)
        return os::fail(os::Code::NotFound, "the directory to copy to does not exist");
    return copier.copy(node, {goal.parent.get(), goal.name}, 0);
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

os::Result<void> copy_to_host(int root, const std::string& path, bool follow, const std::string& to,
                              bool contents) {
    TRY(const UniqueFd node, open_node(root, path, follow));
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
    return copy_node(node.get(), split(path).name == "/" ? "" : split(path).name, contents, goal,
                     {});
}

os::Result<void> copy_from_host(const std::string& from, bool follow, int root,
                                const std::string& path, bool must_be_directory, bool owners) {
    const bool contents = from.ends_with("/.");
    TRY(const UniqueFd node, open_host_node(from, follow || from.ends_with('/') || contents));
    char resolved[PATH_MAX];
    const Split own = split(from);
    std::string name = own.name;
    // "." and ".." have their directory's name.
    if (name.empty() && !contents && ::realpath(from.c_str(), resolved) != nullptr)
        name = split(resolved).name;
    Goal goal;
    const Split place = split(path);
    goal.name = place.name == "/" ? std::string() : place.name;
    if (auto existing = image::open_in_root(root, path, O_PATH))
        goal.existing = std::move(*existing);
    auto parent = image::open_in_root(root, place.parent, O_PATH | O_DIRECTORY);
    if (!parent)
        return os::fail_errno(parent.error(), place.parent);
    goal.parent = std::move(*parent);
    if (must_be_directory && !goal.existing && !is_directory(node.get()))
        return os::fail(os::Code::NotFound, path, ": no such directory");
    return copy_node(node.get(), name, contents, goal, {owners, true, true});
}

namespace {

struct ArchiveCloser {
    void operator()(archive* one) const { image::libarchive().archive_write_free(one); }
};
struct EntryCloser {
    void operator()(archive_entry* one) const { image::libarchive().archive_entry_free(one); }
};

class Archiver {
public:
    explicit Archiver(archive* to) : to_(to) {}

    os::Result<void> add(int node, const std::string& name, int depth) {
        TRY(const struct stat status, about(node, name));
        if (S_ISSOCK(status.st_mode))
            return {}; // tar has none
        const std::unique_ptr<archive_entry, EntryCloser> entry(
            image::libarchive().archive_entry_new());
        image::libarchive().archive_entry_set_pathname(entry.get(), name.c_str());
        image::libarchive().archive_entry_copy_stat(entry.get(), &status);
        if (S_ISLNK(status.st_mode)) {
            TRY(const std::string link, read_link(node, name));
            image::libarchive().archive_entry_set_symlink(entry.get(), link.c_str());
        }
        if (!S_ISREG(status.st_mode))
            image::libarchive().archive_entry_set_size(entry.get(), 0);
        if (image::libarchive().archive_write_header(to_, entry.get()) < ARCHIVE_WARN)
            return problem(name);
        if (S_ISREG(status.st_mode))
            return add_data(node, name);
        return S_ISDIR(status.st_mode) ? add_content(node, name, depth) : os::Result<void>();
    }

private:
    base::Failure<os::Error> problem(const std::string& name) const {
        const char* text = image::libarchive().archive_error_string(to_);
        return os::fail(os::Code::Internal, name, ": ",
                        text != nullptr ? text : "write the archive");
    }

    // No more than the header says; libarchive fills up what is missing.
    os::Result<void> add_data(int node, const std::string& name) const {
        TRY(const UniqueFd from, reopen(node, O_RDONLY | O_NONBLOCK, name));
        const std::unique_ptr<char[]> buffer(new char[piece]);
        for (;;) {
            const ssize_t got = ::read(from.get(), buffer.get(), piece);
            if (got < 0)
                return failed(name);
            if (got == 0)
                return {};
            const la_ssize_t written = image::libarchive().archive_write_data(
                to_, buffer.get(), static_cast<std::size_t>(got));
            if (written < 0)
                return problem(name);
            if (written < got)
                return {};
        }
    }

    os::Result<void> add_content(int node, const std::string& name, int depth) {
        if (depth == deepest)
            return os::fail(os::Code::ResourceExhausted, "more than ", deepest,
                            " directories in each other");
        TRY(const UniqueFd from, reopen(node, O_RDONLY | O_DIRECTORY, name));
        const auto names = image::list_names(from.get());
        if (!names)
            return os::fail_errno(names.error(), name);
        for (const std::string& below : *names) {
            const UniqueFd next(
                ::openat(from.get(), below.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
            if (!next)
                continue; // gone meanwhile
            TRY(add(next.get(), os::text(name, "/", below), depth + 1));
        }
        return {};
    }

    archive* to_;
};

} // namespace

os::Result<void> write_archive(int root, const std::string& path, bool follow, int to) {
    if (::isatty(to) == 1)
        return os::fail(os::Code::InvalidArgument,
                        "cp: stdout is a terminal; let a tar archive go to a file or a pipe");
    TRY(const UniqueFd node, open_node(root, path, follow));
    TRY(image::load_libarchive());
    const std::unique_ptr<archive, ArchiveCloser> tar(image::libarchive().archive_write_new());
    if (tar == nullptr ||
        image::libarchive().archive_write_set_format_pax_restricted(tar.get()) != ARCHIVE_OK ||
        image::libarchive().archive_write_open_fd(tar.get(), to) != ARCHIVE_OK)
        return os::fail(os::Code::Internal, "begin the archive");
    const std::string name = split(path).name;
    TRY(Archiver(tar.get()).add(node.get(), name.empty() || name == "/" ? "." : name, 0));
    if (image::libarchive().archive_write_close(tar.get()) != ARCHIVE_OK)
        return os::fail(os::Code::Internal,
                        "write the archive: ", image::libarchive().archive_error_string(tar.get()));
    return {};
}

namespace {

// Puts the entries of an archive into a directory, which is their root: no name and no link in it
// or in the archive leads out.
class Unpacker {
public:
    Unpacker(image::TarReader& tar, int root) : tar_(tar), root_(root) {}

    os::Result<void> put(const image::TarEntry& entry) {
        using Kind = image::TarEntry::Kind;
        if (entry.path.is_root())
            return {};
        auto parent =
            image::open_in_root(root_, entry.path.parent().text(), O_RDONLY | O_DIRECTORY);
        if (!parent)
            return os::fail_errno(parent.error(), entry.path.parent().text());
        const Target target{parent->get(), entry.path.name()};
        if (entry.kind == Kind::Directory)
            return put_directory(entry, target);
        TRY(clear(target));
        switch (entry.kind) {
        case Kind::File:
            return put_file(entry, target);
        case Kind::SymbolicLink:
            if (::symlinkat(entry.target.c_str(), target.directory, target.name.c_str()) != 0)
                return failed(target.name);
            return {};
        case Kind::HardLink:
            return put_link(entry, target);
        default:
            return os::fail(os::Code::InvalidArgument, entry.path.text(),
                            ": devices and pipes are not copied");
        }
    }

private:
    static os::Result<void> finish(const UniqueFd& fd, const image::TarEntry& entry) {
        const std::array<timespec, 2> times = {entry.modified, entry.modified};
        if (::fchown(fd.get(), entry.uid, entry.gid) != 0 || ::fchmod(fd.get(), entry.mode) != 0 ||
            ::futimens(fd.get(), times.data()) != 0)
            return failed(entry.path.text());
        return {};
    }

    static os::Result<void> put_directory(const image::TarEntry& entry, const Target& target) {
        if (::mkdirat(target.directory, target.name.c_str(), 0755) != 0 && errno != EEXIST)
            return failed(target.name);
        const UniqueFd made(::openat(target.directory, target.name.c_str(),
                                     O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
        if (!made)
            return failed(target.name);
        return finish(made, entry);
    }

    os::Result<void> put_link(const image::TarEntry& entry, const Target& target) const {
        // It has neither a parent nor a name.
        if (entry.link_target.is_root())
            return os::fail(os::Code::InvalidArgument, entry.path.text(),
                            ": a hard link to the directory itself");
        auto parent =
            image::open_in_root(root_, entry.link_target.parent().text(), O_RDONLY | O_DIRECTORY);
        if (!parent)
            return os::fail_errno(parent.error(), entry.link_target.text());
        if (::linkat(parent->get(), entry.link_target.name().c_str(), target.directory,
                     target.name.c_str(), 0) != 0)
            return failed(entry.link_target.text());
        return {};
    }

    os::Result<void> put_file(const image::TarEntry& entry, const Target& target) {
        const UniqueFd to(::openat(target.directory, target.name.c_str(),
                                   O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
        if (!to)
            return failed(target.name);
        for (;;) {
            TRY(const auto block, tar_.read_block());
            if (!block)
                break;
            std::size_t done = 0;
            while (done < block->bytes.size()) {
                const ssize_t written =
                    ::pwrite(to.get(), block->bytes.data() + done, block->bytes.size() - done,
                             static_cast<off_t>(block->offset + done));
                if (written < 0 && errno == EINTR)
                    continue;
                if (written < 0)
                    return failed(target.name);
                done += static_cast<std::size_t>(written);
            }
        }
        if (::ftruncate(to.get(), static_cast<off_t>(entry.size)) != 0)
            return failed(target.name);
        return finish(to, entry);
    }

    image::TarReader& tar_;
    const int root_;
};

} // namespace

os::Result<void> read_archive(int from, int root, const std::string& path) {
    auto place = image::open_in_root(root, path, O_RDONLY | O_DIRECTORY);
    if (!place)
        return os::fail_errno(place.error(), path);
    const image::Limits limits;
    image::FileSource source(UniqueFd(::fcntl(from, F_DUPFD_CLOEXEC, 3)), "stdin");
    TRY(const auto tar, image::TarReader::open(source, "stdin", limits));
    Unpacker unpacker(*tar, place->get());
    for (;;) {
        TRY(const auto entry, tar->next());
        if (!entry)
            return {};
        TRY(unpacker.put(*entry));
    }
}

} // namespace joey::containers
