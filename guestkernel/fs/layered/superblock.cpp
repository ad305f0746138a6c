// The layers, the table of nodes, and the marks that layers carry.
#include <linux/errno.h>
#include <linux/magic.h>
#include <linux/mount.h>

#include "guestkernel/core/log.hpp"
#include "guestkernel/fs/layered/layered.hpp"
#include "guestkernel/fs/layered/upper.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/fs/mount_tree.hpp"
#include "guestkernel/fs/permission.hpp"
#include "guestkernel/lib/hash_map.hpp"

namespace kernel {
namespace {

// What objects of other file systems than the topmost layer's have in the upper bits of their
// numbers, so that they differ.
constexpr unsigned system_shift = 56;
constexpr usize most_layers = 500;
constexpr u32 most_stacked = 2; // FILESYSTEM_MAX_STACK_DEPTH of Linux

Result<void> check_upper(const Path& upper, const Path& work) {
    if (upper.mount() != work.mount() || upper.mount()->read_only())
        return fail(EINVAL);
    // Neither may hold the other, nor may they be one.
    if (is_descendant(*upper.dentry(), *work.dentry()) ||
        is_descendant(*work.dentry(), *upper.dentry()))
        return fail(EINVAL);
    return {};
}

// Overlays on overlays, the one that is to be made included.
u32 stacked_on(const LayeredSuperblock::Layers& layers) {
    u32 most = layers.upper ? layers.upper.mount()->superblock().stacked : 0;
    for (const Path& layer : layers.lower) {
        const u32 below = layer.mount()->superblock().stacked;
        most = below > most ? below : most;
    }
    return most + 1;
}

} // namespace

Result<Ref<LayeredSuperblock>> LayeredSuperblock::create(Layers layers) {
    if (layers.lower.empty() || layers.lower.size() > most_layers)
        return fail(EINVAL);
    // One directory alone, and that not writable, is a bind mount.
    if (!layers.upper && layers.lower.size() < 2)
        return fail(EINVAL);
    if (layers.upper)
        TRY(check_upper(layers.upper, layers.work));
    const u32 stacked = stacked_on(layers);
    if (stacked > most_stacked)
        return fail(EINVAL);
    TRY(auto fs, make_ref<LayeredSuperblock>());
    fs->stacked = stacked;
    fs->layers_ = std::move(layers);
    fs->mounter_ = Ref<const Credentials>::share(current_credentials());
    fs->options_ = std::move(fs->layers_.options);
    if (fs->writable()) {
        TRY(fs->prepare_work());
        TRY(fs->systems_.push_back(&fs->layers_.upper.mount()->superblock()));
    } else {
        fs->read_only = true;
        fs->flags |= MS_RDONLY;
    }
    Vector<Ref<Dentry>> lowers;
    for (const Path& layer : fs->layers_.lower) {
        TRY(lowers.push_back(Ref<Dentry>::share(layer.dentry())));
        const Superblock* system = &layer.mount()->superblock();
        bool known = false;
        for (const Superblock* each : fs->systems_)
            known = known || each == system;
        if (!known)
            TRY(fs->systems_.push_back(system));
    }
    Ref<Dentry> upper =
        fs->writable() ? Ref<Dentry>::share(fs->layers_.upper.dentry()) : Ref<Dentry>();
    TRY(fs->root_, fs->wrap(std::move(upper), std::move(lowers), nullptr, {}));
    return fs;
}

LayeredSuperblock::~LayeredSuperblock() {
    root_ = nullptr;
    for (usize i = 0; i < buckets; i++)
        for (;;) {
            LayeredInode* pinned = nullptr;
            {
                SpinGuard guard(table_lock_);
                for (pinned = table_[i]; pinned != nullptr && !pinned->pinned_;)
                    pinned = pinned->table_next_;
                if (pinned != nullptr)
                    pinned->pinned_ = false;
            }
            if (pinned == nullptr)
                break;
            pinned->release(); // and leaves the table with its last reference
        }
}

// What an earlier mount left there goes; a fresh directory takes its place. It may be anybody's
// directory that is named, in a user namespace too.
Result<void> LayeredSuperblock::prepare_work() {
    Dentry& base = *layers_.work.dentry();
    auto removed = upper_remove_tree(base, "work");
    if (!removed && removed.error().code != ENOENT)
        return removed;
    {
        MutexGuard guard(base.inode()->mutex());
        TRY(check_create(base));
    }
    // The mounter's, who is to be able to remove it the next time.
    TRY(work_, upper_create(base, "work", mode_directory, 0, current_fsuid(), current_fsgid()));
    return {};
}

Result<void> LayeredSuperblock::check_mounter(Inode& directory) const {
    return check_permission(directory, may_write | may_exec, mounter_.get());
}

String LayeredSuperblock::next_name() {
    char text[24];
    const usize length =
        log::format(text, sizeof text, "#{}", next_temporary_.fetch_add(1, base::Order::Relaxed));
    auto made = String::from({text, length});
    return made ? std::move(*made) : String();
}

Ref<Inode> LayeredSuperblock::root() {
    return root_;
}

Result<FileSystemStats> LayeredSuperblock::stats() {
    const Path& top = writable() ? layers_.upper : layers_.lower[0];
    TRY(FileSystemStats stats, top.mount()->superblock().stats());
    stats.type = OVERLAYFS_SUPER_MAGIC;
    return stats;
}

Result<void> LayeredSuperblock::sync() {
    return writable() ? layers_.upper.mount()->superblock().sync() : Result<void>();
}

// --- marks ---------------------------------------------------------------------------------------

std::string_view LayeredSuperblock::prefix() const {
    return layers_.user_xattrs ? "user.overlay." : "trusted.overlay.";
}

Result<String> LayeredSuperblock::mark(Inode& object, std::string_view name) const {
    TRY(String full, String::from(prefix()));
    TRY(full.append(name));
    return object.get_xattr(full.view());
}

Result<void> LayeredSuperblock::set_mark(Inode& object, std::string_view name,
                                         std::string_view value) const {
    TRY(String full, String::from(prefix()));
    TRY(full.append(name));
    MutexGuard guard(object.mutex());
    return object.set_xattr(full.view(), value, 0);
}

bool LayeredSuperblock::is_whiteout(Inode& object) const {
    if (object.type() == mode_char) {
        auto attributes = object.attributes();
        return attributes && attributes->device_number == 0;
    }
    // The other form: an empty file with a mark.
    return object.is_regular() && object.file_size() == 0 && mark(object, "whiteout");
}

bool LayeredSuperblock::is_opaque(Inode& directory) const {
    auto value = mark(directory, "opaque");
    return value && value->view() == "y";
}

bool LayeredSuperblock::has_marked_whiteouts(Inode& directory) const {
    auto value = mark(directory, "opaque");
    return value && value->view() == "x";
}

// --- nodes ---------------------------------------------------------------------------------------

usize LayeredSuperblock::bucket_of(const Inode& object) {
    return hash_mix(object.number()) & (buckets - 1);
}

u64 LayeredSuperblock::number_of(const Superblock* layer, u64 number) {
    for (usize i = 0; i < systems_.size(); i++)
        if (systems_[i] == layer)
            return number ^ u64 { i } << system_shift;
    return number;
}

u64 LayeredSuperblock::listed_number(const Inode& object) {
    SpinGuard guard(table_lock_);
    for (LayeredInode* at = table_[bucket_of(object)]; at != nullptr; at = at->table_next_)
        if (&at->real() == &object)
            return at->number();
    return number_of(object.superblock(), object.number());
}

// Of several lower names of one file, each has a node of its own: a change to one leaves the others
// alone, as without an index on Linux.
Result<Ref<LayeredInode>> LayeredSuperblock::wrap(Ref<Dentry> upper, Vector<Ref<Dentry>> lowers,
                                                  LayeredInode* parent, std::string_view name) {
    Inode& shown = upper ? *upper->inode() : *lowers[0]->inode();
    TRY(const Attributes attributes, shown.attributes());
    const bool alone = !upper && !shown.is_directory() && attributes.links > 1;
    const usize bucket = bucket_of(shown);
    const auto find = [&]() -> LayeredInode* {
        for (LayeredInode* at = table_[bucket]; at != nullptr && !alone; at = at->table_next_)
            if (&at->real() == &shown && at->try_add_ref())
                return at;
        return nullptr;
    };
    {
        SpinGuard guard(table_lock_);
        if (LayeredInode* found = find())
            return Ref<LayeredInode>::adopt(found);
    }
    TRY(auto fresh, make_ref<LayeredInode>(*this, number_of(shown.superblock(), shown.number()),
                                           attributes.mode));
    fresh->take_attributes(attributes, shown);
    fresh->upper_ = std::move(upper);
    fresh->upper_pointer_.store(fresh->upper_.get(), base::Order::Release);
    fresh->lowers_ = std::move(lowers);
    if (parent != nullptr)
        fresh->parent_ = Ref<LayeredInode>::share(parent);
    TRY(fresh->name_, String::from(name));
    if (alone)
        return fresh;
    Ref<LayeredInode> answer = fresh;
    {
        SpinGuard guard(table_lock_);
        if (LayeredInode* found = find()) {
            answer = Ref<LayeredInode>::adopt(found); // does not drop the last reference of `fresh`
        } else {
            fresh->table_next_ = table_[bucket];
            table_[bucket] = fresh.get();
            fresh->in_table_ = true;
        }
    }
    return answer;
}

void LayeredSuperblock::rekey(LayeredInode& node, Ref<Dentry> upper) {
    Dentry* shown = upper.get();
    SpinGuard guard(table_lock_);
    take_out(node);
    node.upper_ = std::move(upper);
    node.upper_pointer_.store(shown, base::Order::Release);
    LayeredInode*& bucket = table_[bucket_of(*shown->inode())];
    node.table_next_ = bucket;
    bucket = &node;
    node.in_table_ = true;
    node.pinned_ = true;
    node.add_ref();
}

void LayeredSuperblock::unpin(LayeredInode& node) {
    {
        SpinGuard guard(table_lock_);
        if (!std::exchange(node.pinned_, false))
            return;
    }
    node.release();
}

void LayeredSuperblock::forget(LayeredInode& node) {
    SpinGuard guard(table_lock_);
    take_out(node);
}

void LayeredSuperblock::take_out(LayeredInode& node) {
    if (!std::exchange(node.in_table_, false))
        return;
    for (LayeredInode** at = &table_[bucket_of(node.real())]; *at != nullptr;
         at = &(*at)->table_next_)
        if (*at == &node) {
            *at = node.table_next_;
            return;
        }
}

} // namespace kernel
