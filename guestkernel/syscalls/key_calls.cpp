// add_key(2), request_key(2), keyctl(2).
#include "guestkernel/syscalls/key_calls.hpp"

#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/keyctl.h>

#include "guestkernel/core/log.hpp"
#include "guestkernel/core/time.hpp"
#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/task/keys.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

constexpr u64 longest_payload = 1024 * 1024 - 1, longest_user_payload = 32767;
constexpr u32 default_permissions = 0x3d01'0000; // possessor all but reading; user view
constexpr u32 possessor_read = 0x0200'0000;

// An id as the caller knows it; no id at all (a user's own rings have no group) is shown like one
// that it does not know.
u32 shown_id(const Task& task, bool group, u32 id) {
    return id == invalid_id ? overflow_id
                            : from_global_id(task.credentials->user_ns.get(), group, id);
}

// An id that the caller gave. EINVAL.
Result<u32> given_id(const Task& task, bool group, u32 id) {
    const u32 global = to_global_id(task.credentials->user_ns.get(), group, id);
    return global != invalid_id ? Result<u32>(global) : fail(EINVAL);
}

Result<KeyType> copy_in_type(u64 address) {
    TRY(String name, copy_in_string(address, 32));
    if (name.empty())
        return fail(EINVAL);
    if (name.view().front() == '.')
        return fail(EPERM); // the kernel's own
    for (const KeyType type : {KeyType::User, KeyType::Logon, KeyType::BigKey, KeyType::Keyring})
        if (name == key_type_name(type))
            return type;
    return fail(ENODEV);
}

Result<String> copy_in_description(u64 address) {
    return copy_in_string(address, 4096);
}

Result<void> check_payload(KeyType type, u64 bytes) {
    const u64 most = type == KeyType::Keyring  ? 0
                     : type == KeyType::BigKey ? longest_payload
                                               : longest_user_payload;
    if (bytes > most || (bytes == 0 && type != KeyType::Keyring))
        return fail(EINVAL);
    return {};
}

Result<void> check_description(KeyType type, std::string_view text) {
    if (text.empty())
        return fail(EINVAL);
    if (type == KeyType::Keyring && text.front() == '.')
        return fail(EPERM);
    if (type == KeyType::Logon) { // "service:name"
        const auto colon = text.find(':');
        if (colon == std::string_view::npos || colon == 0)
            return fail(EINVAL);
    }
    return {};
}

Result<Vector<u8>> copy_in_payload(u64 address, u64 bytes) {
    Vector<u8> payload;
    TRY(payload.resize(bytes));
    TRY(copy_in_bytes(payload.data(), address, bytes));
    return payload;
}

Result<KeyRef> lookup_ring(Task& task, i32 id, bool create, u32 need) {
    TRY(KeyRef ring, lookup_key(task, id, create, need));
    if (!ring.key->is_ring())
        return fail(ENOTDIR);
    return ring;
}

Result<long> update(Task& task, i32 id, u64 address, u64 bytes) {
    if (bytes > longest_payload)
        return fail(EINVAL);
    TRY(Vector<u8> payload, copy_in_payload(address, bytes));
    MutexGuard guard(keys_mutex());
    TRY(KeyRef ref, lookup_key(task, id, false, key_write));
    if (ref.key->is_ring())
        return fail(EOPNOTSUPP);
    TRY(check_payload(ref.key->type, bytes));
    TRY(set_payload(*ref.key, std::move(payload)));
    return 0;
}

Result<long> revoke(Task& task, i32 id) {
    Vector<Ref<KeyObject>> dropped;
    MutexGuard guard(keys_mutex());
    auto found = lookup_key(task, id, false, key_write);
    if (!found && found.error().code == EACCES) {
        TRY(found, lookup_key(task, id, false, key_setattr));
    } else if (!found) {
        return fail(found.error().code);
    }
    KeyObject& key = *found->key;
    key.revoked = true;
    while (!key.links.empty()) {
        Ref<KeyObject> link = key.links.back();
        TRY(unlink_key(key, *link));
    }
    return 0;
}

Result<long> change_owner(Task& task, i32 id, u32 uid, u32 gid) {
    constexpr u32 unchanged = ~u32{0};
    if (uid != unchanged) {
        TRY(uid, given_id(task, false, uid));
    }
    if (gid != unchanged) {
        TRY(gid, given_id(task, true, gid));
    }
    MutexGuard guard(keys_mutex());
    TRY(KeyRef ref, lookup_key(task, id, false, key_setattr));
    KeyObject& key = *ref.key;
    const bool privileged = capable(CAP_SYS_ADMIN);
    if (!privileged && uid != unchanged && uid != key.uid)
        return fail(EACCES);
    if (!privileged && gid != unchanged && gid != key.gid && gid != task.credentials->fsgid &&
        !task.credentials->in_group(gid))
        return fail(EACCES);
    if (gid != unchanged)
        key.gid = gid;
    if (uid != unchanged)
        key.uid = uid; // the quota stays its maker's: who gives a key away goes on paying for it
    return 0;
}

Result<long> set_permissions(Task& task, i32 id, u32 permissions) {
    if ((permissions & ~0x3f3f'3f3fu) != 0)
        return fail(EINVAL);
    MutexGuard guard(keys_mutex());
    TRY(KeyRef ref, lookup_key(task, id, false, key_setattr));
    if (!capable(CAP_SYS_ADMIN) && ref.key->uid != task.credentials->fsuid)
        return fail(EACCES);
    ref.key->permissions = permissions;
    return 0;
}

Result<long> describe(Task& task, i32 id, u64 buffer, u64 room) {
    String text;
    {
        MutexGuard guard(keys_mutex());
        TRY(KeyRef ref, lookup_key(task, id, false, 0));
        TRY(check_key_permission(ref, key_view));
        const KeyObject& key = *ref.key;
        char head[96];
        char digits[9];
        for (unsigned i = 0; i < 8; i++)
            digits[i] = "0123456789abcdef"[key.permissions >> (28 - 4 * i) & 0xf];
        const usize length = log::format(head, sizeof head, "{};{};{};{};", key_type_name(key.type),
                                         static_cast<i32>(shown_id(task, false, key.uid)),
                                         static_cast<i32>(shown_id(task, true, key.gid)),
                                         std::string_view(digits, 8));
        TRY(text.append({head, length}));
        TRY(text.append(key.description.view()));
    }
    const u64 bytes = text.size() + 1;
    if (buffer != 0 && room >= bytes)
        TRY(copy_out_bytes(buffer, text.c_str(), bytes));
    return static_cast<long>(bytes);
}

Result<long> read_key(Task& task, i32 id, u64 buffer, u64 room) {
    Vector<u8> data;
    {
        MutexGuard guard(keys_mutex());
        TRY(KeyRef ref, lookup_key(task, id, false, 0));
        TRY(ref.key->check_usable());
        // Who finds a key by searching may read it (keyctl_read(3)).
        if (!check_key_permission(ref, key_read) &&
            !(ref.possessed && check_key_permission(ref, key_search)))
            return fail(EACCES);
        const KeyObject& key = *ref.key;
        if (key.type == KeyType::Logon)
            return fail(EOPNOTSUPP);
        TRY(data.append(key.payload.span()));
        for (const Ref<KeyObject>& link : key.links) {
            u8 bytes[sizeof link->serial];
            __builtin_memcpy(bytes, &link->serial, sizeof bytes);
            TRY(data.append(bytes));
        }
    }
    if (buffer != 0 && room != 0) {
        const u64 fits = data.size() <= room ? data.size() : room & ~u64{3};
        TRY(copy_out_bytes(buffer, data.data(), fits));
    }
    return static_cast<long>(data.size());
}

Result<long> clear(Task& task, i32 id) {
    Vector<Ref<KeyObject>> dropped;
    MutexGuard guard(keys_mutex());
    TRY(KeyRef ring, lookup_ring(task, id, true, key_write));
    while (!ring.key->links.empty()) {
        Ref<KeyObject> link = ring.key->links.back();
        TRY(unlink_key(*ring.key, *link));
    }
    return 0;
}

Result<long> link(Task& task, i32 id, i32 ring_id) {
    MutexGuard guard(keys_mutex());
    TRY(KeyRef ring, lookup_ring(task, ring_id, true, key_write));
    TRY(KeyRef ref, lookup_key(task, id, true, key_link));
    TRY(link_key(*ring.key, ref.key));
    return 0;
}

Result<long> unlink(Task& task, i32 id, i32 ring_id) {
    MutexGuard guard(keys_mutex());
    TRY(KeyRef ring, lookup_ring(task, ring_id, false, key_write));
    TRY(KeyRef ref, lookup_key(task, id, false, 0));
    TRY(unlink_key(*ring.key, *ref.key));
    return 0;
}

Result<long> move(Task& task, i32 id, i32 from_id, i32 to_id, u32 flags) {
    if ((flags & ~u32{KEYCTL_MOVE_EXCL}) != 0)
        return fail(EINVAL);
    MutexGuard guard(keys_mutex());
    TRY(KeyRef ref, lookup_key(task, id, true, key_link));
    TRY(KeyRef from, lookup_ring(task, from_id, false, key_write));
    TRY(KeyRef to, lookup_ring(task, to_id, true, key_write));
    if (from.key == to.key)
        return 0;
    const KeyObject* there = find_in_ring(*to.key, ref.key->type, ref.key->description.view());
    if (there != nullptr && (flags & KEYCTL_MOVE_EXCL) != 0)
        return fail(EEXIST);
    bool linked = false;
    for (const Ref<KeyObject>& old : from.key->links)
        linked = linked || old == ref.key;
    if (!linked)
        return fail(ENOENT);
    TRY(link_key(*to.key, ref.key));
    TRY(unlink_key(*from.key, *ref.key));
    return 0;
}

Result<long> search(Task& task, i32 ring_id, u64 type_address, u64 description, i32 destination) {
    TRY(const KeyType type, copy_in_type(type_address));
    TRY(String text, copy_in_description(description));
    MutexGuard guard(keys_mutex());
    TRY(KeyRef ring, lookup_ring(task, ring_id, false, key_search));
    KeyRef into;
    if (destination != 0) {
        TRY(into, lookup_ring(task, destination, true, key_write));
    }
    TRY(Ref<KeyObject> found, search_ring(ring, type, text.view()));
    if (into.key) {
        TRY(check_key_permission({found, ring.possessed}, key_link));
        TRY(link_key(*into.key, found));
    }
    return found->serial;
}

Result<long> set_timeout(Task& task, i32 id, u32 seconds) {
    MutexGuard guard(keys_mutex());
    TRY(KeyRef ref, lookup_key(task, id, true, key_setattr));
    ref.key->expires_ns = seconds == 0 ? 0 : monotonic_ns() + u64{seconds} * nanoseconds_per_second;
    return 0;
}

Result<long> security_label(Task& task, i32 id, u64 buffer, u64 room) {
    MutexGuard guard(keys_mutex());
    TRY(KeyRef ref, lookup_key(task, id, false, 0));
    TRY(check_key_permission(ref, key_view));
    guard.unlock();
    constexpr char none = '\0'; // no security module: an empty label
    if (buffer != 0 && room != 0)
        TRY(copy_out_bytes(buffer, &none, 1));
    return 1;
}

Result<long> persistent(Task& task, u32 uid, i32 destination) {
    const Credentials& own = *task.credentials;
    if (uid == ~u32{0}) {
        uid = own.uid;
    } else {
        TRY(uid, given_id(task, false, uid));
    }
    if (uid != own.uid && uid != own.euid && !capable_here(CAP_SETUID))
        return fail(EPERM);
    MutexGuard guard(keys_mutex());
    TRY(KeyRef into, lookup_ring(task, destination, true, key_write));
    TRY(Ref<KeyObject> ring, persistent_ring(uid));
    TRY(link_key(*into.key, ring));
    return ring->serial;
}

Result<long> capabilities(u64 buffer, u64 room) {
    const u8 have[2] = {KEYCTL_CAPS0_CAPABILITIES | KEYCTL_CAPS0_PERSISTENT_KEYRINGS |
                            KEYCTL_CAPS0_BIG_KEY | KEYCTL_CAPS0_INVALIDATE | KEYCTL_CAPS0_MOVE,
                        0};
    if (room != 0) {
        const u64 size = room < sizeof have ? room : sizeof have;
        TRY(copy_out_bytes(buffer, have, size));
    }
    return sizeof have;
}

Result<long> join(Task& task, u64 name) {
    String text;
    if (name != 0) {
        TRY(text, copy_in_description(name));
        if (text.view().starts_with('.'))
            return fail(EPERM);
    }
    MutexGuard guard(keys_mutex());
    TRY(Ref<KeyObject> ring, join_session(task, text.view()));
    return ring->serial;
}

Result<long> ring_id(Task& task, i32 id, bool create) {
    MutexGuard guard(keys_mutex());
    TRY(KeyRef ref, lookup_key(task, id, create, key_search));
    return ref.key->serial;
}

Result<long> invalidate(Task& task, i32 id) {
    MutexGuard guard(keys_mutex());
    TRY(KeyRef ref, lookup_key(task, id, false, key_search));
    ref.key->invalidated = true;
    return 0;
}

} // namespace

Result<long> sys_add_key(Task& task, u64 type_address, u64 description, u64 payload_address,
                         u64 bytes, i32 ring_id) {
    if (bytes > longest_payload)
        return fail(EINVAL);
    TRY(const KeyType type, copy_in_type(type_address));
    TRY(String text, copy_in_description(description));
    TRY(check_description(type, text.view()));
    TRY(Vector<u8> payload, copy_in_payload(payload_address, bytes));
    TRY(check_payload(type, bytes));
    MutexGuard guard(keys_mutex());
    TRY(KeyRef ring, lookup_ring(task, ring_id, true, key_write));
    // One that is there already is updated.
    if (KeyObject* old = find_in_ring(*ring.key, type, text.view());
        old != nullptr && type != KeyType::Keyring && old->check_usable()) {
        TRY(check_key_permission({Ref<KeyObject>::share(old), ring.possessed}, key_write));
        TRY(set_payload(*old, std::move(payload)));
        return old->serial;
    }
    const u32 permissions = default_permissions | (type != KeyType::Logon ? possessor_read : 0);
    TRY(Ref<KeyObject> key,
        make_key(type, text.view(), permissions, task.credentials->fsuid, task.credentials->fsgid));
    TRY(set_payload(*key, std::move(payload)));
    TRY(link_key(*ring.key, key));
    return key->serial;
}

Result<long> sys_request_key(Task& task, u64 type_address, u64 description, u64 callout,
                             i32 destination) {
    TRY(const KeyType type, copy_in_type(type_address));
    TRY(String text, copy_in_description(description));
    if (callout != 0)
        TRY(copy_in_string(callout, 4096)); // to whoever would make the key: nobody is asked
    MutexGuard guard(keys_mutex());
    KeyRef into;
    if (destination != 0) {
        TRY(into, lookup_ring(task, destination, true, key_write));
    }
    TRY(Ref<KeyObject> found, search_own_rings(task, type, text.view()));
    if (into.key)
        TRY(link_key(*into.key, found));
    return found->serial;
}

Result<long> sys_keyctl(Task& task, int operation, u64 a, u64 b, u64 c, u64 d) {
    const auto id = static_cast<i32>(a);
    switch (operation) {
    case KEYCTL_GET_KEYRING_ID:
        return ring_id(task, id, static_cast<int>(b) != 0);
    case KEYCTL_JOIN_SESSION_KEYRING:
        return join(task, a);
    case KEYCTL_UPDATE:
        return update(task, id, b, c);
    case KEYCTL_REVOKE:
        return revoke(task, id);
    case KEYCTL_CHOWN:
        return change_owner(task, id, static_cast<u32>(b), static_cast<u32>(c));
    case KEYCTL_SETPERM:
        return set_permissions(task, id, static_cast<u32>(b));
    case KEYCTL_DESCRIBE:
        return describe(task, id, b, c);
    case KEYCTL_CLEAR:
        return clear(task, id);
    case KEYCTL_LINK:
        return link(task, id, static_cast<i32>(b));
    case KEYCTL_UNLINK:
        return unlink(task, id, static_cast<i32>(b));
    case KEYCTL_SEARCH:
        return search(task, id, b, c, static_cast<i32>(d));
    case KEYCTL_READ:
        return read_key(task, id, b, c);
    case KEYCTL_SET_TIMEOUT:
        return set_timeout(task, id, static_cast<u32>(b));
    case KEYCTL_GET_SECURITY:
        return security_label(task, id, b, c);
    case KEYCTL_INVALIDATE:
        return invalidate(task, id);
    case KEYCTL_GET_PERSISTENT:
        return persistent(task, static_cast<u32>(a), static_cast<i32>(b));
    case KEYCTL_MOVE:
        return move(task, id, static_cast<i32>(b), static_cast<i32>(c), static_cast<u32>(d));
    case KEYCTL_CAPABILITIES:
        return capabilities(a, b);
    case KEYCTL_ASSUME_AUTHORITY:
        return id == 0 ? Result<long>(0) : Result<long>(fail(id < 0 ? EINVAL : ENOKEY));
    case KEYCTL_INSTANTIATE:
    case KEYCTL_INSTANTIATE_IOV:
    case KEYCTL_NEGATE:
    case KEYCTL_REJECT:
        return fail(EPERM); // only an upcall has the authority
    default:
        return fail(EOPNOTSUPP);
    }
}

} // namespace kernel
