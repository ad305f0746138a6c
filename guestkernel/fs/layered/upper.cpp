#include "guestkernel/fs/layered/upper.hpp"

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/fs.h>

#include "guestkernel/fs/mount_tree.hpp"
#include "guestkernel/fs/permission.hpp"

namespace kernel {
namespace {

template <typename Make>
Result<Ref<Dentry>> make_entry(Dentry& directory, std::string_view name, Make&& make) {
    Inode& inode = *directory.inode();
    MutexGuard guard(inode.mutex());
    if (directory.deleted())
        return fail(ENOENT);
    TRY(Ref<Dentry> there, DentryCache::lookup_locked(directory, name));
    if (!there->is_negative())
        return fail(EEXIST);
    there = nullptr;
    TRY(Ref<Inode> made, make(inode));
    return DentryCache::insert(directory, name, std::move(made));
}

// Both directories' mutexes, ancestor first. The caller has the overlay's over them, which keep
// their places in the tree.
class BothDirectories {
public:
    BothDirectories(Dentry& from, Dentry& to) {
        first_ = from.inode();
        second_ = to.inode();
        if (first_ == second_)
            second_ = nullptr;
        else if (is_descendant(from, to) || (!is_descendant(to, from) && second_ < first_))
            std::swap(first_, second_);
        first_->mutex().lock();
        if (second_ != nullptr)
            second_->mutex().lock();
    }
    BothDirectories(const BothDirectories&) = delete;
    BothDirectories& operator=(const BothDirectories&) = delete;
    ~BothDirectories() {
        if (second_ != nullptr)
            second_->mutex().unlock();
        first_->mutex().unlock();
    }

private:
    Inode* first_;
    Inode* second_;
};

class NameSink final : public DirectorySink {
public:
    explicit NameSink(Vector<String>& out) : out_(out) {}
    bool add(std::string_view name, u64, u32, u64) override {
        if (name == "." || name == "..")
            return true;
        auto copy = String::from(name);
        failed = !copy || !out_.push_back(std::move(*copy));
        return !failed;
    }
    bool failed = false;

private:
    Vector<String>& out_;
};

} // namespace

Result<Ref<Dentry>> upper_create(Dentry& directory, std::string_view name, u32 mode,
                                 u64 device_number, u32 uid, u32 gid) {
    return make_entry(directory, name, [&](Inode& inode) {
        return inode.create(name, mode, device_number, uid, gid);
    });
}

Result<Ref<Dentry>> upper_symlink(Dentry& directory, std::string_view name, std::string_view target,
                                  u32 uid, u32 gid) {
    return make_entry(directory, name,
                      [&](Inode& inode) { return inode.symlink(name, target, uid, gid); });
}

Result<Ref<Dentry>> upper_link(Dentry& directory, std::string_view name, Inode& target) {
    return make_entry(directory, name, [&](Inode& inode) -> Result<Ref<Inode>> {
        TRY(inode.link(name, target));
        return Ref<Inode>::share(&target);
    });
}

namespace {

enum class Rights : u8 { Checked, Caller };

Result<void> remove_entry(Dentry& directory, std::string_view name, Rights rights) {
    Inode& inode = *directory.inode();
    MutexGuard guard(inode.mutex());
    TRY(Ref<Dentry> there, DentryCache::lookup_locked(directory, name));
    if (there->is_negative())
        return fail(ENOENT);
    if (there->mounts.load() != 0)
        return fail(EBUSY);
    Ref<Inode> gone = Ref<Inode>::share(there->inode());
    if (rights == Rights::Caller)
        TRY(check_delete(directory, *gone, gone->is_directory()));
    if (gone->is_directory()) {
        MutexGuard own(gone->mutex());
        TRY(inode.rmdir(name, *gone));
        DentryCache::remove(*there);
        return {};
    }
    TRY(inode.unlink(name, *gone));
    DentryCache::remove(*there);
    return {};
}

} // namespace

Result<void> upper_remove(Dentry& directory, std::string_view name) {
    return remove_entry(directory, name, Rights::Checked);
}

Result<void> upper_rename(Dentry& from, std::string_view old_name, Dentry& to,
                          std::string_view new_name, u32 flags) {
    BothDirectories locks(from, to);
    TRY(Ref<Dentry> source, DentryCache::lookup_locked(from, old_name));
    TRY(Ref<Dentry> target, DentryCache::lookup_locked(to, new_name));
    const bool exchange = (flags & RENAME_EXCHANGE) != 0;
    if (source->is_negative() || (exchange && target->is_negative()))
        return fail(ENOENT);
    if (source->mounts.load() != 0 || target->mounts.load() != 0)
        return fail(EBUSY);
    // The overlay saw to it that neither goes into itself, but in its own tree: a program may have
    // moved one below the other in the layer. The dentries would be a ring, and walks up from there
    // would never end.
    if (is_descendant(to, *source) || is_descendant(from, *target))
        return fail(ESTALE);
    Ref<Inode> moved = Ref<Inode>::share(source->inode());
    Ref<Inode> other = Ref<Inode>::share(target->inode());
    if (moved == other)
        return {};
    TRY(char* storage, DentryCache::prepare_name(new_name));
    const bool replaces_directory = other && other->is_directory() && !exchange;
    if (replaces_directory)
        other->mutex().lock();
    auto done = from.inode()->rename(old_name, *moved, *to.inode(), new_name, other.get(), flags);
    if (done) {
        if (exchange)
            DentryCache::exchange(*source, *target);
        else
            DentryCache::move(*source, to, new_name, std::exchange(storage, nullptr));
    }
    if (replaces_directory)
        other->mutex().unlock();
    delete[] storage;
    return done;
}

Result<void> NameList::read(Dentry& directory) {
    TRY(Ref<File> listing, directory.inode()->open(Path(), O_RDONLY | O_DIRECTORY));
    NameSink sink(names);
    for (u64 at = 0; !sink.failed;) {
        TRY(const u64 next, listing->read_directory(sink, at));
        if (next == at)
            return {};
        at = next;
    }
    return fail(ENOMEM);
}

// In a loop, with a stack of its own: leftovers may be deep.
Result<void> upper_remove_tree(Dentry& directory, std::string_view name) {
    Vector<Ref<Dentry>> open; // directories on the way down
    Vector<String> names;     // and the name of each in the one before
    TRY(open.push_back(Ref<Dentry>::share(&directory)));
    TRY(String first, String::from(name));
    TRY(names.push_back(std::move(first)));
    while (!names.empty()) {
        Dentry& parent = *open.back();
        auto removed = remove_entry(parent, names.back().view(), Rights::Caller);
        if (removed || removed.error().code == ENOENT) {
            names.pop_back();
            // What is left of the same directory is found again by listing it.
            if (names.size() < open.size() && open.size() > 1)
                open.pop_back();
            continue;
        }
        if (removed.error().code != ENOTEMPTY)
            return removed;
        TRY(Ref<Dentry> below, DentryCache::lookup(parent, names.back().view()));
        if (below->is_negative())
            continue;
        NameList inside;
        TRY(inside.read(*below));
        for (usize i = 0; i + 1 < inside.names.size(); i++)
            (void)remove_entry(*below, inside.names[i].view(), Rights::Caller);
        if (inside.names.empty())
            return removed;
        TRY(open.push_back(std::move(below)));
        TRY(names.push_back(std::move(inside.names.back())));
    }
    return {};
}

} // namespace kernel
