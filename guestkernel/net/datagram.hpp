// What sockets that send and receive whole packets share (UDP, raw, ping): the queue of what came,
// the queue of errors, what is on its way out.
//
// Locks: one spin lock of rank Socket; of packet sockets, which get what others send while those
// hold locks, of rank Leaf. Receivers take a packet out under it and copy it afterwards,
// without any lock.
#pragma once

#include "guestkernel/net/inet_socket.hpp"
#include "guestkernel/net/socket_filter.hpp"
#include "guestkernel/net/socket_groups.hpp"

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
        : lock(rank), stack_(std::move(stack)) {
        stack_->other_sockets.fetch_add(1);
    }
    ~DatagramEndpoint() override { stack_->other_sockets.fetch_sub(1); }
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
    SocketGroups groups;                                  // under the lock
    volatile bool all_groups4 = true, all_groups6 = true; // IP_MULTICAST_ALL, IPV6_MULTICAST_ALL
    // Whether what came to a group is for it. Anything else is.
    bool admits(const IpAddress& destination, const IpAddress& source, u32 interface);

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
    void memory_use(SocketMemory& out) const override;
    Result<void> set_option(int level, int name, std::span<const u8> value) override;
    Result<usize> get_option(int level, int name, std::span<u8> out) override;

protected:
    // Waits for room in the send buffer. Fails with the pending error (SO_ERROR) where the kind of
    // socket has it told by a send.
    Result<void> wait_for_room(u32 msg_flags, bool tells_error = true);
    // That, and fills a packet with what the caller sends; `headroom` before it. May sleep.
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
        bool has_mark = false;
        u32 mark = 0;
        // Extension headers: those of the message, or else the socket's.
        std::span<const u8> hop_options, destination_options;
        ExtensionChain chain;
        Ref<StickyExtensions> sticky;
    };
    // Of a packet to IPv6: `control` keeps the bytes.
    Result<void> take_extensions(SendControl& control, Flow& flow) const;
    Result<bool> parse_extension(int type, std::span<const u8> data, SendControl& out) const;
    Result<void> parse_socket_control(int type, std::span<const u8> data, SendControl& out);
    Result<void> parse_control(std::span<const u8> control, SendControl& out);
    static void apply_control(const SendControl& control, Flow& flow);
    // Control messages that come with a packet.
    void add_control(const Packet& packet, const DatagramInfo& info, ReceiveRequest& request);
    void add_control6(const Packet& packet, const DatagramInfo& info,
                      ReceiveRequest& request) const;
    static void add_extension(const Packet& packet, u32 at, u32 bytes, int type,
                              ReceiveRequest& request);
    void add_extensions(const Packet& packet, ReceiveRequest& request) const;
    void add_old_extensions(const Packet& packet, ReceiveRequest& request) const;
    virtual void add_more_control(const Packet& packet, ReceiveRequest& request) {
        (void)packet;
        (void)request;
    }
    // Sends, with what a local EMSGSIZE means for the error queue.
    Result<void> output(Flow& flow, PacketPtr packet);
    Result<PacketPtr> wait_for_packet(u32 msg_flags);
    Result<usize> receive_error(IoBuffer& out, ReceiveRequest& request);
    // --- groups (multicast_options.cpp)
    bool set_group_option(bool v6_level, int name, std::span<const u8> value, Result<void>& done);
    Result<void> join(const IpAddress& group, u32 interface, bool exclude);
    Result<void> leave(const IpAddress& group, u32 interface);
    Result<void> set_sources(GroupMembership& own, bool exclude, bool listed,
                             Vector<IpAddress> sources);
    Result<void> change_source(const IpAddress& group, u32 interface, const IpAddress& source,
                               bool exclude, bool add);
    Result<void> set_filter(bool v6_level, int name, std::span<const u8> value);
    Result<usize> get_filter(bool v6_level, int name, std::span<u8> out);
    usize most_sources(const IpAddress& group) const;
    u32 group_interface(const IpAddress& group, u32 wanted);
    void leave_groups();

    Mutex groups_mutex_; // of changes
    const Ref<DatagramEndpoint> endpoint_;
};

} // namespace kernel::net
