// Files below a directory whose content somebody hostile chose: nothing here leaves it, whatever
// symbolic links lie there. The kernel resolves paths as if the directory were the root
// (openat2(2), RESOLVE_IN_ROOT), as a container with that root would.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <sys/stat.h>

#include "agent/os/error.hpp"
#include "agent/os/unique_fd.hpp"

namespace image {

// A path of an archive, taken apart: no empty, "." or ".." parts. Empty: the root itself.
class PathBeneath {
public:
    // ".." goes back to the part before; what would leave the root is an error, as are parts that
    // no file system takes.
    static os::Result<PathBeneath> parse(std::string_view text);

    bool is_root() const { return parts_.empty(); }
    // Requires: !is_root().
    const std::string& name() const { return parts_.back(); }
    PathBeneath parent() const;
    PathBeneath sibling(std::string name) const;
    // "a/b/c"; "." for the root.
    std::string text() const;
    // The first `count` parts.
    std::string text_of(std::size_t count) const;
    std::size_t depth() const { return parts_.size(); }
    const std::string& part(std::size_t index) const { return parts_[index]; }

private:
    std::vector<std::string> parts_;
};

// Opens what `path` leads to inside `root`. The last part is followed too unless O_NOFOLLOW is
// given. Nothing but O_PATH can be used for what may be a device or a pipe; O_NONBLOCK is added
// otherwise. The error is an errno.
base::Result<os::UniqueFd, int> open_in_root(int root, const std::string& path, int flags);

// A whole regular file inside `root`, of at most `limit` bytes; nothing if there is none.
os::Result<std::optional<std::string>> read_in_root(int root, const std::string& path,
                                                    std::size_t limit);

// The names in an open directory, without "." and "..".
base::Result<std::vector<std::string>, int> list_names(int directory);

// A walk over the tree below one directory, each directory after its content, for removal and
// sums. It needs two descriptors and no deep stack however deep the tree is. Symbolic links are not
// followed. A directory that somebody has moved out of its place meanwhile ends it with ESTALE:
// nothing outside of the tree is ever visited.
struct WalkEntry {
    int directory = -1;              // where it lies
    std::uint64_t directory_ino = 0; // of that
    const std::string& name;
    bool is_directory = false;
};
// An errno ends the walk.
using WalkVisitor = std::function<base::Result<void, int>(const WalkEntry&)>;
base::Result<void, int> walk_beneath(int directory, const std::string& name,
                                     const WalkVisitor& visit);

// Removes `name` in `directory`, with all below; no error if there is none.
base::Result<void, int> remove_tree(int directory, const std::string& name);

} // namespace image
