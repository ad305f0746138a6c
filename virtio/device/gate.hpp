// Gate: who may touch a device's queues right now. Threads pass through it while they work on the
// device; closing it lets nobody new in and waits for those inside. Passing costs one atomic add.
#pragma once

#include <atomic>
#include <cstdint>

namespace virtio {

class Gate {
public:
    // Holds the gate open for its owner's stay; false if the gate was closed.
    class Pass {
    public:
        explicit Pass(Gate& gate) : gate_(gate.enter() ? &gate : nullptr) {}
        Pass(const Pass&) = delete;
        Pass& operator=(const Pass&) = delete;
        ~Pass() {
            if (gate_ != nullptr)
                gate_->leave();
        }
        explicit operator bool() const { return gate_ != nullptr; }

    private:
        Gate* gate_;
    };

    bool is_open() const { return (state_.load(std::memory_order_acquire) & open_bit) != 0; }
    void open() { state_.fetch_or(open_bit, std::memory_order_acq_rel); }
    // No new passes from here on.
    void close() { state_.fetch_and(~open_bit, std::memory_order_acq_rel); }
    // Requires: closed, and the caller holds no pass.
    void wait_until_empty() {
        for (std::uint32_t now = state_.load(std::memory_order_acquire); now != 0;
             now = state_.load(std::memory_order_acquire))
            state_.wait(now, std::memory_order_acquire);
    }

private:
    static constexpr std::uint32_t open_bit = 1u << 31;

    bool enter() {
        const std::uint32_t before = state_.fetch_add(1, std::memory_order_acq_rel);
        if ((before & open_bit) != 0)
            return true;
        leave();
        return false;
    }
    void leave() {
        // Only a closing thread waits, so only the last one out of a closed gate need wake it.
        if (state_.fetch_sub(1, std::memory_order_acq_rel) == 1)
            state_.notify_all();
    }

    std::atomic<std::uint32_t> state_{0}; // open_bit | number of passes out
};

} // namespace virtio
