// PathWalker: path resolution (path_resolution(7), openat2(2)), one walk at a time. All but the
// last component is one step, so that creating, removing and renaming calls can take their locks
// before they look at the last one.
#pragma once

#include <string_view>

#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/fs/vfs.hpp"

namespace kernel {

class PathWalker {
public:
    enum class Last : u8 {
        Name,   // last_name() in the directory where the walk stands
        Root,   // the path was "/": the walk stands at its end already, as in all that follow
        Dot,    // it ended in "."
        DotDot, // it ended in ".."
        Jumped, // it ended in a magic link, or was empty
    };

    explicit PathWalker(u32 flags) : flags_(flags) {}
    Result<void> start(int directory, std::string_view name);
    Result<void> start_from(const Path& start, std::string_view name);

    // Walks up to the last component.
    Result<void> walk_parent();
    Last last() const { return last_; }
    std::string_view last_name() const { return last_name_; }
    bool trailing_slash() const { return trailing_slash_; }
    // The last component, perhaps negative, not crossing mounts. Requires: last() is Name.
    Result<Ref<Dentry>> lookup_last() { return child(last_name_); }
    // The last component was this symbolic link: walk_parent() then goes on with where it leads.
    Result<void> follow(Dentry& link) { return follow_link(link, {}); }
    // Steps onto the last component, crossing mounts.
    Result<void> step_into(Ref<Dentry> child);

    // The whole walk with the flags given.
    Result<Path> finish();

    Dentry& dentry() const { return *dentry_; }
    Mount& mount() const { return *mount_; }
    Path path() const { return Path(mount_, dentry_); }
    u32 flags() const { return flags_; }

private:
    struct Pending {
        String text;           // a link's target
        std::string_view rest; // what follows the link in the text outside of it
    };
    Result<void> follow_link(Dentry& link, std::string_view rest);
    Result<void> step_up();
    bool scoped() const { return (flags_ & (lookup_in_root | lookup_beneath)) != 0; }
    Result<Ref<Dentry>> child(std::string_view name);
    Result<void> cross(Ref<Mount>& mount, Ref<Dentry>& dentry);

    static constexpr unsigned link_limit = 40;

    u32 flags_;
    Path root_;
    u64 changes_ = 0; // way_changes() when a scoped walk began
    Ref<Mount> mount_;
    Ref<Dentry> dentry_;
    std::string_view rest_;
    Vector<Pending> pending_;
    unsigned unfinished_ = 0; // entries of pending_ whose rest is not empty
    unsigned links_ = 0;
    Last last_ = Last::Jumped;
    std::string_view last_name_;
    bool trailing_slash_ = false;
};

} // namespace kernel
