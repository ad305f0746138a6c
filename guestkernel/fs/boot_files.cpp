#include "guestkernel/fs/boot_files.hpp"

#include <linux/errno.h>
#include <linux/fcntl.h>

#include "guestkernel/core/boot_config.hpp"
#include "guestkernel/core/log.hpp"
#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/fs/directory_ops.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/mount_tree.hpp"
#include "guestkernel/fs/vfs.hpp"

namespace kernel {

namespace {

Result<void> fill(File& file, std::string_view text) {
    IoBuffer in(const_cast<char*>(text.data()), text.size()); // a write only reads it
    while (in.remaining() > 0) {
        TRY(const usize written, file.write(in, in.done()));
        if (written == 0)
            return fail(ENOSPC);
    }
    return {};
}

// In an overlay: in the place of what is there, be it a link into a directory that is not.
Result<void> replace(std::string_view path, std::string_view text) {
    if (auto removed = remove_file(at_fdcwd, path); !removed && removed.error().code != ENOENT)
        return removed;
    TRY(Ref<File> file, open_file(at_fdcwd, path, O_WRONLY | O_CREAT | O_EXCL, 0644));
    return fill(*file, text);
}

// In a root that is the host's own: over what is there, so that nothing of it changes.
Result<void> cover(std::string_view path, std::string_view text) {
    TRY(Path place, lookup_path(at_fdcwd, path, lookup_follow));
    TRY(Ref<Superblock> memory, make_tmpfs("mode=0755"));
    TRY(Path directory, detached_mount(std::move(memory), 0, "tmpfs"));
    TRY(Ref<Inode> made, directory.dentry()->inode()->create("file", mode_regular | 0644, 0, 0, 0));
    TRY(Path file, lookup_path_from(directory, "file", 0));
    TRY(Ref<File> opened, open_path(file, O_WRONLY));
    TRY(fill(*opened, text));
    return MountTree::bind(file, place, false);
}

void make(std::string_view path, std::string_view text) {
    if (text.empty())
        return;
    auto done =
        boot_config().root_mode == RootMode::Overlay ? replace(path, text) : cover(path, text);
    if (done)
        return;
    // A root without /etc, or a writable one without that file: nobody looks for it there.
    if (done.error().code == ENOENT)
        log::info("{}: there is no place for it", path);
    else
        log::warning("{} is the root's own: error {}", path, done.error().code);
}

} // namespace

void make_boot_files() {
    make("/etc/resolv.conf", boot_config().resolv_conf);
    make("/etc/hosts", boot_config().hosts);
}

} // namespace kernel
