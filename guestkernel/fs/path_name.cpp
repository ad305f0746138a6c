// From a place back to its name: getcwd(2), /proc/PID/{cwd,exe,maps,mountinfo}.
#include <linux/errno.h>

#include "guestkernel/fs/mount.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

constexpr usize path_limit = 4096;

// A name is built from its end.
struct Backwards {
    char* text;
    usize start = path_limit;
    bool full = false;
    void prepend(std::string_view piece) {
        if (piece.size() > start) {
            full = true;
            return;
        }
        start -= piece.size();
        for (usize i = 0; i < piece.size(); i++)
            text[start + i] = piece[i];
    }
};

} // namespace

namespace {

Result<String> build_name(const Path& root, const Path& path, bool mark_unreachable) {
    if (!path)
        return fail(ENOENT);
    Vector<char> memory;
    TRY(memory.resize(path_limit));
    Backwards name{memory.data()};
    bool reachable = true;
    {
        Ref<Mount> mount = Ref<Mount>::share(path.mount());
        Ref<Dentry> place = Ref<Dentry>::share(path.dentry());
        if (place->deleted())
            name.prepend(" (deleted)");
        const usize bare = name.start;
        while (!(mount.get() == root.mount() && place.get() == root.dentry())) {
            if (place.get() == &mount->root() || place->is_root()) {
                if (place.get() == &mount->root() && MountTree::cross_up(mount, place))
                    continue;
                reachable = !root;
                break;
            }
            TRY(const String component, place->copy_name());
            name.prepend(component.view());
            name.prepend("/");
            place = place->parent_ref();
        }
        if (name.start == bare)
            name.prepend("/");
    }
    if (!reachable && mark_unreachable)
        name.prepend("(unreachable)");
    if (name.full)
        return fail(ENAMETOOLONG);
    return String::from({name.text + name.start, path_limit - name.start});
}

} // namespace

Result<String> path_name_from(const Path& root, const Path& path) {
    return build_name(root, path, true);
}

Result<String> path_name(const Path& path) {
    const FsContext* context = current_task().fs.get();
    return build_name(context == nullptr ? MountTree::root() : context->root(), path, false);
}

} // namespace kernel
