// Directories: what is below, what was added, what was removed.
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/fs.h>

#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/overlay/overlay.hpp"
#include "guestkernel/mm/heap.hpp"

namespace kernel {
namespace {

OverlayInode& as_overlay(Inode& inode) {
    return static_cast<OverlayInode&>(inode);
}

} // namespace

Result<Vector<Ref<Inode>>> OverlayInode::lookup_below(std::string_view name) {
    Vector<Ref<Inode>> found;
    for (usize i = 0; i < layer_count(); i++) {
        Inode& directory = layer(i);
        const auto ask = [&]() -> Result<Ref<Inode>> {
            if (directory.superblock()->parallel_lookup()) {
                SharedGuard guard(directory.mutex());
                return directory.lookup(name);
            }
            MutexGuard guard(directory.mutex());
            return directory.lookup(name);
        };
        auto answer = ask();
        if (!answer) {
            if (answer.error().code == ENOENT)
                continue;
            return fail(answer.error().code);
        }
        // Only directories merge; anything else hides what lies below it, and is hidden by a
        // directory above.
        const bool directory_found = (*answer)->is_directory();
        if (found.empty() || directory_found)
            TRY(found.push_back(std::move(*answer)));
        if (!directory_found)
            break;
    }
    return found;
}

Result<Ref<Inode>> OverlayInode::lookup(std::string_view name) {
    if (entries_pointer_.load(base::Order::Acquire) != nullptr)
        if (const OverlayEntry* entry = entries_->find(name)) {
            if (!entry->inode)
                return fail(ENOENT);
            return Ref<Inode>(entry->inode);
        }
    TRY(auto below, lookup_below(name));
    if (below.empty())
        return fail(ENOENT);
    TRY(Ref<OverlayInode> node, fs_.wrap(std::move(below)));
    return Ref<Inode>(std::move(node));
}

// --- the own names -------------------------------------------------------------------------------

// What can fail of put_entry() and drop_entry().
Result<void> OverlayInode::prepare_entry(std::string_view name, OverlayEntry*& fresh) {
    TRY(own_attributes());
    if (entries_pointer_.load(base::Order::Acquire) == nullptr) {
        TRY(Owned<OverlayEntries> entries, make_owned<OverlayEntries>());
        entries_ = std::move(
            entries); // nobody looks before the pointer is set; the directory's mutex is ours
        entries_pointer_.store(entries_.get(), base::Order::Release);
    }
    if (entries_->wants_growth()) {
        auto** table =
            static_cast<OverlayEntry**>(kzalloc(entries_->table_size() * sizeof(OverlayEntry*)));
        if (table != nullptr) {
            SpinGuard guard(attributes_lock_);
            table = entries_->exchange_table(table);
            guard.unlock();
            kfree(table);
        } else if (!entries_->has_table()) {
            return fail(ENOMEM);
        }
    }
    fresh = OverlayEntry::make(name);
    if (fresh == nullptr)
        return fail(ENOMEM);
    return {};
}

// The name of `fresh` means `node` from now on. `covers_lower`: the layers below have the name;
// what an entry that was there says about that counts more.
void OverlayInode::put_entry(OverlayEntry* fresh, Ref<OverlayInode> node, bool covers_lower) {
    SpinGuard guard(attributes_lock_);
    if (OverlayEntry* old = entries_->find(fresh->view())) {
        if (!old->inode)
            entries_->note_whiteout(false);
        std::swap(old->inode, node);
        guard.unlock();
        OverlayEntry::destroy(fresh);
        return;
    }
    fresh->inode = std::move(node);
    fresh->covers_lower = covers_lower;
    entries_->insert(*fresh);
}

// The name is gone from now on.
void OverlayInode::drop_entry(std::string_view name, OverlayEntry* fresh) {
    Ref<OverlayInode> node;
    OverlayEntry* unused = fresh;
    {
        SpinGuard guard(attributes_lock_);
        OverlayEntry* old = entries_->find(name);
        if (old == nullptr) {
            fresh->covers_lower = true;
            entries_->insert(*fresh);
            return;
        }
        if (old->covers_lower) {
            if (old->inode)
                entries_->note_whiteout(true);
            node = std::move(old->inode);
        } else {
            entries_->remove(*old);
        }
        if (!old->covers_lower) {
            guard.unlock();
            OverlayEntry::destroy(old);
        }
    }
    OverlayEntry::destroy(unused);
}

Result<Ref<OverlayInode>> OverlayInode::new_node(u32 mode, u64 device_number, u32 uid, u32 gid) {
    TRY(auto node, make_ref<OverlayInode>(fs_, fs_.next_number(), mode));
    Attributes& own = node->own_;
    own.inode = node->number_;
    own.mode = mode;
    own.links = node->is_directory() ? 2 : 1;
    own.uid = node->uid_ = uid;
    own.gid = node->gid_ = gid;
    own.device_number = device_number;
    own.block_size = page_size;
    if (node->is_directory()) {
        own.size = page_size;
        own.blocks = page_size / 512;
    }
    own.access_time = own.modify_time = own.change_time = own.birth_time = current_time();
    node->own_attributes_.store(true, base::Order::Release);
    node->own_xattrs_ = true;
    if (node->is_regular()) {
        TRY(node->data_, make_ref<PageCache>(nullptr));
        node->data_pointer_.store(node->data_.get(), base::Order::Release);
    }
    return node;
}

// Requires: the name is not there.
Result<Ref<Inode>> OverlayInode::add_new(std::string_view name, Ref<OverlayInode> node) {
    OverlayEntry* fresh = nullptr;
    TRY(prepare_entry(name, fresh));
    put_entry(fresh, node, false);
    if (node->is_directory())
        change_links(1);
    stamp_change(true);
    return Ref<Inode>(std::move(node));
}

Result<Ref<Inode>> OverlayInode::create(std::string_view name, u32 mode, u64 device_number, u32 uid,
                                        u32 gid) {
    TRY(Ref<OverlayInode> node, new_node(mode, device_number, uid, gid));
    return add_new(name, std::move(node));
}

Result<Ref<Inode>> OverlayInode::symlink(std::string_view name, std::string_view target, u32 uid,
                                         u32 gid) {
    TRY(Ref<OverlayInode> node, new_node(mode_symlink | 0777, 0, uid, gid));
    TRY(node->target_, String::from(target));
    node->own_.size = target.size();
    return add_new(name, std::move(node));
}

Result<Ref<Inode>> OverlayInode::create_unnamed(u32 mode, u32 uid, u32 gid) {
    TRY(Ref<OverlayInode> node, new_node(mode, 0, uid, gid));
    node->own_.links = 0;
    return Ref<Inode>(std::move(node));
}

Result<void> OverlayInode::link(std::string_view name, Inode& target) {
    OverlayInode& node = as_overlay(target);
    TRY(node.own_attributes());
    OverlayEntry* fresh = nullptr;
    TRY(prepare_entry(name, fresh));
    put_entry(fresh, Ref<OverlayInode>::share(&node), false);
    node.change_links(1);
    node.stamp_change(false);
    stamp_change(true);
    return {};
}

// --- removal -------------------------------------------------------------------------------------

Result<void> OverlayInode::remove_name(std::string_view name, OverlayInode& child, bool directory) {
    TRY(child.own_attributes());
    OverlayEntry* fresh = nullptr;
    TRY(prepare_entry(name, fresh));
    drop_entry(name, fresh);
    bool last = true;
    if (directory) {
        change_links(-1);
        SpinGuard guard(child.attributes_lock_);
        child.own_.links = 0;
    } else {
        child.change_links(-1);
        SpinGuard guard(child.attributes_lock_);
        last = child.own_.links == 0;
    }
    child.stamp_change(false);
    stamp_change(true);
    if (last)
        fs_.unpin(child);
    return {};
}

Result<void> OverlayInode::unlink(std::string_view name, Inode& child) {
    return remove_name(name, as_overlay(child), false);
}

namespace {

// Ends the listing at the first name that is really there.
class EmptinessSink final : public DirectorySink {
public:
    explicit EmptinessSink(const OverlayEntries* own) : own_(own) {}
    bool add(std::string_view name, u64, u32, u64) override {
        if (name == "." || name == "..")
            return true;
        const OverlayEntry* entry = own_ == nullptr ? nullptr : own_->find(name);
        if (entry != nullptr && !entry->inode)
            return true;
        found = true;
        return false;
    }
    bool found = false;

private:
    const OverlayEntries* own_;
};

} // namespace

Result<bool> OverlayInode::is_empty() {
    const OverlayEntries* own = entries_pointer_.load(base::Order::Acquire);
    if (own != nullptr && own->visible() > 0)
        return false;
    EmptinessSink sink(own);
    for (usize i = 0; i < layer_count() && !sink.found; i++) {
        TRY(Ref<File> listing, layer(i).open(Path(), O_RDONLY | O_DIRECTORY));
        for (u64 at = 0; !sink.found;) {
            TRY(const u64 next, listing->read_directory(sink, at));
            if (next == at)
                break;
            at = next;
        }
    }
    return !sink.found;
}

Result<void> OverlayInode::rmdir(std::string_view name, Inode& child) {
    OverlayInode& node = as_overlay(child);
    TRY(const bool empty, node.is_empty());
    if (!empty)
        return fail(ENOTEMPTY);
    return remove_name(name, node, true);
}

Result<void> OverlayInode::rename(std::string_view old_name, Inode& child, Inode& new_directory,
                                  std::string_view new_name, Inode* replaced, u32 flags) {
    OverlayInode& node = as_overlay(child);
    OverlayInode& target = as_overlay(new_directory);
    auto* other = static_cast<OverlayInode*>(replaced);
    const bool exchange = (flags & RENAME_EXCHANGE) != 0;
    if ((flags & ~u32{RENAME_NOREPLACE | RENAME_EXCHANGE}) != 0)
        return fail(EINVAL);
    if (exchange && other == nullptr)
        return fail(ENOENT);
    if ((flags & RENAME_NOREPLACE) != 0 && other != nullptr)
        return fail(EEXIST);
    if (other == &node)
        return {}; // two names of one file: rename(2) does nothing
    if (!exchange && other != nullptr) {
        if (other->is_directory() != node.is_directory())
            return fail(node.is_directory() ? ENOTDIR : EISDIR);
        if (other->is_directory()) {
            TRY(const bool empty, other->is_empty());
            if (!empty)
                return fail(ENOTEMPTY);
        }
    }
    TRY(node.own_attributes());
    if (other != nullptr)
        TRY(other->own_attributes());
    OverlayEntry* at_old = nullptr;
    TRY(prepare_entry(old_name, at_old));
    OverlayEntry* at_new = nullptr;
    if (auto prepared = target.prepare_entry(new_name, at_new); !prepared) {
        OverlayEntry::destroy(at_old);
        return prepared;
    }

    const Ref<OverlayInode> keep = Ref<OverlayInode>::share(&node);
    target.put_entry(at_new, keep, other != nullptr);
    if (exchange)
        put_entry(at_old, Ref<OverlayInode>::share(other), true);
    else
        drop_entry(old_name, at_old);

    if (exchange) {
        if (node.is_directory() != other->is_directory() && this != &target) {
            change_links(node.is_directory() ? -1 : 1);
            target.change_links(node.is_directory() ? 1 : -1);
        }
        other->stamp_change(false);
    } else {
        if (node.is_directory() && this != &target) {
            change_links(-1);
            target.change_links(1);
        }
        if (other != nullptr) {
            bool last = true;
            if (other->is_directory()) {
                target.change_links(-1);
                SpinGuard guard(other->attributes_lock_);
                other->own_.links = 0;
            } else {
                other->change_links(-1);
                SpinGuard guard(other->attributes_lock_);
                last = other->own_.links == 0;
            }
            other->stamp_change(false);
            if (last)
                fs_.unpin(*other);
        }
    }
    node.stamp_change(false);
    stamp_change(true);
    target.stamp_change(true);
    return {};
}

} // namespace kernel
