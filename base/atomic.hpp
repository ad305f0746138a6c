// Atomic<T>: the operations of std::atomic that the project uses, over the compiler's built-ins.
// <atomic> itself pulls the C library into freestanding code (libstdc++ 12).
#pragma once

#include <type_traits>

namespace base {

enum class Order : int {
    Relaxed = __ATOMIC_RELAXED,
    Acquire = __ATOMIC_ACQUIRE,
    Release = __ATOMIC_RELEASE,
    AcqRel = __ATOMIC_ACQ_REL,
    SeqCst = __ATOMIC_SEQ_CST,
};

template <typename T>
requires(std::is_trivially_copyable_v<T> && sizeof(T) <= 8) class Atomic {
public:
    constexpr Atomic() = default;
    constexpr explicit Atomic(T value) : value_(value) {}
    Atomic(const Atomic&) = delete;
    Atomic& operator=(const Atomic&) = delete;

    T load(Order order = Order::SeqCst) const {
        T out;
        __atomic_load(&value_, &out, static_cast<int>(order));
        return out;
    }
    void store(T value, Order order = Order::SeqCst) {
        __atomic_store(&value_, &value, static_cast<int>(order));
    }
    T exchange(T value, Order order = Order::SeqCst) {
        T out;
        __atomic_exchange(&value_, &value, &out, static_cast<int>(order));
        return out;
    }
    // On failure `expected` receives the value found.
    bool compare_exchange(T& expected, T desired, Order order = Order::SeqCst) {
        const int success = static_cast<int>(order);
        const int failure = order == Order::Release  ? __ATOMIC_RELAXED
                            : order == Order::AcqRel ? __ATOMIC_ACQUIRE
                                                     : success;
        return __atomic_compare_exchange(&value_, &expected, &desired, false, success, failure);
    }
    T fetch_add(T by, Order order = Order::SeqCst) {
        return __atomic_fetch_add(&value_, by, static_cast<int>(order));
    }
    T fetch_sub(T by, Order order = Order::SeqCst) {
        return __atomic_fetch_sub(&value_, by, static_cast<int>(order));
    }
    T fetch_or(T bits, Order order = Order::SeqCst) {
        return __atomic_fetch_or(&value_, bits, static_cast<int>(order));
    }
    T fetch_and(T bits, Order order = Order::SeqCst) {
        return __atomic_fetch_and(&value_, bits, static_cast<int>(order));
    }

private:
    T value_{};
};

inline void fence(Order order) {
    __atomic_thread_fence(static_cast<int>(order));
}
inline void cpu_relax() {
    __builtin_ia32_pause();
}

} // namespace base
