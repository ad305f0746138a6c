#include "guestkernel/fs/dentry.hpp"

#include <linux/errno.h>

#include "guestkernel/core/time.hpp"
#include "guestkernel/fs/devices.hpp"
#include "guestkernel/fs/file_handle.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/lib/hash_map.hpp"
#include "guestkernel/mm/frame.hpp"
#include "guestkernel/sched/work.hpp"

namespace kernel {

namespace {

constinit SpinLock the_tree_lock{LockRank::MountTable};
constinit base::Atomic<u64> changes{0};
constinit base::Atomic<u64> total{0};
constinit base::Atomic<u64> limit{0};
constinit base::Atomic<SharedRoot> shared_root{nullptr};

constexpr usize shard_count = 16;
constexpr usize first_buckets = 16; // small at first: the memory of an idle VM counts
constexpr usize batch = 16;

u64 name_hash(const Dentry& parent, std::string_view name) {
    return hash_bytes(name, reinterpret_cast<u64>(&parent) >> 4);
}

// One dentry with its inode takes about a kilobyte: an eighth of memory at most.
u64 dentry_limit() {
    u64 value = limit.load(base::Order::Relaxed);
    if (value == 0) {
        value = memory_stats().total * page_size / 8192;
        value = value < 4096 ? 4096 : value;
        limit.store(value, base::Order::Relaxed);
    }
    return value;
}

// Memory is short: some of what nobody uses goes. Not at once, since whoever asks for memory may
// hold locks that the end of an inode needs, but by a kernel task, which is there once there are so
// many that it matters.
constexpr u64 shrinker_from = 2048;
alignas(Work) u8 shrink_storage[sizeof(Work)];
constinit Work* shrink_work = nullptr;
constinit base::Atomic<bool> shrinker_started{false};

void start_shrinker() {
    if (shrinker_started.exchange(true))
        return;
    if (!start_work_queue()) {
        shrinker_started.store(false);
        return;
    }
    shrink_work = ::new (static_cast<void*>(shrink_storage))
        Work([](void*) { DentryCache::shrink(DentryCache::count() / 8 + batch); }, nullptr);
    set_memory_pressure_hook([] { queue_work(*shrink_work); });
}

} // namespace

SpinLock& tree_lock() {
    return the_tree_lock;
}

u64 way_changes() {
    return changes.load(base::Order::Acquire);
}
void note_way_change() {
    changes.fetch_add(1, base::Order::AcqRel);
}

// A part of the table with its own lock. Eviction is a clock that goes over the buckets.
struct DentryCache::Shard {
    SpinLock lock{LockRank::Dentry};
    Dentry* first[first_buckets] = {};
    Dentry** buckets = nullptr; // null: `first`
    usize mask = first_buckets - 1;
    usize size = 0;
    usize hand = 0;

    Dentry*& bucket(u64 hash) { return (buckets == nullptr ? first : buckets)[hash & mask]; }
    Dentry* find(const Dentry& parent, std::string_view name, u64 hash) {
        for (Dentry* d = bucket(hash); d != nullptr; d = d->hash_next_)
            if (d->hash_ == hash && d->parent_.get() == &parent && d->name() == name)
                return d;
        return nullptr;
    }
    void add(Dentry& d) {
        Dentry*& head = bucket(d.hash_);
        d.hash_next_ = head;
        head = &d;
        d.hashed_ = true;
        size++;
    }
    void take_out(Dentry& d) {
        for (Dentry** at = &bucket(d.hash_); *at != nullptr; at = &((*at)->hash_next_))
            if (*at == &d) {
                *at = d.hash_next_;
                break;
            }
        d.hash_next_ = nullptr;
        d.hashed_ = false;
        size--;
    }
    // Doubles the table when chains get long; the allocation comes before the lock.
    void grow() {
        if (size < 2 * (mask + 1))
            return;
        const usize count = 4 * (mask + 1);
        auto** fresh = new (std::nothrow) Dentry* [count] {};
        if (fresh == nullptr)
            return; // longer chains are only slower
        Dentry** old = nullptr;
        {
            SpinGuard guard(lock);
            if (count > mask + 1 && size >= 2 * (mask + 1)) {
                for (usize i = 0; i <= mask; i++)
                    for (Dentry* d = (buckets == nullptr ? first : buckets)[i]; d != nullptr;) {
                        Dentry* next = d->hash_next_;
                        d->hash_next_ = fresh[d->hash_ & (count - 1)];
                        fresh[d->hash_ & (count - 1)] = d;
                        d = next;
                    }
                old = buckets;
                buckets = fresh;
                mask = count - 1;
            } else {
                old = fresh;
            }
        }
        delete[] old;
    }
};

DentryCache::Shard& DentryCache::shard_of(u64 hash) {
    static constinit Shard shards[shard_count];
    return shards[hash >> 60];
}

Dentry::~Dentry() {
    if (name_ != inline_name_)
        delete[] name_;
}

// A long chain of removed directories goes in a loop: a recursion would not fit on the kernel
// stack.
void Dentry::last_reference() {
    Dentry* dying = this;
    while (dying != nullptr) {
        if (dying->handle != nullptr)
            forget_file_handle(*dying);
        Dentry* up = dying->parent_.leak();
        delete dying;
        dying = up != nullptr && up->drop_ref() ? up : nullptr;
    }
}

void set_shared_root(SharedRoot lookup) {
    shared_root.store(lookup, base::Order::Release);
}

Result<Ref<Dentry>> Dentry::make_root(Superblock& superblock, Ref<Inode> inode) {
    // What is unlinked in one mount of it must not live on in another's cache.
    if (const SharedRoot lookup = shared_root.load(base::Order::Acquire))
        if (Ref<Dentry> shared = lookup(superblock))
            return shared;
    return make_ref<Dentry>(superblock, std::move(inode));
}

Ref<Dentry> Dentry::parent_ref() const {
    SpinGuard guard(the_tree_lock);
    return parent_;
}

Result<String> Dentry::copy_name() const {
    char copy[name_limit];
    usize length = 0;
    {
        SpinGuard guard(the_tree_lock);
        length = name_length_;
        for (usize i = 0; i < length; i++)
            copy[i] = name_[i];
    }
    return String::from({copy, length});
}

bool DentryCache::usable(Dentry& parent, std::string_view name, Dentry& dentry) {
    if (dentry.mounts.load(base::Order::Relaxed) != 0)
        return true; // a mount point stays, whatever happens to the directory below
    return dentry.superblock_->dentry_valid(*parent.inode(), name, dentry.inode(),
                                            dentry.cached_at_ns_);
}

Ref<Dentry> DentryCache::find_raw(Dentry& parent, std::string_view name, u64 hash) {
    Shard& shard = shard_of(hash);
    SpinGuard guard(shard.lock);
    Dentry* found = shard.find(parent, name, hash);
    if (found == nullptr)
        return nullptr;
    found->referenced_ = true;
    return Ref<Dentry>::share(found);
}

Ref<Dentry> DentryCache::find(Dentry& parent, std::string_view name) {
    Ref<Dentry> found = find_raw(parent, name, name_hash(parent, name));
    if (found && !usable(parent, name, *found))
        return nullptr;
    return found;
}

Result<char*> DentryCache::prepare_name(std::string_view name) {
    if (name.size() <= Dentry::inline_capacity)
        return static_cast<char*>(nullptr);
    char* storage = new (std::nothrow) char[name.size()];
    if (storage == nullptr)
        return fail(ENOMEM);
    return storage;
}

namespace {

// Whether a directory would be below itself: a server that is a program says what it likes, and
// layers change behind an overlay. Who locks the one and then the other would wait for himself.
bool would_circle(Dentry& parent, const Inode* inode) {
    const Superblock& superblock = parent.superblock();
    if (inode == nullptr || !inode->is_directory() ||
        (!superblock.own_rules && superblock.stacked == 0))
        return false;
    for (Ref<Dentry> at = Ref<Dentry>::share(&parent); at; at = at->parent_ref())
        if (at->inode() == inode)
            return true;
    return false;
}

} // namespace

Result<Ref<Dentry>> DentryCache::make(Dentry& parent, std::string_view name, Ref<Inode> inode) {
    if (would_circle(parent, inode.get()))
        return fail(ELOOP);
    TRY(char* storage, prepare_name(name));
    auto made = make_ref<Dentry>(*parent.superblock_, std::move(inode));
    if (!made) {
        delete[] storage;
        return made;
    }
    Dentry& fresh = **made;
    fresh.parent_ = Ref<Dentry>::share(&parent);
    if (storage != nullptr)
        fresh.name_ = storage;
    fresh.name_length_ = static_cast<u16>(name.size());
    for (usize i = 0; i < name.size(); i++)
        fresh.name_[i] = name[i];
    return made;
}

Result<Ref<Dentry>> DentryCache::make_unhashed(Dentry& parent, std::string_view name,
                                               Ref<Inode> inode, bool deleted) {
    TRY(Ref<Dentry> fresh, make(parent, name, std::move(inode)));
    fresh->deleted_ = deleted;
    return fresh;
}

// Enters it into the table, or returns what another lookup entered meanwhile.
Ref<Dentry> DentryCache::publish(Ref<Dentry> fresh, u64 hash) {
    fresh->hash_ = hash;
    Shard& shard = shard_of(hash);
    {
        SpinGuard guard(shard.lock);
        if (Dentry* twin = shard.find(*fresh->parent_, fresh->name(), hash)) {
            auto found = Ref<Dentry>::share(twin);
            guard.unlock(); // `fresh` and its inode die outside of the lock
            return found;
        }
        fresh->referenced_ = true;
        fresh->add_ref(); // the table's own
        shard.add(*fresh);
    }
    if (total.fetch_add(1, base::Order::Relaxed) == shrinker_from)
        start_shrinker();
    shard.grow();
    trim();
    return fresh;
}

void DentryCache::unhash(Dentry& dentry, bool deleted) {
    Shard& shard = shard_of(dentry.hash_);
    bool was_hashed = false;
    if (deleted) {
        // Who mounts something here looks at it with the same lock: either that is refused, or
        // whoever takes the name away finds it afterwards (MountTree::drop_from()).
        SpinGuard tree(the_tree_lock);
        dentry.deleted_ = true;
    }
    {
        SpinGuard guard(shard.lock);
        was_hashed = dentry.hashed_;
        if (was_hashed)
            shard.take_out(dentry);
    }
    if (was_hashed) {
        total.fetch_sub(1, base::Order::Relaxed);
        dentry.release();
    }
}

Result<Ref<Dentry>> DentryCache::ask(Dentry& parent, std::string_view name, u64 hash) {
    const u64 now = monotonic_ns(); // before the question: the answer may be older than its arrival
    Ref<Inode> inode;
    auto answer = parent.inode()->lookup(name);
    if (answer)
        inode = std::move(*answer);
    else if (answer.error().code != ENOENT)
        return fail(answer.error().code);
    if (Ref<Dentry> old = find_raw(parent, name, hash)) {
        if (old->inode_ == inode) {
            old->cached_at_ns_ = now;
            return old;
        }
        unhash(*old, false);
    }
    TRY(Ref<Dentry> fresh, make(parent, name, std::move(inode)));
    fresh->cached_at_ns_ = now;
    return publish(std::move(fresh), hash);
}

Result<Ref<Dentry>> DentryCache::lookup(Dentry& parent, std::string_view name) {
    if (name.size() > Dentry::name_limit)
        return fail(ENAMETOOLONG);
    const u64 hash = name_hash(parent, name);
    if (Ref<Dentry> found = find_raw(parent, name, hash))
        if (usable(parent, name, *found))
            return found;
    RwMutex& mutex = parent.inode()->mutex();
    if (parent.superblock_->parallel_lookup()) {
        SharedGuard guard(mutex);
        if (Ref<Dentry> found = find(parent, name))
            return found;
        return ask(parent, name, hash);
    }
    MutexGuard guard(mutex);
    if (Ref<Dentry> found = find(parent, name))
        return found;
    return ask(parent, name, hash);
}

Result<Ref<Dentry>> DentryCache::lookup_locked(Dentry& parent, std::string_view name) {
    if (name.size() > Dentry::name_limit)
        return fail(ENAMETOOLONG);
    if (Ref<Dentry> found = find(parent, name))
        return found;
    return ask(parent, name, name_hash(parent, name));
}

Result<Ref<Dentry>> DentryCache::insert(Dentry& parent, std::string_view name, Ref<Inode> inode) {
    const u64 hash = name_hash(parent, name);
    TRY(Ref<Dentry> fresh, make(parent, name, std::move(inode)));
    fresh->cached_at_ns_ = monotonic_ns();
    if (Ref<Dentry> old = find_raw(parent, name, hash))
        unhash(*old, false);
    return publish(std::move(fresh), hash);
}

// remove() takes the object away only when nobody else has a reference, with the shard locked.
bool DentryCache::pin(Dentry& dentry) {
    for (;;) {
        const u64 hash = dentry.hash_;
        SpinGuard guard(shard_of(hash).lock);
        if (dentry.hash_ == hash)
            return dentry.inode_ && !dentry.deleted_;
    }
}

void DentryCache::remove(Dentry& dentry) {
    Ref<Inode> gone;
    Shard& shard = shard_of(dentry.hash_);
    {
        SpinGuard guard(shard.lock);
        // The table's reference and the caller's: nobody can be looking at the inode through this
        // name.
        if (dentry.hashed_ && dentry.ref_count() == 2) {
            gone = std::move(dentry.inode_);
            dentry.cached_at_ns_ = monotonic_ns();
            return;
        }
    }
    unhash(dentry, true);
}

void DentryCache::rehash(Dentry& dentry) {
    dentry.hash_ = name_hash(*dentry.parent_, dentry.name());
    Shard& shard = shard_of(dentry.hash_);
    SpinGuard guard(shard.lock);
    dentry.add_ref();
    shard.add(dentry);
    total.fetch_add(1, base::Order::Relaxed);
}

void DentryCache::move(Dentry& dentry, Dentry& new_parent, std::string_view new_name,
                       char* storage) {
    if (Ref<Dentry> old = find_raw(new_parent, new_name, name_hash(new_parent, new_name)))
        unhash(*old, !old->is_negative());
    Ref<Dentry> parent = Ref<Dentry>::share(&new_parent);
    char* old_storage = nullptr;
    {
        SpinGuard guard(the_tree_lock);
        unhash(dentry, false);
        if (dentry.name_ != dentry.inline_name_)
            old_storage = dentry.name_;
        dentry.name_ = storage == nullptr ? dentry.inline_name_ : storage;
        dentry.name_length_ = static_cast<u16>(new_name.size());
        for (usize i = 0; i < new_name.size(); i++)
            dentry.name_[i] = new_name[i];
        if (parent != dentry.parent_)
            note_way_change();
        std::swap(dentry.parent_, parent);
        dentry.cached_at_ns_ = monotonic_ns();
        rehash(dentry);
    }
    delete[] old_storage;
}

void DentryCache::exchange(Dentry& a, Dentry& b) {
    SpinGuard guard(the_tree_lock);
    unhash(a, false);
    unhash(b, false);
    char* const a_long = a.name_ == a.inline_name_ ? nullptr : a.name_;
    char* const b_long = b.name_ == b.inline_name_ ? nullptr : b.name_;
    for (usize i = 0; i < Dentry::inline_capacity; i++)
        std::swap(a.inline_name_[i], b.inline_name_[i]);
    a.name_ = b_long == nullptr ? a.inline_name_ : b_long;
    b.name_ = a_long == nullptr ? b.inline_name_ : a_long;
    std::swap(a.name_length_, b.name_length_);
    if (a.parent_ != b.parent_)
        note_way_change();
    std::swap(a.parent_, b.parent_);
    a.cached_at_ns_ = b.cached_at_ns_ = monotonic_ns();
    rehash(a);
    rehash(b);
}

void DentryCache::forget(Dentry& parent, std::string_view name) {
    Ref<Dentry> found = find_raw(parent, name, name_hash(parent, name));
    if (found && found->mounts.load() == 0)
        unhash(*found, false);
}

// Drops one batch of a file system's dentries; returns how many.
usize DentryCache::collect(Shard& shard, Superblock& superblock, bool all) {
    Dentry* victims[batch];
    usize found = 0;
    {
        SpinGuard guard(shard.lock);
        for (usize i = 0; i <= shard.mask && found < batch; i++)
            for (Dentry* d = shard.bucket(i); d != nullptr && found < batch;) {
                Dentry* next = d->hash_next_;
                if (d->superblock_.get() == &superblock && (all || d->ref_count() == 1)) {
                    shard.take_out(*d);
                    victims[found++] = d;
                }
                d = next;
            }
    }
    total.fetch_sub(found, base::Order::Relaxed);
    for (usize i = 0; i < found; i++)
        victims[i]->release();
    return found;
}

void DentryCache::forget_superblock(Superblock& superblock) {
    const bool all = superblock.mount_count.load() == 0;
    usize dropped = 1;
    while (dropped != 0) { // parents become unused when their children have gone
        dropped = 0;
        for (u64 i = 0; i < shard_count; i++)
            while (const usize some = collect(shard_of(i << 60), superblock, all))
                dropped += some;
    }
}

// One turn of the clock over a shard at most; used dentries lose their mark, unused ones without it
// go.
usize DentryCache::evict_from(Shard& shard, usize count) {
    Dentry* victims[batch];
    usize found = 0;
    count = count < batch ? count : batch;
    {
        SpinGuard guard(shard.lock);
        for (usize seen = 0; seen <= shard.mask && found < count; seen++) {
            shard.hand = (shard.hand + 1) & shard.mask;
            for (Dentry* d = shard.bucket(shard.hand); d != nullptr && found < count;) {
                Dentry* next = d->hash_next_;
                if (d->ref_count() == 1 && d->mounts.load(base::Order::Relaxed) == 0 &&
                    (d->is_negative() || d->superblock_->can_drop_dentries())) {
                    if (d->referenced_) {
                        d->referenced_ = false;
                    } else {
                        shard.take_out(*d);
                        victims[found++] = d;
                    }
                }
                d = next;
            }
        }
    }
    total.fetch_sub(found, base::Order::Relaxed);
    for (usize i = 0; i < found; i++)
        victims[i]->release();
    return found;
}

usize DentryCache::shrink(usize count) {
    usize dropped = 0;
    // Two rounds: the first may only clear marks.
    for (u64 round = 0; round < 3 && dropped < count; round++)
        for (u64 i = 0; i < shard_count && dropped < count; i++)
            while (dropped < count) {
                const usize some = evict_from(shard_of(i << 60), count - dropped);
                if (some == 0)
                    break;
                dropped += some;
            }
    return dropped;
}

void DentryCache::trim() {
    static constinit base::Atomic<u32> next_shard{0};
    if (total.load(base::Order::Relaxed) <= dentry_limit())
        return;
    for (usize tries = 0; tries < shard_count; tries++)
        if (evict_from(shard_of(u64{next_shard.fetch_add(1, base::Order::Relaxed)} << 60), batch) !=
            0)
            return;
}

usize DentryCache::count() {
    return total.load(base::Order::Relaxed);
}

bool add_dot_entries(File& directory, DirectorySink& sink, u64& offset) {
    Inode* self = directory.inode();
    if (offset == 0) {
        if (!sink.add(".", self->number(), directory_type(mode_directory), 1))
            return false;
        offset = 1;
    }
    if (offset == 1) {
        u64 number = self->number();
        if (Dentry* dentry = directory.path().dentry())
            if (Ref<Dentry> parent = dentry->parent_ref())
                number = parent->inode()->number();
        if (!sink.add("..", number, directory_type(mode_directory), 2))
            return false;
        offset = 2;
    }
    return true;
}

} // namespace kernel
