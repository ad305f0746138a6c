#include "virtio/device/net/pair.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <ctime>
#include <unistd.h>

#include <sys/timerfd.h>

namespace virtio {

namespace {

constexpr unsigned batch = 64;      // packets of one direction before the other has its turn
constexpr unsigned fair_turns = 16; // of both, before others on the loop have theirs

std::uint64_t now_ns() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
           static_cast<std::uint64_t>(now.tv_nsec);
}

void bump(std::atomic<std::uint64_t>& counter) {
    // One writer: no need for a locked instruction.
    counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}

struct iovec piece_of(std::span<std::byte> bytes) {
    return {bytes.data(), bytes.size()};
}

constexpr std::uint64_t segmentation =
    net_bit(net_feature_guest_tso4) | net_bit(net_feature_guest_tso6) |
    net_bit(net_feature_guest_uso4) | net_bit(net_feature_guest_uso6);

} // namespace

Net::Pair::Pair(Net& device, std::uint32_t index, EventLoop& loop, NetPort& port)
    : device_(device), index_(index), loop_(loop), port_(port),
      transmit_limit_(device.options_.transmit), receive_limit_(device.options_.receive),
      spill_(sizeof(NetHeader) + net_max_frame) {
    room_.reserve(device.options_.queue_size);
    used_.reserve(device.options_.queue_size);
    pieces_.reserve(max_pieces);
    read_to_.reserve(max_pieces + 2);
    port_.attach(*this);
    if (!transmit_limit_.limited() && !receive_limit_.limited())
        return;
    timer_ = UniqueFd(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
    // Without a timer the limits hold all the same; a packet then waits for the next event.
    static_cast<void>(loop_.add(timer_.get(), {.read = true}, [this](Readiness) {
        std::uint64_t expirations = 0;
        if (::read(timer_.get(), &expirations, sizeof expirations) > 0) {
            timer_at_ns_ = 0;
            outside(&Pair::run);
        }
    }));
}

Net::Pair::~Pair() {
    if (timer_)
        loop_.remove(timer_.get());
}

void Net::Pair::add_to(NetCounters& sum) const {
    sum.received += counts_.received.load(std::memory_order_relaxed);
    sum.received_dropped += counts_.received_dropped.load(std::memory_order_relaxed);
    sum.sent += counts_.sent.load(std::memory_order_relaxed);
    sum.sent_dropped += counts_.sent_dropped.load(std::memory_order_relaxed);
    sum.wakeups += counts_.wakeups.load(std::memory_order_relaxed);
}

// ---- who calls -----------------------------------------------------------------------------

void Net::Pair::readable() {
    outside(&Pair::run);
}

void Net::Pair::writable() {
    outside(&Pair::run);
}

void Net::Pair::outside(Checked<void> (Pair::*work)()) {
    const Gate::Pass pass(device_.gate());
    if (!pass || index_ >= device_.active_pairs_.load(std::memory_order_relaxed)) {
        // Nobody takes what comes; start() listens again.
        watch(false);
        return;
    }
    const Checked<void> done = (this->*work)();
    if (done)
        return;
    device_.report(done.error());
    // Nothing is taken from the port any more, which would say so without end.
    watch(false);
}

void Net::Pair::later() {
    if (std::exchange(later_posted_, true))
        return;
    loop_.post([this, alive = std::weak_ptr<bool>(alive_)] {
        if (alive.expired())
            return;
        later_posted_ = false;
        outside(&Pair::run);
    });
}

void Net::Pair::start_later() {
    if (start_posted_.exchange(true))
        return;
    loop_.post([this, alive = std::weak_ptr<bool>(alive_)] {
        if (alive.expired())
            return;
        start_posted_.store(false);
        // Said to the port, too: of an earlier driver it may still be listening.
        watching_ = false;
        port_.watch(false);
        outside(&Pair::run);
    });
}

void Net::Pair::reset() {
    outgoing_ = Chain();
    used_.clear();
    pieces_.clear();
    room_.clear();
    pending_ = 0;
}

void Net::Pair::watch(bool on) {
    if (watching_ == on)
        return;
    watching_ = on;
    port_.watch(on);
}

// At that time or earlier: the two directions share the timer, and what one of them waits for must
// not put off the other.
void Net::Pair::wake_at(std::uint64_t time_ns) {
    if (timer_at_ns_ != 0 && timer_at_ns_ <= time_ns)
        return;
    timer_at_ns_ = time_ns;
    itimerspec when{};
    when.it_value.tv_sec = static_cast<time_t>(time_ns / 1'000'000'000);
    when.it_value.tv_nsec = static_cast<long>(time_ns % 1'000'000'000);
    ::timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &when, nullptr);
}

Checked<void> Net::Pair::run() {
    bump(counts_.wakeups);
    idle_since_ = 0;
    const bool polls = device_.options_.poll_ns != 0;
    for (unsigned turn = 0; turn < fair_turns;) {
        TRY(const Step sent,
            transmit(polls ? Queue::WhenEmpty::StaySilent : Queue::WhenEmpty::Arm));
        TRY(const Step received, receive());
        if (sent == Step::Worked || received == Step::Worked) {
            ++turn;
            idle_since_ = 0;
            continue;
        }
        TRY(const bool go_on, poll_on());
        if (!go_on)
            return {};
    }
    later();
    return {};
}

// Nothing was found: whether to look again at once.
Checked<bool> Net::Pair::poll_on() {
    const std::uint64_t window = device_.options_.poll_ns;
    if (window == 0)
        return false;
    const std::uint64_t now = now_ns();
    if (idle_since_ == 0)
        idle_since_ = now;
    if (now - idle_since_ < window) {
        __builtin_ia32_pause();
        return true;
    }
    idle_since_ = 0;
    TRY(const Step found, transmit(Queue::WhenEmpty::Arm));
    return found == Step::Worked;
}

// ---- from the guest ------------------------------------------------------------------------

Checked<Net::Pair::Step> Net::Pair::transmit(Queue::WhenEmpty when_empty) {
    Queue* const queue = device_.queue(net_transmit_queue(index_));
    if (queue == nullptr)
        return Step::Idle;
    unsigned count = 0;
    if (outgoing_) {
        if (send_frame(outgoing_) == NetPort::Sent::Full)
            return Step::Idle;
        queue->push_used(std::move(outgoing_), 0);
        ++count;
    }
    while (count < batch && !outgoing_) {
        if (transmit_limit_.limited()) {
            const std::uint64_t now = now_ns();
            if (!transmit_limit_.open(now)) {
                wake_at(transmit_limit_.opens_at(now));
                break;
            }
        }
        TRY(Chain chain, queue->pop(when_empty));
        if (!chain)
            break;
        TRY(send_chain(*queue, std::move(chain)));
        ++count;
    }
    if (count == 0)
        return Step::Idle;
    port_.flush();
    queue->interrupt_driver();
    return Step::Worked;
}

Checked<void> Net::Pair::send_chain(Queue& queue, Chain chain) {
    // 5.1.6.2: a header stands before each packet. A chain that lacks one comes of a driver that
    // does not know what it does.
    if (chain.readable_bytes() < sizeof(NetHeader))
        return fault(FaultKind::Request, chain.readable_bytes(),
                     static_cast<std::uint16_t>(net_transmit_queue(index_)));
    transmit_limit_.take(chain.readable_bytes() - sizeof(NetHeader));
    if (send_frame(chain) == NetPort::Sent::Full)
        outgoing_ = std::move(chain);
    else
        queue.push_used(std::move(chain), 0);
    return {};
}

NetPort::Sent Net::Pair::send_frame(const Chain& chain) {
    const auto refuse = [this] {
        bump(counts_.sent_dropped);
        return NetPort::Sent::Refused;
    };
    ChainReader reader(chain);
    const auto header = reader.read_object<NetHeader>();
    const std::uint64_t length = reader.remaining();
    if (!header || length < net_ethernet_header || length > net_max_frame)
        return refuse();
    // Copied, checked and sent from the copy: the guest cannot change it in between.
    std::array<std::byte, net_head_bytes> head;
    const std::span<std::byte> local =
        std::span(head).first(std::min<std::size_t>(length, head.size()));
    if (!reader.read(local))
        return refuse();
    const auto checked = check_transmit(*header, local, length, device_.features());
    if (!checked)
        return refuse();
    std::array<struct iovec, max_pieces + 1> pieces;
    pieces[0] = piece_of(local);
    std::uint64_t rest = 0;
    const auto behind = reader.peek(std::span(pieces).subspan(1), reader.remaining(), &rest);
    if (rest != reader.remaining())
        return refuse();
    const auto sent = port_.send(*checked, std::span(pieces).first(behind.size() + 1),
                                 static_cast<std::size_t>(length));
    if (sent == NetPort::Sent::Refused)
        return refuse();
    if (sent == NetPort::Sent::Taken)
        bump(counts_.sent);
    return sent;
}

// ---- to the guest --------------------------------------------------------------------------

Checked<Net::Pair::Step> Net::Pair::receive() {
    Queue* const queue = device_.queue(net_receive_queue(index_));
    if (queue == nullptr || index_ >= device_.active_pairs_.load(std::memory_order_relaxed)) {
        watch(false);
        return Step::Idle;
    }
    unsigned count = 0;
    for (; count < batch; ++count) {
        TRY(const bool has_room, gather_room(*queue));
        lay_out_room();
        if (pending_ != 0) {
            if (!finish_packet(*queue, pending_)) {
                watch(false);
                break;
            }
            continue;
        }
        if (!has_room) {
            // The driver notifies when it offers room: gather_room() asked for that.
            watch(false);
            break;
        }
        if (receive_limit_.limited()) {
            const std::uint64_t now = now_ns();
            if (!receive_limit_.open(now)) {
                wake_at(receive_limit_.opens_at(now));
                watch(false);
                break;
            }
        }
        const std::size_t length = port_.receive(read_to_);
        if (length == 0) {
            watch(true);
            break;
        }
        take_in(*queue, length);
    }
    return count == 0 ? Step::Idle : Step::Worked;
}

// Takes chains until the longest packet that may come has room, or there are no more. False: there
// is no room at all.
Checked<bool> Net::Pair::gather_room(Queue& queue) {
    std::size_t wanted = 1;
    if (device_.negotiated(net_feature_mrg_rxbuf)) {
        const bool segments =
            (device_.guest_offloads_.load(std::memory_order_relaxed) & segmentation) != 0;
        const std::size_t frame =
            segments ? net_max_frame : device_.options_.mtu + net_ethernet_header + 8;
        wanted = std::max(sizeof(NetHeader) + frame, pending_);
    }
    std::size_t bytes = 0;
    std::size_t pieces = 0;
    for (const Chain& chain : room_) {
        bytes += chain.writable_bytes();
        pieces += chain.writable().size();
    }
    while (bytes < wanted && pieces < max_pieces && room_.size() < queue.size()) {
        TRY(Chain chain, queue.pop());
        if (!chain)
            break;
        // 5.1.6.3.1: at least the header must fit in each.
        if (chain.writable_bytes() < sizeof(NetHeader) || chain.writable().size() > max_pieces)
            return fault(FaultKind::Request, chain.writable_bytes(),
                         static_cast<std::uint16_t>(net_receive_queue(index_)));
        bytes += chain.writable_bytes();
        pieces += chain.writable().size();
        room_.push_back(std::move(chain));
    }
    return !room_.empty();
}

// The pieces of the chains in front, and where to read to: a local head first.
void Net::Pair::lay_out_room() {
    pieces_.clear();
    usable_chains_ = 0;
    for (const Chain& chain : room_) {
        const auto more = chain.writable();
        if (pieces_.size() + more.size() > max_pieces)
            break;
        pieces_.insert(pieces_.end(), more.begin(), more.end());
        ++usable_chains_;
    }
    ChainCursor behind(pieces_);
    read_to_.resize(max_pieces + 2);
    read_to_[0] = piece_of(head_);
    // Room for less than the head: then the rest of it is spilled over, as it were.
    static_cast<void>(behind.skip(std::min<std::uint64_t>(local_head, behind.remaining())));
    const auto guest = behind.peek(std::span(read_to_).subspan(1, max_pieces), behind.remaining());
    read_to_[1 + guest.size()] = piece_of(spill_);
    read_to_.resize(2 + guest.size());
}

std::size_t Net::Pair::usable_bytes() const {
    std::uint64_t bytes = 0;
    for (std::size_t i = 0; i < usable_chains_; ++i)
        bytes += room_[i].writable_bytes();
    return static_cast<std::size_t>(bytes);
}

bool Net::Pair::acceptable(const NetHeader& header, std::span<const std::byte> head,
                           std::size_t length) {
    return length >= sizeof(NetHeader) + net_ethernet_header &&
           may_receive(header, device_.guest_offloads_.load(std::memory_order_relaxed)) &&
           device_.filter_.with([&](const ReceiveFilter& filter) { return filter.accepts(head); });
}

void Net::Pair::take_in(Queue& queue, std::size_t length) {
    NetHeader header;
    std::memcpy(&header, head_.data(), sizeof header);
    const std::size_t here = std::min(length, head_.size());
    const auto frame = std::span(head_).first(here).subspan(std::min(here, sizeof header));
    if (!acceptable(header, frame, length)) {
        bump(counts_.received_dropped);
        return;
    }
    receive_limit_.take(length - sizeof header);
    if ((device_.guest_offloads_.load(std::memory_order_relaxed) &
         net_bit(net_feature_guest_csum)) == 0)
        header.flags = 0;
    std::memcpy(head_.data(), &header, sizeof header);
    spilled_from_ = std::max(usable_bytes(), local_head);
    static_cast<void>(finish_packet(queue, length));
}

// Gives the packet that was read to the driver. False: it waits for more room.
bool Net::Pair::finish_packet(Queue& queue, std::size_t length) {
    const std::size_t room = usable_bytes();
    pending_ = 0;
    if (length > room) {
        const bool may_grow = device_.negotiated(net_feature_mrg_rxbuf) &&
                              usable_chains_ == room_.size() && pieces_.size() < max_pieces &&
                              room_.size() < queue.size();
        if (may_grow) {
            pending_ = length;
            return false;
        }
        bump(counts_.received_dropped);
        return true;
    }
    used_.clear();
    std::size_t left = length;
    for (std::size_t i = 0; left > 0; ++i) {
        const auto here =
            static_cast<std::size_t>(std::min<std::uint64_t>(room_[i].writable_bytes(), left));
        used_.push_back({&room_[i], static_cast<std::uint32_t>(here)});
        left -= here;
    }
    const auto buffers = static_cast<std::uint16_t>(used_.size());
    std::memcpy(head_.data() + offsetof(NetHeader, num_buffers), &buffers, sizeof buffers);
    const std::size_t head = std::min(length, head_.size());
    ChainWriter writer(pieces_);
    bool written = writer.write(std::span(head_).first(head));
    if (length > spilled_from_)
        written = written && writer.skip(spilled_from_ - head) &&
                  writer.write(std::span(spill_).first(length - spilled_from_));
    // All of it fits in the pieces, as was just seen.
    assert(written);
    static_cast<void>(written);
    queue.push_used(used_);
    room_.erase(room_.begin(), room_.begin() + buffers);
    bump(counts_.received);
    // At once, not after the batch: a driver that is busy has no interrupt to fear, one that sleeps
    // can begin.
    queue.interrupt_driver();
    return true;
}

bool Net::Pair::deliver(std::span<const std::byte> frame) {
    const Gate::Pass pass(device_.gate());
    Queue* const queue = pass ? device_.queue(net_receive_queue(index_)) : nullptr;
    if (queue == nullptr || frame.size() < net_ethernet_header || frame.size() > net_max_frame)
        return true; // to nobody
    // The port keeps what is not taken now, and run() comes for it: at once, to see what it has to
    // wait for.
    if (pending_ != 0 || (receive_limit_.limited() && !receive_limit_.open(now_ns()))) {
        later();
        return false;
    }
    const auto has_room = gather_room(*queue);
    if (!has_room) {
        device_.report(has_room.error());
        return true;
    }
    lay_out_room();
    const std::size_t length = sizeof(NetHeader) + frame.size();
    if (length > usable_bytes()) {
        later();
        return false;
    }
    const NetHeader header{.flags = net_data_valid}; // the host's own: nobody could have spoiled it
    std::memcpy(head_.data(), &header, sizeof header);
    const std::size_t head = std::min(frame.size(), head_.size() - sizeof header);
    std::memcpy(head_.data() + sizeof header, frame.data(), head);
    ChainWriter writer(pieces_);
    const bool written = writer.skip(sizeof header + head) && writer.write(frame.subspan(head));
    assert(written);
    static_cast<void>(written);
    take_in(*queue, length);
    return true;
}

} // namespace virtio
