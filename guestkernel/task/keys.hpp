// keyrings(7): keys, and the rings that hold them. No upcalls: a key that nobody added is not
// there.
//
// Locks: keys_mutex() guards what keys and rings hold and who may do what; the table of serial
// numbers has a spin lock of its own.
#pragma once

#include <string_view>

#include "guestkernel/core/ref.hpp"
#include "guestkernel/lib/string.hpp"
#include "guestkernel/sched/mutex.hpp"

namespace kernel {

class Task;

enum class KeyType : u8 { User, Logon, BigKey, Keyring };
enum KeyPermission : u32 {
    key_view = 1,
    key_read = 2,
    key_write = 4,
    key_search = 8,
    key_link = 16,
    key_setattr = 32,
};

// What is counted by user: /proc/sys/kernel/keys.
struct KeyQuota : RefCounted {
    u32 uid = 0;
    u32 keys = 0;
    u64 bytes = 0;
    Ref<class KeyObject> user_ring, session_ring, persistent_ring;
    KeyQuota* next = nullptr;
    Result<void> charge(u32 more_keys, u64 more_bytes); // EDQUOT
};

class KeyObject : public RefCounted {
public:
    KeyObject(KeyType key_type, String text) : type(key_type), description(std::move(text)) {}
    const KeyType type;
    const String description;
    i32 serial = 0;
    u32 uid = 0, gid = 0, permissions = 0;
    u64 expires_ns = 0; // monotonic; 0: never
    bool revoked = false, invalidated = false;
    Vector<u8> payload;
    Vector<Ref<KeyObject>> links; // of a ring
    Ref<KeyQuota> quota;
    u64 charged = 0;
    u64 last_walk = 0;       // through the rings that came by it, and how far from its beginning
    unsigned walk_depth = 0; // that was
    KeyObject* serial_next = nullptr;
    KeyObject* doomed_next = nullptr;

    bool is_ring() const { return type == KeyType::Keyring; }
    // EKEYREVOKED, EKEYEXPIRED, ENOKEY.
    Result<void> check_usable() const;

protected:
    void last_reference() override;
};

struct KeyRef {
    Ref<KeyObject> key;
    bool possessed = false;
};

Mutex& keys_mutex();
const char* key_type_name(KeyType type);

// --- all of these: Requires: keys_mutex().
// Owned by the running task and counted against its user. EDQUOT, ENOMEM.
Result<Ref<KeyObject>> make_key(KeyType type, std::string_view description, u32 permissions,
                                u32 uid, u32 gid);
// By number, or one of KEY_SPEC_*, which may be made. `need`: permissions; 0: none, and the state
// is not looked at either.
Result<KeyRef> lookup_key(Task& task, i32 id, bool create, u32 need);
Result<void> check_key_permission(const KeyRef& ref, u32 need);
Result<void> set_payload(KeyObject& key, Vector<u8> payload);
// The first of this type and description below a ring, as far as it may be searched. ENOKEY, or
// what is wrong with one that was found.
Result<Ref<KeyObject>> search_ring(const KeyRef& ring, KeyType type, std::string_view description);
// The same of the rings of the running task: request_key(2).
Result<Ref<KeyObject>> search_own_rings(Task& task, KeyType type, std::string_view description);
KeyObject* find_in_ring(KeyObject& ring, KeyType type, std::string_view description);
// Replaces one of the same type and description. EDEADLK: a circle; EDQUOT.
Result<void> link_key(KeyObject& ring, Ref<KeyObject> key);
Result<void> unlink_key(KeyObject& ring, KeyObject& key);               // ENOENT
Result<Ref<KeyObject>> join_session(Task& task, std::string_view name); // empty: a fresh one
Result<Ref<KeyObject>> persistent_ring(u32 uid);

// For /proc/keys and key-users: the serial numbers of all keys; calls for each user that has some.
Result<void> list_keys(Vector<i32>& serials);
void each_key_user(void (*tell)(const KeyQuota& user, void* context), void* context);

void keys_on_exec(Task& task); // its thread and process rings end

} // namespace kernel
