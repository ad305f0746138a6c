// The file of a packet socket (AF_PACKET): packet(7).
#pragma once

#include <linux/if_packet.h>

#include "guestkernel/net/packet_endpoint.hpp"
#include "guestkernel/net/raw_socket.hpp"

namespace kernel::net {

inline constexpr int level_packet = 263; // SOL_PACKET

class PacketSocketFile final : public DatagramSocketFile {
public:
    PacketSocketFile(Ref<Inode> inode, u32 flags, int type, int protocol, Ref<NetNamespace> space,
                     Ref<PacketEndpoint> endpoint);
    ~PacketSocketFile() override;
    Result<void> bind(const SocketAddress& address) override;
    Result<void> local_address(SocketAddress& out) override;
    Result<usize> send(IoBuffer& in, SendRequest& request) override;
    Result<usize> receive(IoBuffer& out, ReceiveRequest& request) override;
    Result<void> set_option(int level, int name, std::span<const u8> value) override;
    Result<usize> get_option(int level, int name, std::span<u8> out) override;
    u32 poll(PollTable* table) override;
    Result<Ref<File>> mapped_file(u64& offset, u64 length) override;
    void attach(u32 interface, u16 protocol);
    PacketEndpoint& endpoint() const { return static_cast<PacketEndpoint&>(*endpoint_); }

private:
    struct Watched {
        u32 interface;
        bool all_multicast;
        u32 users;
    };
    void count_taps(u32 interface, bool add);
    Result<void> change_membership(u32 interface, u16 kind, bool join);
    void count_watch(Interface& interface, bool all_multicast, bool add);
    struct Target {
        Ref<Interface> interface;
        u16 protocol = 0;
        LinkAddress to{};
    };
    Result<Target> find_target(const SendRequest& request);
    Result<PacketPtr> load_frame(IoBuffer& in, usize bytes, u32 flags);
    Result<usize> send_frame(IoBuffer& in, const Target& target, u32 flags);
    Result<usize> send_slots(const SendRequest& request);
    Result<usize> send_slot(const Target& target, u32 flags);
    Result<void> set_ring(bool sending, std::span<const u8> value);
    Result<void> place_rings(u64 receive_bytes, u64 send_bytes, Owned<PacketRing> receive,
                             Owned<SendRing> send);
    Result<void> set_ring_number(int name, u32 number);
    static Result<void> take_offloads(IoBuffer& in, OffloadHeader& out);
    void report_sent(PacketPtr copy);
    Result<usize> receive_stamp(IoBuffer& out, ReceiveRequest& request);
    Result<void> join_group(std::span<const u8> value);
    Result<void> set_chooser(std::span<const u8> value);
    Result<void> set_offloads(bool on);
    Result<usize> statistics(int name, std::span<u8> out);
    Result<int> get_number(int name);
    Mutex bind_mutex_;
    // Of the rings, under bind_mutex_.
    int version_ = TPACKET_V1;
    u32 reserve_ = 0;
    Ref<SharedPages> ring_pages_; // both: what one mmap(2) maps, received frames first
    u64 receive_bytes_ = 0, send_bytes_ = 0;
    Mutex send_mutex_;          // inside of bind_mutex_
    Owned<SendRing> send_ring_; // under send_mutex_
    volatile bool sends_by_ring_ = false, skips_malformed_ = false, has_send_offset_ = false;
    volatile bool bypasses_queue_ = false;  // PACKET_QDISC_BYPASS
    volatile bool original_device_ = false; // PACKET_ORIGDEV: here they are the same
    volatile i32 stamp_source_ = 0;         // PACKET_TIMESTAMP
    base::Atomic<u32> sent_stamps_{0};
    Vector<Watched> watched_; // under bind_mutex_
};

} // namespace kernel::net
