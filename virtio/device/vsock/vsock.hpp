// Vsock: virtio-vsock (virtio 1.2, 5.10) with VIRTIO_VSOCK_F_SEQPACKET. Connections go both ways
// between the guest's ports and a VsockBackend's.
//
// Threads: all queues are NotifyStyle::Eventfd and must be notified from the event loop's thread,
// on which everything happens, except activate and reset: these come from a vCPU thread and meet it
// at the Gate. A reset leaves the streams to the loop's thread.
//
// Bounds: `max_streams` connections, those included that only wait for a slow host to take the
// guest's last bytes; the sum of all buffers that the guest may fill is bounded by giving each new
// connection a share of what is left. Streams take turns. While the driver offers no buffers and
// answers pile up, its packets are not looked at.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>

#include "virtio/backend/event_loop.hpp"
#include "virtio/device/device.hpp"
#include "virtio/device/vsock/stream.hpp"

namespace virtio {

inline constexpr std::uint32_t vsock_receive_queue = 0, vsock_transmit_queue = 1,
                               vsock_event_queue = 2;

class Vsock final : public Device, public VsockHost, private VsockStreamOwner {
public:
    static constexpr std::size_t max_streams = 1024;
    static constexpr std::uint32_t largest_buffer = 256u << 10, smallest_buffer = 16u << 10;
    static constexpr std::uint64_t buffer_budget = 32u << 20;
    static constexpr std::uint32_t first_cid = 3; // below are VMADDR_CID_*

    Vsock(EventLoop& loop, std::uint32_t guest_cid, VsockBackend& backend);
    ~Vsock() override;

    void open(std::uint32_t guest_port, VsockType type, std::unique_ptr<VsockChannel> channel,
              std::function<void(std::uint32_t host_port)> done) override;
    bool has_room() const override { return stream_count() + given_up() < max_streams; }
    std::size_t stream_count() const { return streams_.size() + closed_.size(); }
    // Streams that have something to say to the guest.
    std::size_t speakers() const { return speaking_.size(); }

    // The guest goes on elsewhere under another CID: its connections are gone, and it is told
    // (virtio 1.2, 5.10.6.7). On the loop's thread.
    void reset_transport(std::uint32_t guest_cid);
    // Takes all that the guest has put into its queue and calls `done` once the channels have it or
    // are closed. On the loop's thread, once; the vCPUs have stopped. `done` may run at once.
    void drain(std::function<void()> done);

protected:
    Checked<void> on_notify(std::uint32_t queue_index) override;
    void on_activate() override;
    void on_reset() override;

private:
    using Streams = std::map<VsockKey, std::unique_ptr<VsockStream>>;
    struct Reset {
        std::uint32_t host_cid, host_port, guest_port;
        std::uint16_t type;
    };
    static constexpr std::size_t max_resets = 64;

    void stream_event(VsockStream& stream, Readiness readiness) override;
    void work();
    void work_later();
    Checked<void> take_packets();
    Checked<void> take_packet(const Chain& chain);
    Checked<void> take_payload(VsockStream& stream, const virtio_vsock_hdr& header,
                               ChainReader& reader);
    void request(const virtio_vsock_hdr& header, VsockType type);
    void reached(VsockKey key, std::uint64_t serial, std::unique_ptr<VsockChannel> channel);
    Checked<void> give_packets();
    Checked<bool> give_packet(const Chain& chain, std::uint32_t& written);
    Checked<std::uint32_t> write_reset(const Chain& chain);
    Checked<void> give_events();
    void refuse(const virtio_vsock_hdr& header);
    VsockStream* find(VsockKey key);
    VsockStream& add(VsockKey key, VsockType type);
    void list(VsockStream& stream);
    void settle(VsockStream& stream);
    void break_off(VsockStream& stream);
    void end(VsockStream& stream);
    void end_all();
    bool forget_old_driver(); // whether there was one
    void check_drained();
    // Connections that the host is still making, though the guest has ended them meanwhile: until
    // then the backend remembers them, so that they count as streams.
    std::size_t given_up() const { return reaching_ - serials_.size(); }

    EventLoop& loop_;
    VsockBackend& backend_;
    std::uint32_t guest_cid_;
    Streams streams_;
    std::list<std::unique_ptr<VsockStream>> closed_; // see VsockStream::State::Closed
    std::deque<VsockKey> speaking_;                  // streams with `listed`
    std::deque<Reset> resets_;                       // answers that belong to no stream
    std::uint64_t granted_ = 0;                      // the sum of the streams' buffers
    std::uint32_t next_port_ = 1u << 30;
    std::uint64_t next_serial_ = 1;
    std::map<VsockKey, std::uint64_t> serials_; // of streams whose host is being reached
    std::size_t reaching_ = 0;                  // what the backend was asked and has not answered
    Chain spare_;                               // a buffer of the guest that was not needed
    bool event_due_ = false;
    std::atomic<bool> work_posted_{false};
    std::function<void()> drained_;
    std::atomic<bool> driver_gone_{false};
    // Tasks that we posted may run after we are gone.
    std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

} // namespace virtio
