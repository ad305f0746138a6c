// Nodes: attributes, contents and extended attributes, each copied up on its own.
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/fs.h>
#include <linux/xattr.h>

#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/overlay/overlay.hpp"

namespace kernel {

OverlayInode::OverlayInode(OverlaySuperblock& fs, u64 number, u32 mode)
    : Inode(&fs, number, mode), fs_(fs) {}

OverlayInode::~OverlayInode() {
    if (data_)
        data_->detach();
}

void OverlayInode::last_reference() {
    fs_.remove_from_table(*this);
    delete this;
}

Result<void> OverlayInode::adopt_lowers(Vector<Ref<Inode>> lowers) {
    lower_ = std::move(lowers[0]);
    for (usize i = 1; i < lowers.size(); i++)
        TRY(more_lowers_.push_back(std::move(lowers[i])));
    uid_ = lower_->uid_;
    gid_ = lower_->gid_;
    return {};
}

usize OverlayInode::layer_count() const {
    return lower_ ? 1 + more_lowers_.size() : 0;
}

Inode& OverlayInode::layer(usize index) const {
    return index == 0 ? *lower_ : *more_lowers_[index - 1];
}

// --- attributes ----------------------------------------------------------------------------------

Result<Attributes> OverlayInode::attributes() {
    if (!own_attributes_.load(base::Order::Acquire)) {
        TRY(Attributes below, lower_->attributes());
        SpinGuard guard(attributes_lock_);
        if (!own_attributes_.load(base::Order::Relaxed)) {
            mode_ = (mode_ & mode_type) | (below.mode & mode_permissions);
            uid_ = below.uid;
            gid_ = below.gid;
            return below;
        }
    }
    SpinGuard guard(attributes_lock_);
    Attributes out = own_;
    if (const PageCache* data = data_pointer_.load(base::Order::Acquire)) {
        out.size = size_.load(base::Order::Acquire);
        out.blocks = data->resident_pages() * (page_size / 512);
    }
    return out;
}

Result<void> OverlayInode::own_attributes() {
    if (own_attributes_.load(base::Order::Acquire))
        return {};
    TRY(const Attributes below, lower_->attributes());
    {
        SpinGuard guard(attributes_lock_);
        if (own_attributes_.load(base::Order::Relaxed))
            return {};
        own_ = below;
        mode_ = (mode_ & mode_type) | (below.mode & mode_permissions);
        uid_ = below.uid;
        gid_ = below.gid;
        own_attributes_.store(true, base::Order::Release);
    }
    fs_.pin(*this);
    return {};
}

Result<void> OverlayInode::set_attributes(const Attributes& wanted, u32 mask) {
    TRY(own_attributes());
    const TimeSpec now = current_time();
    if ((mask & set_size) != 0) {
        if (!is_regular())
            return fail(is_directory() ? EISDIR : EINVAL);
        const u64 before = file_size();
        TRY(own_data(wanted.size));
        size_.store(wanted.size, base::Order::Release);
        if (wanted.size < before)
            data_->truncate(wanted.size);
    }
    SpinGuard guard(attributes_lock_);
    if ((mask & set_mode) != 0) {
        mode_ = (mode_ & mode_type) | (wanted.mode & mode_permissions);
        own_.mode = mode_;
    }
    if ((mask & set_uid) != 0)
        own_.uid = uid_ = wanted.uid;
    if ((mask & set_gid) != 0)
        own_.gid = gid_ = wanted.gid;
    if ((mask & set_size) != 0)
        own_.modify_time = now;
    if ((mask & set_access_time) != 0)
        own_.access_time = wanted.access_time;
    if ((mask & set_modify_time) != 0)
        own_.modify_time = wanted.modify_time;
    if ((mask & set_access_time_now) != 0)
        own_.access_time = now;
    if ((mask & set_modify_time_now) != 0)
        own_.modify_time = now;
    own_.change_time = now;
    return {};
}

// Requires: own_attributes_.
void OverlayInode::stamp_change(bool contents) {
    const TimeSpec now = current_time();
    SpinGuard guard(attributes_lock_);
    own_.change_time = now;
    if (contents)
        own_.modify_time = now;
}

void OverlayInode::change_links(i32 by) {
    SpinGuard guard(attributes_lock_);
    // A directory that shows one link is on a file system that does not count them (btrfs): so it
    // stays.
    if (lower_ && is_directory() && own_.links == 1 && by != 0)
        return;
    own_.links = static_cast<u32>(static_cast<i32>(own_.links) + by);
}

void OverlayInode::note_modified() {
    if (own_attributes_.load(base::Order::Acquire))
        stamp_change(true);
}

// --- contents ------------------------------------------------------------------------------------

PageCache* OverlayInode::page_cache() {
    if (!is_regular())
        return nullptr;
    if (PageCache* own = data_pointer_.load(base::Order::Acquire))
        return own;
    return lower_ ? lower_->page_cache() : nullptr;
}

u64 OverlayInode::file_size() {
    if (data_pointer_.load(base::Order::Acquire) != nullptr)
        return size_.load(base::Order::Acquire);
    return lower_ ? lower_->file_size() : 0;
}

Result<void> OverlayInode::extend(u64 size) {
    size_.store(size, base::Order::Release);
    return {};
}

Result<void> OverlayInode::own_data(u64 limit) {
    if (has_own_data())
        return {};
    TRY(own_attributes());
    MutexGuard guard(copy_mutex_);
    if (has_own_data())
        return {};
    TRY(const Attributes below, lower_->attributes());
    TRY(data_, copy_contents(limit < below.size ? limit : below.size));
    size_.store(below.size, base::Order::Release);
    data_pointer_.store(data_.get(), base::Order::Release);
    return {};
}

namespace {

bool all_zero(const u8* page) {
    const auto* words = reinterpret_cast<const u64*>(page);
    for (usize i = 0; i < page_size / sizeof(u64); i++)
        if (words[i] != 0)
            return false;
    return true;
}

} // namespace

// The first `limit` bytes of the lower file in pages of our own; holes and pages of zeros stay
// absent.
Result<Ref<PageCache>> OverlayInode::copy_contents(u64 limit) {
    TRY(Ref<PageCache> copy, make_ref<PageCache>(nullptr));
    if (limit == 0)
        return copy;
    TRY(Ref<File> source, lower_->open(Path(), O_RDONLY));
    PageCache* from = lower_->page_cache();
    if (from == nullptr)
        return fail(EIO);
    TRY(const Attributes below, lower_->attributes());
    const bool sparse = below.blocks * 512 < below.size;
    usize copied = 0;
    for (u64 at = 0; at < limit; at += page_size) {
        if (sparse) {
            auto data = source->seek(static_cast<i64>(at), SEEK_DATA);
            if (!data && data.error().code == ENXIO)
                break; // a hole to the end
            if (data && *data > at)
                at = page_down(*data);
            if (at >= limit)
                break;
        }
        auto page = from->get(at >> page_shift);
        if (!page) {
            if (page.error().code == ENXIO)
                break;
            return fail(page.error().code);
        }
        if (all_zero(page->data()))
            continue;
        TRY(FrameRef to, copy->get_for_write(at >> page_shift, true));
        __builtin_memcpy(to.data(), page->data(), page_size);
        // Past the end of the copied part there must be zeros, should the file grow again.
        if (limit - at < page_size)
            __builtin_memset(to.data() + (limit - at), 0, page_size - (limit - at));
        copy->mark_dirty(*to);
        if (++copied % 64 == 0)
            cond_resched();
    }
    return copy;
}

Result<String> OverlayInode::readlink() {
    if (!is_symlink())
        return fail(EINVAL);
    return lower_ ? lower_->readlink() : target_.clone();
}

// --- extended attributes -------------------------------------------------------------------------

// Lists are attributes of the node's own: the layers below hand out none.
Result<Ref<const Acl>> OverlayInode::get_acl(AclKind kind) {
    SpinGuard guard(attributes_lock_);
    return Ref<const Acl>(kind == AclKind::Access ? access_acl_ : default_acl_);
}

Result<void> OverlayInode::set_acl(AclKind kind, Ref<const Acl> acl) {
    TRY(own_attributes());
    {
        SpinGuard guard(attributes_lock_);
        if (kind == AclKind::Access)
            has_acl_ = static_cast<bool>(acl);
        std::swap(kind == AclKind::Access ? access_acl_ : default_acl_, acl);
    }
    stamp_change(false);
    return {};
}

Result<void> OverlayInode::own_xattrs() {
    if (own_xattrs_)
        return {};
    TRY(own_attributes());
    if (lower_) {
        String list;
        TRY(lower_->list_xattrs(list));
        Vector<OverlayXattr> copies;
        for (std::string_view rest = list.view(); !rest.empty();) {
            const std::string_view name = rest.substr(0, rest.find('\0'));
            rest.remove_prefix(name.size() < rest.size() ? name.size() + 1 : rest.size());
            auto value = lower_->get_xattr(name);
            if (!value)
                continue; // one that may be listed but not read stays behind
            OverlayXattr copy;
            TRY(copy.name, String::from(name));
            copy.value = std::move(*value);
            TRY(copies.push_back(std::move(copy)));
        }
        xattrs_ = std::move(copies);
    }
    own_xattrs_ = true;
    return {};
}

Result<String> OverlayInode::get_xattr(std::string_view name) {
    if (name == XATTR_NAME_CAPS && no_capabilities_.load(base::Order::Acquire))
        return fail(ENODATA);
    MutexGuard guard(xattr_mutex_);
    if (!own_xattrs_ && lower_)
        return lower_->get_xattr(name);
    for (const OverlayXattr& xattr : xattrs_)
        if (xattr.name == name)
            return xattr.value.clone();
    return fail(ENODATA);
}

Result<void> OverlayInode::set_xattr(std::string_view name, std::string_view value, u32 flags) {
    MutexGuard guard(xattr_mutex_);
    TRY(own_xattrs());
    TRY(String copy, String::from(value));
    if (name == XATTR_NAME_CAPS)
        no_capabilities_.store(false, base::Order::Release);
    for (OverlayXattr& xattr : xattrs_)
        if (xattr.name == name) {
            if ((flags & XATTR_CREATE) != 0)
                return fail(EEXIST);
            xattr.value = std::move(copy);
            stamp_change(false);
            return {};
        }
    if ((flags & XATTR_REPLACE) != 0)
        return fail(ENODATA);
    OverlayXattr fresh;
    TRY(fresh.name, String::from(name));
    fresh.value = std::move(copy);
    TRY(xattrs_.push_back(std::move(fresh)));
    stamp_change(false);
    return {};
}

Result<void> OverlayInode::remove_xattr(std::string_view name) {
    MutexGuard guard(xattr_mutex_);
    TRY(own_xattrs());
    for (usize i = 0; i < xattrs_.size(); i++)
        if (xattrs_[i].name == name) {
            xattrs_.erase(i);
            stamp_change(false);
            return {};
        }
    return fail(ENODATA);
}

// Each write(2) comes here, and the layer below may be far away.
Result<void> OverlayInode::drop_capabilities() {
    if (no_capabilities_.load(base::Order::Acquire))
        return {};
    TRY(Inode::drop_capabilities());
    no_capabilities_.store(true, base::Order::Release);
    return {};
}

Result<void> OverlayInode::list_xattrs(String& out) {
    MutexGuard guard(xattr_mutex_);
    if (!own_xattrs_ && lower_)
        return lower_->list_xattrs(out);
    for (const OverlayXattr& xattr : xattrs_) {
        TRY(out.append(xattr.name.view()));
        TRY(out.push_back('\0'));
    }
    return {};
}

} // namespace kernel
