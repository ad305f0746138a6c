#include "tools/image/beneath.hpp"

#include <cerrno>
#include <climits>
#include <dirent.h>
#include <fcntl.h>
#include <memory>
#include <unistd.h>

#include <linux/openat2.h>
#include <sys/syscall.h>

namespace image {
namespace {

base::Failure<int> last_errno() {
    return base::Failure(errno);
}

struct Listed {
    std::string name;
    unsigned char type;
};

struct DirectoryCloser {
    void operator()(DIR* directory) const { ::closedir(directory); }
};

base::Result<std::vector<Listed>, int> list(int directory) {
    os::UniqueFd again(::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!again)
        return last_errno();
    const std::unique_ptr<DIR, DirectoryCloser> stream(::fdopendir(again.get()));
    if (stream == nullptr)
        return last_errno();
    static_cast<void>(again.release());
    std::vector<Listed> out;
    for (;;) {
        errno = 0;
        const dirent* entry = ::readdir(stream.get());
        if (entry == nullptr && errno != 0)
            return last_errno();
        if (entry == nullptr)
            return out;
        const std::string_view name = entry->d_name;
        if (name != "." && name != "..")
            out.push_back({std::string(name), entry->d_type});
    }
}

base::Result<bool, int> is_directory_at(int directory, const std::string& name) {
    struct stat status {};
    if (::fstatat(directory, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0)
        return last_errno();
    return S_ISDIR(status.st_mode);
}

base::Result<struct stat, int> about(int fd) {
    struct stat status {};
    if (::fstat(fd, &status) != 0)
        return last_errno();
    return status;
}

// One directory that is being walked through.
struct Level {
    std::string name;
    dev_t device = 0;
    std::uint64_t ino = 0;
    std::vector<Listed> left;
};

base::Result<os::UniqueFd, int> open_directory(int directory, const char* name) {
    os::UniqueFd fd(::openat(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!fd)
        return last_errno();
    return fd;
}

base::Result<Level, int> enter(int fd, std::string name) {
    Level level;
    level.name = std::move(name);
    TRY(const struct stat status, about(fd));
    level.device = status.st_dev;
    level.ino = status.st_ino;
    TRY(level.left, list(fd));
    return level;
}

} // namespace

os::Result<PathBeneath> PathBeneath::parse(std::string_view text) {
    PathBeneath path;
    if (text.empty())
        return os::fail(os::Code::InvalidArgument, "an entry without a name");
    if (text.size() >= PATH_MAX)
        return os::fail(os::Code::InvalidArgument, "'", text.substr(0, 60),
                        "...': the path is longer than ", PATH_MAX - 1, " bytes");
    std::string_view rest = text;
    for (;;) {
        const std::size_t slash = rest.find('/');
        const std::string_view part = rest.substr(0, slash);
        if (part == "..") {
            if (path.parts_.empty())
                return os::fail(os::Code::InvalidArgument, "'", text.substr(0, 200),
                                "': the path leads out of the image's root");
            path.parts_.pop_back();
        } else if (part.size() > NAME_MAX) {
            return os::fail(os::Code::InvalidArgument, "'", part.substr(0, 60),
                            "...': a name is longer than ", NAME_MAX, " bytes");
        } else if (!part.empty() && part != ".") {
            path.parts_.emplace_back(part);
        }
        if (slash == std::string_view::npos)
            return path;
        rest.remove_prefix(slash + 1);
    }
}

PathBeneath PathBeneath::parent() const {
    PathBeneath out;
    out.parts_.assign(parts_.begin(), parts_.end() - 1);
    return out;
}

PathBeneath PathBeneath::sibling(std::string name) const {
    PathBeneath out = *this;
    out.parts_.back() = std::move(name);
    return out;
}

std::string PathBeneath::text_of(std::size_t count) const {
    std::string out;
    for (std::size_t i = 0; i < count; ++i) {
        out += i == 0 ? "" : "/";
        out += parts_[i];
    }
    return out.empty() ? "." : out;
}

std::string PathBeneath::text() const {
    return text_of(parts_.size());
}

base::Result<os::UniqueFd, int> open_in_root(int root, const std::string& path, int flags) {
    open_how how{};
    how.flags = static_cast<unsigned>(flags | O_CLOEXEC);
    if ((flags & O_PATH) == 0)
        how.flags |= O_NONBLOCK | O_NOCTTY;
    how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;
    for (;;) {
        const long fd = ::syscall(SYS_openat2, root, path.c_str(), &how, sizeof how);
        if (fd >= 0)
            return os::UniqueFd(static_cast<int>(fd));
        // EAGAIN: a rename somewhere on the machine raced with the walk (openat2(2)).
        if (errno != EINTR && errno != EAGAIN)
            return last_errno();
    }
}

os::Result<std::optional<std::string>> read_in_root(int root, const std::string& path,
                                                    std::size_t limit) {
    auto fd = open_in_root(root, path, O_RDONLY);
    if (!fd) {
        const int error = fd.error();
        if (error == ENOENT || error == ENOTDIR || error == ELOOP || error == EXDEV)
            return std::optional<std::string>();
        return os::fail_errno(error, "cannot read ", path, " of the image");
    }
    struct stat status {};
    if (::fstat(fd->get(), &status) != 0)
        return os::fail_errno(errno, "cannot read ", path, " of the image");
    if (!S_ISREG(status.st_mode))
        return os::fail(os::Code::InvalidArgument, path, " of the image is no file");
    if (static_cast<std::uint64_t>(status.st_size) > limit)
        return os::fail(os::Code::InvalidArgument, path, " of the image has ", status.st_size,
                        " bytes; at most ", limit, " are read");
    std::string out(static_cast<std::size_t>(status.st_size), '\0');
    std::size_t have = 0;
    while (have < out.size()) {
        const ssize_t got = ::read(fd->get(), out.data() + have, out.size() - have);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return os::fail_errno(errno, "cannot read ", path, " of the image");
        if (got == 0)
            break;
        have += static_cast<std::size_t>(got);
    }
    out.resize(have);
    return std::optional(std::move(out));
}

base::Result<std::vector<std::string>, int> list_names(int directory) {
    TRY(std::vector<Listed> found, list(directory));
    std::vector<std::string> names;
    names.reserve(found.size());
    for (Listed& entry : found)
        names.push_back(std::move(entry.name));
    return names;
}

namespace {

class Walk {
public:
    Walk(int directory, const WalkVisitor& visit) : directory_(directory), visit_(visit) {}

    base::Result<void, int> run(const std::string& name) {
        TRY(const struct stat outer, about(directory_));
        outer_ = outer.st_ino;
        TRY(const bool is_directory, is_directory_at(directory_, name));
        if (!is_directory)
            return visit_({directory_, outer_, name, false});
        TRY(here_, open_directory(directory_, name.c_str()));
        TRY(Level first, enter(here_.get(), name));
        levels_.push_back(std::move(first));
        while (!levels_.empty()) {
            if (levels_.back().left.empty()) {
                TRY(leave());
            } else {
                TRY(take_next());
            }
        }
        return {};
    }

private:
    base::Result<void, int> take_next() {
        Level& level = levels_.back();
        Listed next = std::move(level.left.back());
        level.left.pop_back();
        bool down = next.type == DT_DIR;
        if (next.type == DT_UNKNOWN) {
            TRY(down, is_directory_at(here_.get(), next.name));
        }
        if (!down)
            return visit_({here_.get(), level.ino, next.name, false});
        TRY(os::UniqueFd child, open_directory(here_.get(), next.name.c_str()));
        here_ = std::move(child);
        TRY(Level deeper, enter(here_.get(), std::move(next.name)));
        levels_.push_back(std::move(deeper));
        return {};
    }

    base::Result<void, int> leave() {
        const Level done = std::move(levels_.back());
        levels_.pop_back();
        if (levels_.empty())
            return visit_({directory_, outer_, done.name, true});
        // Up by "..": a descriptor per level would run out in a deep tree.
        TRY(os::UniqueFd up, open_directory(here_.get(), ".."));
        // Whoever has the tree mounted, a container, may have moved the directory: as many steps up
        // as were taken down would then end above the tree, with names that he chose.
        TRY(const struct stat status, about(up.get()));
        if (status.st_ino != levels_.back().ino || status.st_dev != levels_.back().device)
            return base::Failure(ESTALE);
        here_ = std::move(up);
        return visit_({here_.get(), levels_.back().ino, done.name, true});
    }

    const int directory_;
    const WalkVisitor& visit_;
    std::uint64_t outer_ = 0;
    os::UniqueFd here_;
    std::vector<Level> levels_;
};

} // namespace

base::Result<void, int> walk_beneath(int directory, const std::string& name,
                                     const WalkVisitor& visit) {
    return Walk(directory, visit).run(name);
}

base::Result<void, int> remove_tree(int directory, const std::string& name) {
    auto result =
        walk_beneath(directory, name, [](const WalkEntry& entry) -> base::Result<void, int> {
            if (::unlinkat(entry.directory, entry.name.c_str(),
                           entry.is_directory ? AT_REMOVEDIR : 0) != 0)
                return last_errno();
            return {};
        });
    if (!result && result.error() == ENOENT)
        return {};
    return result;
}

} // namespace image
