// TCP with any segments at all, against a listener and connections in all states, between what a
// program does with its ends. Numbers are near those that count, so that the input gets past the
// first checks. Whatever comes, memory stays bounded and nothing is left in the end.
#include <array>
#include <cstdlib>
#include <utility>
#include <vector>

#include "guestkernel/arch/hosted/hosted.hpp"
#include "guestkernel/net/backlog.hpp"
#include "guestkernel/net/neighbour.hpp"
#include "guestkernel/net/tcp/listener.hpp"
#include "guestkernel/net/testing/virtual_link.hpp"
#include "guestkernel/net/wire.hpp"
#include "guestkernel/task/task.hpp"
#include "tests/fuzz/guest_bytes.hpp"

using namespace kernel;
using namespace kernel::tcp;

namespace {

constexpr u16 port = 80;
constexpr usize clients = 4;
constexpr u64 minutes = 60 * nanoseconds_per_second;

void require(bool condition) {
    if (!condition)
        std::abort();
}

// The neighbour's side of the link: it sees what the host last said to each of its ports.
class Wire final : public net::Interface {
public:
    Wire() : net::Interface("wire%d", net::LinkType::None, 1500) {
        features_ = net::feature_all_offloads | net::feature_no_link_header;
    }
    bool start_transmit(unsigned, net::PacketPtr& packet) override {
        net::PacketPtr taken = std::move(packet);
        u8 bytes[20 + least_header] = {};
        if (taken->length() < sizeof bytes || !taken->copy_out(0, bytes, sizeof bytes))
            return true;
        const auto word = [&](usize at) {
            u32 value = 0;
            __builtin_memcpy(&value, bytes + at, sizeof value);
            return __builtin_bswap32(value);
        };
        const u32 ports = word(20);
        Heard& heard = peers[(ports & 0xffff) % clients];
        heard.next = word(24) + taken->length() - u32{sizeof bytes};
        heard.acknowledged = word(28);
        sent++;
        return true;
    }
    struct Heard {
        u32 next = 0, acknowledged = 0;
    };
    std::array<Heard, clients> peers;
    u64 sent = 0;
};

class Game {
public:
    Game() {
        hosted::set_current(&task_);
        auto made = net::Stack::make(net::StackClock(clock_), nullptr);
        require(made.has_value());
        stack_ = std::move(*made);
        require(Table::get().prepare().has_value());
        wire_ = Ref<Wire>::adopt(new Wire());
        require(stack_->attach(wire_).has_value());
        net::InterfaceAddress own;
        own.address = own.peer = here;
        own.prefix_length = 24;
        require(stack_->add_address(*wire_, own).has_value());
        require(stack_->set_flags(*wire_, net::iff_up, net::iff_up).has_value());
        TcpStack::of(*stack_).settings.fast_open = 3;
        listen();
    }
    ~Game() {
        for (Ref<Connection>& one : programs_)
            close(one, false);
        {
            SpinGuard guard(owner_->lock);
            (void)owner_->stop_listening();
        }
        listener_->close();
        stack_->tcp_ports.unbind(*owner_);
        owner_ = nullptr;
        listener_ = nullptr;
        net::run_backlog();
        // Orphans, requests and TIME-WAITs all have an end.
        for (int i = 0; i < 40; i++)
            clock_.advance_to(clock_.now() + minutes);
        TcpStack& tcp = TcpStack::of(*stack_);
        require(tcp.sockets.load() == 0 && tcp.time_wait_count() == 0);
        stack_->shutdown();
        hosted::set_current(nullptr);
    }
    Game(const Game&) = delete;
    Game& operator=(const Game&) = delete;

    void play(fuzz::GuestBytes& bytes) {
        const auto kind = bytes.take<u8>();
        switch (kind & 7) {
        case 5:
            act(bytes);
            break;
        case 6:
            clock_.advance_to(clock_.now() + (u64{bytes.take<u16>()} << (kind >> 4)) * 1000);
            break;
        case 7:
            connect(bytes.take<u8>());
            break;
        default:
            segment(bytes);
            break;
        }
        net::run_backlog();
        require(listener_->request_count() <= listener_->backlog + 1);
        require(wire_->sent < 100'000); // nobody answers for ever
    }

private:
    const net::IpAddress here = net::IpAddress::v4(0x0a00'0001),
                         there = net::IpAddress::v4(0x0a00'0002);

    void listen() {
        owner_ = Ref<Connection>::adopt(new Connection(*stack_));
        owner_->local = net::IpAddress::v4_any();
        require(stack_->tcp_ports.bind(*owner_, port, {}, false).has_value());
        require(stack_->tcp_ports.start_listening(*owner_).has_value());
        auto made = make_ref<Listener>(*stack_, owner_);
        require(made.has_value());
        listener_ = *made;
        listener_->options.fast_open_backlog = 2;
        listener_->backlog = 4;
        SpinGuard guard(owner_->lock);
        owner_->become_listener(std::move(*made));
        stack_->tcp_ports.set_receiving(*owner_, true);
    }

    void connect(u8 which) {
        Ref<Connection> made = Ref<Connection>::adopt(new Connection(*stack_));
        Connection& own = *made;
        net::Flow flow;
        flow.source = here;
        flow.destination = there;
        flow.destination_port = static_cast<u16>(4000 + which % clients);
        flow.protocol = 6;
        flow.dont_fragment = true;
        if (!net::resolve(*stack_, flow))
            return;
        own.local = here;
        own.connected = true;
        if (!stack_->tcp_ports.bind(own, static_cast<u16>(5000 + which % 3), {}, false))
            return;
        own.pair = {{here, own.port, 0}, {there, flow.destination_port, 0}};
        flow.source_port = own.port;
        own.set_flow(std::move(flow));
        {
            SpinGuard guard(own.lock);
            if (!Table::get().insert(own)) {
                stack_->tcp_ports.unbind(own);
                return;
            }
            require(own.open((which & 0x80) != 0).has_value());
        }
        programs_.push_back(std::move(made));
        if (programs_.size() > 8) {
            close(programs_.front(), false);
            programs_.erase(programs_.begin());
        }
    }

    void segment(fuzz::GuestBytes& bytes) {
        const auto choice = bytes.take<u8>();
        const usize client = choice % clients;
        const Wire::Heard& heard = wire_->peers[client];
        u8 header[most_header] = {};
        const auto put16 = [&](usize at, u16 value) {
            header[at] = static_cast<u8>(value >> 8);
            header[at + 1] = static_cast<u8>(value);
        };
        const auto put32 = [&](usize at, u32 value) {
            put16(at, static_cast<u16>(value >> 16));
            put16(at + 2, static_cast<u16>(value));
        };
        put16(0, static_cast<u16>(4000 + client));
        put16(2, static_cast<u16>((choice & 0x10) != 0 ? 5000 + choice / 64 : port));
        const u32 near = (choice & 4) != 0 ? bytes.take<u32>() : heard.acknowledged;
        put32(4, near + static_cast<u32>(i32{bytes.take<i8>()}));
        put32(8, (choice & 8) != 0 ? bytes.take<u32>()
                                   : heard.next + static_cast<u32>(i32{bytes.take<i8>()}));
        const auto options = bytes.take_bytes(bytes.take<u8>() % 41);
        const u32 length = static_cast<u32>(least_header + (options.size() + 3) / 4 * 4);
        __builtin_memcpy(header + least_header, options.data(), options.size());
        header[12] = static_cast<u8>((choice & 0xe0) == 0xe0 ? bytes.take<u8>() : length / 4 << 4);
        header[13] = bytes.take<u8>();
        put16(14, bytes.take<u16>());
        put16(18, (header[13] & flag_urg) != 0 ? bytes.take<u8>() : u16{0});
        const auto data = bytes.take_bytes(bytes.take<u16>() % 1460);
        net::PacketPtr packet = net::Packet::allocate(0);
        require(packet && packet->append(header, length) &&
                packet->append(data.data(), static_cast<u32>(data.size())));
        net::Ipv4Header ip{};
        ip.version_length = 0x45;
        ip.total_length.set(static_cast<u16>(packet->length() + sizeof ip));
        ip.ttl = 64;
        ip.protocol = 6;
        ip.source.set(there.v4_value());
        ip.destination.set(here.v4_value());
        const u16 sum = net::checksum(&ip, sizeof ip);
        __builtin_memcpy(ip.checksum, &sum, sizeof sum);
        packet->push_header(ip);
        packet->link_protocol = net::ether_ip;
        packet->checksum_state = net::ChecksumState::Verified;
        wire_->receive(std::move(packet));
    }

    // What a program does with one of its connections.
    void act(fuzz::GuestBytes& bytes) {
        if (Ref<Connection> taken = listener_->take())
            programs_.push_back(std::move(taken));
        if (programs_.empty())
            return;
        const auto what = bytes.take<u8>();
        const usize which = what / 8 % programs_.size();
        Connection& own = *programs_[which];
        switch (what & 7) {
        case 0:
        case 1:
            read(own);
            break;
        case 2:
        case 3:
            write(own, bytes.take<u16>(), what);
            break;
        case 4: {
            SpinGuard guard(own.lock);
            own.shut_write();
            break;
        }
        case 5: {
            SpinGuard guard(own.lock);
            own.set_keepalive((what & 8) != 0);
            own.options.no_delay = (what & 16) != 0;
            own.options.user_timeout_ms = (what & 32) != 0 ? 5000 : 0;
            break;
        }
        default:
            close(programs_[which], (what & 8) != 0);
            programs_.erase(programs_.begin() + static_cast<std::ptrdiff_t>(which));
            break;
        }
    }

    static void read(Connection& own) {
        net::PacketList packets;
        SpinGuard guard(own.lock);
        own.take_arrived(packets);
        u32 taken = 0, freed = 0;
        while (const net::PacketPtr packet = packets.pop_front()) {
            taken += packet->length();
            freed += packet->true_size();
        }
        require(taken == own.readable());
        own.consumed(taken, freed);
    }

    static void write(Connection& own, u32 wanted, u8 how) {
        if (!own.can_send() || own.write_shut() || own.send_space() < wanted || wanted == 0)
            return;
        const SendBuffer::Room room = own.buffer().room(wanted);
        if (room.data == nullptr)
            return;
        __builtin_memset(room.data, 'w', room.bytes);
        SpinGuard guard(own.lock);
        require(own.buffer().commit(room.bytes));
        own.appended(room.bytes, (how & 8) != 0, true);
        if ((how & 16) != 0)
            own.appended_urgent();
    }

    void close(Ref<Connection>& program, bool reset) const {
        {
            SpinGuard guard(program->lock);
            program->buffer().close_block();
            program->orphan(reset);
            if (program->state() == State::Closed)
                stack_->tcp_ports.unbind(*program);
        }
        net::run_backlog();
        program = nullptr;
    }

    Task task_;
    net::VirtualClock clock_;
    Ref<net::Stack> stack_;
    Ref<Wire> wire_;
    Ref<Connection> owner_;
    Ref<Listener> listener_;
    std::vector<Ref<Connection>> programs_;
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static bool made = false; // the table of connections outlives an input
    if (!std::exchange(made, true))
        net::testing::reset_network(u64{256} << 20);
    Game game;
    fuzz::GuestBytes bytes(data, size);
    for (int moves = 0; !bytes.empty() && moves < 512; moves++)
        game.play(bytes);
    return 0;
}
