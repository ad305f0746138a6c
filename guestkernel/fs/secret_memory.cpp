#include "guestkernel/fs/secret_memory.hpp"

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/magic.h>
#include <linux/mman.h>
#include <linux/mount.h>

#include "guestkernel/fs/attributes.hpp"
#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/fs/internal_mount.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/permission.hpp"
#include "guestkernel/fs/tmpfs.hpp"

namespace kernel {

namespace {

class SecretSuperblock final : public TmpfsSuperblock {
public:
    SecretSuperblock() : TmpfsSuperblock(Options{}, "secretmem") {}
    Result<FileSystemStats> stats() override {
        TRY(FileSystemStats out, TmpfsSuperblock::stats());
        out.type = SECRETMEM_MAGIC;
        return out;
    }
};

Result<Ref<Superblock>> make_secret_store() {
    TRY(Ref<SecretSuperblock> made, make_ref<SecretSuperblock>());
    TRY(made->make_root());
    return Ref<Superblock>(std::move(made));
}
constinit InternalMount secrets{make_secret_store, MS_NOSUID | MS_NODEV | MS_NOEXEC};

class SecretInode final : public TmpfsFile {
public:
    using TmpfsFile::TmpfsFile;
    static Result<Ref<SecretInode>> make(TmpfsSuperblock& home) {
        TRY(Ref<PageCache> cache, make_ref<PageCache>(nullptr));
        cache->make_secret();
        TRY(const u64 number, home.take_inode());
        TRY(Ref<SecretInode> made, make_ref<SecretInode>(home, number, mode_regular | 0600u, u64{0},
                                                         current_fsuid(), current_fsgid()));
        made->cache_ = std::move(cache);
        return made;
    }
    bool keeps_flags() const override { return false; }
    // There is the descriptor that it was made with, and no way by /proc/PID/fd.
    Result<Ref<File>> open(const Path&, u32) override { return fail(ENXIO); }

protected:
    // It gets its size once: mapped memory does not go away.
    Result<void> resize(u64 size) override {
        return file_size() != 0 ? Result<void>(fail(EINVAL)) : TmpfsFile::resize(size);
    }
};

} // namespace

Result<void> SecretFile::truncate(u64 size) {
    return truncate_inode(*inode(), size);
}

Result<void> SecretFile::allocate(int, u64, u64) {
    return fail(EOPNOTSUPP);
}

Result<Ref<PageCache>> SecretFile::mapping(u32 protection, u32 map_flags) {
    if ((protection & PROT_EXEC) != 0)
        return fail(EPERM);
    if ((map_flags & MAP_TYPE) == MAP_PRIVATE)
        return fail(EINVAL);
    return Ref<PageCache>::share(inode()->page_cache());
}

Result<Ref<File>> make_secret_file() {
    TRY(const Ref<Mount> mount, secrets.get());
    TRY(Ref<SecretInode> inode,
        SecretInode::make(static_cast<TmpfsSuperblock&>(mount->superblock())));
    TRY(Ref<Dentry> dentry,
        DentryCache::make_unhashed(mount->root(), "secretmem", Ref<Inode>(inode), true));
    TRY(Ref<SecretFile> file,
        make_ref<SecretFile>(Path(mount, std::move(dentry)), Ref<Inode>(std::move(inode)),
                             u32{O_RDWR | O_LARGEFILE}));
    return Ref<File>(std::move(file));
}

} // namespace kernel
