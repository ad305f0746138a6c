// Nodes: what shows of them, and copies of what lies below.
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/fs.h>
#include <linux/xattr.h>

#include "guestkernel/fs/layered/layered.hpp"
#include "guestkernel/fs/layered/upper.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/mm/heap.hpp"

namespace kernel {

void LayeredInode::last_reference() {
    fs_.forget(*this);
    delete this;
}

Inode& LayeredInode::real() const {
    if (Dentry* above = upper())
        return *above->inode();
    return *lowers_[0]->inode();
}

// --- attributes ----------------------------------------------------------------------------------

void LayeredInode::take_attributes(const Attributes& from, const Inode& object) {
    SpinGuard guard(attributes_lock_);
    mode_ = type() | (from.mode & mode_permissions);
    uid_ = from.uid;
    gid_ = from.gid;
    has_acl_ = object.has_acl();
}

Result<Attributes> LayeredInode::attributes() {
    Inode& shown = real();
    TRY(Attributes out, shown.attributes());
    take_attributes(out, shown);
    out.inode = number_;
    if (is_directory() && merged())
        out.links = 1; // not counted
    return out;
}

Result<void> LayeredInode::set_attributes(const Attributes& wanted, u32 mask) {
    TRY(copy_up((mask & set_size) == 0 || wanted.size != 0));
    Inode& shown = real();
    {
        MutexGuard guard(shown.mutex());
        TRY(shown.set_attributes(wanted, mask));
    }
    TRY(const Attributes now, shown.attributes());
    take_attributes(now, shown);
    return {};
}

Result<String> LayeredInode::readlink() {
    return real().readlink();
}

// --- copies --------------------------------------------------------------------------------------

// From the top down: an object's place above must be there before it.
Result<void> LayeredInode::copy_up(bool with_data) {
    if (upper() != nullptr)
        return {};
    if (!fs_.writable())
        return fail(EROFS);
    Vector<LayeredInode*> chain;
    for (LayeredInode* at = this; at != nullptr && at->upper() == nullptr; at = at->parent_.get())
        TRY(chain.push_back(at));
    for (usize i = chain.size(); i-- > 0;)
        TRY(chain[i]->copy_up_here(with_data || i != 0));
    return {};
}

Result<void> LayeredInode::copy_up_here(bool with_data) {
    MutexGuard guard(copy_mutex_);
    if (upper() != nullptr)
        return {};
    // The overlay's own checks saw the object, which may be its user's in a directory that is not.
    if (!unlinked_)
        TRY(fs_.check_mounter(*parent_->upper()->inode()));
    Inode& below = *lowers_[0]->inode();
    const String temporary = fs_.next_name();
    if (temporary.empty())
        return fail(ENOMEM);
    TRY(Ref<Dentry> copy, make_copy(below, temporary.view(), with_data));
    if (unlinked_) {
        // Still open, and changed now: the copy has no name either.
        TRY(upper_remove(*fs_.work_, temporary.view()));
        fs_.rekey(*this, std::move(copy));
        fs_.unpin(*this);
        return {};
    }
    Dentry& directory = *parent_->upper();
    TRY(const Attributes before, directory.inode()->attributes());
    auto moved = upper_rename(*fs_.work_, temporary.view(), directory, name_.view(), 0);
    if (!moved) {
        (void)upper_remove(*fs_.work_, temporary.view());
        return moved;
    }
    // For those who look at it nothing happened to the directory.
    {
        MutexGuard above(directory.inode()->mutex());
        (void)directory.inode()->set_attributes(before, set_access_time | set_modify_time);
    }
    fs_.rekey(*this, std::move(copy));
    return {};
}

Result<Ref<Dentry>> LayeredInode::make_copy(Inode& from, std::string_view temporary,
                                            bool with_data) {
    TRY(const Attributes attributes, from.attributes());
    // Who mounted it may not make objects of ids that are none of theirs.
    if (!id_is_mapped(fs_.user_ns.get(), false, attributes.uid) ||
        !id_is_mapped(fs_.user_ns.get(), true, attributes.gid))
        return fail(EOVERFLOW);
    Ref<Dentry> copy;
    if (from.is_symlink()) {
        TRY(String target, from.readlink());
        TRY(copy,
            upper_symlink(*fs_.work_, temporary, target.view(), attributes.uid, attributes.gid));
    } else {
        TRY(copy, upper_create(*fs_.work_, temporary, attributes.mode, attributes.device_number,
                               attributes.uid, attributes.gid));
    }
    if (auto filled = fill_copy(from, *copy, with_data); !filled) {
        (void)upper_remove(*fs_.work_, temporary);
        return fail(filled.error().code);
    }
    return copy;
}

namespace {

Result<void> copy_contents(Inode& from, Inode& to, u64 size) {
    constexpr usize piece = usize{64} << 10;
    TRY(Ref<File> source, from.open(Path(), O_RDONLY | O_LARGEFILE));
    TRY(Ref<File> sink, to.open(Path(), O_WRONLY | O_LARGEFILE));
    void* buffer = kmalloc(piece);
    if (buffer == nullptr)
        return fail(ENOMEM);
    const auto copy = [&]() -> Result<void> {
        for (u64 at = 0; at < size;) {
            auto data = source->seek(static_cast<i64>(at), SEEK_DATA);
            if (!data && data.error().code == ENXIO)
                break; // a hole to the end
            if (data && *data > at)
                at = *data;
            IoBuffer in(buffer, piece);
            TRY(const usize got, source->read(in, at));
            if (got == 0)
                break;
            IoBuffer out(buffer, got);
            TRY(const usize put, sink->write(out, at));
            if (put != got)
                return fail(ENOSPC);
            at += got;
            cond_resched();
        }
        if (to.file_size() >= size)
            return {};
        return sink->truncate(size);
    };
    auto done = copy();
    kfree(buffer);
    if (done)
        TRY(sink->flush());
    return done;
}

} // namespace

Result<void> LayeredInode::fill_copy(Inode& from, Dentry& copy, bool with_data) {
    Inode& to = *copy.inode();
    TRY(const Attributes attributes, from.attributes());
    if (from.is_regular() && with_data && attributes.size != 0)
        TRY(copy_contents(from, to, attributes.size));
    String list;
    TRY(from.list_xattrs(list));
    MutexGuard guard(to.mutex());
    for (std::string_view rest = list.view(); !rest.empty();) {
        const std::string_view name = rest.substr(0, rest.find('\0'));
        rest.remove_prefix(name.size() < rest.size() ? name.size() + 1 : rest.size());
        // Marks stay behind; an escaped one is data of an overlay on top of this one.
        if (name.starts_with(fs_.prefix()) &&
            !name.substr(fs_.prefix().size()).starts_with("overlay."))
            continue;
        auto value = from.get_xattr(name);
        if (!value)
            continue; // one that may be listed but not read
        auto set = to.set_xattr(name, value->view(), 0);
        if (!set && set.error().code != EOPNOTSUPP)
            return set;
    }
    TRY(copy_acls(from, to));
    TRY(const Attributes made, to.attributes());
    u32 mask = set_access_time | set_modify_time;
    mask |= made.uid != attributes.uid ? u32{set_uid} : 0u;
    mask |= made.gid != attributes.gid ? u32{set_gid} : 0u;
    if (!from.is_symlink())
        mask |= set_mode;
    return to.set_attributes(attributes, mask);
}

// --- extended attributes -------------------------------------------------------------------------

namespace {

// A mark is ours; what the overlay's users call by such a name is kept by a longer one.
Result<String> real_name(std::string_view prefix, std::string_view name) {
    TRY(String out, String::from(name.starts_with(prefix) ? prefix : std::string_view()));
    if (name.starts_with(prefix)) {
        TRY(out.append("overlay."));
        name.remove_prefix(prefix.size());
    }
    TRY(out.append(name));
    return out;
}

} // namespace

Result<String> LayeredInode::get_xattr(std::string_view name) {
    TRY(String full, real_name(fs_.prefix(), name));
    return real().get_xattr(full.view());
}

Result<void> LayeredInode::set_xattr(std::string_view name, std::string_view value, u32 flags) {
    TRY(String full, real_name(fs_.prefix(), name));
    TRY(copy_up());
    Inode& shown = real();
    MutexGuard guard(shown.mutex());
    TRY(shown.set_xattr(full.view(), value, flags));
    guard.unlock();
    TRY(const Attributes now, shown.attributes());
    take_attributes(now, shown);
    return {};
}

Result<void> LayeredInode::set_acl(AclKind kind, Ref<const Acl> acl) {
    TRY(copy_up());
    Inode& shown = real();
    {
        MutexGuard guard(shown.mutex());
        TRY(shown.set_acl(kind, std::move(acl)));
    }
    TRY(const Attributes now, shown.attributes());
    take_attributes(now, shown);
    return {};
}

Result<void> LayeredInode::remove_xattr(std::string_view name) {
    TRY(String full, real_name(fs_.prefix(), name));
    if (upper() == nullptr)
        TRY(real().get_xattr(full.view())); // nothing is copied for what is not there
    TRY(copy_up());
    Inode& shown = real();
    MutexGuard guard(shown.mutex());
    return shown.remove_xattr(full.view());
}

Result<void> LayeredInode::list_xattrs(String& out) {
    constexpr std::string_view escape = "overlay.";
    String all;
    TRY(real().list_xattrs(all));
    for (std::string_view rest = all.view(); !rest.empty();) {
        const std::string_view name = rest.substr(0, rest.find('\0'));
        rest.remove_prefix(name.size() < rest.size() ? name.size() + 1 : rest.size());
        if (name.starts_with(fs_.prefix())) {
            const std::string_view own = name.substr(fs_.prefix().size());
            if (!own.starts_with(escape))
                continue;
            TRY(out.append(fs_.prefix()));
            TRY(out.append(own.substr(escape.size())));
        } else {
            TRY(out.append(name));
        }
        TRY(out.push_back('\0'));
    }
    return {};
}

} // namespace kernel
