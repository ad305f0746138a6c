#include "guestkernel/net/datagram.hpp"

#include <asm/ioctls.h>
#include <asm/socket.h>
#include <linux/errno.h>
#include <linux/in.h>
#include <linux/in6.h>

#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/ipc/unix_socket.hpp"
#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/net/backlog.hpp"
#include "guestkernel/net/wire.hpp"

namespace kernel::net {

namespace {

constexpr u32 readable_events = poll_in | poll_rdnorm;
constexpr u32 writable_events = poll_out | poll_wrnorm | poll_wrband;
constexpr u32 most_errors = 64;

} // namespace

// --- the endpoint

bool DatagramEndpoint::enqueue(PacketPtr packet, const DatagramInfo& info) {
    if (packet->timestamp == 0)
        packet->timestamp = static_cast<u64>(stack_->clock.wall_time());
    packet->ingress = nullptr;
    packet->scratch<DatagramInfo>() = info;
    packet->release_charge(); // the receiver pays from here on
    const u32 size = packet->true_size();
    {
        SpinGuard guard(lock);
        // As in Linux, a packet that begins below the limit still fits.
        if (closed || queued_bytes > receive_buffer) {
            dropped.fetch_add(1);
            guard.unlock();
            return false;
        }
        queued_bytes = queued_bytes + size;
        queued_ = queued_ + 1;
        queue_.push_back(std::move(packet));
    }
    read_waiters.wake_all(readable_events);
    return true;
}

void DatagramEndpoint::report(PacketPtr quoted, const ErrorInfo& info) {
    quoted->scratch<ErrorInfo>() = info;
    quoted->ingress = nullptr;
    quoted->release_charge();
    {
        SpinGuard guard(lock);
        if (closed || errors_.size() >= most_errors)
            return;
        errors_queued_ = errors_queued_ + 1;
        errors_.push_back(std::move(quoted));
    }
    read_waiters.wake_all(poll_err | poll_pri);
}

void DatagramEndpoint::set_error(int number) {
    error.store(number);
    read_waiters.wake_all(readable_events | poll_err);
    write_waiters.wake_all(writable_events | poll_err);
}

bool DatagramEndpoint::admits(const IpAddress& destination, const IpAddress& source,
                              u32 interface) {
    if (!destination.is_multicast())
        return true;
    SpinGuard guard(lock);
    return groups.admits(destination, source, interface,
                         destination.is_v4() ? all_groups4 : all_groups6);
}

PacketPtr DatagramEndpoint::take(bool peek) {
    SpinGuard guard(lock);
    Packet* first = queue_.front();
    if (first == nullptr)
        return {};
    if (peek)
        return first->clone(64);
    queued_bytes = queued_bytes - first->true_size();
    queued_ = queued_ - 1;
    return queue_.pop_front();
}

PacketPtr DatagramEndpoint::take_error() {
    SpinGuard guard(lock);
    PacketPtr first = errors_.pop_front();
    if (!first)
        return first;
    errors_queued_ = errors_queued_ - 1;
    // As Linux has it: the pending error goes with the last one that came by ICMP, so that who
    // reads this queue is done with it.
    const auto by_icmp = [](Packet& packet) {
        const u8 origin = packet.scratch<ErrorInfo>().origin;
        return origin == origin_icmp || origin == origin_icmp6;
    };
    Packet* next = errors_.front();
    if (next != nullptr && by_icmp(*next))
        error.store(static_cast<int>(next->scratch<ErrorInfo>().number));
    else if (by_icmp(*first))
        error.store(0);
    return first;
}

u32 DatagramEndpoint::next_length() {
    SpinGuard guard(lock);
    const Packet* first = queue_.front();
    return first == nullptr ? 0 : first->length();
}

void DatagramEndpoint::sent_released(void* owner, u32 bytes) {
    auto& endpoint = *static_cast<DatagramEndpoint*>(owner);
    endpoint.sent_.fetch_sub(bytes);
    if (endpoint.writable() && endpoint.write_waiters.has_waiters())
        endpoint.write_waiters.wake_all(writable_events);
    endpoint.release();
}

void DatagramEndpoint::charge(Packet& packet) {
    const u32 bytes = packet.true_size();
    sent_.fetch_add(bytes);
    add_ref();
    packet.charge_to({sent_released, this, bytes});
}

void DatagramEndpoint::close() {
    PacketList waiting, errors_left;
    {
        SpinGuard guard(lock);
        closed = true;
        file = nullptr;
        waiting = std::move(queue_);
        errors_left = std::move(errors_);
        queued_ = 0;
        errors_queued_ = 0;
        queued_bytes = 0;
    }
}

// --- the file

DatagramSocketFile::DatagramSocketFile(Ref<Inode> inode, u32 flags, int family, int type,
                                       int protocol, Ref<NetNamespace> space,
                                       Ref<DatagramEndpoint> endpoint)
    : InetSocketFile(std::move(inode), flags, family, type, protocol, std::move(space)),
      endpoint_(std::move(endpoint)) {
    options_.receive_buffer = stack().settings.receive_buffer_default;
    options_.send_buffer = stack().settings.send_buffer_default;
    endpoint_->inode_number = inode_->number();
    endpoint_->file = this; // nobody else knows of the endpoint yet
    buffers_changed();
}

void DatagramSocketFile::buffers_changed() {
    endpoint_->receive_buffer = options_.receive_buffer;
    endpoint_->send_buffer_ = options_.send_buffer;
    endpoint_->write_waiters.wake_all(writable_events);
}

void DatagramSocketFile::memory_use(SocketMemory& out) const {
    SocketFile::memory_use(out);
    out.received = static_cast<u32>(endpoint_->queued_bytes);
    out.sent = static_cast<u32>(endpoint_->sent_.load());
    out.drops = endpoint_->dropped.load();
}

u32 DatagramSocketFile::poll(PollTable* table) {
    DatagramEndpoint& own = *endpoint_;
    if (table != nullptr) {
        table->watch(own.read_waiters);
        table->watch(own.write_waiters);
    }
    u32 events = 0;
    if (own.error.load() != 0 || own.has_errors())
        events |= poll_err | (option_on(SO_SELECT_ERR_QUEUE) ? poll_pri : 0);
    const u32 shut = own.shutdown;
    if ((shut & shut_read) != 0)
        events |= poll_rdhup | readable_events;
    if (shut == shut_both)
        events |= poll_hup;
    if (own.has_data())
        events |= readable_events;
    if (own.writable())
        events |= writable_events;
    return events;
}

Result<long> DatagramSocketFile::ioctl(u32 command, u64 argument) {
    const auto answer = [&](int value) -> Result<long> {
        TRY(UserPtr<int>(argument).copy_out(value));
        return 0;
    };
    switch (command) {
    case TIOCINQ:
        return answer(static_cast<int>(endpoint_->next_length()));
    case TIOCOUTQ:
        return answer(static_cast<int>(endpoint_->sent_.load()));
    default:
        return InetSocketFile::ioctl(command, argument);
    }
}

// The next one; null: the reading side is shut.
Result<PacketPtr> DatagramSocketFile::wait_for_packet(u32 msg_flags) {
    DatagramEndpoint& own = *endpoint_;
    const u64 deadline = receive_deadline();
    for (;;) {
        if (PacketPtr packet = own.take((msg_flags & msg_peek) != 0))
            return packet;
        if (const int error = own.error.exchange(0); error != 0)
            return fail(error);
        if ((own.shutdown & shut_read) != 0)
            return PacketPtr();
        if (!blocks(msg_flags))
            return fail(EAGAIN);
        const auto ready = [&] {
            return own.has_data() || own.error.load() != 0 || (own.shutdown & shut_read) != 0;
        };
        TRY(waited(wait_until(own.read_waiters, ready, deadline, TaskState::Interruptible, true),
                   deadline));
    }
}

Result<usize> DatagramSocketFile::receive(IoBuffer& out, ReceiveRequest& request) {
    if ((request.flags & msg_oob) != 0)
        return fail(EOPNOTSUPP);
    if ((request.flags & msg_errqueue) != 0)
        return receive_error(out, request);
    TRY(PacketPtr packet, wait_for_packet(request.flags));
    if (!packet)
        return usize{0};
    const DatagramInfo info = packet->scratch<DatagramInfo>();
    const u32 length = packet->length();
    const u32 wanted = out.remaining() < length ? static_cast<u32>(out.remaining()) : length;
    if (wanted < length)
        request.result_flags |= msg_trunc;
    TRY(const u32 copied, packet->copy_to(out, 0, wanted));
    if (copied < wanted)
        return fail(EFAULT);
    if (request.wants_address) {
        Endpoint from{info.source, info.source_port, 0};
        if (info.source.is_link_local())
            from.scope = info.interface;
        write_address(from, family(), request.from);
    }
    if (request.wants_control) {
        // Its headers are in front of what was copied; some messages have them.
        if (packet->has_network() && packet->network_offset() < 0)
            packet->restore_network();
        add_control(*packet, info, request);
    }
    return (request.flags & msg_trunc) != 0 ? usize{length} : usize{copied};
}

Result<usize> DatagramSocketFile::receive_error(IoBuffer& out, ReceiveRequest& request) {
    PacketPtr packet = endpoint_->take_error();
    if (!packet)
        return fail(EAGAIN);
    const ErrorInfo error = packet->scratch<ErrorInfo>();
    const u32 length = packet->length();
    const u32 wanted = out.remaining() < length ? static_cast<u32>(out.remaining()) : length;
    request.result_flags |= msg_errqueue | (wanted < length ? msg_trunc : 0);
    TRY(const u32 copied, packet->copy_to(out, 0, wanted));
    write_address({error.destination, error.port, 0}, family(), request.from);
    // struct sock_extended_err, then the offender's address.
    u8 record[16 + 28] = {};
    __builtin_memcpy(record, &error, 16);
    SocketAddress offender;
    const bool as_v6 = error.destination.is_v6();
    if (error.origin != origin_local)
        write_address({error.offender, 0, 0}, as_v6 ? family_inet6 : family_inet, offender);
    else
        offender.length = as_v6 ? 28 : 16;
    __builtin_memcpy(record + 16, offender.bytes, offender.length);
    request.add_control(as_v6 ? IPPROTO_IPV6 : IPPROTO_IP, as_v6 ? IPV6_RECVERR : IP_RECVERR,
                        record, 16 + offender.length);
    return usize{copied};
}

Result<void> DatagramSocketFile::wait_for_room(u32 msg_flags, bool tells_error) {
    DatagramEndpoint& own = *endpoint_;
    if (tells_error)
        if (const int error = own.error.exchange(0); error != 0)
            return fail(error);
    if ((own.shutdown & shut_write) != 0)
        return fail(EPIPE);
    if (!own.has_room()) {
        if (!blocks(msg_flags))
            return fail(EAGAIN);
        const u64 deadline = send_deadline();
        const auto ready = [&] { return own.has_room() || (own.shutdown & shut_write) != 0; };
        TRY(waited(wait_until(own.write_waiters, ready, deadline), deadline));
    }
    return {};
}

Result<PacketPtr> DatagramSocketFile::load(IoBuffer& in, usize bytes, u32 headroom, u32 msg_flags,
                                           bool tells_error) {
    TRY(wait_for_room(msg_flags, tells_error));
    const u32 size = static_cast<u32>(bytes);
    const bool fits = size + headroom <= Packet::max_linear();
    PacketPtr packet = Packet::allocate(fits ? size : 0, headroom);
    if (!packet)
        return fail(ENOBUFS);
    if (!fits)
        TRY(packet->append_pages(in, size));
    else
        TRY(packet->append(in, size));
    return packet;
}

Result<void> DatagramSocketFile::output(Flow& flow, PacketPtr packet) {
    endpoint_->charge(*packet);
    auto sent = ip_output(stack(), flow, std::move(packet));
    run_backlog();
    if (!sent && sent.error().code == EMSGSIZE &&
        ip_.on(flow.destination.is_v6() ? ip6_receive_error : ip_receive_error)) {
        ErrorInfo error{};
        error.number = EMSGSIZE;
        error.origin = origin_local;
        error.info = flow.path.mtu;
        error.destination = flow.destination;
        error.port = flow.destination_port;
        if (PacketPtr empty = Packet::allocate(0, 0))
            endpoint_->report(std::move(empty), error);
    }
    // A full queue of a device is the network's business unless somebody asked (ip(7)).
    if (!sent && sent.error().code == ENOBUFS &&
        !ip_.on(flow.destination.is_v6() ? ip6_receive_error : ip_receive_error))
        return {};
    return sent;
}

} // namespace kernel::net
