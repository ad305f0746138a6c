#include "guestkernel/namespaces/user_namespace.hpp"

#include <linux/capability.h>
#include <linux/errno.h>

#include "guestkernel/fs/file_table.hpp"
#include "guestkernel/fs/mount_tree.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

constinit UserNamespace* initial_user_namespace = nullptr;

u32 IdMap::to_global(u32 inside, u32 count) const {
    for (const IdExtent& extent : extents)
        if (inside >= extent.inside && inside - extent.inside < extent.count &&
            count <= extent.count - (inside - extent.inside))
            return extent.global + (inside - extent.inside);
    return invalid_id;
}

u32 IdMap::to_inside(u32 global) const {
    for (const IdExtent& extent : extents)
        if (global >= extent.global && global - extent.global < extent.count)
            return extent.inside + (global - extent.global);
    return invalid_id;
}

UserNamespace::UserNamespace(Ref<UserNamespace> parent, u32 user, u32 group, bool counted,
                             bool file_capabilities)
    : Namespace(NamespaceKind::User, parent, counted), level_(parent ? parent->level() + 1 : 0),
      owner_uid_(user), owner_gid_(group), file_capabilities_(file_capabilities) {
    if (parent)
        setgroups_allowed_ = parent->setgroups_allowed();
    for (auto& limit : limits)
        limit.store(max_tasks() / 2);
}

UserNamespace::~UserNamespace() {
    for (auto& map : maps_)
        if (IdMap* last = map.load())
            last->release();
}

u32 UserNamespace::to_global(bool group, u32 inside, u32 count) const {
    const IdMap* known = map(group);
    return known == nullptr ? invalid_id : known->to_global(inside, count);
}

u32 UserNamespace::to_inside(bool group, u32 global) const {
    const IdMap* known = map(group);
    return known == nullptr ? invalid_id : known->to_inside(global);
}

Result<void> UserNamespace::set_map(bool group, Ref<IdMap> fresh) {
    SpinGuard guard(lock_);
    if (maps_[group ? 1 : 0].load() != nullptr)
        return fail(EPERM);
    maps_[group ? 1 : 0].store(fresh.leak(), base::Order::Release);
    return {};
}

Result<void> UserNamespace::forbid_setgroups() {
    SpinGuard guard(lock_);
    if (maps_[1].load() != nullptr && setgroups_allowed_)
        return fail(EPERM);
    setgroups_allowed_ = false;
    return {};
}

Result<void> UserNamespace::allow_setgroups() const {
    return setgroups_allowed_ ? Result<void>() : Result<void>(fail(EPERM));
}

bool capable_in(const Credentials& who, const UserNamespace* space, unsigned capability) {
    for (;;) {
        const bool own = space == who.user_space() || (is_initial(space) && who.in_initial_space());
        if (own)
            return (who.cap_effective >> capability & 1) != 0;
        if (is_initial(space))
            return false;
        // The maker of a namespace, seen from its parent, has all capabilities over it.
        const bool parent_is_own = space->parent() == who.user_space() ||
                                   (is_initial(space->parent()) && who.in_initial_space());
        if (parent_is_own && space->owner_uid() == who.euid)
            return true;
        space = space->parent();
    }
}

void enter_user_namespace(Credentials& fresh, UserNamespace& space) {
    fresh.user_ns = Ref<UserNamespace>::share(&space);
    fresh.securebits = 0;
    fresh.cap_inheritable = fresh.cap_ambient = 0;
    fresh.cap_permitted = fresh.cap_effective = fresh.cap_bounding = all_capabilities;
}

namespace {

// user_namespaces(7): a task in a chroot could leave it with the capabilities of a new namespace.
bool in_chroot() {
    const FsContext* place = current_task().fs.get();
    return place != nullptr && !at_namespace_root(place->root());
}

} // namespace

Result<Ref<UserNamespace>> make_user_namespace(Credentials& fresh) {
    UserNamespace* parent = current_task().credentials->user_space();
    if (parent == nullptr)
        return fail(EINVAL);
    if (parent->level() + 1 > UserNamespace::deepest)
        return fail(ENOSPC);
    // The limit comes first, as in Linux: programs tell by it that there are to be no more.
    TRY(charge_namespace(NamespaceKind::User, parent));
    const bool allowed = !in_chroot() && id_is_mapped(parent, false, fresh.euid) &&
                         id_is_mapped(parent, true, fresh.egid);
    const bool file_capabilities = (fresh.cap_effective >> CAP_SETFCAP & 1) != 0;
    auto space = allowed ? make_ref<UserNamespace>(Ref<UserNamespace>::share(parent), fresh.euid,
                                                   fresh.egid, true, file_capabilities)
                         : Result<Ref<UserNamespace>>(fail(EPERM));
    if (!space) {
        uncharge_namespace(NamespaceKind::User, parent);
        return space;
    }
    enter_user_namespace(fresh, **space);
    return space;
}

namespace {

bool take_number(std::string_view& line, u32& out) {
    while (!line.empty() && (line.front() == ' ' || line.front() == '\t'))
        line.remove_prefix(1);
    u64 value = 0;
    usize digits = 0;
    while (digits < line.size() && line[digits] >= '0' && line[digits] <= '9') {
        value = value * 10 + static_cast<u64>(line[digits++] - '0');
        if (value > 0xffff'ffff)
            return false;
    }
    line.remove_prefix(digits);
    out = static_cast<u32>(value);
    const bool ended = line.empty() || line.front() == ' ' || line.front() == '\t';
    return digits > 0 && ended;
}

bool overlap(u32 a, u32 a_count, u32 b, u32 b_count) {
    return a < b ? b - a < a_count : a - b < b_count;
}

Result<void> parse_line(std::string_view line, IdMap& map) {
    IdExtent extent{};
    if (!take_number(line, extent.inside) || !take_number(line, extent.outside) ||
        !take_number(line, extent.count))
        return fail(EINVAL);
    while (!line.empty()) {
        if (line.front() != ' ' && line.front() != '\t')
            return fail(EINVAL);
        line.remove_prefix(1);
    }
    // The last id stands for none.
    if (extent.count == 0 || extent.inside > ~u32{0} - extent.count ||
        extent.outside > ~u32{0} - extent.count)
        return fail(EINVAL);
    for (const IdExtent& other : map.extents)
        if (overlap(extent.inside, extent.count, other.inside, other.count) ||
            overlap(extent.outside, extent.count, other.outside, other.count))
            return fail(EINVAL);
    if (map.extents.size() == IdMap::limit)
        return fail(EINVAL);
    return map.extents.push_back(extent);
}

// The parent's range must lie in one of its extents: between two that fit together at the ends
// there may be ids that are not the parent's to give.
Result<void> resolve(const UserNamespace* parent, bool group, IdMap& map) {
    for (IdExtent& extent : map.extents) {
        extent.global = to_global_id(parent, group, extent.outside, extent.count);
        if (extent.global == invalid_id)
            return fail(EPERM);
    }
    return {};
}

// user_namespaces(7): who maps the parent's root could give files capabilities that count in the
// parent, and so must have that right there.
bool may_map_root(const UserNamespace& space, const IdMap& map, const Credentials& opener) {
    bool root = false;
    for (const IdExtent& extent : map.extents)
        root |= extent.outside == 0;
    if (!root)
        return true;
    return opener.user_space() == &space ? space.maker_sets_file_capabilities()
                                         : capable_in(opener, space.parent(), CAP_SETFCAP);
}

// user_namespaces(7), "Defining user and group ID mappings", rules 4 and 5. Ids are still the
// parent's as written, so that this comes before resolve().
Result<void> check_map_rights(UserNamespace& space, bool group, const IdMap& map,
                              const Credentials& opener) {
    const Credentials& writer = *current_task().credentials;
    UserNamespace* parent = space.parent();
    const unsigned needed = group ? CAP_SETGID : CAP_SETUID;
    if (!group && !may_map_root(space, map, opener))
        return fail(EPERM);
    const bool one = map.extents.size() == 1 && map.extents[0].count == 1;
    if (one && writer.euid == space.owner_uid()) {
        const u32 id = to_global_id(parent, group, map.extents[0].outside);
        if (!group && id == opener.euid)
            return {};
        if (group && !space.setgroups_allowed() && id == opener.egid)
            return {};
    }
    if (capable_in(writer, parent, needed) && capable_in(opener, parent, needed))
        return {};
    return fail(EPERM);
}

} // namespace

Result<void> write_id_map(UserNamespace& space, bool group, std::string_view text,
                          const Credentials& opener) {
    const Credentials& writer = *current_task().credentials;
    if (space.map(group) != nullptr || is_initial(&space))
        return fail(EPERM);
    if (!capable_in(writer, &space, CAP_SYS_ADMIN))
        return fail(EPERM);
    if (writer.user_space() != &space && writer.user_space() != space.parent())
        return fail(EPERM);
    TRY(Ref<IdMap> map, make_ref<IdMap>());
    while (!text.empty()) {
        usize end = 0;
        while (end < text.size() && text[end] != '\n')
            end++;
        TRY(parse_line(text.substr(0, end), *map));
        text.remove_prefix(end < text.size() ? end + 1 : end);
    }
    if (map->extents.empty())
        return fail(EINVAL);
    TRY(check_map_rights(space, group, *map, opener));
    TRY(resolve(space.parent(), group, *map));
    return space.set_map(group, std::move(map));
}

} // namespace kernel
