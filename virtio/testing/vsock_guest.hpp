// A guest's end of virtio-vsock for unit tests: sends any packet, posts buffers, takes what comes.
#pragma once

#include <cstring>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include <linux/virtio_vsock.h>
#include <linux/vm_sockets.h>

#include "virtio/device/vsock/vsock.hpp"
#include "virtio/testing/fake_guest.hpp"

namespace virtio::testing {

struct VsockMessage {
    virtio_vsock_hdr header;
    std::string payload;
};

class VsockGuest {
public:
    static constexpr std::uint32_t cid = 42;
    static constexpr std::uint32_t packet_room = 4096;
    static constexpr std::uint16_t ring_size = 64;

    // `largest`: of what it sends, headers included.
    VsockGuest(Vsock& device, FakeRam& ram, std::size_t largest = 66'000)
        : ram_(ram), driver_(device, ram), out_room_(largest) {
        started_ = driver_.start(0, ring_size);
        for (std::uint16_t i = 0; i < ring_size; ++i)
            rooms_.push_back(ram_.allocate(packet_room));
        outgoing_ = ram_.allocate(out_slots * out_room_);
        event_ = ram_.allocate(8);
    }
    ~VsockGuest() { driver_.reset(); }

    bool started() const { return started_; }
    FakeDriver& driver() { return driver_; }

    static virtio_vsock_hdr header(std::uint32_t guest_port, std::uint32_t host_port,
                                   std::uint16_t op, std::uint32_t flags = 0,
                                   std::uint16_t type = VIRTIO_VSOCK_TYPE_STREAM) {
        virtio_vsock_hdr out{};
        out.src_cid = cid;
        out.dst_cid = VMADDR_CID_HOST;
        out.src_port = guest_port;
        out.dst_port = host_port;
        out.type = type;
        out.op = op;
        out.flags = flags;
        out.buf_alloc = 65536;
        return out;
    }

    // Whether the ring has room for one more packet.
    bool room_to_send() {
        while (driver_.ring(vsock_transmit_queue).take_used())
            --in_flight_;
        return in_flight_ < ring_size;
    }
    // As it stands: the header's length is the caller's affair.
    void send_raw(const virtio_vsock_hdr& header, std::string_view payload = {}) {
        offer_raw(header, payload);
        driver_.notify(vsock_transmit_queue);
    }
    // Into the ring, and no word of it to the device.
    void offer_raw(const virtio_vsock_hdr& header, std::string_view payload = {}) {
        const GuestAddr at = outgoing_ + out_room_ * (next_out_++ % out_slots);
        ram_.write(at, std::as_bytes(std::span(&header, 1)));
        ram_.write(at + sizeof header, payload.substr(0, out_room_ - sizeof header));
        room_to_send();
        ++in_flight_;
        driver_.ring(vsock_transmit_queue)
            .offer({{at, static_cast<std::uint32_t>(sizeof header + payload.size())}});
    }
    void send(virtio_vsock_hdr header, std::string_view payload = {}) {
        header.len = static_cast<std::uint32_t>(payload.size());
        send_raw(header, payload);
    }

    // All buffers that are free.
    void post(std::uint32_t room = packet_room) {
        collect();
        while (!rooms_.empty()) {
            const GuestAddr at = rooms_.front();
            rooms_.pop_front();
            const std::uint16_t head = driver_.ring(vsock_receive_queue).offer({{at, room, true}});
            posted_[head] = at;
        }
        driver_.notify(vsock_receive_queue);
    }
    // The next packet from the host, if there is one.
    std::optional<VsockMessage> receive() {
        collect();
        if (arrived_.empty())
            return std::nullopt;
        VsockMessage first = std::move(arrived_.front());
        arrived_.pop_front();
        return first;
    }
    GuestAddr post_event_room() {
        driver_.ring(vsock_event_queue).offer({{event_, 8, true}});
        driver_.notify(vsock_event_queue);
        return event_;
    }

private:
    static constexpr std::size_t out_slots = 64;

    void collect() {
        while (const auto used = driver_.ring(vsock_receive_queue).take_used()) {
            const GuestAddr at = posted_[used->head];
            rooms_.push_back(at);
            VsockMessage message{};
            const auto bytes = ram_.read(at, used->written);
            std::memcpy(&message.header, bytes.data(),
                        std::min(bytes.size(), sizeof message.header));
            if (bytes.size() > sizeof message.header)
                message.payload.assign(reinterpret_cast<const char*>(bytes.data()) +
                                           sizeof message.header,
                                       bytes.size() - sizeof message.header);
            arrived_.push_back(std::move(message));
        }
    }

    FakeRam& ram_;
    FakeDriver driver_;
    const std::size_t out_room_;
    bool started_ = false;
    std::deque<GuestAddr> rooms_;
    std::map<std::uint32_t, GuestAddr> posted_;
    std::deque<VsockMessage> arrived_;
    GuestAddr outgoing_, event_;
    std::size_t next_out_ = 0;
    std::size_t in_flight_ = 0;
};

} // namespace virtio::testing
