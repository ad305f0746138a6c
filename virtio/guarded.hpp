// Guarded<T>: shared data that can be reached only with its lock held.
#pragma once

#include <mutex>
#include <utility>

namespace virtio {

template <typename T>
class Guarded {
public:
    template <typename... A>
    explicit Guarded(A&&... arguments) : value_(std::forward<A>(arguments)...) {}
    Guarded(const Guarded&) = delete;
    Guarded& operator=(const Guarded&) = delete;

    template <typename F>
    decltype(auto) with(F&& use) {
        const std::lock_guard lock(mutex_);
        return std::forward<F>(use)(value_);
    }

private:
    std::mutex mutex_;
    T value_;
};

} // namespace virtio
