// What the tests of TCP stand on: network namespaces on a clock that the test moves, a wire without
// link headers between two of them or to a scripted peer, and programs that use connections as the
// socket file does, without files.
#pragma once

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "guestkernel/arch/hosted/hosted.hpp"
#include "guestkernel/net/backlog.hpp"
#include "guestkernel/net/neighbour.hpp"
#include "guestkernel/net/stack.hpp"
#include "guestkernel/net/tcp/listener.hpp"
#include "guestkernel/net/tcp/test_memory.hpp"
#include "guestkernel/net/wire.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel::tcp::test {

inline const net::IpAddress address_a = net::IpAddress::v4(0x0a00'0001);
inline const net::IpAddress address_b = net::IpAddress::v4(0x0a00'0002);
inline constexpr u64 ms = millisecond, second = nanoseconds_per_second;

// Whole IP packets leave and arrive.
class Wire final : public net::Interface {
public:
    explicit Wire(u32 size) : net::Interface("wire%d", net::LinkType::None, size) {
        features_ = net::feature_all_offloads | net::feature_no_link_header;
    }
    bool start_transmit(unsigned, net::PacketPtr& packet) override {
        sent.push_back(std::move(packet));
        return true;
    }
    std::deque<net::PacketPtr> sent;
};

class Machine {
public:
    Machine() {
        memory();
        hosted::set_current(&task_);
    }
    ~Machine() { hosted::set_current(nullptr); }
    net::VirtualClock clock;

private:
    Task task_;
};

class Host {
public:
    Host(Machine& machine, const net::IpAddress& address, u32 mtu = 1500) {
        auto made = net::Stack::make(net::StackClock(machine.clock), nullptr);
        REQUIRE(made);
        stack = std::move(*made);
        REQUIRE(Table::get().prepare());
        wire = Ref<Wire>::adopt(new Wire(mtu));
        REQUIRE(stack->attach(wire));
        net::InterfaceAddress own;
        own.address = own.peer = address;
        own.prefix_length = 24;
        REQUIRE(stack->add_address(*wire, own));
        REQUIRE(stack->set_flags(*wire, net::iff_up, net::iff_up));
        REQUIRE(stack->set_flags(stack->loopback(), net::iff_up, net::iff_up));
    }
    Host(const Host&) = delete;
    ~Host() {
        stack->shutdown();
        wire->sent.clear();
    }
    TcpStack& tcp() { return TcpStack::of(*stack); }
    operator net::Stack&() { return *stack; } // NOLINT(google-explicit-constructor): stands for it
    Ref<net::Stack> stack;
    Ref<Wire> wire;
};

// A program's end of a connection.
class Program {
public:
    Program() = default;
    explicit Program(Ref<Connection> of) : connection(std::move(of)) {}
    Program(Program&&) = default;
    Program& operator=(Program&&) = default;
    ~Program() {
        if (connection)
            close();
    }
    Ref<Connection> connection;

    static Program open(net::Stack& stack, const net::IpAddress& to, u16 port,
                        bool fast_open = false, const ConnectionOptions* options = nullptr,
                        std::string_view data = {}) {
        REQUIRE(Table::get().prepare());
        Program out(Ref<Connection>::adopt(new Connection(stack)));
        Connection& own = *out.connection;
        if (options != nullptr)
            own.options = *options;
        net::Flow flow;
        flow.destination = to;
        flow.source = net::IpAddress::any(to.is_v6());
        flow.destination_port = port;
        flow.protocol = 6;
        flow.dont_fragment = true;
        REQUIRE(net::resolve(stack, flow));
        own.local = flow.source;
        own.connected = true;
        // As TcpSocket::choose_port() has it, with as many pairs as there are.
        static u32 next = 1;
        const auto usable = [](void*, u16) { return true; };
        REQUIRE(stack.tcp_ports.bind(own, 0, {}, false, usable, nullptr, next++));
        own.pair = {{flow.source, own.port, 0}, {to, port, 0}};
        flow.source_port = own.port;
        own.flow = std::move(flow);
        if (!data.empty())
            out.commit(data);
        SpinGuard guard(own.lock);
        REQUIRE(Table::get().insert(own));
        REQUIRE(own.open(fast_open));
        return out;
    }
    void commit(std::string_view data) {
        const SendBuffer::Room room = connection->buffer().room(static_cast<u32>(data.size()));
        REQUIRE(room.bytes == data.size());
        std::memcpy(room.data, data.data(), data.size());
        REQUIRE(connection->buffer().commit(room.bytes));
    }
    // As much as the buffer takes.
    usize send(const void* from, usize bytes, bool more = false) {
        usize done = 0;
        while (done < bytes && connection->can_send()) {
            const u32 space = connection->send_space();
            const u32 wanted = static_cast<u32>(std::min<usize>(space, bytes - done));
            if (wanted == 0)
                break;
            const SendBuffer::Room room = connection->buffer().room(std::min(wanted, 32768u));
            REQUIRE(room.data != nullptr);
            std::memcpy(room.data, static_cast<const u8*>(from) + done, room.bytes);
            SpinGuard guard(connection->lock);
            REQUIRE(connection->buffer().commit(room.bytes));
            done += room.bytes;
            connection->appended(room.bytes, more, true);
        }
        net::run_backlog();
        return done;
    }
    usize send(std::string_view text, bool more = false) {
        return send(text.data(), text.size(), more);
    }
    std::string receive(usize most = ~usize{0}) {
        std::string out;
        u32 freed = 0;
        for (;;) {
            if (reading_.empty()) {
                SpinGuard guard(connection->lock);
                connection->take_arrived(reading_);
            }
            net::Packet* first = reading_.front();
            if (first == nullptr || out.size() == most)
                break;
            const u32 piece =
                static_cast<u32>(std::min<usize>(first->length() - offset_, most - out.size()));
            const usize before = out.size();
            out.resize(before + piece);
            REQUIRE(first->copy_out(offset_, out.data() + before, piece));
            offset_ += piece;
            if (offset_ == first->length()) {
                freed += first->true_size();
                (void)reading_.pop_front();
                offset_ = 0;
            }
        }
        {
            SpinGuard guard(connection->lock);
            connection->consumed(static_cast<u32>(out.size()), freed);
        }
        net::run_backlog();
        return out;
    }
    void shut() {
        {
            SpinGuard guard(connection->lock);
            connection->shut_write();
        }
        net::run_backlog();
    }
    void close(bool reset = false) {
        {
            SpinGuard guard(connection->lock);
            if (connection->state() == State::Listen) {
                Ref<Listener> served = connection->stop_listening();
                guard.unlock();
                served->close();
            } else {
                connection->orphan(reset);
            }
        }
        {
            SpinGuard guard(connection->lock);
            if (connection->state() == State::Closed)
                connection->stack->tcp_ports.unbind(*connection);
        }
        net::run_backlog();
        connection = nullptr;
    }
    State state() const { return connection->state(); }

private:
    net::PacketList reading_;
    u32 offset_ = 0;
};

// A program that listens.
struct Server {
    Server(net::Stack& stack, u16 port, u32 backlog = 128, const ConnectionOptions& options = {}) {
        REQUIRE(Table::get().prepare());
        owner = Ref<Connection>::adopt(new Connection(stack));
        owner->options = options;
        owner->local = net::IpAddress::v4_any();
        owner->reuse_address = true;
        REQUIRE(stack.tcp_ports.bind(*owner, port, {}, false));
        REQUIRE(stack.tcp_ports.start_listening(*owner));
        auto made = make_ref<Listener>(stack, owner);
        REQUIRE(made);
        listener = *made;
        listener->options = options;
        listener->backlog = backlog;
        SpinGuard guard(owner->lock);
        owner->become_listener(std::move(*made));
        stack.tcp_ports.set_receiving(*owner, true);
    }
    ~Server() { close(); }
    void close() {
        if (!owner)
            return;
        {
            SpinGuard guard(owner->lock);
            (void)owner->stop_listening();
        }
        listener->close();
        owner->stack->tcp_ports.unbind(*owner);
        net::run_backlog();
        owner = nullptr;
        listener = nullptr;
    }
    Program accept() { return Program(listener->take()); }
    bool pending() const { return listener->has_pending(); }
    Ref<Connection> owner;
    Ref<Listener> listener;
};

// One segment as the scripted peer sees or makes it.
struct Segment {
    u8 flags = 0;
    u32 sequence = 0, acknowledgement = 0;
    u32 window = 0;
    u16 urgent = 0;
    Options options;
    std::string data;
    u16 source_port = 0, destination_port = 0;
    u16 segment_size = 0;
    bool has(u8 flag) const { return (flags & flag) != 0; }
    u32 length() const {
        return static_cast<u32>(data.size()) + (has(flag_syn) ? 1 : 0) + (has(flag_fin) ? 1 : 0);
    }
};

inline net::PacketPtr make_ip(const net::IpAddress& from, const net::IpAddress& to,
                              const Segment& segment, bool with_checksum = true) {
    u8 header[most_header];
    HeaderFields fields;
    fields.source_port = segment.source_port;
    fields.destination_port = segment.destination_port;
    fields.sequence = Sequence(segment.sequence);
    fields.acknowledgement = Sequence(segment.acknowledgement);
    fields.flags = segment.flags;
    fields.window = static_cast<u16>(segment.window);
    fields.urgent = segment.urgent;
    fields.options = &segment.options;
    const u32 length = static_cast<u32>(build_header(fields, header));
    net::PacketPtr packet = net::Packet::allocate(0);
    REQUIRE(packet);
    REQUIRE(packet->append(header, length));
    REQUIRE(packet->append(segment.data.data(), static_cast<u32>(segment.data.size())));
    const u32 total = packet->length();
    if (with_checksum) {
        net::ChecksumSum sum = net::pseudo_header(from, to, 6, total);
        packet->add_to(sum, 0, total);
        const u16 value = sum.finish();
        REQUIRE(packet->copy_in(checksum_offset, &value, sizeof value));
    }
    net::Ipv4Header ip{};
    ip.version_length = 0x45;
    ip.total_length.set(static_cast<u16>(total + 20));
    ip.ttl = 64;
    ip.protocol = 6;
    ip.source.set(from.v4_value());
    ip.destination.set(to.v4_value());
    const u16 sum = net::checksum(&ip, sizeof ip);
    std::memcpy(ip.checksum, &sum, sizeof sum);
    packet->push_header(ip);
    packet->link_protocol = net::ether_ip;
    return packet;
}

// The other end of a host's wire, played by the test: it sends what the test says and sees what the
// host sends. It is address_b; the host is address_a.
class Peer {
public:
    Peer(Machine& machine, Host& host) : machine_(machine), host_(host) {}

    // The next segment that the host sent; there must be one.
    Segment expect(u8 flags) {
        REQUIRE(!host_.wire->sent.empty());
        Segment out = take();
        INFO("flags " << int(out.flags) << " seq " << out.sequence << " ack " << out.acknowledgement
                      << " len " << out.data.size());
        CHECK(int(out.flags & ~flag_psh) == int(flags));
        return out;
    }
    bool quiet() const { return host_.wire->sent.empty(); }
    usize waiting() const { return host_.wire->sent.size(); }
    void discard() { host_.wire->sent.clear(); }
    Segment take() {
        net::PacketPtr packet = std::move(host_.wire->sent.front());
        host_.wire->sent.pop_front();
        return parse(*packet);
    }
    Segment parse(net::Packet& packet) {
        std::vector<u8> bytes(packet.length());
        REQUIRE(packet.copy_out(0, bytes.data(), packet.length()));
        const usize ip = (bytes[0] & 15u) * 4;
        const auto header =
            Header::parse({bytes.data() + ip, bytes.size() - ip}, bytes.size() - ip);
        REQUIRE(header);
        Segment out;
        out.flags = header->flags();
        out.sequence = header->sequence().raw();
        out.acknowledgement = header->acknowledgement().raw();
        out.window = header->window();
        out.urgent = header->urgent();
        out.options = header->options();
        out.source_port = header->source_port();
        out.destination_port = header->destination_port();
        out.segment_size = packet.segmentation != net::Segmentation::None ? packet.segment_size : 0;
        out.data.assign(bytes.begin() + static_cast<long>(ip + header->length()), bytes.end());
        last_ = out;
        return out;
    }
    void send(Segment segment) {
        segment.source_port = segment.source_port != 0 ? segment.source_port : port;
        segment.destination_port =
            segment.destination_port != 0 ? segment.destination_port : host_port;
        if (timestamps && !segment.options.has_timestamp && !segment.has(flag_rst)) {
            segment.options.has_timestamp = true;
            segment.options.timestamp = stamp();
            segment.options.echo = echo;
        }
        host_.wire->receive(make_ip(address_b, address_a, segment));
        net::run_backlog();
    }
    void send(u8 flags, u32 at, u32 acknowledged, std::string data = {}, u32 window = 65535) {
        Segment out;
        out.flags = flags;
        out.sequence = at;
        out.acknowledgement = acknowledged;
        out.data = std::move(data);
        out.window = window;
        send(out);
    }
    void pass(u64 ns) { machine_.clock.advance_to(machine_.clock.now() + ns); }
    u32 stamp() const { return static_cast<u32>(machine_.clock.now() / ms) + 7000; }

    // Answers a connection that the host opens. Afterwards: sequence, next are the numbers to use.
    void serve_handshake(const Options& offer = {}, u32 window = 65535) {
        const Segment syn = expect(flag_syn);
        host_port = syn.source_port;
        port = syn.destination_port;
        Segment answer;
        answer.flags = flag_syn | flag_ack;
        answer.sequence = 5000;
        answer.acknowledgement = syn.sequence + 1;
        answer.window = window;
        answer.options = offer;
        if (offer.has_timestamp) {
            timestamps = true;
            answer.options.timestamp = stamp();
            answer.options.echo = echo = syn.options.timestamp;
        }
        send(answer);
        const Segment ack = expect(flag_ack);
        CHECK(ack.acknowledgement == 5001);
        sequence = 5001;
        next = ack.sequence;
    }
    // Opens a connection to a port that the host listens on.
    void open(u16 to, const Options& offer = {}, u32 window = 65535) {
        host_port = to;
        Segment syn;
        syn.flags = flag_syn;
        syn.sequence = 5000;
        syn.window = window;
        syn.options = offer;
        timestamps = offer.has_timestamp;
        send(syn);
        const Segment answer = expect(flag_syn | flag_ack);
        CHECK(answer.acknowledgement == 5001);
        echo = answer.options.timestamp;
        sequence = 5001;
        next = answer.sequence + 1;
        send(flag_ack, sequence, next, {}, window);
    }
    Machine& machine_;
    Host& host_;
    u16 port = 4000, host_port = 0;
    u32 sequence = 0; // the next of ours
    u32 next = 0;     // the next of the host's
    bool timestamps = false;
    u32 echo = 0;

private:
    Segment last_;
};

} // namespace kernel::tcp::test
