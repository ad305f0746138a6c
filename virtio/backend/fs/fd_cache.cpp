#include "virtio/backend/fs/fd_cache.hpp"

namespace virtio::fs {

void FdCache::keep(const FdRef& fd) {
    FdRef displaced; // closed after the lock
    slots_.with([&](Slots& state) {
        if (fd->slot_ != HostFd::no_slot)
            return;
        std::size_t at = 0;
        if (!state.free.empty()) {
            at = state.free.back();
            state.free.pop_back();
        } else if (state.slots.size() < capacity_) {
            at = state.slots.size();
            state.slots.emplace_back();
        } else {
            // Ends within one round: each look takes a chance away.
            while (state.slots[state.hand]->used_.exchange(false, std::memory_order_relaxed))
                state.hand = (state.hand + 1) % capacity_;
            at = state.hand;
            state.hand = (state.hand + 1) % capacity_;
            state.slots[at]->slot_ = HostFd::no_slot;
        }
        displaced = std::exchange(state.slots[at], fd);
        fd->slot_ = at;
    });
}

void FdCache::drop(const FdRef& fd) {
    FdRef removed;
    slots_.with([&](Slots& state) {
        if (fd->slot_ == HostFd::no_slot)
            return;
        removed = std::move(state.slots[fd->slot_]);
        state.free.push_back(fd->slot_);
        fd->slot_ = HostFd::no_slot;
    });
}

void FdCache::clear() {
    std::vector<FdRef> removed;
    slots_.with([&](Slots& state) {
        for (const FdRef& fd : state.slots) {
            if (fd)
                fd->slot_ = HostFd::no_slot;
        }
        removed = std::move(state.slots);
        state = Slots{};
    });
}

std::size_t FdCache::size() const {
    return slots_.with([](const Slots& state) { return state.slots.size() - state.free.size(); });
}

} // namespace virtio::fs
