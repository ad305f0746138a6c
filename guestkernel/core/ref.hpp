// Shared ownership by a count inside the object. make_ref() is the way to create such objects.
#pragma once

#include <new>
#include <utility>

#include "base/atomic.hpp"
#include "guestkernel/core/result.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel {

inline constexpr int enomem =
    12; // ENOMEM: headers do not include UAPI headers; asserted in ref_test.cpp

class RefCounted {
public:
    RefCounted() = default;
    RefCounted(const RefCounted&) = delete;
    RefCounted& operator=(const RefCounted&) = delete;
    virtual ~RefCounted() = default;

    void add_ref() const { count_.fetch_add(1, base::Order::Relaxed); }
    void release() const {
        if (count_.fetch_sub(1, base::Order::AcqRel) == 1)
            const_cast<RefCounted*>(this)->last_reference();
    }
    // Gives a reference up unless it is the last one; returns whether it did.
    bool release_unless_last() const {
        u32 seen = count_.load(base::Order::Relaxed);
        while (seen > 1)
            if (count_.compare_exchange(seen, seen - 1, base::Order::AcqRel))
                return true;
        return false;
    }
    // Takes a reference unless the count already reached zero (for caches that hold weak pointers
    // and remove them in last_reference()).
    bool try_add_ref() const {
        u32 seen = count_.load(base::Order::Relaxed);
        while (seen != 0)
            if (count_.compare_exchange(seen, seen + 1, base::Order::AcqRel))
                return true;
        return false;
    }
    u32 ref_count() const { return count_.load(base::Order::Relaxed); }

protected:
    // release() in two steps, for chains that must not be destroyed by recursion: true obliges the
    // caller to destroy.
    bool drop_ref() const { return count_.fetch_sub(1, base::Order::AcqRel) == 1; }
    // Called when the count reaches zero; may sleep (an inode's last reference may do I/O).
    virtual void last_reference() { delete this; }

private:
    mutable base::Atomic<u32> count_{1};
};

// NOLINTBEGIN(google-explicit-constructor): conversions are the point, as in the standard library's
// types
template <typename T>
class Ref {
public:
    constexpr Ref() = default;
    constexpr Ref(std::nullptr_t) {}
    // Takes over a reference that the caller owns.
    static Ref adopt(T* object) {
        Ref ref;
        ref.object_ = object;
        return ref;
    }
    // Adds a reference to an object that is alive.
    static Ref share(T* object) {
        if (object != nullptr)
            object->add_ref();
        return adopt(object);
    }
    Ref(const Ref& other) : object_(other.object_) {
        if (object_ != nullptr)
            object_->add_ref();
    }
    Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
    template <typename U>
    requires(std::is_convertible_v<U*, T*>) Ref(const Ref<U>& other) : Ref(share(other.get())) {}
    template <typename U>
    requires(std::is_convertible_v<U*, T*>) Ref(Ref<U>&& other) : object_(other.leak()) {}
    Ref& operator=(Ref other) noexcept {
        std::swap(object_, other.object_);
        return *this;
    }
    ~Ref() {
        if (object_ != nullptr)
            object_->release();
    }

    T* get() const { return object_; }
    T* operator->() const { return object_; }
    T& operator*() const { return *object_; }
    explicit operator bool() const { return object_ != nullptr; }
    T* leak() { return std::exchange(object_, nullptr); }
    friend bool operator==(const Ref& a, const Ref& b) { return a.object_ == b.object_; }

private:
    T* object_ = nullptr;
};

// NOLINTEND(google-explicit-constructor)
// A new object with one reference, or ENOMEM.
template <typename T, typename... A>
Result<Ref<T>> make_ref(A&&... arguments) {
    T* object = new (std::nothrow) T(std::forward<A>(arguments)...);
    if (object == nullptr)
        return fail(enomem);
    return Ref<T>::adopt(object);
}

// NOLINTBEGIN(google-explicit-constructor): as std::unique_ptr
// Sole ownership.
template <typename T>
class Owned {
public:
    Owned() = default;
    explicit Owned(T* object) : object_(object) {}
    Owned(Owned&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
    template <typename U>
    requires(std::is_convertible_v<U*, T*>) Owned(Owned<U>&& other) : object_(other.leak()) {}
    Owned& operator=(Owned other) noexcept {
        std::swap(object_, other.object_);
        return *this;
    }
    ~Owned() { delete object_; }
    T* get() const { return object_; }
    T* operator->() const { return object_; }
    T& operator*() const { return *object_; }
    explicit operator bool() const { return object_ != nullptr; }
    T* leak() { return std::exchange(object_, nullptr); }

private:
    T* object_ = nullptr;
};

// NOLINTEND(google-explicit-constructor)
template <typename T, typename... A>
Result<Owned<T>> make_owned(A&&... arguments) {
    T* object = new (std::nothrow) T(std::forward<A>(arguments)...);
    if (object == nullptr)
        return fail(enomem);
    return Owned<T>(object);
}

} // namespace kernel
