// Options of packet sockets, their rings and groups: packet(7).
#include <linux/errno.h>
#include <linux/if_packet.h>

#include "guestkernel/net/packet_socket.hpp"

namespace kernel::net {

// PACKET_RX_RING: a ring instead of the queue; PACKET_TX_RING: what send(2) sends. None of it (all
// zeros) takes it away.
Result<void> PacketSocketFile::set_ring(bool sending, std::span<const u8> value) {
    PacketRingRequest request;
    MutexGuard guard(bind_mutex_);
    const usize size = version_ == TPACKET_V3 ? sizeof(tpacket_req3) : sizeof(tpacket_req);
    static_assert(sizeof request == sizeof(tpacket_req3));
    if (value.size() < size)
        return fail(EINVAL);
    __builtin_memcpy(static_cast<void*>(&request), value.data(), size);
    if (request.blocks == 0 && request.frames != 0)
        return fail(EINVAL);
    if (request.blocks != 0 && (sending ? send_bytes_ : receive_bytes_) != 0)
        return fail(EBUSY);
    Owned<PacketRing> receive;
    Owned<SendRing> send;
    u64 bytes = 0;
    if (request.blocks != 0 && sending) {
        TRY(send, SendRing::make(request, version_));
        bytes = send->memory.bytes();
    } else if (request.blocks != 0) {
        TRY(receive, PacketRing::make(request, version_, reserve_));
        bytes = receive->memory.bytes();
    }
    return place_rings(sending ? receive_bytes_ : bytes, sending ? bytes : send_bytes_,
                       std::move(receive), std::move(send));
}

// Lays both rings into fresh memory: those that are given, and those that are there and stay. A
// mapping of the former memory keeps that.
Result<void> PacketSocketFile::place_rings(u64 receive_bytes, u64 send_bytes,
                                           Owned<PacketRing> receive, Owned<SendRing> send) {
    Ref<SharedPages> pages;
    if (receive_bytes + send_bytes != 0) {
        TRY(pages, SharedPages::make("packet-ring", receive_bytes + send_bytes));
    }
    MutexGuard sending(send_mutex_);
    if (send) {
        send->memory.place(pages, receive_bytes);
        send_ring_ = std::move(send);
    } else if (send_bytes != 0) {
        send_ring_->memory.move_to(pages, receive_bytes);
    } else {
        send_ring_ = {};
    }
    sends_by_ring_ = send_bytes != 0;
    if (receive) {
        receive->memory.place(pages, 0);
        receive->start(static_cast<u64>(stack().clock.wall_time()));
    } else if (receive_bytes != 0) {
        receive = endpoint().exchange_ring({}, true);
        receive->memory.move_to(pages, 0);
    }
    (void)endpoint().exchange_ring(std::move(receive));
    ring_pages_ = std::move(pages);
    receive_bytes_ = receive_bytes;
    send_bytes_ = send_bytes;
    return {};
}

Result<void> PacketSocketFile::set_ring_number(int name, u32 number) {
    MutexGuard guard(bind_mutex_);
    const bool present = receive_bytes_ + send_bytes_ != 0;
    if (name == PACKET_TX_HAS_OFF) {
        if (!present)
            has_send_offset_ = number != 0;
        return {};
    }
    if (present)
        return fail(EBUSY);
    if (name == PACKET_LOSS) {
        skips_malformed_ = number != 0;
        return {};
    }
    if (name == PACKET_VERSION) {
        if (number > TPACKET_V3)
            return fail(EINVAL);
        version_ = static_cast<int>(number);
        return {};
    }
    if (number > 0x7fffffff)
        return fail(EINVAL);
    reserve_ = number;
    return {};
}

// A number, or a struct fanout_args with the members that the group may have.
Result<void> PacketSocketFile::join_group(std::span<const u8> value) {
    struct {
        u16 id, type_flags;
        u32 most;
    } given{};
    constexpr usize number = 4;
    if (value.size() != number && value.size() != sizeof given)
        return fail(EINVAL);
    __builtin_memcpy(&given, value.data(), value.size());
    FanoutRequest request;
    request.id = given.id;
    request.type = static_cast<u8>(given.type_flags);
    request.flags = static_cast<u8>(given.type_flags >> 8);
    request.most = given.most;
    MutexGuard guard(bind_mutex_);
    return stack().taps().join_group(endpoint(), request);
}

// PACKET_FANOUT_DATA: the program that says whose turn it is.
Result<void> PacketSocketFile::set_chooser(std::span<const u8> value) {
    const Ref<PacketFanout> group = stack().taps().group_of(endpoint());
    if (!group || group->asked.type != PACKET_FANOUT_CBPF)
        return fail(EINVAL);
    if (options_.filter_locked)
        return fail(EPERM);
    TRY(Ref<SocketFilter> chooser, SocketFilter::of_user(value));
    group->chooser.set(std::move(chooser));
    return {};
}

Result<void> PacketSocketFile::set_offloads(bool on) {
    if (type() != socket_raw)
        return fail(EINVAL);
    MutexGuard guard(bind_mutex_);
    if (receive_bytes_ + send_bytes_ != 0)
        return fail(EBUSY);
    endpoint().has_offloads = on;
    return {};
}

Result<void> PacketSocketFile::set_option(int level, int name, std::span<const u8> value) {
    if (level != level_packet)
        return DatagramSocketFile::set_option(level, name, value);
    if (name == PACKET_ADD_MEMBERSHIP || name == PACKET_DROP_MEMBERSHIP) {
        packet_mreq request{};
        if (value.size() < sizeof request)
            return fail(EINVAL);
        __builtin_memcpy(&request, value.data(), sizeof request);
        return change_membership(static_cast<u32>(request.mr_ifindex), request.mr_type,
                                 name == PACKET_ADD_MEMBERSHIP);
    }
    if (name == PACKET_RX_RING || name == PACKET_TX_RING)
        return set_ring(name == PACKET_TX_RING, value);
    if (name == PACKET_FANOUT)
        return join_group(value);
    if (name == PACKET_FANOUT_DATA)
        return set_chooser(value);
    int number = 0;
    if (value.size() < sizeof number)
        return fail(EINVAL);
    __builtin_memcpy(&number, value.data(), sizeof number);
    switch (name) {
    case PACKET_VERSION:
    case PACKET_RESERVE:
    case PACKET_LOSS:
    case PACKET_TX_HAS_OFF:
        return set_ring_number(name, static_cast<u32>(number));
    case PACKET_AUXDATA:
        endpoint().auxiliary = number != 0;
        return {};
    case PACKET_IGNORE_OUTGOING:
        if (number < 0 || number > 1)
            return fail(EINVAL);
        endpoint().ignore_outgoing = number != 0;
        return {};
    case PACKET_COPY_THRESH:
        endpoint().copy_threshold = number;
        return {};
    case PACKET_VNET_HDR:
        return set_offloads(number != 0);
    case PACKET_TIMESTAMP:
        stamp_source_ = number;
        return {};
    case PACKET_ORIGDEV:
        original_device_ = number != 0;
        return {};
    case PACKET_QDISC_BYPASS:
        bypasses_queue_ = number != 0;
        return {};
    default:
        return fail(ENOPROTOOPT);
    }
}

// PACKET_STATISTICS, which are cleared by being read, and PACKET_ROLLOVER_STATS.
Result<usize> PacketSocketFile::statistics(int name, std::span<u8> out) {
    const auto put = [out](const void* value, usize size) {
        const usize bytes = out.size() < size ? out.size() : size;
        __builtin_memcpy(out.data(), value, bytes);
        return bytes;
    };
    if (name == PACKET_STATISTICS) {
        const u32 lost = endpoint().lost.exchange(0);
        const u32 values[3] = {endpoint().seen.exchange(0) + lost, lost, endpoint().take_freezes()};
        return put(values,
                   version_ == TPACKET_V3 ? sizeof(tpacket_stats_v3) : sizeof(tpacket_stats));
    }
    const Ref<PacketFanout> group = stack().taps().group_of(endpoint());
    if (!group || (group->asked.type != PACKET_FANOUT_ROLLOVER && !group->rolls_over()))
        return fail(EINVAL);
    const PacketTap::Rollover& rollover = endpoint().rollover;
    const u64 values[3] = {rollover.all.load(), rollover.huge.load(), rollover.failed.load()};
    return put(values, sizeof values);
}

Result<int> PacketSocketFile::get_number(int name) {
    switch (name) {
    case PACKET_VERSION:
        return version_;
    case PACKET_RESERVE:
        return static_cast<int>(reserve_);
    case PACKET_LOSS:
        return skips_malformed_ ? 1 : 0;
    case PACKET_TX_HAS_OFF:
        return has_send_offset_ ? 1 : 0;
    case PACKET_AUXDATA:
        return endpoint().auxiliary ? 1 : 0;
    case PACKET_IGNORE_OUTGOING:
        return endpoint().ignore_outgoing ? 1 : 0;
    case PACKET_VNET_HDR:
        return endpoint().has_offloads ? 1 : 0;
    case PACKET_TIMESTAMP:
        return int{stamp_source_};
    case PACKET_ORIGDEV:
        return original_device_ ? 1 : 0;
    case PACKET_QDISC_BYPASS:
        return bypasses_queue_ ? 1 : 0;
    case PACKET_FANOUT: {
        const Ref<PacketFanout> group = stack().taps().group_of(endpoint());
        if (!group)
            return 0;
        const FanoutRequest& asked = group->asked;
        return static_cast<int>(u32{asked.id} | u32{asked.type} << 16 | u32{asked.flags} << 24);
    }
    default:
        return fail(ENOPROTOOPT);
    }
}

Result<usize> PacketSocketFile::get_option(int level, int name, std::span<u8> out) {
    if (level != level_packet)
        return DatagramSocketFile::get_option(level, name, out);
    int value = 0;
    if (name == PACKET_STATISTICS || name == PACKET_ROLLOVER_STATS)
        return statistics(name, out);
    if (name == PACKET_HDRLEN) { // the caller's value is a version
        if (out.size() < sizeof value)
            return fail(EINVAL);
        __builtin_memcpy(&value, out.data(), sizeof value);
        if (value < TPACKET_V1 || value > TPACKET_V3)
            return fail(EINVAL);
        value = value == TPACKET_V1   ? sizeof(tpacket_hdr)
                : value == TPACKET_V2 ? sizeof(tpacket2_hdr)
                                      : sizeof(tpacket3_hdr);
    } else {
        TRY(value, get_number(name));
    }
    const usize bytes = out.size() < sizeof value ? out.size() : sizeof value;
    __builtin_memcpy(out.data(), &value, bytes);
    return bytes;
}

} // namespace kernel::net
