// Directories: what shows in them, and changes of names.
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/fs.h>

#include "guestkernel/fs/layered/layered.hpp"
#include "guestkernel/fs/layered/upper.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/lib/hash_map.hpp"

namespace kernel {

Result<Ref<Inode>> LayeredInode::lookup(std::string_view name) {
    Ref<Dentry> above;
    Vector<Ref<Dentry>> below;
    bool deeper = true;
    if (Dentry* directory = upper()) {
        TRY(Ref<Dentry> found, DentryCache::lookup(*directory, name));
        if (!found->is_negative()) {
            Inode& object = *found->inode();
            if (fs_.is_whiteout(object))
                return fail(ENOENT);
            deeper = object.is_directory() && !fs_.is_opaque(object);
            above = std::move(found);
        }
    }
    for (usize i = 0; i < lowers_.size() && deeper; i++) {
        TRY(Ref<Dentry> found, DentryCache::lookup(*lowers_[i], name));
        if (found->is_negative())
            continue;
        Inode& object = *found->inode();
        if (fs_.is_whiteout(object))
            break;
        // Only directories merge; anything else hides what lies below it, and is hidden by a
        // directory above.
        if (!object.is_directory()) {
            if (!above && below.empty())
                TRY(below.push_back(std::move(found)));
            break;
        }
        deeper = !fs_.is_opaque(object);
        TRY(below.push_back(std::move(found)));
    }
    if (!above && below.empty())
        return fail(ENOENT);
    TRY(Ref<LayeredInode> node, fs_.wrap(std::move(above), std::move(below), this, name));
    return Ref<Inode>(std::move(node));
}

Result<bool> LayeredInode::covers(std::string_view name) const {
    for (const Ref<Dentry>& lower : lowers_) {
        TRY(Ref<Dentry> found, DentryCache::lookup(*lower, name));
        if (!found->is_negative())
            return !fs_.is_whiteout(*found->inode());
    }
    return false;
}

// --- listings ------------------------------------------------------------------------------------

namespace {

// Gathers names, each once: the first to come counts, be it a whiteout.
class Gatherer final : public DirectorySink {
public:
    Gatherer(LayeredSuperblock& fs, Vector<LayeredInode::Name>& entries, Vector<char>& names)
        : fs_(fs), entries_(entries), names_(names) {}

    // The directory whose names come next.
    void begin(Dentry& directory) { directory_ = &directory; }
    bool add(std::string_view name, u64 inode, u32 type, u64) override {
        if (name == "." || name == "..")
            return true;
        if (auto added = take(name, inode, type); !added)
            error = added.error().code;
        return error == 0;
    }
    Result<void> drop_whiteouts(const LayeredInode& node);
    int error = 0;

private:
    Result<void> take(std::string_view name, u64 inode, u32 type) {
        if (entries_.size() * 2 >= slots_.size())
            TRY(grow());
        u32& slot = find(name);
        if (slot != 0)
            return {};
        slot = static_cast<u32>(entries_.size() + 1);
        TRY(directories_.push_back(directory_));
        const LayeredInode::Name entry{static_cast<u32>(names_.size()),
                                       static_cast<u16>(name.size()), static_cast<u8>(type), inode};
        TRY(names_.append(std::span<const char>(name.data(), name.size())));
        return entries_.push_back(entry);
    }
    std::string_view name_of(const LayeredInode::Name& entry) const {
        return {names_.data() + entry.at, entry.length};
    }
    u32& find(std::string_view name) {
        for (usize at = hash_bytes(name);; at++) {
            u32& slot = slots_[at & (slots_.size() - 1)];
            if (slot == 0 || name_of(entries_[slot - 1]) == name)
                return slot;
        }
    }
    Result<void> grow() {
        const usize size = slots_.empty() ? 64 : slots_.size() * 4;
        slots_.clear();
        TRY(slots_.resize(size));
        for (usize i = 0; i < entries_.size(); i++)
            find(name_of(entries_[i])) = static_cast<u32>(i + 1);
        return {};
    }

    LayeredSuperblock& fs_;
    Vector<LayeredInode::Name>& entries_;
    Vector<char>& names_;
    Vector<Dentry*> directories_; // of each entry
    Vector<u32> slots_;           // open addressing: an entry's index + 1
    Dentry* directory_ = nullptr;
};

// What is left gets the number that stat(2) shows.
Result<void> Gatherer::drop_whiteouts(const LayeredInode& node) {
    usize kept = 0;
    const Dentry* seen = nullptr;
    bool marked = false;
    for (usize i = 0; i < entries_.size(); i++) {
        LayeredInode::Name entry = entries_[i];
        const bool above = directories_[i] == node.upper();
        if (directories_[i] != seen) {
            seen = directories_[i];
            marked = fs_.has_marked_whiteouts(*seen->inode());
        }
        const bool suspect = entry.type == directory_type(mode_char) || entry.type == 0 ||
                             (marked && entry.type == directory_type(mode_regular));
        if (above || suspect) {
            TRY(Ref<Dentry> found, DentryCache::lookup(*directories_[i], name_of(entry)));
            if (found->is_negative() || fs_.is_whiteout(*found->inode()))
                continue;
            entry.inode = fs_.listed_number(*found->inode());
        } else {
            entry.inode = fs_.number_of(&directories_[i]->superblock(), entry.inode);
        }
        entries_[kept++] = entry;
    }
    return entries_.resize(kept);
}

} // namespace

Result<void> LayeredInode::list(Vector<Name>& entries, Vector<char>& names) const {
    Gatherer gatherer(fs_, entries, names);
    const auto gather = [&](Dentry& directory) -> Result<void> {
        gatherer.begin(directory);
        TRY(Ref<File> listing, directory.inode()->open(Path(), O_RDONLY | O_DIRECTORY));
        for (u64 at = 0;;) {
            TRY(const u64 next, listing->read_directory(gatherer, at));
            if (gatherer.error != 0)
                return fail(gatherer.error);
            if (next == at)
                return {};
            at = next;
        }
    };
    if (Dentry* above = upper())
        TRY(gather(*above));
    for (const Ref<Dentry>& lower : lowers_)
        TRY(gather(*lower));
    return gatherer.drop_whiteouts(*this);
}

Result<bool> LayeredInode::is_empty() const {
    Vector<Name> entries;
    Vector<char> names;
    TRY(list(entries, names));
    return entries.empty();
}

// --- new names -----------------------------------------------------------------------------------

// `make(directory, name) -> Result<Ref<Dentry>>`. Over a whiteout the object is made aside and
// takes its place in one step.
template <typename Make>
Result<Ref<Inode>> LayeredInode::add(std::string_view name, bool directory, Make&& make) {
    TRY(copy_up());
    Dentry& here = *upper();
    TRY(Ref<Dentry> there, DentryCache::lookup(here, name));
    Ref<Dentry> made;
    if (there->is_negative()) {
        there = nullptr;
        TRY(made, make(here, name));
    } else {
        there = nullptr;
        const String temporary = fs_.next_name();
        if (temporary.empty())
            return fail(ENOMEM);
        TRY(made, make(*fs_.work_, temporary.view()));
        const auto place = [&]() -> Result<void> {
            if (!directory)
                return upper_rename(*fs_.work_, temporary.view(), here, name, 0);
            // What the whiteout hid stays hidden.
            TRY(fs_.set_mark(*made->inode(), "opaque", "y"));
            TRY(upper_rename(*fs_.work_, temporary.view(), here, name, RENAME_EXCHANGE));
            return upper_remove(*fs_.work_, temporary.view());
        };
        if (auto placed = place(); !placed) {
            (void)upper_remove(*fs_.work_, temporary.view());
            return fail(placed.error().code);
        }
    }
    TRY(Ref<LayeredInode> node, fs_.wrap(std::move(made), {}, this, name));
    return Ref<Inode>(std::move(node));
}

Result<Ref<Inode>> LayeredInode::create(std::string_view name, u32 mode, u64 device_number, u32 uid,
                                        u32 gid) {
    const u32 kind = mode & mode_type;
    // It would be a whiteout.
    if (kind == mode_char && device_number == 0)
        return fail(EPERM);
    return add(name, kind == mode_directory, [&](Dentry& where, std::string_view as) {
        return upper_create(where, as, mode, device_number, uid, gid);
    });
}

Result<Ref<Inode>> LayeredInode::symlink(std::string_view name, std::string_view target, u32 uid,
                                         u32 gid) {
    return add(name, false, [&](Dentry& where, std::string_view as) {
        return upper_symlink(where, as, target, uid, gid);
    });
}

Result<void> LayeredInode::link(std::string_view name, Inode& target) {
    LayeredInode& node = as_layered(target);
    TRY(node.copy_up());
    TRY(add(name, false, [&](Dentry& where, std::string_view as) {
        return upper_link(where, as, node.real());
    }));
    return {};
}

Result<Ref<Inode>> LayeredInode::create_unnamed(u32 mode, u32 uid, u32 gid) {
    TRY(copy_up());
    Inode& directory = *upper()->inode();
    Ref<Inode> made;
    {
        MutexGuard guard(directory.mutex());
        TRY(made, directory.create_unnamed(mode, uid, gid));
    }
    made->linkable.store(1); // by the overlay's leave
    TRY(Ref<Dentry> nameless, DentryCache::make_unhashed(*upper(), "#", std::move(made), true));
    TRY(Ref<LayeredInode> node, fs_.wrap(std::move(nameless), {}, this, {}));
    return Ref<Inode>(std::move(node));
}

// --- removal -------------------------------------------------------------------------------------

// A whiteout in the work directory. Whoever needs one makes it before he changes anything: there
// may be no room for it, and a change by halves would bring back what lies below.
Result<String> LayeredInode::make_whiteout() {
    String temporary = fs_.next_name();
    if (temporary.empty())
        return fail(ENOMEM);
    TRY(upper_create(*fs_.work_, temporary.view(), mode_char, 0, 0, 0));
    return temporary;
}

// Requires: upper(). Moves a whiteout to a name, where `hidden`, if anything, stands in the upper
// layer; a directory has nothing but whiteouts in it.
Result<void> LayeredInode::place_whiteout(const String& made, std::string_view name,
                                          LayeredInode* hidden) {
    const bool directory =
        hidden != nullptr && hidden->is_directory() && hidden->upper() != nullptr;
    auto placed = upper_rename(*fs_.work_, made.view(), *upper(), name,
                               directory ? u32{RENAME_EXCHANGE} : 0u);
    // What is in the work directory now is of no use to anybody, the next mount removes it.
    if (placed && directory)
        (void)hidden->clear_whiteouts();
    if (!placed || directory)
        (void)upper_remove(*fs_.work_, made.view());
    return placed;
}

// Of a directory that shows nothing: what is left in its upper part are whiteouts.
Result<void> LayeredInode::clear_whiteouts() {
    Dentry* above = upper();
    if (above == nullptr)
        return {};
    NameList inside;
    TRY(inside.read(*above));
    for (const String& name : inside.names)
        TRY(upper_remove(*above, name.view()));
    return {};
}

Result<void> LayeredInode::remove_name(std::string_view name, LayeredInode& child) {
    TRY(copy_up());
    // A copy that is under way would come to stand where the name is gone.
    MutexGuard guard(child.copy_mutex_);
    TRY(const bool hides, covers(name));
    if (hides) {
        TRY(const String white, make_whiteout());
        TRY(place_whiteout(white, name, &child));
    } else if (child.upper() != nullptr) {
        if (child.is_directory())
            TRY(child.clear_whiteouts());
        TRY(upper_remove(*upper(), name));
    }
    child.lost_name();
    return {};
}

// Locks: copy_mutex_. The caller holds a reference.
void LayeredInode::lost_name() {
    if (upper() == nullptr) {
        unlinked_ = true;
        return;
    }
    auto left = real().attributes();
    if (is_directory() || !left || left->links == 0)
        fs_.unpin(*this);
}

Result<void> LayeredInode::unlink(std::string_view name, Inode& child) {
    const Ref<Inode> keep = Ref<Inode>::share(&child);
    return remove_name(name, as_layered(child));
}

Result<void> LayeredInode::rmdir(std::string_view name, Inode& child) {
    const Ref<Inode> keep = Ref<Inode>::share(&child);
    LayeredInode& node = as_layered(child);
    TRY(node.check_replaceable());
    return remove_name(name, node);
}

// --- renaming ------------------------------------------------------------------------------------

// A directory that is to be replaced may only have whiteouts in it.
Result<void> LayeredInode::check_replaceable() const {
    if (!is_directory())
        return {};
    TRY(const bool empty, is_empty());
    return empty ? Result<void>() : Result<void>(fail(ENOTEMPTY));
}

// `other`: what shows at the new name, or null.
Result<void> LayeredInode::move_upper(std::string_view old_name, LayeredInode& child,
                                      LayeredInode& target, std::string_view new_name,
                                      LayeredInode* other) {
    TRY(const bool hides_old, covers(old_name));
    TRY(const bool hides_new, target.covers(new_name));
    if (child.is_directory() && hides_new)
        TRY(fs_.set_mark(child.real(), "opaque", "y"));
    TRY(Ref<Dentry> there, DentryCache::lookup(*target.upper(), new_name));
    // A directory replaces neither a whiteout nor one that has some: they change places, and what
    // stands at the old name goes from there.
    const bool exchange = child.is_directory() && !there->is_negative();
    there = nullptr;
    String white;
    if (hides_old) {
        TRY(white, make_whiteout());
    }
    auto moved = upper_rename(*upper(), old_name, *target.upper(), new_name,
                              exchange ? u32{RENAME_EXCHANGE} : 0u);
    if (!moved) {
        if (hides_old)
            (void)upper_remove(*fs_.work_, white.view());
        return moved;
    }
    if (hides_old)
        return place_whiteout(white, old_name, exchange ? other : nullptr);
    if (!exchange)
        return {};
    if (other != nullptr)
        TRY(other->clear_whiteouts());
    return upper_remove(*upper(), old_name);
}

Result<void> LayeredInode::rename(std::string_view old_name, Inode& child, Inode& new_directory,
                                  std::string_view new_name, Inode* replaced, u32 flags) {
    LayeredInode& node = as_layered(child);
    LayeredInode& target = as_layered(new_directory);
    auto* other = static_cast<LayeredInode*>(replaced);
    const bool exchange = (flags & RENAME_EXCHANGE) != 0;
    if ((flags & ~u32{RENAME_NOREPLACE | RENAME_EXCHANGE}) != 0)
        return fail(EINVAL);
    // A directory that layers below have a part in stays where it is (redirect_dir=off); programs
    // then copy.
    const auto fixed = [](const LayeredInode& directory) {
        return directory.is_directory() && !directory.lowers_.empty();
    };
    if (fixed(node) || (exchange && fixed(*other)))
        return fail(EXDEV);
    if (!exchange && other != nullptr && other->is_directory() != node.is_directory())
        return fail(node.is_directory() ? ENOTDIR : EISDIR);
    TRY(copy_up());
    TRY(target.copy_up());
    TRY(node.copy_up());
    const Ref<Inode> keep = Ref<Inode>::share(replaced);
    if (exchange) {
        TRY(other->copy_up());
        TRY(const bool hides_old, covers(old_name));
        TRY(const bool hides_new, target.covers(new_name));
        if (node.is_directory() && hides_new)
            TRY(fs_.set_mark(node.real(), "opaque", "y"));
        if (other->is_directory() && hides_old)
            TRY(fs_.set_mark(other->real(), "opaque", "y"));
        return upper_rename(*upper(), old_name, *target.upper(), new_name, RENAME_EXCHANGE);
    }
    if (other == nullptr)
        return move_upper(old_name, node, target, new_name, nullptr);
    // A copy that is under way would take the place of what comes to stand there.
    MutexGuard guard(other->copy_mutex_);
    TRY(other->check_replaceable());
    TRY(move_upper(old_name, node, target, new_name, other));
    other->lost_name();
    return {};
}

} // namespace kernel
