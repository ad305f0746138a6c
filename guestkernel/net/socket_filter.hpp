// Filters that programs attach to sockets: classic BPF over a packet's bytes (SO_ATTACH_FILTER).
#pragma once

#include "guestkernel/core/lock.hpp"
#include "guestkernel/core/ref.hpp"
#include "guestkernel/lib/vector.hpp"
#include "guestkernel/net/packet.hpp"

namespace kernel::net {

struct FilterInstruction { // struct sock_filter
    u16 code;
    u8 jump_true, jump_false;
    u32 k;
};

class SocketFilter final : public RefCounted {
public:
    // Checks the program: EINVAL.
    static Result<Ref<SocketFilter>> make(std::span<const FilterInstruction> program);
    // The program that a struct sock_fprog of the running task names: EFAULT, too.
    static Result<Ref<SocketFilter>> of_user(std::span<const u8> value);
    // How many bytes of the packet to keep; 0: none of it. Offsets count from `base` in the packet.
    u32 run(const Packet& packet, u32 base = 0) const;
    std::span<const FilterInstruction> program() const { return program_.span(); }

private:
    Vector<FilterInstruction> program_;
};

// The place of a socket's filter.
class FilterSlot {
public:
    void set(Ref<SocketFilter> filter) {
        {
            SpinGuard guard(lock_);
            std::swap(filter, filter_);
        }
        present_.store(static_cast<bool>(get()));
    }
    Ref<SocketFilter> get() {
        SpinGuard guard(lock_);
        return filter_;
    }
    bool present() const { return present_.load(base::Order::Relaxed); }

private:
    SpinLock lock_{LockRank::Leaf};
    base::Atomic<bool> present_{false};
    Ref<SocketFilter> filter_;
};

} // namespace kernel::net
