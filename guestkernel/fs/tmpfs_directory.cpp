// Directories of tmpfs: a hash for lookups, and an array in order of creation for reading, whose
// positions stay valid while entries come and go.
#include <linux/errno.h>
#include <linux/fs.h>

#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/permission.hpp"
#include "guestkernel/fs/tmpfs.hpp"
#include "guestkernel/lib/hash_map.hpp"

namespace kernel {

namespace {

class TmpfsDirectoryFile : public File {
public:
    using File::File;
    Result<u64> read_directory(DirectorySink& sink, u64 offset) override {
        if (!add_dot_entries(*this, sink, offset))
            return offset;
        auto& directory = static_cast<TmpfsDirectory&>(*inode());
        directory.note_accessed(false);
        return directory.emit(sink, offset);
    }
    Result<void> sync(bool) override { return {}; }
};

} // namespace

TmpfsDirectory::TmpfsDirectory(TmpfsSuperblock& home, u64 number, u32 mode, u32 uid, u32 gid)
    : TmpfsInode(home, number, mode, 0, uid, gid) {
    change_links(1); // "."
}

TmpfsDirectory::~TmpfsDirectory() {
    for (Slot& slot : order_)
        if (slot.entry != nullptr)
            free_entry(slot.entry);
}

Result<TmpfsDirectory::Entry*> TmpfsDirectory::make_entry(std::string_view name, Ref<Inode> inode) {
    void* memory = ::operator new(sizeof(Entry) + name.size(), std::nothrow);
    if (memory == nullptr)
        return fail(ENOMEM);
    auto* entry = new (memory)
        Entry{0, nullptr, hash_bytes(name), std::move(inode), static_cast<u16>(name.size())};
    for (usize i = 0; i < name.size(); i++)
        entry->name()[i] = name[i];
    return entry;
}

void TmpfsDirectory::free_entry(Entry* entry) {
    entry->~Entry();
    ::operator delete(static_cast<void*>(entry));
}

TmpfsDirectory::Entry* TmpfsDirectory::find(std::string_view name) {
    if (buckets_.empty())
        return nullptr;
    const u64 hash = hash_bytes(name);
    for (Entry* e = buckets_[hash & (buckets_.size() - 1)]; e != nullptr; e = e->next)
        if (e->hash == hash && e->view() == name)
            return e;
    return nullptr;
}

Result<void> TmpfsDirectory::grow_buckets() {
    Vector<Entry*> fresh;
    TRY(fresh.resize(buckets_.empty() ? 8 : buckets_.size() * 4));
    for (Entry*& bucket : fresh)
        bucket = nullptr;
    for (Slot& slot : order_)
        if (slot.entry != nullptr) {
            Entry*& head = fresh[slot.entry->hash & (fresh.size() - 1)];
            slot.entry->next = head;
            head = slot.entry;
        }
    std::swap(buckets_, fresh);
    return {};
}

// Room for one more, so that insert() cannot fail.
Result<void> TmpfsDirectory::reserve_entry() {
    if (live_ >= buckets_.size() * 2)
        TRY(grow_buckets());
    if (order_.size() > 16 && order_.size() > 2 * live_)
        compact();
    return order_.reserve(order_.size() + 1);
}

void TmpfsDirectory::compact() {
    usize to = 0;
    for (usize from = 0; from < order_.size(); from++)
        if (order_[from].entry != nullptr)
            order_[to++] = order_[from];
    while (order_.size() > to)
        order_.pop_back();
}

// Requires: reserve_entry() under the same lock.
void TmpfsDirectory::insert(Entry* entry) {
    entry->cookie = next_cookie_++;
    Entry*& head = buckets_[entry->hash & (buckets_.size() - 1)];
    entry->next = head;
    head = entry;
    const auto placed = order_.push_back(Slot{entry->cookie, entry});
    ASSERT(placed.has_value());
    live_++;
}

// The first place whose cookie is not below `cookie`.
usize TmpfsDirectory::position_of(u64 cookie) const {
    usize low = 0;
    usize high = order_.size();
    while (low < high) {
        const usize middle = (low + high) / 2;
        if (order_[middle].cookie < cookie)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

TmpfsDirectory::Entry* TmpfsDirectory::take_out(std::string_view name) {
    Entry* entry = find(name);
    if (entry == nullptr)
        return nullptr;
    for (Entry** at = &buckets_[entry->hash & (buckets_.size() - 1)]; *at != nullptr;
         at = &(*at)->next)
        if (*at == entry) {
            *at = entry->next;
            break;
        }
    order_[position_of(entry->cookie)].entry = nullptr;
    live_--;
    return entry;
}

Result<void> TmpfsDirectory::add(std::string_view name, Ref<Inode> inode) {
    TRY(Entry * entry, make_entry(name, std::move(inode)));
    {
        MutexGuard guard(entries_mutex_);
        const bool there = find(name) != nullptr;
        auto room = there ? Result<void>(fail(EEXIST)) : reserve_entry();
        if (!room) {
            guard.unlock();
            free_entry(entry);
            return room;
        }
        insert(entry);
    }
    note_modified();
    return {};
}

Result<Ref<Inode>> TmpfsDirectory::lookup(std::string_view name) {
    MutexGuard guard(entries_mutex_);
    Entry* entry = find(name);
    if (entry == nullptr)
        return fail(ENOENT);
    return entry->inode;
}

void TmpfsDirectory::pass_on_flags(Inode& fresh) const {
    fresh.file_flags.store(file_flags.load() & (no_dump_flag | no_atime_flag));
}

Result<Ref<Inode>> TmpfsDirectory::create(std::string_view name, u32 mode, u64 device_number,
                                          u32 uid, u32 gid) {
    Ref<Inode> made;
    if ((mode & mode_type) == mode_regular) {
        TRY(made, TmpfsFile::make(home(), mode, uid, gid));
    } else {
        TRY(const u64 number, home().take_inode());
        if ((mode & mode_type) == mode_directory) {
            TRY(made, make_ref<TmpfsDirectory>(home(), number, mode, uid, gid));
        } else {
            TRY(made, make_ref<TmpfsInode>(home(), number, mode, device_number, uid, gid));
        }
    }
    pass_on_flags(*made);
    TRY(add(name, made));
    if (made->is_directory())
        change_links(1);
    return made;
}

Result<Ref<Inode>> TmpfsDirectory::symlink(std::string_view name, std::string_view target, u32 uid,
                                           u32 gid) {
    TRY(String copy, String::from(target));
    TRY(const u64 number, home().take_inode());
    TRY(Ref<Inode> made, make_ref<TmpfsSymlink>(home(), number, uid, gid, std::move(copy)));
    TRY(add(name, made));
    return made;
}

Result<Ref<Inode>> TmpfsDirectory::create_unnamed(u32 mode, u32 uid, u32 gid) {
    TRY(Ref<TmpfsFile> made, TmpfsFile::make(home(), mode, uid, gid));
    pass_on_flags(*made);
    made->change_links(-1);
    return Ref<Inode>(std::move(made));
}

Result<void> TmpfsDirectory::link(std::string_view name, Inode& target) {
    TRY(add(name, Ref<Inode>::share(&target)));
    static_cast<TmpfsInode&>(target).change_links(1);
    return {};
}

Result<void> TmpfsDirectory::unlink(std::string_view name, Inode& child) {
    Entry* entry = nullptr;
    {
        MutexGuard guard(entries_mutex_);
        entry = take_out(name);
    }
    if (entry == nullptr)
        return fail(ENOENT);
    static_cast<TmpfsInode&>(child).change_links(-1);
    free_entry(entry);
    note_modified();
    return {};
}

Result<void> TmpfsDirectory::rmdir(std::string_view name, Inode& child) {
    auto& directory = static_cast<TmpfsDirectory&>(child);
    {
        MutexGuard guard(directory.entries_mutex_);
        if (directory.live_ != 0)
            return fail(ENOTEMPTY);
    }
    TRY(unlink(name, child));
    directory.change_links(-1);
    change_links(-1);
    return {};
}

Result<void> TmpfsDirectory::rename(std::string_view old_name, Inode& child, Inode& new_directory,
                                    std::string_view new_name, Inode* replaced, u32 flags) {
    auto& target = static_cast<TmpfsDirectory&>(new_directory);
    auto& moved = static_cast<TmpfsInode&>(child);
    auto* other = static_cast<TmpfsInode*>(replaced);
    if (other != nullptr && other->is_directory() && (flags & RENAME_EXCHANGE) == 0) {
        auto& doomed = static_cast<TmpfsDirectory&>(*other);
        MutexGuard guard(doomed.entries_mutex_);
        if (doomed.live_ != 0)
            return fail(ENOTEMPTY);
    }
    const bool keeps_old = (flags & (RENAME_EXCHANGE | RENAME_WHITEOUT)) != 0;
    Ref<Inode> left_behind; // what the old name leads to from now on
    if ((flags & RENAME_EXCHANGE) != 0) {
        left_behind = Ref<Inode>::share(other);
    } else if ((flags & RENAME_WHITEOUT) != 0) {
        TRY(const u64 number, home().take_inode());
        TRY(left_behind, make_ref<TmpfsInode>(home(), number, u32{mode_char}, u64{0},
                                              current_fsuid(), current_fsgid()));
    }
    // The new name first: that can fail. Neither lock is held with the other; the VFS holds both
    // directories' mutexes.
    Ref<Inode> dropped;
    if (other != nullptr) {
        MutexGuard guard(target.entries_mutex_);
        Entry* entry = target.find(new_name);
        if (entry == nullptr)
            return fail(ENOENT);
        dropped = std::exchange(entry->inode, Ref<Inode>::share(&child));
    } else {
        TRY(target.add(new_name, Ref<Inode>::share(&child)));
    }
    Entry* gone = nullptr;
    {
        MutexGuard guard(entries_mutex_);
        if (keeps_old) {
            if (Entry* entry = find(old_name))
                std::swap(entry->inode, left_behind);
        } else {
            gone = take_out(old_name);
        }
    }
    if (gone != nullptr)
        free_entry(gone);
    if (other != nullptr && (flags & RENAME_EXCHANGE) == 0) {
        other->change_links(other->is_directory() ? -2 : -1);
        if (other->is_directory())
            target.change_links(-1);
    }
    if (&target != this) {
        const i32 leaving = child.is_directory() ? 1 : 0;
        const i32 arriving =
            other != nullptr && (flags & RENAME_EXCHANGE) != 0 && other->is_directory() ? 1 : 0;
        change_links(arriving - leaving);
        target.change_links(leaving - arriving);
    }
    moved.change_links(0);
    note_modified();
    target.note_modified();
    return {};
}

Result<Ref<File>> TmpfsDirectory::open(const Path& path, u32 flags) {
    TRY(Ref<TmpfsDirectoryFile> file,
        make_ref<TmpfsDirectoryFile>(path, Ref<Inode>::share(this), flags));
    return Ref<File>(std::move(file));
}

u64 TmpfsDirectory::emit(DirectorySink& sink, u64 offset) {
    MutexGuard guard(entries_mutex_);
    for (usize i = position_of(offset); i < order_.size(); i++) {
        Entry* entry = order_[i].entry;
        if (entry == nullptr)
            continue;
        if (!sink.add(entry->view(), entry->inode->number(), directory_type(entry->inode->mode_),
                      entry->cookie + 1))
            return entry->cookie;
        offset = entry->cookie + 1;
    }
    return offset;
}

Result<void> TmpfsDirectory::take_children(Vector<Ref<Inode>>& out) {
    TRY(out.reserve(out.size() + live_));
    for (Slot& slot : order_)
        if (slot.entry != nullptr)
            TRY(out.push_back(std::move(slot.entry->inode)));
    for (Slot& slot : order_)
        if (slot.entry != nullptr)
            free_entry(slot.entry);
    order_.clear();
    buckets_.clear();
    live_ = 0;
    return {};
}

} // namespace kernel
