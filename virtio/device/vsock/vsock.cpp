#include "virtio/device/vsock/vsock.hpp"

#include <algorithm>
#include <utility>

#include <linux/virtio_ids.h>
#include <linux/vm_sockets.h>

namespace virtio {

namespace {

constexpr std::uint16_t data_queue_size = 128;
constexpr std::uint16_t event_queue_size = 16;
// Per turn, so that others on the loop's thread have theirs.
constexpr unsigned fair_chains = 256;
constexpr std::uint64_t cid_bits = 0xffff'ffff;
constexpr std::uint32_t last_port = 0xffff'fffe; // VMADDR_PORT_ANY is none

DeviceInfo describe_vsock(std::uint32_t guest_cid) {
    const virtio_vsock_config config{.guest_cid = guest_cid};
    const auto bytes = std::as_bytes(std::span(&config, 1));
    DeviceInfo info{.id = VIRTIO_ID_VSOCK,
                    .features = 1u << VIRTIO_VSOCK_F_SEQPACKET,
                    .config = {bytes.begin(), bytes.end()}};
    info.queues.assign(2, QueueInfo{data_queue_size, NotifyStyle::Eventfd});
    info.queues.push_back({event_queue_size, NotifyStyle::Eventfd});
    return info;
}

} // namespace

Vsock::Vsock(EventLoop& loop, std::uint32_t guest_cid, VsockBackend& backend)
    : Device(describe_vsock(guest_cid)), loop_(loop), backend_(backend), guest_cid_(guest_cid) {
    backend_.attach(*this);
}

Vsock::~Vsock() = default;

// --- life

void Vsock::on_activate() {
    work_later(); // connections of the host may wait
}

void Vsock::on_reset() {
    spare_ = Chain();
    driver_gone_.store(true);
    work_later();
}

// What was said to a driver that has reset the device means nothing to its successor.
bool Vsock::forget_old_driver() {
    if (!driver_gone_.exchange(false))
        return false;
    end_all();
    resets_.clear();
    event_due_ = false;
    return true;
}

void Vsock::end_all() {
    while (!streams_.empty())
        end(*streams_.begin()->second);
}

void Vsock::reset_transport(std::uint32_t guest_cid) {
    guest_cid_ = guest_cid;
    const virtio_vsock_config config{.guest_cid = guest_cid};
    end_all();
    update_config(0, std::as_bytes(std::span(&config, 1)));
    event_due_ = true;
    work();
}

// One task waits, however often it is asked for: a guest could ask faster than they run.
void Vsock::work_later() {
    if (work_posted_.exchange(true))
        return;
    loop_.post([this, alive = std::weak_ptr<bool>(alive_)] {
        if (!alive.expired())
            work();
    });
}

// Everything that can be done now, on behalf of nobody in particular.
void Vsock::work() {
    work_posted_.store(false);
    forget_old_driver();
    {
        const Gate::Pass pass(gate());
        if (pass) {
            Checked<void> done = give_events();
            if (done)
                done = take_packets();
            if (done)
                done = give_packets();
            if (!done)
                report(done.error());
        }
    }
    check_drained();
}

Checked<void> Vsock::on_notify(std::uint32_t queue_index) {
    forget_old_driver();
    if (queue_index == vsock_event_queue)
        return give_events();
    if (queue_index == vsock_transmit_queue)
        TRY(take_packets());
    TRY(give_packets());
    // Buffers of the guest were what it took to go on with its packets.
    return queue_index == vsock_receive_queue ? take_packets() : Checked<void>{};
}

void Vsock::drain(std::function<void()> done) {
    drained_ = std::move(done);
    work();
}

void Vsock::check_drained() {
    if (!drained_)
        return;
    for (const auto& [key, stream] : streams_) {
        if (stream->has_pending() && stream->state() == VsockStream::State::Open)
            return;
    }
    if (closed_.empty())
        std::exchange(drained_, nullptr)();
}

// --- streams

VsockStream* Vsock::find(VsockKey key) {
    const auto found = streams_.find(key);
    return found == streams_.end() ? nullptr : found->second.get();
}

VsockStream& Vsock::add(VsockKey key, VsockType type) {
    const std::uint64_t left = buffer_budget - std::min(granted_, buffer_budget);
    const auto share = static_cast<std::uint32_t>(
        std::clamp<std::uint64_t>(left / 16, smallest_buffer, largest_buffer));
    granted_ += share;
    auto made =
        std::make_unique<VsockStream>(static_cast<VsockStreamOwner&>(*this), key, type, share);
    return *(streams_[key] = std::move(made));
}

void Vsock::list(VsockStream& stream) {
    if (stream.listed || !stream.wants_to_speak() || stream.state() == VsockStream::State::Closed)
        return;
    stream.listed = true;
    speaking_.push_back(stream.key());
}

// For the guest the stream is over; it stays until the host has taken what is left.
void Vsock::end(VsockStream& stream) {
    const auto found = streams_.find(stream.key());
    std::unique_ptr<VsockStream> owned = std::move(found->second);
    streams_.erase(found);
    serials_.erase(stream.key());
    // Its turn as well: a guest that offers no buffers would otherwise have one more kept for each
    // connection that it makes and ends.
    if (std::exchange(stream.listed, false))
        std::erase(speaking_, stream.key());
    stream.close();
    closed_.push_back(std::move(owned));
    settle(stream);
}

// Requires: Closed.
void Vsock::settle(VsockStream& stream) {
    if (!stream.finished())
        return;
    granted_ -= stream.buffer();
    closed_.remove_if([&](const auto& one) { return one.get() == &stream; });
    backend_.room_again();
}

// With a reset for the guest.
void Vsock::break_off(VsockStream& stream) {
    stream.say_reset();
    list(stream);
}

void Vsock::stream_event(VsockStream& stream, Readiness readiness) {
    if (forget_old_driver())
        return; // the stream with it, maybe; if not, it is told again
    const bool was_closed = stream.state() == VsockStream::State::Closed;
    const bool known = stream.known_to_guest();
    stream.handle(readiness);
    if (was_closed) {
        settle(stream);
        return check_drained();
    }
    if (stream.state() == VsockStream::State::Closed) { // nobody waits for its answer any more
        // A guest that offers no buffers has not been asked yet, and need not hear of it: programs
        // that come and go would have an answer wait for each of them, without end.
        if (known)
            resets_.push_back({VMADDR_CID_HOST, stream.key().host_port, stream.key().guest_port,
                               stream.packet_type()});
        end(stream);
    } else {
        list(stream);
    }
    // Not at once: others whose events came with this one are to have their turns.
    work_later();
}

void Vsock::open(std::uint32_t guest_port, VsockType type, std::unique_ptr<VsockChannel> channel,
                 std::function<void(std::uint32_t)> done) {
    forget_old_driver();
    if (!active() || !has_room())
        return done(0);
    VsockKey key{next_port_, guest_port};
    while (find(key) != nullptr)
        ++key.host_port;
    next_port_ = key.host_port >= last_port ? 1u << 30 : key.host_port + 1;
    VsockStream& stream = add(key, type);
    stream.begin_opening(std::move(channel), std::move(done));
    list(stream);
    work_later();
}

// --- from the guest

Checked<void> Vsock::take_packets() {
    Queue* transmit = queue(vsock_transmit_queue);
    if (transmit == nullptr)
        return {};
    unsigned taken = 0;
    Checked<void> done;
    while (done && (resets_.size() < max_resets || drained_)) {
        if (taken == fair_chains && !drained_) {
            work_later();
            break;
        }
        TRY(Chain chain, transmit->pop());
        if (!chain)
            break;
        ++taken;
        done = take_packet(chain);
        transmit->push_used(std::move(chain), 0);
    }
    transmit->interrupt_driver();
    if (!done)
        return done;
    const bool held_up = resets_.size() >= max_resets;
    if (taken != 0 || held_up)
        TRY(give_packets());
    // The answers that held the others up are out: nobody else would come back for those, since the
    // queue was left without a wish for notifications.
    if (held_up && resets_.size() < max_resets)
        work_later();
    return {};
}

void Vsock::refuse(const virtio_vsock_hdr& header) {
    if (header.op == VIRTIO_VSOCK_OP_RST || resets_.size() >= max_resets)
        return;
    resets_.push_back({static_cast<std::uint32_t>(header.dst_cid), header.dst_port, header.src_port,
                       header.type});
}

Checked<void> Vsock::take_packet(const Chain& chain) {
    ChainReader reader(chain);
    const auto header = reader.read_object<virtio_vsock_hdr>();
    if (!header || header->len > reader.remaining())
        return fault(FaultKind::Request, chain.readable_bytes(), vsock_transmit_queue);
    if (header->src_cid != guest_cid_ || header->dst_cid > cid_bits)
        return {}; // from nobody, to nobody
    const bool seqpacket = header->type == VIRTIO_VSOCK_TYPE_SEQPACKET;
    const bool known_type = header->type == VIRTIO_VSOCK_TYPE_STREAM ||
                            (seqpacket && negotiated(VIRTIO_VSOCK_F_SEQPACKET));
    if (header->dst_cid != VMADDR_CID_HOST || !known_type) {
        refuse(*header);
        return {};
    }
    const VsockType type = seqpacket ? VsockType::SeqPacket : VsockType::Stream;
    VsockStream* stream = find({header->dst_port, header->src_port});
    if (stream == nullptr) {
        if (header->op == VIRTIO_VSOCK_OP_REQUEST)
            request(*header, type);
        else
            refuse(*header);
        return {};
    }
    if (stream->type() != type || header->op == VIRTIO_VSOCK_OP_REQUEST) {
        break_off(*stream); // the two ends do not mean the same connection
        return {};
    }
    stream->take_credit(*header);
    switch (header->op) {
    case VIRTIO_VSOCK_OP_RESPONSE:
        if (stream->state() == VsockStream::State::Opening)
            stream->opened();
        break;
    case VIRTIO_VSOCK_OP_RST:
        end(*stream);
        return {};
    case VIRTIO_VSOCK_OP_SHUTDOWN:
        stream->guest_shuts(header->flags);
        if (stream->guest_is_done())
            stream->say_reset(); // agreed; what it sent goes on to the host
        break;
    case VIRTIO_VSOCK_OP_RW:
        TRY(take_payload(*stream, *header, reader));
        break;
    case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
        stream->say_credit();
        break;
    default: // credit updates; anything else means nothing
        break;
    }
    stream->update_watch();
    list(*stream);
    return {};
}

Checked<void> Vsock::take_payload(VsockStream& stream, const virtio_vsock_hdr& header,
                                  ChainReader& reader) {
    if (stream.state() != VsockStream::State::Open || !stream.within_credit(header.len)) {
        break_off(stream);
        return {};
    }
    if (header.len > 0)
        stream.take(reader, header.len, (header.flags & VIRTIO_VSOCK_SEQ_EOM) != 0);
    return {};
}

void Vsock::request(const virtio_vsock_hdr& header, VsockType type) {
    if (!has_room())
        return refuse(header);
    const VsockKey key{header.dst_port, header.src_port};
    VsockStream& stream = add(key, type);
    stream.take_credit(header);
    const std::uint64_t serial = next_serial_++;
    serials_[key] = serial;
    ++reaching_;
    backend_.connect(key.host_port, type,
                     [this, key, serial,
                      alive = std::weak_ptr<bool>(alive_)](std::unique_ptr<VsockChannel> channel) {
                         if (!alive.expired())
                             reached(key, serial, std::move(channel));
                     });
}

// The host was reached, or not (null); the guest may have given up meanwhile.
void Vsock::reached(VsockKey key, std::uint64_t serial, std::unique_ptr<VsockChannel> channel) {
    --reaching_;
    const auto waiting = serials_.find(key);
    if (waiting == serials_.end() || waiting->second != serial)
        return backend_.room_again();
    serials_.erase(waiting);
    VsockStream& stream = *find(key);
    if (channel != nullptr)
        stream.connected(std::move(channel));
    else
        stream.say_reset();
    list(stream);
    work_later();
}

// --- to the guest

Checked<void> Vsock::give_packets() {
    Queue* receive = queue(vsock_receive_queue);
    if (receive == nullptr)
        return {};
    unsigned given = 0;
    while (!resets_.empty() || !speaking_.empty()) {
        if (given == fair_chains) {
            work_later();
            break;
        }
        if (!spare_) {
            TRY(spare_, receive->pop());
            if (!spare_)
                break; // the driver notifies when it offers one: pop() asked for that
        }
        std::uint32_t written = 0;
        TRY(const bool used, give_packet(spare_, written));
        if (!used)
            continue;
        ++given;
        receive->push_used(std::move(spare_), written);
    }
    receive->interrupt_driver();
    return {};
}

// False: the one whose turn it was had nothing to say after all.
Checked<bool> Vsock::give_packet(const Chain& chain, std::uint32_t& written) {
    if (!resets_.empty()) {
        TRY(written, write_reset(chain));
        return true;
    }
    const VsockKey key = speaking_.front();
    speaking_.pop_front();
    VsockStream* stream = find(key);
    if (stream == nullptr || !stream->listed)
        return false; // ended meanwhile
    stream->listed = false;
    bool last_word = false;
    TRY(written, stream->speak(chain, guest_cid_, last_word));
    if (last_word)
        end(*stream);
    else
        list(*stream); // behind the others
    return written != 0;
}

Checked<std::uint32_t> Vsock::write_reset(const Chain& chain) {
    const Reset reset = resets_.front();
    resets_.pop_front();
    virtio_vsock_hdr header{};
    header.src_cid = reset.host_cid;
    header.dst_cid = guest_cid_;
    header.src_port = reset.host_port;
    header.dst_port = reset.guest_port;
    header.type = reset.type;
    header.op = VIRTIO_VSOCK_OP_RST;
    ChainWriter writer(chain);
    if (!writer.write_object(header))
        return fault(FaultKind::Request, chain.writable_bytes(), vsock_receive_queue);
    return static_cast<std::uint32_t>(sizeof header);
}

Checked<void> Vsock::give_events() {
    Queue* events = queue(vsock_event_queue);
    if (events == nullptr || !event_due_)
        return {};
    TRY(Chain chain, events->pop());
    if (!chain)
        return {};
    ChainWriter writer(chain);
    if (!writer.write_object(virtio_vsock_event{.id = VIRTIO_VSOCK_EVENT_TRANSPORT_RESET}))
        return fault(FaultKind::Request, chain.writable_bytes(), vsock_event_queue);
    event_due_ = false;
    events->complete(std::move(chain), sizeof(virtio_vsock_event));
    return {};
}

} // namespace virtio
