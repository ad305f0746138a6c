#include "guestkernel/net/filter/set.hpp"

#include <linux/errno.h>

namespace kernel::net::filter {

Set::~Set() {
    for (Element* bucket : buckets_)
        while (bucket != nullptr) {
            Element* next = bucket->next;
            delete bucket;
            bucket = next;
        }
    for (Element* element : elements_)
        delete element;
    delete catch_all_;
}

u64 Set::place(const u8* key) const {
    u64 hash = 0;
    for (u32 at = 0; at < key_length; at += 8) {
        u64 word = 0;
        __builtin_memcpy(&word, key + at, key_length - at < 8 ? key_length - at : 8);
        hash = hash_mix(hash ^ word);
    }
    return hash_mix(hash);
}

// --- what packets look for

Element* Set::lookup_exact(const u8* key, u64 now) {
    if (buckets_.empty())
        return nullptr;
    for (Element* at = buckets_[place(key) & (buckets_.size() - 1)]; at != nullptr; at = at->next)
        if (visible(*at, now) && __builtin_memcmp(at->key, key, key_length) == 0)
            return at;
    return nullptr;
}

// The last boundary that is not behind the key: inside, if an interval begins there.
Element* Set::lookup_sorted(const u8* key, u64 now) {
    usize low = 0, high = elements_.size();
    while (low < high) {
        const usize middle = (low + high) / 2;
        if (__builtin_memcmp(elements_[middle]->key, key, key_length) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    // One whose time is over still ends what lies before it.
    while (low-- > 0)
        if (elements_[low]->state != ElementState::Pending)
            return elements_[low]->interval_end || !visible(*elements_[low], now) ? nullptr
                                                                                  : elements_[low];
    return nullptr;
}

Element* Set::lookup_ranges(const u8* key, u64 now) {
    for (Element* element : elements_) {
        if (!visible(*element, now))
            continue;
        bool inside = true;
        u32 at = 0;
        for (u32 field = 0; field < fields && inside; field++) {
            const u32 bytes = field_lengths[field];
            inside = __builtin_memcmp(key + at, element->key + at, bytes) >= 0 &&
                     __builtin_memcmp(key + at, element->key_end + at, bytes) <= 0;
            at += (bytes + 3) & ~3u;
        }
        if (inside)
            return element;
    }
    return nullptr;
}

Element* Set::lookup(const u8* key, u64 now) {
    Element* found = ranges()   ? lookup_ranges(key, now)
                     : sorted() ? lookup_sorted(key, now)
                                : lookup_exact(key, now);
    if (found == nullptr && catch_all_ != nullptr && visible(*catch_all_, now))
        return catch_all_;
    return found;
}

// --- what packets change

Element* Set::add_locked(const u8* key, const Data* data, u64 timeout, u64 now) {
    if (intervals())
        return nullptr;
    // No sooner than is due, even if it is full: whoever sends from ever new addresses is what such
    // sets are against, and each packet would go through all of it.
    collect_when_due(now);
    if ((size != 0 && count_ >= size) || !grow())
        return nullptr;
    Owned<Element> fresh(new (std::nothrow) Element);
    if (!fresh)
        return nullptr;
    __builtin_memcpy(fresh->key, key, key_length);
    if (data != nullptr) {
        fresh->data = *data;
        fresh->has_data = true;
    }
    for (const Owned<Expression>& one : expressions) {
        Owned<Expression> copy = one->clone();
        if (!copy || !fresh->expressions.push_back(std::move(copy)))
            return nullptr;
    }
    if (timed()) {
        const u64 milliseconds = timeout != 0 ? timeout : timeout_ms;
        if (milliseconds != 0) {
            fresh->has_timeout = true;
            fresh->timeout_ms = milliseconds;
            fresh->expires_at = now + milliseconds * 1'000'000;
        }
    }
    fresh->state = ElementState::Live;
    fresh->serial = ++last_serial_;
    Element*& bucket = buckets_[place(key) & (buckets_.size() - 1)];
    fresh->next = bucket;
    bucket = fresh.leak();
    count_++;
    return bucket;
}

bool Set::remove_by_packet(const u8* key, u64 now) {
    SpinGuard guard(lock);
    Element* found = intervals() ? nullptr : lookup_exact(key, now);
    if (found == nullptr || found->state != ElementState::Live)
        return false;
    unlink(*found);
    guard.unlock();
    delete found;
    return true;
}

// --- what transactions change

usize Set::position_of(const Element& like) const {
    usize low = 0, high = elements_.size();
    while (low < high) {
        const usize middle = (low + high) / 2;
        const int order = __builtin_memcmp(elements_[middle]->key, like.key, key_length);
        // Of the same key the end of one interval comes before the beginning of the next.
        const bool before =
            order < 0 || (order == 0 && elements_[middle]->interval_end && !like.interval_end);
        if (before)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

Element* Set::find_exact(const Element& like) {
    const auto same = [&](const Element& element) {
        return element.state != ElementState::Doomed && element.interval_end == like.interval_end &&
               __builtin_memcmp(element.key, like.key, key_length) == 0 &&
               (!ranges() || __builtin_memcmp(element.key_end, like.key_end, key_length) == 0);
    };
    if (like.catch_all)
        return catch_all_ != nullptr && catch_all_->state != ElementState::Doomed ? catch_all_
                                                                                  : nullptr;
    if (sorted()) {
        for (usize at = position_of(like); at < elements_.size(); at++) {
            if (__builtin_memcmp(elements_[at]->key, like.key, key_length) != 0)
                break;
            if (same(*elements_[at]))
                return elements_[at];
        }
        return nullptr;
    }
    if (ranges()) {
        for (Element* element : elements_)
            if (same(*element))
                return element;
        return nullptr;
    }
    if (buckets_.empty())
        return nullptr;
    for (Element* at = buckets_[place(like.key) & (buckets_.size() - 1)]; at != nullptr;
         at = at->next)
        if (same(*at))
            return at;
    return nullptr;
}

Result<void> Set::grow() {
    constexpr usize least = 16;
    if (!buckets_.empty() && count_ < 2 * buckets_.size())
        return {};
    Vector<Element*> wider;
    TRY(wider.resize(buckets_.empty() ? least : 4 * buckets_.size()));
    for (Element* bucket : buckets_)
        while (bucket != nullptr) {
            Element* next = bucket->next;
            Element*& to = wider[place(bucket->key) & (wider.size() - 1)];
            bucket->next = to;
            to = bucket;
            bucket = next;
        }
    buckets_ = std::move(wider);
    return {};
}

Result<void> Set::insert(Owned<Element> element, u64 now) {
    SpinGuard guard(lock);
    collect_when_due(now);
    if (size != 0 && count_ >= size && !element->interval_end) {
        collect(now);
        if (count_ >= size)
            return fail(ENFILE);
    }
    element->serial = ++last_serial_;
    if (element->catch_all) {
        if (catch_all_ != nullptr)
            return fail(EBUSY); // doomed by the same transaction
        catch_all_ = element.leak();
    } else if (intervals()) {
        const usize at = sorted() ? position_of(*element) : elements_.size();
        TRY(elements_.insert(at, element.get()));
        (void)element.leak();
    } else {
        TRY(grow());
        Element*& bucket = buckets_[place(element->key) & (buckets_.size() - 1)];
        element->next = bucket;
        bucket = element.leak();
    }
    count_++;
    return {};
}

void Set::unlink(Element& element) {
    if (&element == catch_all_) {
        catch_all_ = nullptr;
    } else if (intervals()) {
        for (usize i = 0; i < elements_.size(); i++)
            if (elements_[i] == &element) {
                elements_.erase(i);
                break;
            }
    } else {
        for (Element** at = &buckets_[place(element.key) & (buckets_.size() - 1)]; *at != nullptr;
             at = &(*at)->next)
            if (*at == &element) {
                *at = element.next;
                break;
            }
    }
    count_--;
}

void Set::settle(Element& element, bool commit) {
    SpinGuard guard(lock);
    const bool stays = (element.state == ElementState::Pending) == commit;
    if (stays) {
        element.state = ElementState::Live;
        return;
    }
    unlink(element);
    guard.unlock();
    delete &element;
}

void Set::collect(u64 now) {
    const auto over = [now](const Element& element) {
        return element.state == ElementState::Live && element.expires_at != 0 &&
               element.expires_at <= now;
    };
    for (Element*& bucket : buckets_)
        for (Element** at = &bucket; *at != nullptr;) {
            Element* element = *at;
            if (!over(*element)) {
                at = &element->next;
                continue;
            }
            *at = element->next;
            delete element;
            count_--;
        }
    const auto drop = [this](usize at) {
        delete elements_[at];
        elements_.erase(at);
        count_--;
    };
    for (usize i = elements_.size(); i-- > 0;) {
        if (!over(*elements_[i]))
            continue;
        // An interval before it that has no end of its own ends here, as long as it is there.
        if (sorted() && i > 0 && !elements_[i - 1]->interval_end && !over(*elements_[i - 1]))
            continue;
        // The end of an interval has no time of its own: it goes with the beginning.
        if (sorted() && i + 1 < elements_.size() && elements_[i + 1]->interval_end &&
            elements_[i + 1]->state == ElementState::Live)
            drop(i + 1);
        drop(i);
    }
}

// A set that grows is not to keep what nobody finds any more, whether it has a size or not. All of
// it is gone through for that, so not at each addition.
void Set::collect_when_due(u64 now) {
    constexpr u64 least_ms = 1000, ns_per_ms = 1'000'000;
    if (!timed() || now < collect_at_)
        return;
    collect(now);
    collect_at_ = now + (collect_interval > least_ms ? collect_interval : least_ms) * ns_per_ms;
}

} // namespace kernel::net::filter
