// What sockets that send and receive whole packets share (UDP, raw, ping): the queue of what came,
// the queue of errors, what is on its way out.
//
// Locks: one spin lock of rank Socket; of packet sockets, which get what others send while those
// hold locks, of rank Leaf. Receivers take a packet out under it and copy it afterwards,
// without any lock.
#pragma once

#include "guestkernel/net/inet_socket.hpp"
#include "guestkernel/net/socket_filter.hpp"

namespace kernel::net {

// What a queued packet remembers, in its scratch().
struct DatagramInfo {
    IpAddress source, destination;
    u16 source_port = 0, destination_port = 0;
    u32 interface = 0;
    u32 flow_label = 0;
    u8 hop_limit = 0, traffic_class = 0;
    u8 header_bytes = 0; // of raw sockets
    bool options = false;
};

// struct sock_extended_err and whom it is about.
struct ErrorInfo {
    u32 number;
    u8 origin, type, code, pad;
    u32 info, data;
    IpAddress offender, destination;
    u16 port;
};

inline constexpr u8 origin_local = 1, origin_icmp = 2, origin_icmp6 = 3;

class DatagramEndpoint : public RefCounted {
public:
    explicit DatagramEndpoint(Ref<Stack> stack, LockRank rank = LockRank::Socket)
        : lock(rank), stack_(std::move(stack)) {}
    // Takes the packet: from its data on it is what the program gets. False: no room; dropped.
    bool enqueue(PacketPtr packet, const DatagramInfo& info);
    void report(PacketPtr quoted, const ErrorInfo& error); // on the error queue
    void set_error(int number);
    PacketPtr take(bool peek);
    PacketPtr take_error();
    u32 next_length(); // FIONREAD: of the first in the queue
    // Pays for a packet that is being sent.
    void charge(Packet& packet);
    bool writable() const { return sent_.load(base::Order::Relaxed) * 2 <= send_buffer_; }
    bool has_room() const { return sent_.load(base::Order::Relaxed) < send_buffer_; }
    void close();
    Stack& stack() { return *stack_; }
    bool has_data() const { return queued_ != 0; }
    bool has_errors() const { return errors_queued_ != 0; }

    SpinLock lock;
    const InetSocketFile* file = nullptr; // under the lock; null once it closes
    base::Atomic<int> error{0};
    base::Atomic<u32> dropped{0};
    u64 inode_number = 0; // of its file
    volatile u32 receive_buffer = default_socket_buffer;
    volatile u32 shutdown = 0; // shut_*
    volatile bool closed = false;
    volatile u32 send_buffer_ = default_socket_buffer;
    base::Atomic<u64> sent_{0};
    volatile u64 queued_bytes = 0;
    WaitQueue read_waiters, write_waiters;
    FilterSlot filter;

private:
    static void sent_released(void* owner, u32 bytes);
    const Ref<Stack> stack_;
    PacketList queue_, errors_;
    volatile u32 queued_ = 0, errors_queued_ = 0;
};

class DatagramSocketFile : public InetSocketFile {
public:
    DatagramSocketFile(Ref<Inode> inode, u32 flags, int family, int type, int protocol,
                       Ref<NetNamespace> space, Ref<DatagramEndpoint> endpoint);
    Result<usize> receive(IoBuffer& out, ReceiveRequest& request) override;
    u32 poll(PollTable* table) override;
    Result<long> ioctl(u32 command, u64 argument) override;
    int take_error() override { return endpoint_->error.exchange(0); }
    void buffers_changed() override;
    Result<void> set_option(int level, int name, std::span<const u8> value) override;
    Result<usize> get_option(int level, int name, std::span<u8> out) override;

protected:
    // Fills a packet with what the caller sends; `headroom` before it. Waits for room in the send
    // buffer. May sleep. Fails with the pending error (SO_ERROR) where the kind of socket has it
    // told by a send.
    Result<PacketPtr> load(IoBuffer& in, usize bytes, u32 headroom, u32 msg_flags,
                           bool tells_error = true);
    // What sendmsg(2)'s control messages change about one packet.
    struct SendControl {
        IpAddress source;
        bool has_source = false;
        u32 interface = 0;
        i32 hop_limit = -1, traffic_class = -1;
        i32 dont_fragment = -1;
        u16 segment_size = 0;
    };
    Result<void> parse_control(std::span<const u8> control, SendControl& out);
    static void apply_control(const SendControl& control, Flow& flow);
    // Control messages that come with a packet.
    void add_control(const Packet& packet, const DatagramInfo& info, ReceiveRequest& request);
    virtual void add_more_control(const Packet& packet, ReceiveRequest& request) {
        (void)packet;
        (void)request;
    }
    // Sends, with what a local EMSGSIZE means for the error queue.
    Result<void> output(Flow& flow, PacketPtr packet);
    Result<PacketPtr> wait_for_packet(u32 msg_flags);
    Result<usize> receive_error(IoBuffer& out, ReceiveRequest& request);
    // Groups: IP_ADD_MEMBERSHIP and its kind.
    Result<void> change_group(const IpAddress& group, u32 interface, bool join);
    void leave_groups();

    struct Membership {
        IpAddress group;
        u32 interface = 0;
    };
    Vector<Membership> memberships_; // under the endpoint's lock
    const Ref<DatagramEndpoint> endpoint_;
};

} // namespace kernel::net
