// A task with a tmpfs as its root, for the unit tests of fs/.
#pragma once

#include <string>

#include "guestkernel/arch/hosted/hosted.hpp"
#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/fs/directory_ops.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/fs/open.hpp"
#include "guestkernel/fs/tmpfs.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel::test {

inline int code_of(const Result<void>& result) {
    return result ? 0 : result.error().code;
}
template <typename T>
int code_of(const Result<T>& result) {
    return result ? 0 : result.error().code;
}

class FsFixture {
public:
    FsFixture() {
        hosted::reset(u64{256} << 20);
        hosted::set_current(&task);
        auto superblock = make_tmpfs("mode=0755");
        root = *detached_mount(std::move(*superblock), 0, "test");
        task.fs = *make_ref<FsContext>(root, root, 022u);
        task.files = *make_ref<FileTable>();
        become(0);
    }
    ~FsFixture() {
        task.files = nullptr;
        task.fs = nullptr;
        Vector<Ref<Mount>> mounts; // what the test left mounted, topmost last
        (void)MountTree::list(mounts);
        for (usize i = mounts.size(); i-- > 0;) {
            const Path top(mounts[i], Ref<Dentry>::share(&mounts[i]->root()));
            (void)MountTree::unmount(top, true, false);
        }
        mounts.clear();
        root = Path();
        hosted::set_current(nullptr);
    }
    FsFixture(const FsFixture&) = delete;
    FsFixture& operator=(const FsFixture&) = delete;

    void become(u32 uid) {
        Ref<Credentials> who = *make_ref<Credentials>();
        who->uid = who->euid = who->suid = who->fsuid = uid;
        who->gid = who->egid = who->sgid = who->fsgid = uid;
        who->cap_permitted = who->cap_effective = uid == 0 ? all_capabilities : 0;
        task.credentials = Ref<const Credentials>(who);
    }
    int mkdir(std::string_view name, u32 mode = 0777) {
        return code_of(make_directory(at_fdcwd, name, mode));
    }
    int symlink(std::string_view target, std::string_view name) {
        return code_of(make_symlink(target, at_fdcwd, name));
    }
    int unlink(std::string_view name) { return code_of(remove_file(at_fdcwd, name)); }
    int rmdir(std::string_view name) { return code_of(remove_directory(at_fdcwd, name)); }
    int rename(std::string_view from, std::string_view to, u32 flags = 0) {
        return code_of(rename_path(at_fdcwd, from, at_fdcwd, to, flags));
    }
    int link(std::string_view from, std::string_view to) {
        return code_of(make_link(at_fdcwd, from, at_fdcwd, to, 0));
    }
    // The error of an open; the file is closed again.
    int open(std::string_view name, u32 flags, u32 mode = 0666) {
        return code_of(open_file(at_fdcwd, name, flags, mode));
    }
    int lookup(std::string_view name, u32 flags = lookup_follow) {
        return code_of(lookup_path(at_fdcwd, name, flags));
    }
    // The name that a lookup ends at.
    std::string resolve(std::string_view name, u32 flags = lookup_follow) {
        auto path = lookup_path(at_fdcwd, name, flags);
        if (!path)
            return "error " + std::to_string(path.error().code);
        auto text = path_name(*path);
        return std::string(text->view());
    }
    Attributes stat(std::string_view name, u32 flags = lookup_follow) {
        auto path = lookup_path(at_fdcwd, name, flags);
        return path ? *path->dentry()->inode()->attributes() : Attributes{};
    }
    int put(std::string_view name, std::string_view text) {
        auto file =
            open_file(at_fdcwd, name, 01 | 0100 | 01000, 0666); // O_WRONLY | O_CREAT | O_TRUNC
        if (!file)
            return file.error().code;
        std::string copy(text);
        IoBuffer buffer(copy.data(), copy.size());
        return code_of((*file)->write(buffer, 0));
    }
    std::string get(std::string_view name) {
        auto file = open_file(at_fdcwd, name, 0, 0);
        if (!file)
            return "error " + std::to_string(file.error().code);
        std::string out(1 << 16, '\0');
        auto got = read_file(**file, out.data(), out.size(), 0);
        out.resize(got ? *got : 0);
        return out;
    }
    int mount_tmpfs(std::string_view where, u32 flags = 0) {
        auto place = lookup_path(at_fdcwd, where, lookup_follow);
        if (!place)
            return place.error().code;
        auto superblock = make_tmpfs("");
        return code_of(mount_at(*place, std::move(*superblock), flags, "tmpfs"));
    }

    Task task;
    Path root;
};

} // namespace kernel::test
