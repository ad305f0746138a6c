#include "guestkernel/task/keys.hpp"

#include <linux/errno.h>
#include <linux/keyctl.h>

#include "guestkernel/core/log.hpp"
#include "guestkernel/core/random.hpp"
#include "guestkernel/core/time.hpp"
#include "guestkernel/lib/hash_map.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

constexpr u32 most_keys = 200, most_keys_of_root = 1'000'000;
constexpr u64 most_bytes = 20'000, most_bytes_of_root = 25'000'000;
constexpr u64 bytes_per_link = 4;
constexpr unsigned search_depth = 6; // KEYRING_SEARCH_MAX_DEPTH
constexpr u32 possessor_all = 0x3f00'0000;
constexpr u32 user_view = 0x1'0000, user_read = 0x2'0000, user_link = 0x10'0000;
constexpr u32 user_ring_permissions = 0x1f3f'0000;

constinit Mutex mutex;
constinit SpinLock table_lock{LockRank::Leaf};
constinit HashTable<KeyObject, &KeyObject::serial_next, 256> by_serial;
constinit KeyQuota* quotas = nullptr;  // for ever, as users are few
constinit KeyObject* doomed = nullptr; // under table_lock
constinit bool destroying = false;
constinit u64 walks = 0; // begun so far; under the mutex

Result<Ref<KeyQuota>> quota_of(u32 uid) {
    for (KeyQuota* quota = quotas; quota != nullptr; quota = quota->next)
        if (quota->uid == uid)
            return Ref<KeyQuota>::share(quota);
    TRY(Ref<KeyQuota> fresh, make_ref<KeyQuota>());
    fresh->uid = uid;
    fresh->next = quotas;
    quotas = Ref<KeyQuota>(fresh).leak();
    return fresh;
}

void assign_serial(KeyObject& key) {
    for (;;) {
        u32 number = 0;
        random_bytes(&number, sizeof number);
        number &= 0x7fff'ffff;
        if (number < 3)
            continue;
        SpinGuard guard(table_lock);
        if (by_serial.find(hash_mix(number), [&](KeyObject& other) {
                return other.serial == static_cast<i32>(number);
            }) != nullptr)
            continue;
        key.serial = static_cast<i32>(number);
        by_serial.insert(hash_mix(number), key);
        return;
    }
}

Ref<KeyObject> find_serial(i32 serial) {
    SpinGuard guard(table_lock);
    KeyObject* key = by_serial.find(hash_mix(static_cast<u32>(serial)),
                                    [&](KeyObject& other) { return other.serial == serial; });
    return key != nullptr && key->try_add_ref() ? Ref<KeyObject>::adopt(key) : Ref<KeyObject>();
}

Result<Ref<KeyObject>> make_ring(std::string_view name, u32 permissions, u32 uid, u32 gid) {
    return make_key(KeyType::Keyring, name, permissions, uid, gid);
}

Result<Ref<KeyObject>> make_own_ring(Task& task, std::string_view name, u32 permissions) {
    return make_ring(name, permissions, task.credentials->uid, task.credentials->gid);
}

// "_uid.N" and "_uid_ses.N", the latter with a link to the former.
Result<void> make_user_rings(KeyQuota& quota) {
    if (quota.session_ring)
        return {};
    char name[32];
    usize length = log::format(name, sizeof name, "_uid.{}", quota.uid);
    constexpr u32 nobody = ~u32{0};
    TRY(Ref<KeyObject> user, make_ring({name, length}, user_ring_permissions, quota.uid, nobody));
    length = log::format(name, sizeof name, "_uid_ses.{}", quota.uid);
    TRY(Ref<KeyObject> session,
        make_ring({name, length}, user_ring_permissions, quota.uid, nobody));
    TRY(link_key(*session, user));
    quota.user_ring = std::move(user);
    quota.session_ring = std::move(session);
    return {};
}

Result<Ref<KeyObject>> special_ring(Task& task, i32 id, bool create) {
    switch (id) {
    case KEY_SPEC_THREAD_KEYRING:
        if (!task.thread_ring && create) {
            TRY(task.thread_ring, make_own_ring(task, "_tid", possessor_all | user_view));
        }
        break;
    case KEY_SPEC_PROCESS_KEYRING:
        if (!task.process->process_ring && create) {
            TRY(task.process->process_ring, make_own_ring(task, "_pid", possessor_all | user_view));
        }
        break;
    case KEY_SPEC_SESSION_KEYRING:
        // One that has none uses its user's, or gets its own when something is to be put there.
        if (!task.session_ring && create) {
            TRY(join_session(task, {}));
        } else if (!task.session_ring) {
            TRY(Ref<KeyQuota> quota, quota_of(task.credentials->uid));
            TRY(make_user_rings(*quota));
            task.session_ring = quota->session_ring;
        }
        break;
    case KEY_SPEC_USER_KEYRING:
    case KEY_SPEC_USER_SESSION_KEYRING: {
        TRY(Ref<KeyQuota> quota, quota_of(task.credentials->uid));
        TRY(make_user_rings(*quota));
        return id == KEY_SPEC_USER_KEYRING ? quota->user_ring : quota->session_ring;
    }
    case KEY_SPEC_REQKEY_AUTH_KEY:
    case KEY_SPEC_REQUESTOR_KEYRING:
        return fail(ENOKEY); // there are no upcalls that would have them
    default:
        return fail(EINVAL);
    }
    const Ref<KeyObject>& ring = id == KEY_SPEC_THREAD_KEYRING    ? task.thread_ring
                                 : id == KEY_SPEC_PROCESS_KEYRING ? task.process->process_ring
                                                                  : task.session_ring;
    if (!ring)
        return fail(ENOKEY);
    return ring;
}

// Many rings may hold the same ones, and those the next: there are far more ways through them than
// anybody has time to go, and nothing would end a call that tried. So each ring is gone through
// once, and again only when come to by a shorter way, which leaves more of what is below in reach.
template <typename Visit>
bool visit_below(KeyObject& ring, bool possessed, unsigned depth, u64 walk, Visit& visit) {
    if (depth > search_depth || !ring.check_usable() ||
        !check_key_permission({Ref<KeyObject>::share(&ring), possessed}, key_search))
        return false;
    if (ring.last_walk == walk && ring.walk_depth <= depth)
        return false;
    ring.last_walk = walk;
    ring.walk_depth = depth;
    for (const Ref<KeyObject>& link : ring.links)
        if (visit(*link))
            return true;
    for (const Ref<KeyObject>& link : ring.links)
        if (link->is_ring() && visit_below(*link, possessed, depth + 1, walk, visit))
            return true;
    return false;
}

template <typename Visit>
bool visit_all_below(KeyObject& ring, bool possessed, Visit& visit) {
    return visit_below(ring, possessed, 0, ++walks, visit);
}

template <typename Visit>
bool visit_own(Task& task, Visit& visit) {
    for (const Ref<KeyObject>* ring :
         {&task.thread_ring, &task.process->process_ring, &task.session_ring})
        if (*ring && (visit(**ring) || visit_all_below(**ring, true, visit)))
            return true;
    if (!task.session_ring)
        if (auto quota = quota_of(task.credentials->uid); quota && (*quota)->session_ring)
            return visit_all_below(*(*quota)->session_ring, true, visit);
    return false;
}

bool possesses(Task& task, const KeyObject& wanted) {
    auto visit = [&](KeyObject& key) { return &key == &wanted; };
    return visit_own(task, visit);
}

// Whether `needle` is at or below `ring`. Once for each ring here too, and again by a longer way,
// which may turn out to be too long.
Result<bool> leads_to(KeyObject& ring, const KeyObject& needle, unsigned depth, u64 walk) {
    if (&ring == &needle)
        return true;
    if (depth > search_depth)
        return fail(ELOOP);
    if (ring.last_walk == walk && ring.walk_depth >= depth)
        return false;
    ring.last_walk = walk;
    ring.walk_depth = depth;
    for (const Ref<KeyObject>& link : ring.links)
        if (link->is_ring()) {
            TRY(const bool found, leads_to(*link, needle, depth + 1, walk));
            if (found)
                return true;
        }
    return false;
}

} // namespace

Mutex& keys_mutex() {
    return mutex;
}

const char* key_type_name(KeyType type) {
    static constexpr const char* names[] = {"user", "logon", "big_key", "keyring"};
    return names[static_cast<u8>(type)];
}

Result<void> KeyQuota::charge(u32 more_keys, u64 more_bytes) {
    // Given back without the lock: by atomic steps.
    if (__atomic_load_n(&keys, __ATOMIC_RELAXED) + more_keys >
            (uid == 0 ? most_keys_of_root : most_keys) ||
        __atomic_load_n(&bytes, __ATOMIC_RELAXED) + more_bytes >
            (uid == 0 ? most_bytes_of_root : most_bytes))
        return fail(EDQUOT);
    __atomic_fetch_add(&keys, more_keys, __ATOMIC_RELAXED);
    __atomic_fetch_add(&bytes, more_bytes, __ATOMIC_RELAXED);
    return {};
}

Result<void> KeyObject::check_usable() const {
    if (invalidated)
        return fail(ENOKEY);
    if (revoked)
        return fail(EKEYREVOKED);
    if (expires_ns != 0 && monotonic_ns() >= expires_ns)
        return fail(EKEYEXPIRED);
    return {};
}

// Rings may nest deeply: destroyed one after the other, not by recursion. Quotas are given back
// with the keys' lock held or not, so by atomic steps.
void KeyObject::last_reference() {
    {
        SpinGuard guard(table_lock);
        if (serial != 0)
            by_serial.remove(hash_mix(static_cast<u32>(serial)), *this);
        doomed_next = doomed;
        doomed = this;
        if (destroying)
            return;
        destroying = true;
    }
    for (;;) {
        KeyObject* key = nullptr;
        {
            SpinGuard guard(table_lock);
            key = doomed;
            if (key == nullptr) {
                destroying = false;
                return;
            }
            doomed = key->doomed_next;
        }
        if (key->quota) {
            __atomic_fetch_sub(&key->quota->keys, 1, __ATOMIC_RELAXED);
            __atomic_fetch_sub(&key->quota->bytes, key->charged, __ATOMIC_RELAXED);
        }
        delete key;
    }
}

Result<Ref<KeyObject>> make_key(KeyType type, std::string_view description, u32 permissions,
                                u32 uid, u32 gid) {
    TRY(String text, String::from(description));
    TRY(Ref<KeyQuota> quota, quota_of(uid));
    const u64 bytes = description.size() + 1;
    TRY(Ref<KeyObject> key, make_ref<KeyObject>(type, std::move(text)));
    TRY(quota->charge(1, bytes));
    key->quota = std::move(quota);
    key->charged = bytes;
    key->uid = uid;
    key->gid = gid;
    key->permissions = permissions;
    assign_serial(*key);
    return key;
}

Result<void> set_payload(KeyObject& key, Vector<u8> payload) {
    if (payload.size() > key.payload.size()) {
        const u64 more = payload.size() - key.payload.size();
        TRY(key.quota->charge(0, more));
        key.charged += more;
    } else {
        const u64 less = key.payload.size() - payload.size();
        __atomic_fetch_sub(&key.quota->bytes, less, __ATOMIC_RELAXED);
        key.charged -= less;
    }
    std::swap(key.payload, payload);
    key.expires_ns = 0;
    return {};
}

Result<void> check_key_permission(const KeyRef& ref, u32 need) {
    const KeyObject& key = *ref.key;
    const Credentials& own = *current_task().credentials;
    u32 have = key.permissions & 0x3f;
    if (key.uid == own.fsuid)
        have = key.permissions >> 16;
    else if (key.gid != ~u32{0} && (key.permissions & 0x3f00) != 0 &&
             (key.gid == own.fsgid || own.in_group(key.gid)))
        have = key.permissions >> 8;
    if (ref.possessed)
        have |= key.permissions >> 24;
    if ((need & ~have) != 0)
        return fail(EACCES);
    return {};
}

Result<KeyRef> lookup_key(Task& task, i32 id, bool create, u32 need) {
    KeyRef ref;
    if (id > 0) {
        ref.key = find_serial(id);
        if (!ref.key)
            return fail(ENOKEY);
        ref.possessed = possesses(task, *ref.key);
    } else {
        TRY(ref.key, special_ring(task, id, create));
        ref.possessed = true;
    }
    if (ref.key->invalidated)
        return fail(ENOKEY);
    if (need != 0) {
        TRY(ref.key->check_usable());
        TRY(check_key_permission(ref, need));
    }
    return ref;
}

KeyObject* find_in_ring(KeyObject& ring, KeyType type, std::string_view description) {
    for (const Ref<KeyObject>& link : ring.links)
        if (link->type == type && link->description == description && !link->invalidated)
            return link.get();
    return nullptr;
}

Result<Ref<KeyObject>> search_ring(const KeyRef& ring, KeyType type, std::string_view description) {
    Ref<KeyObject> found;
    int error = ENOKEY;
    auto visit = [&](KeyObject& key) {
        if (key.type != type || !(key.description == description))
            return false;
        const Ref<KeyObject> held = Ref<KeyObject>::share(&key);
        if (auto usable = key.check_usable(); !usable)
            error = usable.error().code;
        else if (!check_key_permission({held, ring.possessed}, key_search))
            error = error == ENOKEY ? EACCES : error;
        else
            found = held;
        return static_cast<bool>(found);
    };
    if (!visit_all_below(*ring.key, ring.possessed, visit))
        return fail(error);
    return found;
}

Result<Ref<KeyObject>> search_own_rings(Task& task, KeyType type, std::string_view description) {
    int error = ENOKEY;
    for (const i32 id :
         {KEY_SPEC_THREAD_KEYRING, KEY_SPEC_PROCESS_KEYRING, KEY_SPEC_SESSION_KEYRING}) {
        auto ring = special_ring(task, id, false);
        if (!ring)
            continue;
        auto found = search_ring({*ring, true}, type, description);
        if (found)
            return found;
        if (found.error().code != ENOKEY)
            error = found.error().code;
    }
    return fail(error);
}

Result<void> link_key(KeyObject& ring, Ref<KeyObject> key) {
    if (key->is_ring()) {
        TRY(const bool circle, leads_to(*key, ring, 0, ++walks));
        if (circle)
            return fail(EDEADLK);
    }
    // What became invalid makes room.
    for (usize i = ring.links.size(); i > 0; i--)
        if (ring.links[i - 1]->invalidated)
            TRY(unlink_key(ring, *ring.links[i - 1]));
    for (Ref<KeyObject>& link : ring.links)
        if (link == key ||
            (link->type == key->type && link->description.view() == key->description.view())) {
            link = std::move(key);
            return {};
        }
    TRY(ring.quota->charge(0, bytes_per_link));
    ring.charged += bytes_per_link;
    return ring.links.push_back(std::move(key));
}

Result<void> unlink_key(KeyObject& ring, KeyObject& key) {
    for (usize i = 0; i < ring.links.size(); i++)
        if (ring.links[i].get() == &key) {
            ring.links.erase(i);
            __atomic_fetch_sub(&ring.quota->bytes, bytes_per_link, __ATOMIC_RELAXED);
            ring.charged -= bytes_per_link;
            return {};
        }
    return fail(ENOENT);
}

Result<Ref<KeyObject>> join_session(Task& task, std::string_view name) {
    Ref<KeyObject> ring;
    if (name.empty()) {
        TRY(ring, make_own_ring(task, "_ses", possessor_all | user_view | user_read));
    } else {
        SpinGuard guard(table_lock);
        by_serial.for_each([&](KeyObject& key) {
            if (!ring && key.is_ring() && key.description == name && !key.revoked &&
                !key.invalidated && key.uid == task.credentials->uid && key.try_add_ref())
                ring = Ref<KeyObject>::adopt(&key);
        });
    }
    if (!ring) {
        TRY(ring, make_own_ring(task, name, possessor_all | user_view | user_read | user_link));
    } else if (!name.empty()) {
        TRY(check_key_permission({ring, false}, key_search));
    }
    task.session_ring = ring;
    return ring;
}

Result<Ref<KeyObject>> persistent_ring(u32 uid) {
    TRY(Ref<KeyQuota> quota, quota_of(uid));
    if (!quota->persistent_ring || !quota->persistent_ring->check_usable()) {
        char name[32];
        const usize length = log::format(name, sizeof name, "_persistent.{}", uid);
        TRY(quota->persistent_ring,
            make_ring({name, length}, possessor_all | user_view | user_read, uid, ~u32{0}));
    }
    constexpr u64 three_days = 3 * 24 * 3600; // kernel.persistent_keyring_expiry
    quota->persistent_ring->expires_ns = monotonic_ns() + three_days * nanoseconds_per_second;
    return quota->persistent_ring;
}

void keys_on_exec(Task& task) {
    Ref<KeyObject> thread = std::exchange(task.thread_ring, nullptr);
    MutexGuard guard(mutex);
    Ref<KeyObject> process = std::exchange(task.process->process_ring, nullptr);
    guard.unlock();
}

Result<void> list_keys(Vector<i32>& serials) {
    usize room = 0;
    {
        SpinGuard guard(table_lock);
        by_serial.for_each([&](KeyObject&) { room++; });
    }
    TRY(serials.reserve(room));
    SpinGuard guard(table_lock);
    by_serial.for_each([&](KeyObject& key) {
        if (serials.size() < room)
            (void)serials.push_back(key.serial); // there is room
    });
    return {};
}

void each_key_user(void (*tell)(const KeyQuota& user, void* context), void* context) {
    for (const KeyQuota* user = quotas; user != nullptr; user = user->next)
        if (user->keys != 0)
            tell(*user, context);
}

} // namespace kernel
