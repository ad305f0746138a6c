// VsockStream: one connection between a port of the guest and a channel of the host. It lives on
// the event loop's thread.
//
// Memory is bounded by credit: the guest may send what the buffer here has room for and no more;
// towards the guest nothing is read from the channel but what the guest has room for, straight into
// its buffers (messages of a seqpacket take a way through memory, since they must be whole).
#pragma once

#include <compare>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include <linux/virtio_vsock.h>

#include "virtio/backend/vsock/channel.hpp"
#include "virtio/fault.hpp"
#include "virtio/queue/chain.hpp"

namespace virtio {

struct VsockKey {
    std::uint32_t host_port;
    std::uint32_t guest_port;
    auto operator<=>(const VsockKey&) const = default;
};

class VsockStream;

class VsockStreamOwner {
public:
    virtual ~VsockStreamOwner() = default;
    virtual void stream_event(VsockStream& stream, Readiness readiness) = 0;
};

class VsockStream final : public VsockChannelEvents {
public:
    enum class State : std::uint8_t {
        Connecting, // the guest has asked, the host is being reached
        Opening,    // the host has asked, the guest has not answered
        Open,
        Closed, // for the guest it is over; what it sent is still on its way to the channel
    };

    VsockStream(VsockStreamOwner& owner, VsockKey key, VsockType type, std::uint32_t buffer)
        : owner_(owner), key_(key), type_(type), buffer_(buffer) {}

    const VsockKey& key() const { return key_; }
    VsockType type() const { return type_; }
    std::uint16_t packet_type() const {
        return type_ == VsockType::Stream ? VIRTIO_VSOCK_TYPE_STREAM : VIRTIO_VSOCK_TYPE_SEQPACKET;
    }
    State state() const { return state_; }
    std::uint32_t buffer() const { return buffer_; }

    // --- life
    void begin_opening(std::unique_ptr<VsockChannel> channel,
                       std::function<void(std::uint32_t)> done);
    void opened();                                         // the guest has accepted
    void connected(std::unique_ptr<VsockChannel> channel); // the host has
    // For the guest it is over. Whoever opened it and waits is told so.
    void close();
    // Whether the guest has heard of it: one that it asked for, or was asked for.
    bool known_to_guest() const { return (saying_ & say_request_bit) == 0; }
    // Closed, and the channel has all that the guest sent.
    bool finished() const { return state_ == State::Closed && !has_pending(); }

    // --- from the guest
    void take_credit(const virtio_vsock_hdr& header);
    bool within_credit(std::uint32_t bytes) const {
        return bytes <= buffer_ - (received_ - forwarded_);
    }
    // Requires: Open, within_credit(bytes), and so much is left in `data`.
    void take(ChainReader& data, std::uint32_t bytes, bool end_of_message);
    void guest_shuts(std::uint32_t flags);
    bool guest_is_done() const { return guest_shutdown_ == shut_both; }
    bool has_pending() const { return pending_.size() != pending_start_; }
    void say_credit() { say(say_credit_bit); }
    void say_reset();

    // --- events of the channel; what they lead to is in wants_to_speak()
    void channel_ready(Readiness readiness) override { owner_.stream_event(*this, readiness); }
    void handle(Readiness readiness);
    void flush();
    void update_watch();

    // --- to the guest
    bool wants_to_speak() const;
    // One packet into the chain: the bytes written, 0 if there is nothing to say after all.
    // `reset_sent`: this was the stream's last word.
    Checked<std::uint32_t> speak(const Chain& chain, std::uint32_t guest_cid, bool& reset_sent);

    // For the owner's list of those that want to speak.
    bool listed = false;

private:
    static constexpr std::uint32_t shut_both =
        VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND;
    enum Say : unsigned {
        say_request_bit = 1,
        say_response_bit = 2,
        say_credit_bit = 4,
        say_shutdown_bit = 8,
        say_reset_bit = 16,
    };
    static constexpr std::size_t largest_packet = std::size_t{64} << 10;
    static constexpr std::size_t largest_message = std::size_t{1} << 20;

    void say(unsigned what) { saying_ |= what; }
    bool take_wish(unsigned what);
    std::uint32_t credit() const;
    bool may_read() const;
    void append(ChainReader& data, std::uint64_t bytes);
    bool write_pending();
    void drop_pending();
    void host_ended();
    void host_gone();
    void tell_credit();
    virtio_vsock_hdr header(std::uint16_t operation, std::uint32_t guest_cid);
    Checked<std::uint32_t> write_header(const Chain& chain, virtio_vsock_hdr header) const;
    Checked<std::uint32_t> speak_data(const Chain& chain, std::uint32_t guest_cid);
    std::size_t read_stream(const Chain& chain, std::size_t room);
    std::size_t read_message(const Chain& chain, std::size_t room, bool& last);
    bool load_message();

    VsockStreamOwner& owner_;
    const VsockKey key_;
    const VsockType type_;
    const std::uint32_t buffer_; // what the guest is told
    State state_ = State::Connecting;
    std::unique_ptr<VsockChannel> channel_;
    std::function<void(std::uint32_t)> opened_;
    unsigned saying_ = 0;

    // From the guest; counters wrap (virtio 1.2, 5.10.6.3).
    std::uint32_t received_ = 0, forwarded_ = 0, told_ = 0;
    std::vector<std::byte> pending_; // not yet taken by the channel
    std::size_t pending_start_ = 0;
    std::deque<std::uint32_t> messages_; // SeqPacket: sizes of the whole ones in there
    std::uint32_t unfinished_ = 0;       // of the message that is still arriving
    std::uint32_t guest_shutdown_ = 0;

    // To the guest.
    std::uint32_t sent_ = 0, peer_forwarded_ = 0, peer_buffer_ = 0;
    std::vector<std::byte> message_; // read from the channel, not wholly sent
    std::size_t message_start_ = 0;
    std::uint32_t host_shutdown_ = 0; // told, or to be told
    bool try_reading_ = true;
};

} // namespace virtio
