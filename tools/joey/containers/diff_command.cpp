// diff: what a container has changed of its image's root directory.
#include <algorithm>
#include <cerrno>
#include <fcntl.h>

#include <sys/stat.h>
#include <sys/xattr.h>

#include "tools/image/beneath.hpp"
#include "tools/image/store.hpp"
#include "tools/joey/containers/commands.hpp"

namespace joey::containers {

namespace {

struct Change {
    std::string path;
    char kind; // A, C, D
};

// Both trees are hostile: each directory is opened inside its root, without following links.
class Comparison {
public:
    // `is_overlay`: the upper tree has only what was changed, with marks for what was removed.
    Comparison(int lower, int upper, bool is_overlay)
        : lower_(lower), upper_(upper), is_overlay_(is_overlay) {}

    os::Result<std::vector<Change>> run() {
        std::vector<std::string> waiting = {""};
        while (!waiting.empty()) {
            const std::string path = std::move(waiting.back());
            waiting.pop_back();
            TRY(compare(path, waiting));
        }
        std::sort(changes_.begin(), changes_.end(),
                  [](const Change& a, const Change& b) { return a.path < b.path; });
        return std::move(changes_);
    }

private:
    static constexpr std::size_t most = 1'000'000;

    static os::UniqueFd open_directory(int root, const std::string& path) {
        auto opened = image::open_in_root(root, path.empty() ? "." : path,
                                          O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
        return opened ? std::move(*opened) : os::UniqueFd();
    }
    static std::vector<std::string> names(const os::UniqueFd& directory) {
        auto found = directory ? image::list_names(directory.get()) : base::Failure(ENOENT);
        return found ? std::move(*found) : std::vector<std::string>();
    }
    static bool is_same(const struct stat& a, const struct stat& b) {
        const bool same = a.st_mode == b.st_mode && a.st_uid == b.st_uid && a.st_gid == b.st_gid;
        return same && (S_ISDIR(a.st_mode) ||
                        (a.st_size == b.st_size && a.st_mtim.tv_sec == b.st_mtim.tv_sec &&
                         a.st_mtim.tv_nsec == b.st_mtim.tv_nsec));
    }
    static bool is_opaque(const os::UniqueFd& directory) {
        char value = 0;
        return ::fgetxattr(directory.get(), "trusted.overlay.opaque", &value, 1) == 1 &&
               value == 'y';
    }

    os::Result<void> add(const std::string& path, char kind) {
        if (changes_.size() >= most)
            return os::fail(os::Code::ResourceExhausted, "diff: more than ", most, " changes");
        changes_.push_back({"/" + path, kind});
        return {};
    }

    os::Result<void> compare(const std::string& path, std::vector<std::string>& waiting) {
        const os::UniqueFd upper = open_directory(upper_, path);
        const os::UniqueFd lower = open_directory(lower_, path);
        const std::vector<std::string> here = names(upper);
        for (const std::string& name : here) {
            const std::string whole = path.empty() ? name : os::text(path, "/", name);
            struct stat now {};
            struct stat before {};
            if (::fstatat(upper.get(), name.c_str(), &now, AT_SYMLINK_NOFOLLOW) != 0)
                continue; // gone just now
            const bool was =
                lower && ::fstatat(lower.get(), name.c_str(), &before, AT_SYMLINK_NOFOLLOW) == 0;
            if (is_overlay_ && S_ISCHR(now.st_mode) && now.st_rdev == 0) {
                if (was)
                    TRY(add(whole, 'D'));
                continue;
            }
            if (!was)
                TRY(add(whole, 'A'));
            else if (is_overlay_ || !is_same(now, before))
                TRY(add(whole, 'C'));
            if (S_ISDIR(now.st_mode))
                waiting.push_back(whole);
        }
        if (is_overlay_ && !(upper && is_opaque(upper)))
            return {};
        for (const std::string& name : names(lower)) {
            if (std::find(here.begin(), here.end(), name) == here.end())
                TRY(add(path.empty() ? name : os::text(path, "/", name), 'D'));
        }
        return {};
    }

    const int lower_;
    const int upper_;
    const bool is_overlay_;
    std::vector<Change> changes_;
};

os::Result<os::UniqueFd> open_path(const std::string& path) {
    os::UniqueFd out(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!out)
        return os::fail_errno(errno, path);
    return out;
}

} // namespace

os::Result<int> diff(Session& session, const Arguments& arguments) {
    TRY(const Container container, session.registry.find(arguments.words().front()));
    if (container.image_id.empty())
        return os::fail(os::Code::FailedPrecondition, "diff: container ", container.name,
                        " has a directory of this machine for its root, and no image to compare");
    const bool is_overlay = !container.lower.empty();
    std::string before = container.lower;
    std::optional<image::Rootfs> root;
    if (!is_overlay) {
        TRY(const image::Store store, image::Store::open(container.store));
        TRY(const image::Image image, store.find(container.image_id));
        TRY(root, store.use(image));
        before = root->path;
    }
    TRY(const os::UniqueFd lower, open_path(before));
    TRY(const os::UniqueFd upper,
        open_path(is_overlay ? container.layer + "/upper" : container.root));
    TRY(const std::vector<Change> changes, Comparison(lower.get(), upper.get(), is_overlay).run());
    std::string out;
    for (const Change& one : changes)
        out += os::text(std::string_view(&one.kind, 1), " ", printable(one.path), "\n");
    return print(out);
}

} // namespace joey::containers
