// Mounts and file systems; proc(5).
#include <linux/errno.h>
#include <linux/poll.h>

#include "guestkernel/cgroup/cgroup.hpp"
#include "guestkernel/fs/file_table.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/fs/procfs/subject.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/namespaces/namespaces.hpp"

namespace kernel::procfs {
namespace {

// Where a mount is, as the process sees it; nothing for what lies outside of its root.
Result<String> place_of(const Mount& mount, const Path& root) {
    // By its own root: where it is the process's root, that is "/".
    TRY(String name, path_name_from(root, Path(Ref<Mount>::share(const_cast<Mount*>(&mount)),
                                               Ref<Dentry>::share(&mount.root()))));
    if (name.view().substr(0, 1) != "/")
        return fail(ENOENT);
    return name;
}

// The directory of the file system that a mount shows: not its root for a bind mount.
Result<String> shown_part(const Mount& mount) {
    if (std::string_view(mount.superblock().type()) == "cgroup2" &&
        mount.root().inode() != nullptr) {
        String group; // cgroup_namespaces(7): as seen from the reader's own root
        TRY(append_shown_group(group, *mount.root().inode()));
        return group;
    }
    Vector<String> parts;
    for (Ref<Dentry> at = Ref<Dentry>::share(&mount.root()); at && !at->is_root();
         at = at->parent_ref()) {
        TRY(String name, at->copy_name());
        TRY(parts.push_back(std::move(name)));
    }
    String out;
    for (usize i = parts.size(); i-- > 0;) {
        TRY(out.append("/"));
        TRY(out.append(parts[i].view()));
    }
    if (out.empty())
        TRY(out.append("/"));
    return out;
}

// What the files of a process are made from: its namespace's mounts and its root.
struct View {
    Vector<Ref<Mount>> mounts;
    Path root;
};
Result<View> view_of(const TableContext& of) {
    View out;
    TRY(const Ref<Task> task, subject_task(of));
    const Ref<FsContext> place = fs_of(*task);
    out.root = place ? place->root() : MountTree::root();
    const Ref<Namespaces> spaces = namespaces_of(*task);
    if (spaces)
        TRY(MountTree::list(*spaces->mount, out.mounts));
    return out;
}

std::string_view or_none(std::string_view source) {
    return source.empty() ? std::string_view("none") : source;
}

} // namespace

Result<void> show_mounts(TextBuilder& out, const TableContext& of) {
    TRY(const View view, view_of(of));
    for (const Ref<Mount>& mount : view.mounts) {
        auto place = place_of(*mount, view.root);
        if (!place)
            continue;
        String options, more;
        TRY(format_mount_options(*mount, options));
        TRY(format_superblock_options(*mount, more));
        out.escaped(or_none(mount->source()));
        out.append(" ");
        out.escaped(place->view());
        out.print(" {} {}", mount->superblock().type(), options.view());
        // Both parts begin with the access: once is enough here.
        const usize comma = more.view().find(',');
        if (comma != std::string_view::npos)
            out.append(more.view().substr(comma));
        out.append(" 0 0\n");
    }
    return {};
}

Result<void> show_mountinfo(TextBuilder& out, const TableContext& of) {
    TRY(const View view, view_of(of));
    for (const Ref<Mount>& mount : view.mounts) {
        auto place = place_of(*mount, view.root);
        if (!place)
            continue;
        TRY(const String part, shown_part(*mount));
        String options, more;
        TRY(format_mount_options(*mount, options));
        TRY(format_superblock_options(*mount, more));
        const u64 device = mount->superblock().device_number;
        out.print("{} {} {}:{} ", mount->id(), mount->parent_id(), device_major(device),
                  device_minor(device));
        out.escaped(part.view());
        out.append(" ");
        out.escaped(place->view());
        out.print(" {}", options.view());
        if (mount->peer_group() != 0)
            out.print(" shared:{}", mount->peer_group());
        if (mount->master_group() != 0)
            out.print(" master:{}", mount->master_group());
        if (mount->unbindable())
            out.append(" unbindable");
        out.print(" - {} ", mount->superblock().type());
        out.escaped(or_none(mount->source()));
        out.print(" {}\n", more.view());
    }
    return {};
}

// The namespace is the one that the process had when the file was opened.
u32 poll_mounts(PollTable* table, const TableContext& of, u64& seen, Ref<RefCounted>& source) {
    constexpr u32 ready = POLLIN | POLLRDNORM;
    if (!source && seen == 0) {
        seen = 1;
        auto task = subject_task(of);
        const Ref<Namespaces> spaces = task ? namespaces_of(**task) : Ref<Namespaces>();
        if (spaces)
            source = spaces->mount;
    }
    if (!source)
        return ready;
    auto& space = static_cast<MountNamespace&>(*source);
    if (table != nullptr)
        table->watch(space.change_events());
    const u64 now = space.changes();
    const bool changed = seen != now;
    seen = now;
    return changed ? ready | POLLERR | POLLPRI : ready;
}

Result<void> show_mountstats(TextBuilder& out, const TableContext& of) {
    TRY(const View view, view_of(of));
    for (const Ref<Mount>& mount : view.mounts) {
        auto place = place_of(*mount, view.root);
        if (!place)
            continue;
        out.append("device ");
        out.escaped(or_none(mount->source()));
        out.append(" mounted on ");
        out.escaped(place->view());
        out.print(" with fstype {}\n", mount->superblock().type());
    }
    return {};
}

Result<void> show_filesystems(TextBuilder& out, const TableContext&) {
    for (const char* const* type = filesystem_types(); *type != nullptr; type++)
        out.print("nodev\t{}\n", *type);
    return {};
}

} // namespace kernel::procfs
