#include "virtio/device/vsock/stream.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include <linux/vm_sockets.h>

namespace virtio {

namespace {
constexpr std::size_t pieces_at_once = 64;
constexpr std::size_t compact_from = std::size_t{64} << 10;
} // namespace

// --- life

void VsockStream::begin_opening(std::unique_ptr<VsockChannel> channel,
                                std::function<void(std::uint32_t)> done) {
    channel_ = std::move(channel);
    channel_->attach(this);
    opened_ = std::move(done);
    state_ = State::Opening;
    say(say_request_bit);
    update_watch();
}

void VsockStream::opened() {
    state_ = State::Open;
    if (opened_)
        std::exchange(opened_, nullptr)(key_.host_port);
    update_watch();
}

void VsockStream::connected(std::unique_ptr<VsockChannel> channel) {
    channel_ = std::move(channel);
    channel_->attach(this);
    state_ = State::Open;
    say(say_response_bit);
    update_watch();
}

void VsockStream::close() {
    state_ = State::Closed;
    saying_ = 0;
    message_.clear();
    if (opened_) {
        channel_.reset();
        std::exchange(opened_, nullptr)(0);
    }
    if (channel_ == nullptr)
        return drop_pending();
    // Messages that the guest did not finish are none.
    pending_.resize(pending_.size() - std::exchange(unfinished_, 0));
    flush();
}

void VsockStream::say_reset() {
    saying_ = say_reset_bit;
}

bool VsockStream::take_wish(unsigned what) {
    const bool wished = (saying_ & what) != 0;
    saying_ &= ~what;
    return wished;
}

// --- from the guest

void VsockStream::take_credit(const virtio_vsock_hdr& header) {
    peer_buffer_ = header.buf_alloc;
    peer_forwarded_ = header.fwd_cnt;
}

std::uint32_t VsockStream::credit() const {
    const std::uint32_t under_way = sent_ - peer_forwarded_;
    return under_way < peer_buffer_ ? peer_buffer_ - under_way : 0;
}

void VsockStream::append(ChainReader& data, std::uint64_t bytes) {
    if (pending_start_ == pending_.size() || pending_start_ >= compact_from) {
        pending_.erase(pending_.begin(),
                       pending_.begin() + static_cast<std::ptrdiff_t>(pending_start_));
        pending_start_ = 0;
    }
    const std::size_t before = pending_.size();
    pending_.resize(before + bytes);
    if (!data.read(std::span(pending_).subspan(before)))
        pending_.resize(before); // cannot be: the caller has checked
}

void VsockStream::take(ChainReader& data, std::uint32_t bytes, bool end_of_message) {
    received_ += bytes;
    std::uint64_t rest = bytes;
    // Nobody takes it any more: it counts as taken.
    const bool dropped = (host_shutdown_ & VIRTIO_VSOCK_SHUTDOWN_RCV) != 0;
    if (dropped) {
        forwarded_ += bytes;
        return tell_credit();
    }
    while (type_ == VsockType::Stream && !has_pending() && rest > 0) {
        std::array<struct iovec, pieces_at_once> pieces;
        const Transfer done = channel_->write(data.peek(pieces, rest));
        if (done.outcome == Transfer::Outcome::Ended) {
            forwarded_ += static_cast<std::uint32_t>(rest);
            return host_gone();
        }
        if (done.outcome == Transfer::Outcome::Blocked || !data.skip(done.bytes))
            break;
        rest -= done.bytes;
        forwarded_ += static_cast<std::uint32_t>(done.bytes);
    }
    if (rest > 0)
        append(data, rest);
    if (type_ == VsockType::SeqPacket) {
        unfinished_ += bytes;
        if (end_of_message && unfinished_ > 0)
            messages_.push_back(std::exchange(unfinished_, 0));
    }
    flush();
    tell_credit();
}

// True: something was written and more may be.
bool VsockStream::write_pending() {
    std::size_t bytes = pending_.size() - pending_start_;
    if (type_ == VsockType::SeqPacket)
        bytes = messages_.empty() ? 0 : messages_.front();
    if (bytes == 0)
        return false;
    const struct iovec piece { pending_.data() + pending_start_, bytes };
    const Transfer done = channel_->write(std::span(&piece, 1));
    if (done.outcome == Transfer::Outcome::Ended) {
        host_gone();
        return false;
    }
    if (done.outcome == Transfer::Outcome::Blocked)
        return false;
    pending_start_ += done.bytes;
    forwarded_ += static_cast<std::uint32_t>(done.bytes);
    if (type_ == VsockType::SeqPacket)
        messages_.pop_front();
    return true;
}

void VsockStream::flush() {
    if (channel_ == nullptr)
        return;
    while (write_pending()) {
    }
    if (!has_pending()) {
        std::vector<std::byte>().swap(pending_); // idle streams hold nothing
        pending_start_ = 0;
        if (state_ == State::Closed)
            channel_.reset();
        else if ((guest_shutdown_ & VIRTIO_VSOCK_SHUTDOWN_SEND) != 0)
            channel_->shut(false, true);
    }
    if (channel_ != nullptr)
        update_watch();
}

void VsockStream::drop_pending() {
    forwarded_ += static_cast<std::uint32_t>(pending_.size() - pending_start_);
    std::vector<std::byte>().swap(pending_);
    pending_start_ = 0;
    messages_.clear();
    unfinished_ = 0;
}

void VsockStream::tell_credit() {
    const std::uint32_t untold = forwarded_ - told_;
    // The next message may take all the room that there is, and nothing of it is forwarded before
    // it is whole.
    const std::uint32_t worth_it = type_ == VsockType::SeqPacket ? 1 : buffer_ / 4;
    if (state_ == State::Open && untold >= worth_it)
        say(say_credit_bit);
}

void VsockStream::guest_shuts(std::uint32_t flags) {
    guest_shutdown_ |= flags & shut_both;
    if (channel_ == nullptr)
        return;
    if ((guest_shutdown_ & VIRTIO_VSOCK_SHUTDOWN_RCV) != 0)
        channel_->shut(true, false);
    flush();
}

// --- the channel

void VsockStream::host_ended() {
    try_reading_ = false;
    if (channel_->hung_up())
        return host_gone();
    if ((host_shutdown_ & VIRTIO_VSOCK_SHUTDOWN_SEND) == 0) {
        host_shutdown_ |= VIRTIO_VSOCK_SHUTDOWN_SEND;
        say(say_shutdown_bit);
    }
}

// Nobody reads any more. What was written before that may still be there to read.
void VsockStream::host_gone() {
    drop_pending();
    if (state_ != State::Open)
        return;
    const std::uint32_t before = host_shutdown_;
    host_shutdown_ |= VIRTIO_VSOCK_SHUTDOWN_RCV;
    if (!try_reading_)
        host_shutdown_ |= VIRTIO_VSOCK_SHUTDOWN_SEND;
    if (host_shutdown_ != before)
        say(say_shutdown_bit);
}

void VsockStream::handle(Readiness readiness) {
    if (channel_ == nullptr)
        return;
    if (readiness.hangup && state_ == State::Opening) {
        close(); // whoever asked for it has gone
        say(say_reset_bit);
        return;
    }
    if (readiness.readable || readiness.hangup)
        try_reading_ = try_reading_ || (host_shutdown_ & VIRTIO_VSOCK_SHUTDOWN_SEND) == 0;
    if (readiness.hangup && has_pending() && state_ == State::Closed)
        drop_pending();
    if (readiness.hangup && channel_->hung_up())
        host_gone();
    if (readiness.writable)
        flush();
    tell_credit();
    if (channel_ != nullptr)
        update_watch();
}

bool VsockStream::may_read() const {
    return state_ == State::Open && (host_shutdown_ & VIRTIO_VSOCK_SHUTDOWN_SEND) == 0 &&
           (guest_shutdown_ & VIRTIO_VSOCK_SHUTDOWN_RCV) == 0 && credit() > 0;
}

void VsockStream::update_watch() {
    if (channel_ == nullptr)
        return;
    const bool complete = type_ == VsockType::Stream || !messages_.empty();
    // Not for reading while a read is due anyway, nor without room at the other end.
    channel_->watch({.read = may_read() && !try_reading_ && message_.empty(),
                     .write = has_pending() && complete});
}

// --- to the guest

bool VsockStream::wants_to_speak() const {
    if (saying_ != 0)
        return true;
    return may_read() && (try_reading_ || !message_.empty());
}

virtio_vsock_hdr VsockStream::header(std::uint16_t operation, std::uint32_t guest_cid) {
    told_ = forwarded_;
    virtio_vsock_hdr out{};
    out.src_cid = VMADDR_CID_HOST;
    out.dst_cid = guest_cid;
    out.src_port = key_.host_port;
    out.dst_port = key_.guest_port;
    out.type = packet_type();
    out.op = operation;
    out.buf_alloc = buffer_;
    out.fwd_cnt = forwarded_;
    return out;
}

Checked<std::uint32_t> VsockStream::write_header(const Chain& chain,
                                                 virtio_vsock_hdr header) const {
    ChainWriter writer(chain);
    if (!writer.write_object(header))
        return fault(FaultKind::Request, chain.writable_bytes(), 0);
    return static_cast<std::uint32_t>(sizeof header + header.len);
}

Checked<std::uint32_t> VsockStream::speak(const Chain& chain, std::uint32_t guest_cid,
                                          bool& reset_sent) {
    if (take_wish(say_request_bit))
        return write_header(chain, header(VIRTIO_VSOCK_OP_REQUEST, guest_cid));
    if (take_wish(say_response_bit))
        return write_header(chain, header(VIRTIO_VSOCK_OP_RESPONSE, guest_cid));
    if (take_wish(say_credit_bit))
        return write_header(chain, header(VIRTIO_VSOCK_OP_CREDIT_UPDATE, guest_cid));
    if ((saying_ & say_reset_bit) == 0 && may_read() && (try_reading_ || !message_.empty())) {
        TRY(const std::uint32_t written, speak_data(chain, guest_cid));
        if (written != 0)
            return written;
    }
    if (take_wish(say_shutdown_bit)) {
        virtio_vsock_hdr out = header(VIRTIO_VSOCK_OP_SHUTDOWN, guest_cid);
        out.flags = host_shutdown_;
        return write_header(chain, out);
    }
    if (take_wish(say_reset_bit)) {
        reset_sent = true;
        return write_header(chain, header(VIRTIO_VSOCK_OP_RST, guest_cid));
    }
    return std::uint32_t{0};
}

Checked<std::uint32_t> VsockStream::speak_data(const Chain& chain, std::uint32_t guest_cid) {
    const std::uint64_t space = chain.writable_bytes();
    if (space <= sizeof(virtio_vsock_hdr))
        return fault(FaultKind::Request, space, 0);
    const std::size_t room = std::min<std::uint64_t>(
        {space - sizeof(virtio_vsock_hdr), std::uint64_t{credit()}, largest_packet});
    bool last = false;
    const std::size_t bytes =
        type_ == VsockType::Stream ? read_stream(chain, room) : read_message(chain, room, last);
    update_watch();
    if (bytes == 0)
        return std::uint32_t{0};
    sent_ += static_cast<std::uint32_t>(bytes);
    virtio_vsock_hdr out = header(VIRTIO_VSOCK_OP_RW, guest_cid);
    out.len = static_cast<std::uint32_t>(bytes);
    out.flags = last ? VIRTIO_VSOCK_SEQ_EOM : 0;
    return write_header(chain, out);
}

std::size_t VsockStream::read_stream(const Chain& chain, std::size_t room) {
    ChainWriter writer(chain);
    if (!writer.skip(sizeof(virtio_vsock_hdr)))
        return 0;
    std::array<struct iovec, pieces_at_once> pieces;
    const Transfer done = channel_->read(writer.peek(pieces, room));
    if (done.outcome == Transfer::Outcome::Ended)
        host_ended();
    if (done.outcome != Transfer::Outcome::Done)
        try_reading_ = false;
    return done.outcome == Transfer::Outcome::Done ? std::min(done.bytes, room) : 0;
}

// False: there is none now.
bool VsockStream::load_message() {
    const Transfer next = channel_->next_message();
    if (next.outcome != Transfer::Outcome::Done) {
        if (next.outcome == Transfer::Outcome::Ended)
            host_ended();
        try_reading_ = false;
        return false;
    }
    if (next.bytes > peer_buffer_ || next.bytes > largest_message) {
        // The guest could never take the whole of it.
        say_reset();
        return false;
    }
    message_.resize(next.bytes);
    message_start_ = 0;
    const struct iovec piece { message_.data(), message_.size() };
    const Transfer done = channel_->read(std::span(&piece, 1));
    message_.resize(done.outcome == Transfer::Outcome::Done ? done.bytes : 0);
    return !message_.empty();
}

std::size_t VsockStream::read_message(const Chain& chain, std::size_t room, bool& last) {
    if (message_.empty() && !load_message())
        return 0;
    const std::size_t bytes = std::min(room, message_.size() - message_start_);
    ChainWriter writer(chain);
    if (!writer.skip(sizeof(virtio_vsock_hdr)) ||
        !writer.write(std::span(message_).subspan(message_start_, bytes)))
        return 0;
    message_start_ += bytes;
    last = message_start_ == message_.size();
    if (last) {
        std::vector<std::byte>().swap(message_);
        message_start_ = 0;
    }
    return bytes;
}

} // namespace virtio
