// FdCache: descriptors that are kept open because they may be needed again, up to a number.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <vector>

#include "virtio/backend/unique_fd.hpp"
#include "virtio/guarded.hpp"

namespace virtio::fs {

// An open descriptor that several may use; closed with the last reference.
class HostFd {
public:
    explicit HostFd(UniqueFd fd) : fd_(std::move(fd)) {
        open_now.fetch_add(1, std::memory_order_relaxed);
    }
    HostFd(const HostFd&) = delete;
    HostFd& operator=(const HostFd&) = delete;
    ~HostFd() { open_now.fetch_sub(1, std::memory_order_relaxed); }
    // How many there are in this process, of all its shares.
    static std::size_t count() { return open_now.load(std::memory_order_relaxed); }
    int get() const { return fd_.get(); }
    // Says that it is still of use.
    void touch() {
        // Mostly set already: a plain read keeps the line shared between threads.
        if (!used_.load(std::memory_order_relaxed))
            used_.store(true, std::memory_order_relaxed);
    }

private:
    friend class FdCache;
    inline static std::atomic<std::size_t> open_now{0};
    UniqueFd fd_;
    std::atomic<bool> used_{true};
    static constexpr std::size_t no_slot = ~std::size_t{0};
    std::size_t slot_ = no_slot; // under the cache's lock
};
using FdRef = std::shared_ptr<HostFd>;

// Who needs a descriptor holds it weakly; the cache keeps it alive until others displace it (second
// chance: one that was touched since the hand last passed stays for another round).
class FdCache {
public:
    explicit FdCache(std::size_t capacity) : capacity_(capacity) {}

    void keep(const FdRef& fd);
    void drop(const FdRef& fd);
    void clear();
    std::size_t size() const;

private:
    struct Slots {
        std::vector<FdRef> slots;
        std::vector<std::size_t> free;
        std::size_t hand = 0;
    };
    const std::size_t capacity_;
    // Descriptors are closed outside of the lock.
    mutable Guarded<Slots> slots_;
};

} // namespace virtio::fs
