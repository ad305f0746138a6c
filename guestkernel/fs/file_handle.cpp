#include "guestkernel/fs/file_handle.hpp"

#include <linux/errno.h>

#include "guestkernel/core/log.hpp"
#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/lib/hash_map.hpp"

namespace kernel {

struct HandleEntry {
    HandleEntry* next = nullptr;
    u64 device = 0, number = 0;
    Dentry* dentry = nullptr; // leaves the table before it dies
};

namespace {

// Kinds as Linux numbers them: inode and more; the number of a kernfs node, which is what programs
// take for the number of a control group.
constexpr u32 type_numbers = 0x81, type_kernfs = 0xfe;

constexpr usize buckets = 1024;
// Inside of it only references are taken and given.
constinit SpinLock table_lock{LockRank::Leaf};
constinit HandleEntry* table[buckets] = {};

HandleEntry*& bucket(u64 device, u64 number) {
    return table[hash_mix(device ^ hash_mix(number)) & (buckets - 1)];
}

bool has_type(const Superblock& superblock, std::string_view type) {
    return superblock.type() == type;
}

} // namespace

bool has_file_handles(const Superblock& superblock) {
    for (const std::string_view type :
         {"tmpfs", "overlay", "virtiofs", "cgroup2", "sysfs", "devtmpfs"})
        if (has_type(superblock, type))
            return true;
    return false;
}

FileHandle encode_file_handle(const Inode& inode) {
    FileHandle out;
    out.words[0] = inode.number();
    if (has_type(*inode.superblock(), "cgroup2")) {
        out.type = type_kernfs;
        out.bytes = sizeof out.words[0];
    } else {
        out.type = type_numbers;
        out.bytes = sizeof out.words;
        out.words[1] = inode.superblock()->device_number;
    }
    return out;
}

Result<FileHandle> make_file_handle(const Path& path, bool only_identity) {
    Dentry& dentry = *path.dentry();
    if (!has_file_handles(dentry.superblock())) {
        if (!only_identity)
            return fail(EOPNOTSUPP);
        // What Linux makes where nothing else is known: the number, and a generation of 32 bits.
        return FileHandle{.type = type_numbers,
                          .bytes = sizeof(u64) + sizeof(u32),
                          .words = {dentry.inode()->number(), 0}};
    }
    TRY(remember_file_handle(dentry));
    return encode_file_handle(*dentry.inode());
}

Result<void> remember_file_handle(Dentry& dentry) {
    if (dentry.handle != nullptr)
        return {};
    const u64 device = dentry.superblock().device_number;
    const u64 number = dentry.inode()->number();
    TRY(Owned<HandleEntry> fresh, make_owned<HandleEntry>());
    fresh->device = device;
    fresh->number = number;
    fresh->dentry = &dentry;
    {
        SpinGuard guard(table_lock);
        HandleEntry*& head = bucket(device, number);
        HandleEntry* found = head;
        while (found != nullptr && (found->device != device || found->number != number))
            found = found->next;
        if (found == nullptr) {
            fresh->next = head;
            found = head = fresh.leak();
        } else if (found->dentry != &dentry) { // another name of the same file
            found->dentry->handle = nullptr;
            found->dentry = &dentry;
        }
        dentry.handle = found;
    }
    return {};
}

Result<void> describe_file_handle(const FileHandle& handle, String& out) {
    char text[64];
    TRY(out.append({text, log::format(text, sizeof text,
                                      "fhandle-bytes:{x} fhandle-type:{x} f_handle:", handle.bytes,
                                      handle.type)}));
    for (u32 i = 0; i < handle.bytes; i++) {
        const u64 byte = handle.words[i / 8] >> (i % 8 * 8) & 0xff;
        const char digits[] = {"0123456789abcdef"[byte >> 4], "0123456789abcdef"[byte & 15]};
        TRY(out.append({digits, sizeof digits}));
    }
    return out.append("\n");
}

Result<Path> find_file_handle(const Path& where, const FileHandle& handle) {
    const Superblock& superblock = where.dentry()->superblock();
    const u64 device = superblock.device_number;
    const bool kernfs = handle.type == type_kernfs && handle.bytes == sizeof(u64);
    if (!kernfs && (handle.type != type_numbers || handle.bytes != sizeof handle.words ||
                    handle.words[1] != device))
        return fail(ESTALE);
    Ref<Dentry> found;
    {
        SpinGuard guard(table_lock);
        for (HandleEntry* at = bucket(device, handle.words[0]); at != nullptr; at = at->next)
            if (at->device == device && at->number == handle.words[0] && at->dentry->try_add_ref())
                found = Ref<Dentry>::adopt(at->dentry);
    }
    if (!found || !DentryCache::pin(*found))
        return fail(ESTALE);
    return Path(Ref<Mount>::share(where.mount()), std::move(found));
}

void forget_file_handle(Dentry& dentry) {
    HandleEntry* gone = nullptr;
    {
        SpinGuard guard(table_lock);
        gone = dentry.handle;
        if (gone == nullptr)
            return;
        HandleEntry** at = &bucket(gone->device, gone->number);
        while (*at != gone)
            at = &(*at)->next;
        *at = gone->next;
    }
    delete gone;
}

} // namespace kernel
