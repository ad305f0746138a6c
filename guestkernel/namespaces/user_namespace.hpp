// User namespaces (user_namespaces(7)). Ids inside of the kernel are those of the initial
// namespace; they are translated where a program says or reads them.
#pragma once

#include "guestkernel/core/lock.hpp"
#include "guestkernel/lib/vector.hpp"
#include "guestkernel/namespaces/namespace.hpp"

namespace kernel {

struct Credentials;

inline constexpr u32 invalid_id = ~u32{0};
inline constexpr u32 overflow_id = 65534;

struct IdExtent {
    u32 inside, global, count;
    u32 outside; // as it was written: in the parent's ids
};

// Written once, then constant.
class IdMap : public RefCounted {
public:
    static constexpr usize limit = 340;
    Vector<IdExtent> extents;
    // The first of `count` ids that follow each other on both sides.
    u32 to_global(u32 inside, u32 count = 1) const;
    u32 to_inside(u32 global) const;
};

class UserNamespace : public Namespace {
public:
    static constexpr u32 deepest = 32;
    // `file_capabilities`: its maker has CAP_SETFCAP.
    UserNamespace(Ref<UserNamespace> parent, u32 user, u32 group, bool counted,
                  bool file_capabilities);
    ~UserNamespace() override;

    UserNamespace* parent() const { return owner(); }
    u32 level() const { return level_; }
    u32 owner_uid() const { return owner_uid_; } // global ids of its maker
    u32 owner_gid() const { return owner_gid_; }
    bool maker_sets_file_capabilities() const { return file_capabilities_; }

    u32 to_global(bool group, u32 inside, u32 count = 1) const;
    u32 to_inside(bool group, u32 global) const;
    const IdMap* map(bool group) const { return maps_[group ? 1 : 0].load(base::Order::Acquire); }
    Result<void> set_map(bool group, Ref<IdMap> map); // EPERM: there is one
    bool setgroups_allowed() const { return setgroups_allowed_; }
    Result<void> forbid_setgroups(); // EPERM: too late
    Result<void> allow_setgroups() const;

    base::Atomic<u32> counts[namespace_kinds];
    base::Atomic<u32> limits[namespace_kinds];

private:
    const u32 level_;
    const u32 owner_uid_, owner_gid_;
    const bool file_capabilities_;
    volatile bool setgroups_allowed_ = true;
    SpinLock lock_{LockRank::Leaf};
    base::Atomic<IdMap*> maps_[2]; // each holds a reference
};

extern UserNamespace* initial_user_namespace; // null until boot has come that far

// Translation at the edge. `to_*`: what a program said, to a global id (invalid_id: not mapped);
// `from_*`: to show to it (overflow_id: not mapped).
inline bool is_initial(const UserNamespace* space) {
    return space == initial_user_namespace || space == nullptr;
}
inline u32 to_global_id(const UserNamespace* space, bool group, u32 id, u32 count = 1) {
    return is_initial(space) ? id : space->to_global(group, id, count);
}
inline u32 from_global_id(const UserNamespace* space, bool group, u32 id) {
    if (is_initial(space)) [[likely]]
        return id;
    const u32 inside = space->to_inside(group, id);
    return inside == invalid_id ? overflow_id : inside;
}
inline bool id_is_mapped(const UserNamespace* space, bool group, u32 id) {
    return is_initial(space) || space->to_inside(group, id) != invalid_id;
}

// capabilities(7): whether `who` has a capability over what `space` owns.
bool capable_in(const Credentials& who, const UserNamespace* space, unsigned capability);

// A child of the running task's; `fresh` becomes a member with all capabilities in it.
Result<Ref<UserNamespace>> make_user_namespace(Credentials& fresh);
void enter_user_namespace(Credentials& fresh, UserNamespace& space);

// uid_map and gid_map: the text of one write by the running task.
Result<void> write_id_map(UserNamespace& space, bool group, std::string_view text,
                          const Credentials& opener);

} // namespace kernel
