#include "guestkernel/net/clock.hpp"

namespace kernel::net {

NetTimer::NetTimer(const StackClock& clock, Callback callback, void* argument)
    : timer_(expired, this), virtual_(clock.virtual_clock()), callback_(callback),
      argument_(argument) {}

void NetTimer::expired(Timer&, void* argument) {
    auto& timer = *static_cast<NetTimer*>(argument);
    timer.callback_(timer, timer.argument_);
}

void NetTimer::arm(u64 deadline_ns) {
    if (virtual_ == nullptr) {
        timer_.arm(deadline_ns);
        return;
    }
    cancel();
    deadline_ = deadline_ns;
    queued_ = true;
    NetTimer** at = &virtual_->first_;
    while (*at != nullptr && (*at)->deadline_ <= deadline_ns)
        at = &(*at)->next_;
    next_ = *at;
    *at = this;
}

bool NetTimer::cancel() {
    if (virtual_ == nullptr)
        return timer_.cancel();
    if (!queued_)
        return false;
    NetTimer** at = &virtual_->first_;
    while (*at != this)
        at = &(*at)->next_;
    *at = next_;
    queued_ = false;
    return true;
}

u64 VirtualClock::next_deadline() const {
    return first_ == nullptr ? no_deadline : first_->deadline_;
}

void VirtualClock::advance_to(u64 when) {
    while (first_ != nullptr && first_->deadline_ <= when) {
        NetTimer& due = *first_;
        first_ = due.next_;
        due.queued_ = false;
        if (due.deadline_ > now_)
            now_ = due.deadline_;
        due.callback_(due, due.argument_);
    }
    if (when > now_)
        now_ = when;
}

} // namespace kernel::net
