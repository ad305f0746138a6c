// AF_VSOCK: one end of a connection between the guest and its host, or inside the guest (vsock(7)).
//
// A VsockEndpoint is what the protocol knows; the open file (vsock_socket.hpp) has a reference to
// it, and it outlives the file until the peer has agreed that the connection is over.
//
// Sending never allocates but for data: an endpoint with something to say stands in its
// transport's list of those that are ready, and each packet is made when the transport takes it
// (next_vsock_packet). So control packets need no memory, credit is told as of the moment it is
// sent, and the streams take turns.
//
// Locks: everything here is under the one vsock lock, held by a VsockGuard. When a guard ends it
// delivers what waits for the loopback and tells the device of what waits for the host. Readers of
// one endpoint take turns by read_mutex, outside of it, and hold that across copies to user memory.
#pragma once

#include "base/intrusive_list.hpp"
#include "guestkernel/core/ref.hpp"
#include "guestkernel/core/time.hpp"
#include "guestkernel/ipc/vsock/packet.hpp"
#include "guestkernel/sched/mutex.hpp"
#include "guestkernel/sched/wait_queue.hpp"

namespace kernel {

inline constexpr u32 vsock_any = ~u32{0};                         // VMADDR_CID_ANY, VMADDR_PORT_ANY
inline constexpr u32 vsock_cid_local = 1, vsock_cid_host = 2;     // VMADDR_CID_*
inline constexpr u32 vsock_shut_receive = 1, vsock_shut_send = 2; // as the packets have it
inline constexpr u32 vsock_shut_both = vsock_shut_receive | vsock_shut_send;

struct VsockAddress {
    u32 cid = vsock_any, port = vsock_any;
    friend bool operator==(const VsockAddress&, const VsockAddress&) = default;
};

enum class VsockState : u8 { Unconnected, Connecting, Connected, Closing, Listening };
enum class VsockTransport : u8 { None, Loopback, Device };

// What an endpoint has to say, in the order in which it is said; data come between update and
// shutdown.
enum VsockSay : u32 {
    say_request = 1,
    say_response = 2,
    say_credit = 4,
    say_shutdown = 8,
    say_reset = 16,
};

class VsockEndpoint : public RefCounted {
public:
    explicit VsockEndpoint(u16 packet_type) : type(packet_type) {}
    ~VsockEndpoint() override;

    bool is_stream() const;
    // --- credit (virtio 1.2, 5.10.6.3); counters wrap
    u32 credit() const { // what the peer has room for
        const u32 under_way = sent - peer_forwarded;
        return under_way < peer_buffer ? peer_buffer - under_way : 0;
    }
    u32 room_to_send() const; // credit, and what may wait in the queue here
    void consumed(u32 bytes); // a reader took them; tells the peer when that is worth a packet
    void message_taken();     // the last of it; tells the peer in any case
    void set_buffer(u64 bytes);

    // --- life
    void say(u32 what);
    void forget_unsent();           // data and wishes that wait to be sent
    void fail_connecting(int code); // with the error for whoever waits
    void ended();                   // nothing more will come, and nothing can be sent
    void wake(u32 events);
    bool has_data() const { return is_stream() ? received_bytes != 0 : messages != 0; }
    bool peer_wont_send() const { return (peer_shutdown & vsock_shut_send) != 0; }
    bool peer_wont_receive() const { return (peer_shutdown & vsock_shut_receive) != 0; }
    u32 poll_events(u32 low_water) const;

    const u16 type; // VIRTIO_VSOCK_TYPE_*
    VsockTransport transport = VsockTransport::None;
    // Read without the lock by those who wait; they look again under it.
    volatile VsockState state = VsockState::Unconnected;
    volatile u32 shutdown = 0, peer_shutdown = 0;
    volatile int error = 0;
    volatile bool done = false; // the connection is over: reading past what is left gives the end
    bool connected_once = false;
    bool disconnecting = false; // shutdown(2) was called
    bool orphan = false;        // its file is gone
    VsockAddress local, remote;

    u64 buffer_size = default_buffer, buffer_min = 128, buffer_max = default_buffer;
    // A program may ask for more, and sees what it asked for; the peer is told this much.
    static constexpr u64 largest_buffer = u64{16} << 20;
    u64 connect_timeout_ns = 2'000'000'000;
    static constexpr u64 default_buffer = 256 << 10;

    // --- credit
    u32 buffer = static_cast<u32>(default_buffer);  // what the peer is told
    u32 granted = static_cast<u32>(default_buffer); // the most that it ever was
    u32 arrived = 0, forwarded = 0, told_forwarded = 0;
    u32 sent = 0;
    volatile u32 peer_forwarded = 0, peer_buffer = 0;

    // --- what arrived and what waits to be sent
    VsockSegment* received = nullptr;
    VsockSegment* received_last = nullptr;
    volatile u32 received_bytes = 0;
    volatile u32 messages = 0; // whole ones
    u32 pieces = 0;            // segments
    VsockSegment* unsent = nullptr;
    VsockSegment* unsent_last = nullptr;
    volatile u32 unsent_bytes = 0;
    volatile bool message_under_way = false; // of a seqpacket: no other may come between

    // --- places in tables
    u32 saying = 0; // VsockSay
    bool bound = false, in_table = false, doomed = false;
    base::ListNode ready_node;    // owns a reference while linked
    base::ListNode deadline_node; // see set_vsock_deadline
    u64 deadline = 0;
    VsockEndpoint* bound_next = nullptr;
    VsockEndpoint* table_next = nullptr; // the table owns a reference
    VsockEndpoint* doomed_next = nullptr;

    // --- a listener's connections that nobody has accepted, each with a reference
    VsockEndpoint* first_pending = nullptr;
    VsockEndpoint* last_pending = nullptr;
    VsockEndpoint* next_pending = nullptr;
    VsockEndpoint* listener = nullptr; // of a pending one
    volatile u32 pending = 0;
    u32 backlog = 0;

    Mutex read_mutex;
    WaitQueue waiters;
};

// Holds the vsock lock; when it ends, what became ready is sent and what was dropped is destroyed.
class VsockGuard {
public:
    // Quiet: for the device's driver, which looks for packets anyway.
    enum class At : u8 { TellDevice, Quiet };
    explicit VsockGuard(At end = At::TellDevice);
    VsockGuard(const VsockGuard&) = delete;
    VsockGuard& operator=(const VsockGuard&) = delete;
    ~VsockGuard();

private:
    const At end_;
};

// --- all that follows: with a VsockGuard held

// table.cpp
Result<void> bind_vsock(VsockEndpoint& endpoint, VsockAddress wanted, bool privileged);
void unbind_vsock(VsockEndpoint& endpoint);
VsockEndpoint* find_bound_vsock(VsockAddress to, VsockTransport transport);
void enter_vsock_connection(VsockEndpoint& endpoint); // its addresses and transport are set
void leave_vsock_connection(VsockEndpoint& endpoint); // harmless if it is not there
VsockEndpoint* find_vsock_connection(VsockTransport transport, VsockAddress local,
                                     VsockAddress remote);
void for_each_vsock_connection(void (*visit)(VsockEndpoint& endpoint));
// After that long a connection attempt fails with ETIMEDOUT, and an end that waits for the peer's
// agreement stops waiting. 0: no limit any more.
void set_vsock_deadline(VsockEndpoint& endpoint, u64 deadline);
void doom(VsockEndpoint& endpoint); // releases a reference once the lock is dropped

// protocol.cpp
void close_vsock(VsockEndpoint& endpoint); // its file is gone, or its listener is
// A packet arrived. `segment` has the payload (null: none) and may be kept if `may_keep`; returns
// whether it was.
bool receive_vsock_packet(VsockTransport transport, const VsockHeader& header,
                          VsockSegment* segment, bool may_keep);

// transmit.cpp
struct VsockPacket {
    VsockHeader header;
    VsockSegment* data; // null: only the header
};
bool next_vsock_packet(VsockTransport transport, VsockPacket& out);
bool vsock_has_packets(VsockTransport transport);
void make_vsock_ready(VsockEndpoint& endpoint);
// An answer to a packet that belongs to no connection; dropped if too many wait.
void reply_vsock_reset(VsockTransport transport, const VsockHeader& to);

// --- without the lock

// The device, which calls next_vsock_packet(Device) when told to. `cid`: the guest's.
struct VsockDeviceDriver {
    void (*transmit)();
};
void attach_vsock_device(const VsockDeviceDriver& driver, u32 cid);
void detach_vsock_device(); // in unit tests only: devices stay
// The CID of this guest, or none when there is no device.
u32 vsock_guest_cid();
bool vsock_device_present();
// The host was replaced under us (virtio 1.2, 5.10.6.7): every connection through the device is
// reset; listeners stay.
void reset_vsock_transport(u32 cid);
// Which transport leads to this address, None if none does.
VsockTransport vsock_transport_to(u32 cid);

} // namespace kernel
