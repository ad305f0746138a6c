// Mounts and file systems; proc(5).
#include <linux/errno.h>

#include "guestkernel/fs/file_table.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/fs/procfs/subject.hpp"
#include "guestkernel/fs/vfs.hpp"

namespace kernel::procfs {
namespace {

// Where a mount is, as the process sees it; nothing for what lies outside of its root.
Result<String> place_of(const Mount& mount, const Path& root) {
    const Path at = mount.attached_at();
    if (!at)
        return String::from("/");
    TRY(String name, path_name_from(root, at));
    if (name.view().substr(0, 1) != "/")
        return fail(ENOENT);
    return name;
}

// The directory of the file system that a mount shows: not its root for a bind mount.
Result<String> shown_part(const Mount& mount) {
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

Result<Path> root_of(const TableContext& of) {
    TRY(const Ref<Task> task, subject_task(of));
    const Ref<FsContext> place = fs_of(*task);
    return place ? place->root() : MountTree::root();
}

std::string_view or_none(std::string_view source) {
    return source.empty() ? std::string_view("none") : source;
}

} // namespace

Result<void> show_mounts(TextBuilder& out, const TableContext& of) {
    TRY(const Path root, root_of(of));
    Vector<Ref<Mount>> mounts;
    TRY(MountTree::list(mounts));
    for (const Ref<Mount>& mount : mounts) {
        auto place = place_of(*mount, root);
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
    TRY(const Path root, root_of(of));
    Vector<Ref<Mount>> mounts;
    TRY(MountTree::list(mounts));
    for (const Ref<Mount>& mount : mounts) {
        auto place = place_of(*mount, root);
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
        out.print(" {} - {} ", options.view(), mount->superblock().type());
        out.escaped(or_none(mount->source()));
        out.print(" {}\n", more.view());
    }
    return {};
}

Result<void> show_filesystems(TextBuilder& out, const TableContext&) {
    for (const char* const* type = filesystem_types(); *type != nullptr; type++)
        out.print("nodev\t{}\n", *type);
    return {};
}

} // namespace kernel::procfs
