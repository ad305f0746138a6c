// diff: what a container has changed of its image's root directory.
#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <set>
#include <string_view>

#include <sys/stat.h>
#include <sys/xattr.h>

#include "tools/image/beneath.hpp"
#include "tools/image/store.hpp"
#include "tools/joey/containers/changes.hpp"
#include "tools/joey/containers/commands.hpp"

namespace joey::containers {

namespace {

// Both trees are hostile: each directory is opened inside its root, without following links.
class Comparison {
public:
    // `is_overlay`: the upper tree has only what was changed, with marks for what was removed.
    Comparison(int lower, int upper, bool is_overlay)
        : lower_(lower), upper_(upper), is_overlay_(is_overlay) {}

    os::Result<std::vector<Change>> run() {
        std::vector<Directory> waiting = {{"", true, false}};
        while (!waiting.empty()) {
            const Directory next = std::move(waiting.back());
            waiting.pop_back();
            TRY(compare(next, waiting));
        }
        std::sort(changes_.begin(), changes_.end(),
                  [](const Change& a, const Change& b) { return a.path < b.path; });
        return std::move(changes_);
    }

private:
    static constexpr std::size_t most = 1'000'000;

    // One of the upper tree.
    struct Directory {
        std::string path;
        bool has_lower = false; // the lower tree has it too: as a directory, reached by no link
        bool hides = false;     // nothing of the lower one is seen in it
    };

    // Nothing: it is gone, or no directory any more. What cannot be read for another reason is a
    // mistake, since a layer without it would seem to be whole.
    static os::Result<os::UniqueFd> open_directory(int root, const std::string& path) {
        auto opened = image::open_in_root(root, path.empty() ? "." : path,
                                          O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
        if (opened)
            return std::move(*opened);
        const int error = opened.error();
        if (error == ENOENT || error == ENOTDIR || error == ELOOP)
            return os::UniqueFd();
        return os::fail_errno(error, "/", path);
    }
    static os::Result<std::vector<std::string>> names(const os::UniqueFd& directory,
                                                      const std::string& path) {
        if (!directory)
            return std::vector<std::string>();
        auto found = image::list_names(directory.get());
        if (!found)
            return os::fail_errno(found.error(), "/", path);
        return std::move(*found);
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

    os::Result<void> compare_name(int upper, const os::UniqueFd& lower, const std::string& name,
                                  const std::string& whole, bool hides,
                                  std::vector<Directory>& waiting) {
        struct stat now {};
        struct stat before {};
        if (::fstatat(upper, name.c_str(), &now, AT_SYMLINK_NOFOLLOW) != 0)
            return {}; // gone just now
        const bool was =
            lower && ::fstatat(lower.get(), name.c_str(), &before, AT_SYMLINK_NOFOLLOW) == 0;
        if (is_overlay_ && S_ISCHR(now.st_mode) && now.st_rdev == 0)
            return was ? add(whole, 'D') : os::Result<void>();
        if (!was)
            TRY(add(whole, 'A'));
        else if (is_overlay_ || !is_same(now, before))
            TRY(add(whole, 'C'));
        if (S_ISDIR(now.st_mode))
            waiting.push_back({whole, was && S_ISDIR(before.st_mode), hides});
        return {};
    }

    os::Result<void> compare(const Directory& directory, std::vector<Directory>& waiting) {
        const std::string& path = directory.path;
        TRY(const os::UniqueFd upper, open_directory(upper_, path));
        os::UniqueFd lower;
        if (directory.has_lower) {
            TRY(lower, open_directory(lower_, path));
        }
        // In what was made anew, overlayfs marks no directory again.
        const bool hides = directory.hides || (is_overlay_ && upper && is_opaque(upper));
        TRY(const std::vector<std::string> here, names(upper, path));
        for (const std::string& name : here) {
            const std::string whole = path.empty() ? name : os::text(path, "/", name);
            TRY(compare_name(upper.get(), lower, name, whole, hides, waiting));
        }
        if (is_overlay_ && !hides)
            return {};
        TRY(const std::vector<std::string> others, names(lower, path));
        const std::set<std::string_view> known(here.begin(), here.end());
        for (const std::string& name : others) {
            if (!known.contains(name))
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

os::Result<Changes> changes_of(const Container& container) {
    if (container.image_id.empty())
        return os::fail(os::Code::FailedPrecondition, "container ", container.name,
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
    Changes out;
    TRY(out.before, open_path(before));
    TRY(out.tree, open_path(is_overlay ? container.layer + "/upper" : container.root));
    TRY(out.all, Comparison(out.before.get(), out.tree.get(), is_overlay).run());
    return out;
}

os::Result<int> diff(Session& session, const Arguments& arguments) {
    TRY(const Container container, session.registry.find(arguments.words().front()));
    TRY(const Changes changes, changes_of(container));
    std::string out;
    for (const Change& one : changes.all)
        out += os::text(std::string_view(&one.kind, 1), " ", printable(one.path), "\n");
    return print(out);
}

} // namespace joey::containers
