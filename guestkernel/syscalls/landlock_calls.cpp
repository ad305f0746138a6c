// landlock_create_ruleset(2), landlock_add_rule(2), landlock_restrict_self(2).
#include "guestkernel/syscalls/landlock_calls.hpp"

#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/landlock.h>

#include "guestkernel/fs/landlock.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/ipc/event_files.hpp"
#include "guestkernel/syscalls/file_helpers.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

constexpr long abi_version = 2; // Linux 6.1
constexpr usize most_rules = 65536;

class Ruleset final : public AnonymousFile {
public:
    Ruleset(Ref<Inode> inode, u64 mask) : AnonymousFile(std::move(inode), 2), handled(mask) {}
    static constexpr char file_type[] = "landlock-ruleset";
    const char* type_name() const override { return file_type; }
    Result<u64> seek(i64 offset, int whence) override { return File::seek(offset, whence); }
    const u64 handled;
    Mutex mutex;
    Vector<LandlockRule> rules; // sorted; under mutex
};

Result<Ref<File>> ruleset_file(Task& task, int fd) {
    TRY(Ref<File> file, usable_file(task, fd));
    if (file_as<Ruleset>(*file) == nullptr)
        return fail(EBADFD);
    return file;
}

Result<u64> copy_in_mask(u64 address, u64 size) {
    if (size < sizeof(u64))
        return fail(EINVAL);
    if (size > page_size)
        return fail(E2BIG);
    for (u64 at = sizeof(u64); at < size; at++) {
        TRY(const u8 byte, UserPtr<const u8>(address + at).copy_in());
        if (byte != 0)
            return fail(E2BIG);
    }
    return UserPtr<const u64>(address).copy_in();
}

} // namespace

Result<long> sys_landlock_create_ruleset(Task& task, u64 attributes, u64 size, u32 flags) {
    if (flags != 0) {
        if (flags == LANDLOCK_CREATE_RULESET_VERSION && attributes == 0 && size == 0)
            return abi_version;
        return fail(EINVAL);
    }
    TRY(const u64 handled, copy_in_mask(attributes, size));
    if ((handled & ~u64{landlock_all}) != 0)
        return fail(EINVAL);
    if (handled == 0)
        return fail(ENOMSG);
    TRY(Ref<Inode> inode, make_anonymous_inode(0600));
    TRY(Ref<Ruleset> ruleset, make_ref<Ruleset>(std::move(inode), handled));
    TRY(const int fd, task.files->install(Ref<File>(std::move(ruleset)), true));
    return fd;
}

Result<long> sys_landlock_add_rule(Task& task, int fd, u32 type, u64 address, u32 flags) {
    if (flags != 0)
        return fail(EINVAL);
    TRY(Ref<File> file, ruleset_file(task, fd));
    auto& ruleset = static_cast<Ruleset&>(*file);
    if (type != LANDLOCK_RULE_PATH_BENEATH)
        return fail(EINVAL);
    TRY(const auto rule, UserPtr<const landlock_path_beneath_attr>(address).copy_in());
    const u64 allowed = rule.allowed_access;
    if (allowed == 0)
        return fail(ENOMSG);
    if ((allowed & ~ruleset.handled) != 0)
        return fail(EINVAL);
    TRY(Ref<File> parent, task.files->get(rule.parent_fd));
    const Path& place = parent->path();
    if (!place || std::string_view(place.mount()->superblock().type()) == "anon_inodefs")
        return fail(EBADFD);
    Inode* inode = place.dentry()->inode();
    if (!inode->is_directory() && (allowed & ~u64{landlock_of_files}) != 0)
        return fail(EINVAL);
    MutexGuard guard(ruleset.mutex);
    const usize at = landlock_find(ruleset.rules.span(), inode);
    for (usize i = at; i < ruleset.rules.size() && ruleset.rules[i].inode == inode; i++)
        if (LandlockRule& known = ruleset.rules[i]; known.object->is(inode)) {
            known.allowed |= allowed;
            return 0;
        }
    if (ruleset.rules.size() >= most_rules)
        return fail(E2BIG);
    TRY(Ref<LandlockObject> object, make_ref<LandlockObject>(*place.dentry()));
    TRY(ruleset.rules.insert(at, {std::move(object), inode, allowed}));
    return 0;
}

Result<long> sys_landlock_restrict_self(Task& task, int fd, u32 flags) {
    if (flags != 0)
        return fail(EINVAL);
    if (!task.no_new_privileges && !capable_here(CAP_SYS_ADMIN))
        return fail(EPERM);
    TRY(Ref<File> file, ruleset_file(task, fd));
    auto& ruleset = static_cast<Ruleset&>(*file);
    TRY(Ref<LandlockDomain> domain, make_ref<LandlockDomain>());
    if (const auto* old = static_cast<const LandlockDomain*>(task.landlock.get())) {
        if (old->layers.size() >= LandlockDomain::most_layers)
            return fail(E2BIG);
        TRY(domain->layers.append(old->layers.span()));
    }
    TRY(Ref<LandlockLayer> layer, make_ref<LandlockLayer>());
    layer->handled = ruleset.handled;
    {
        MutexGuard guard(ruleset.mutex);
        TRY(layer->rules.append(ruleset.rules.span()));
    }
    TRY(domain->layers.push_back(std::move(layer)));
    Ref<RefCounted> fresh = std::move(domain);
    SpinGuard tree(process_tree_lock()); // others read it: landlock_may_access()
    std::swap(task.landlock, fresh);
    tree.unlock();
    return 0;
}

bool landlock_may_access(Task& target) {
    if (!current_task().landlock)
        return true;
    SpinGuard tree(process_tree_lock());
    return landlock_may_access_locked(current_task(), target);
}

bool landlock_may_access_locked(const Task& who, const Task& target) {
    const auto* own = static_cast<const LandlockDomain*>(who.landlock.get());
    if (own == nullptr)
        return true;
    const auto* other = static_cast<const LandlockDomain*>(target.landlock.get());
    if (other == nullptr || other->layers.size() < own->layers.size())
        return false;
    for (usize i = 0; i < own->layers.size(); i++)
        if (own->layers[i].get() != other->layers[i].get())
            return false;
    return true;
}

} // namespace kernel
