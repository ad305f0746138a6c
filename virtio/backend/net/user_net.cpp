#include "virtio/backend/net/user_net.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <initializer_list>
#include <iterator>
#include <limits>
#include <slirp/libslirp.h>
#include <unistd.h>
#include <utility>

#include <net/if.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

#include "virtio/backend/net/internet_checksum.hpp"
#include "virtio/device/net/packet_check.hpp"

// In place of the C library's, for libslirp, which asks for the interface of each resolver like
// fe80::1%eth0 in /etc/resolv.conf: that one makes a Unix socket for the question, which no thread
// that a guest's packets reach may have.
extern "C" [[gnu::visibility("default")]] unsigned int if_nametoindex(const char* name) noexcept {
    struct ifreq request {};
    const std::size_t length = std::strlen(name);
    if (length >= sizeof request.ifr_name) {
        errno = ENODEV;
        return 0;
    }
    std::memcpy(request.ifr_name, name, length);
    const virtio::UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!socket || ::ioctl(socket.get(), SIOCGIFINDEX, &request) != 0)
        return 0;
    return static_cast<unsigned int>(request.ifr_ifindex);
}

namespace virtio {

namespace {

constexpr std::uint64_t ns_per_ms = 1'000'000;

std::int64_t now_ns() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

std::uint64_t now_ms() {
    return static_cast<std::uint64_t>(now_ns()) / ns_per_ms;
}

// Fragments that wait for the rest of their datagram, for which libslirp gives them half a minute:
// some 50 MB at most. With the usual MTU no datagram has any.
constexpr RateLimit fragment_limit{.rate = std::uint64_t{1} << 20,
                                   .burst = std::uint64_t{16} << 20};
constexpr std::size_t least_fragment = 8192; // what a short one takes
// Datagrams are still sent when there can be no more connections: the resolver is asked by one.
constexpr std::size_t spare_sockets = 1024;

std::uint32_t to_epoll(int events) {
    return ((events & SLIRP_POLL_IN) != 0 ? std::uint32_t{EPOLLIN} : 0u) |
           ((events & SLIRP_POLL_OUT) != 0 ? std::uint32_t{EPOLLOUT} : 0u) |
           ((events & SLIRP_POLL_PRI) != 0 ? std::uint32_t{EPOLLPRI} : 0u) |
           ((events & SLIRP_POLL_ERR) != 0 ? std::uint32_t{EPOLLERR} : 0u) |
           ((events & SLIRP_POLL_HUP) != 0 ? std::uint32_t{EPOLLHUP} : 0u);
}

int from_epoll(std::uint32_t events) {
    return ((events & EPOLLIN) != 0 ? SLIRP_POLL_IN : 0) |
           ((events & EPOLLOUT) != 0 ? SLIRP_POLL_OUT : 0) |
           ((events & EPOLLPRI) != 0 ? SLIRP_POLL_PRI : 0) |
           ((events & EPOLLERR) != 0 ? SLIRP_POLL_ERR : 0) |
           ((events & EPOLLHUP) != 0 ? SLIRP_POLL_HUP : 0);
}

// What a machine says of itself that is new on a network: frames to all.
class Announcement {
public:
    explicit Announcement(const UserNetConfig& config) {
        const in_addr own4 = config.address4(UserNetConfig::guest4);
        const in6_addr own6 = UserNetConfig::address6(UserNetConfig::guest6);
        put(arp_, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff});
        put(arp_, config.guest_mac);
        // RFC 826: Ethernet, IPv4, a question for the own address (RFC 5227, 3).
        put(arp_, {0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1});
        put(arp_, config.guest_mac);
        put_object(arp_, own4);
        put(arp_, {0, 0, 0, 0, 0, 0});
        put_object(arp_, own4);

        in6_addr all{};
        all.s6_addr[0] = 0xff;
        all.s6_addr[1] = 0x02;
        all.s6_addr[15] = 1;
        put(neighbour_, {0x33, 0x33, 0, 0, 0, 1});
        put(neighbour_, config.guest_mac);
        constexpr std::uint8_t length = 32;
        put(neighbour_, {0x86, 0xdd, 0x60, 0, 0, 0, 0, length, IPPROTO_ICMPV6, 255});
        const std::size_t addresses = neighbour_.size();
        put_object(neighbour_, own6);
        put_object(neighbour_, all);
        // RFC 4861, 4.4: an advertisement, to override what was known; the option with the address.
        const std::size_t message = neighbour_.size();
        put(neighbour_, {136, 0, 0, 0, 0x20, 0, 0, 0});
        put_object(neighbour_, own6);
        put(neighbour_, {2, 1});
        put(neighbour_, config.guest_mac);
        const auto bytes = std::as_bytes(std::span(neighbour_));
        const std::uint16_t pseudo =
            internet_checksum(bytes.subspan(addresses, message - addresses),
                              std::uint64_t{htons(length)} + htons(IPPROTO_ICMPV6));
        const std::uint16_t sum =
            internet_checksum(bytes.subspan(message), static_cast<std::uint16_t>(~pseudo));
        std::memcpy(neighbour_.data() + message + 2, &sum, sizeof sum);
    }
    const std::vector<std::uint8_t>& arp() const { return arp_; }
    const std::vector<std::uint8_t>& neighbour() const { return neighbour_; }

private:
    template <typename Bytes>
    static void put(std::vector<std::uint8_t>& frame, const Bytes& bytes) {
        frame.insert(frame.end(), std::begin(bytes), std::end(bytes));
    }
    static void put(std::vector<std::uint8_t>& frame, std::initializer_list<std::uint8_t> bytes) {
        frame.insert(frame.end(), bytes);
    }
    template <typename T>
    static void put_object(std::vector<std::uint8_t>& frame, const T& object) {
        std::array<std::uint8_t, sizeof object> bytes;
        std::memcpy(bytes.data(), &object, sizeof object);
        put(frame, bytes);
    }

    std::vector<std::uint8_t> arp_;
    std::vector<std::uint8_t> neighbour_;
};

} // namespace

struct UserNet::Timer {
    SlirpTimerId id;
    void* argument;
    std::uint64_t at_ms = 0; // 0: not armed
};

// libslirp's view of us.
struct UserNet::Callbacks {
    static UserNet& self(void* opaque) { return *static_cast<UserNet*>(opaque); }

    static ssize_t send_packet(const void* buffer, size_t length, void* opaque) {
        UserNet& net = self(opaque);
        std::span frame(static_cast<const std::byte*>(buffer), length);
        const auto changed = with_gateway_source(frame, net.config_);
        if (changed)
            frame = *changed;
        if (!net.config_.host_loopback)
            net.guard_.delivered(frame, now_ms());
        net.to_guest(frame);
        return static_cast<ssize_t>(length);
    }
    static void guest_error(const char*, void*) {} // the guest's own affair
    static std::int64_t clock_get_ns(void*) { return now_ns(); }
    static void* timer_new(SlirpTimerId id, void* argument, void* opaque) {
        auto& timers = self(opaque).timers_;
        timers.push_back(std::make_unique<Timer>(Timer{id, argument}));
        return timers.back().get();
    }
    static void timer_free(void* timer, void* opaque) {
        std::erase_if(self(opaque).timers_,
                      [timer](const auto& mine) { return mine.get() == timer; });
    }
    static void timer_mod(void* timer, std::int64_t expire_ms, void* opaque) {
        auto& mine = *static_cast<Timer*>(timer);
        mine.at_ms = std::max<std::uint64_t>(static_cast<std::uint64_t>(expire_ms), 1);
        self(opaque).wake_at(mine.at_ms);
    }
    static void register_poll_fd(int fd, void* opaque) { self(opaque).count_socket(fd, true); }
    static void unregister_poll_fd(int fd, void* opaque) {
        self(opaque).poll_.forget(fd);
        self(opaque).count_socket(fd, false);
    }
    static void notify(void*) {} // what we do always ends with refill()

    static int add_poll(int fd, int events, void* opaque) {
        return self(opaque).poll_.add(fd, to_epoll(events));
    }
    static int ready_events(int number, void* opaque) {
        return from_epoll(self(opaque).poll_.ready(number));
    }

    static constexpr SlirpCb table() {
        SlirpCb callbacks{};
        callbacks.send_packet = send_packet;
        callbacks.guest_error = guest_error;
        callbacks.clock_get_ns = clock_get_ns;
        callbacks.timer_free = timer_free;
        callbacks.timer_mod = timer_mod;
        callbacks.register_poll_fd = register_poll_fd;
        callbacks.unregister_poll_fd = unregister_poll_fd;
        callbacks.notify = notify;
        callbacks.timer_new_opaque = timer_new;
        return callbacks;
    }
};

UserNet::UserNet(const UserNetConfig& config, PollSet poll, UniqueFd timer)
    : config_(config), fragments_(fragment_limit), poll_(std::move(poll)), timer_(std::move(timer)),
      frame_(net_max_frame) {
    static constexpr SlirpCb callbacks = Callbacks::table();
    std::vector<const char*> search;
    for (const std::string& domain : config_.search)
        search.push_back(domain.c_str());
    search.push_back(nullptr);

    SlirpConfig settings{};
    settings.version = 4;
    settings.in_enabled = true;
    settings.vnetwork = config_.address4(0);
    settings.vnetmask = {htonl(~std::uint32_t{0} << (32 - UserNetConfig::prefix4))};
    settings.vhost = config_.address4(UserNetConfig::gateway);
    settings.in6_enabled = true;
    settings.vprefix_addr6 = UserNetConfig::address6(0);
    settings.vprefix_len = UserNetConfig::prefix6;
    settings.vhost6 = UserNetConfig::address6(UserNetConfig::gateway);
    settings.vdhcp_start = config_.address4(UserNetConfig::guest4);
    settings.vnameserver = config_.address4(UserNetConfig::resolver);
    settings.vnameserver6 = UserNetConfig::address6(UserNetConfig::resolver);
    settings.vdnssearch = search.size() > 1 ? search.data() : nullptr;
    settings.if_mtu = settings.if_mru = std::min<std::size_t>(config_.mtu, 65521);
    settings.disable_host_loopback = false; // the guard's business
    settings.disable_dhcp = true;           // the guest is told by its kernel's boot parameters
    slirp_ = slirp_new(&settings, &callbacks, this);
}

base::Result<std::unique_ptr<UserNet>, HostError> UserNet::create(const UserNetConfig& config) {
    TRY(PollSet poll, PollSet::create());
    UniqueFd timer(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
    if (!timer)
        return base::Failure(HostError{errno, "make a timer"});
    std::unique_ptr<UserNet> net(new UserNet(config, std::move(poll), std::move(timer)));
    if (net->slirp_ == nullptr)
        return base::Failure(HostError{EINVAL, "start libslirp"});
    return net;
}

base::Result<void, HostError> UserNet::connect(EventLoop& loop) {
    TRY(loop.add(poll_.fd(), {.read = true}, [this](Readiness) { on_sockets(); }));
    loop_ = &loop;
    TRY(loop.add(timer_.get(), {.read = true}, [this](Readiness) { on_timer(); }));
    return {};
}

UserNet::~UserNet() {
    if (loop_ != nullptr) {
        loop_->remove(timer_.get());
        loop_->remove(poll_.fd());
    }
    if (slirp_ != nullptr)
        slirp_cleanup(slirp_);
}

base::Result<void, HostError> UserNet::publish(const PublishedPort& port) {
    const auto generic = [](void* address) { return static_cast<const sockaddr*>(address); };
    sockaddr_in host4{};
    sockaddr_in guest4{};
    sockaddr_in6 host6{};
    sockaddr_in6 guest6{};
    const int udp = port.udp ? SLIRP_HOSTFWD_UDP : 0;
    errno = 0;
    int failed = 0;
    if (port.ipv6) {
        host6.sin6_family = guest6.sin6_family = AF_INET6;
        host6.sin6_addr = port.host6;
        host6.sin6_port = htons(port.host_port);
        guest6.sin6_addr = UserNetConfig::address6(UserNetConfig::guest6);
        guest6.sin6_port = htons(port.guest_port);
        failed = slirp_add_hostxfwd(slirp_, generic(&host6), sizeof host6, generic(&guest6),
                                    sizeof guest6, udp | SLIRP_HOSTFWD_V6ONLY);
    } else {
        host4.sin_family = guest4.sin_family = AF_INET;
        host4.sin_addr = port.host4;
        host4.sin_port = htons(port.host_port);
        guest4.sin_addr = config_.address4(UserNetConfig::guest4);
        guest4.sin_port = htons(port.guest_port);
        failed = slirp_add_hostxfwd(slirp_, generic(&host4), sizeof host4, generic(&guest4),
                                    sizeof guest4, udp);
    }
    if (failed != 0)
        return base::Failure(HostError{errno, "listen"});
    return {};
}

std::uint64_t UserNet::offloads() const {
    const std::uint64_t checksums = net_bit(net_feature_csum) | net_bit(net_feature_guest_csum);
    // What is longer than the MTU libslirp answers with "too big", segments of the guest included.
    if (config_.mtu < UserNetConfig::largest_mtu)
        return checksums;
    // A segment of 64 KiB needs no cutting: libslirp takes the payload and acknowledges it.
    return checksums | net_bit(net_feature_host_tso4) | net_bit(net_feature_host_tso6);
}

// ---- from the guest ------------------------------------------------------------------------

void UserNet::count_socket(int fd, bool open) {
    if (fd < 0)
        return;
    const auto index = static_cast<std::size_t>(fd);
    if (index >= is_socket_.size())
        is_socket_.resize(index + 1);
    if (is_socket_[index] == open)
        return;
    is_socket_[index] = open;
    if (open)
        ++sockets_;
    else
        --sockets_;
}

// What the guest makes libslirp keep has its bounds here, for it sets none itself.
bool UserNet::has_room_for(std::span<const std::byte> frame) {
    const PacketLayout layout =
        read_layout(frame.first(std::min<std::size_t>(frame.size(), net_head_bytes)));
    if (layout.fragment) {
        if (!fragments_.open(static_cast<std::uint64_t>(now_ns())))
            return false;
        fragments_.take(std::max(frame.size(), least_fragment));
    }
    if (sockets_ < config_.most_sockets)
        return true;
    if (const auto answer = refusal(frame)) {
        to_guest(*answer);
        return false;
    }
    return (layout.protocol != IPPROTO_UDP && layout.protocol != IPPROTO_ICMP) ||
           sockets_ < config_.most_sockets + spare_sockets;
}

namespace {

// What the driver left to the device. The field holds the sum of the pseudo header, and was checked
// to lie inside.
void fill_checksum(const NetHeader& header, std::span<std::byte> frame) {
    if ((header.flags & net_needs_csum) == 0)
        return;
    std::uint16_t sum = internet_checksum(frame.subspan(header.csum_start));
    // RFC 768: none is written as 0xffff, which is as good for TCP.
    if (sum == 0)
        sum = 0xffff;
    std::memcpy(frame.data() + header.csum_start + header.csum_offset, &sum, sizeof sum);
}

} // namespace

NetPort::Sent UserNet::send(const NetHeader& header, std::span<const struct iovec> frame,
                            std::size_t length) {
    if (length > frame_.size())
        return Sent::Refused;
    std::size_t at = 0;
    for (const struct iovec& piece : frame) {
        std::memcpy(frame_.data() + at, piece.iov_base, piece.iov_len);
        at += piece.iov_len;
    }
    // Nobody but us changes it from here on.
    const std::span<std::byte> whole = std::as_writable_bytes(std::span(frame_).first(length));
    // Before it is judged: the sum of what is neither TCP nor UDP may lie anywhere in the packet,
    // its IP header included, and would make another of the one that has passed.
    fill_checksum(header, whole);
    if (!config_.host_loopback) {
        const LoopbackGuard::Verdict verdict = guard_.judge(whole, now_ms());
        if (verdict == LoopbackGuard::Verdict::Refuse) {
            if (const auto answer = refusal(whole))
                to_guest(*answer);
        }
        if (verdict != LoopbackGuard::Verdict::Pass)
            return Sent::Refused;
    }
    if (!has_room_for(whole))
        return Sent::Refused;
    slirp_input(slirp_, frame_.data(), static_cast<int>(length));
    return Sent::Taken;
}

// ---- to the guest --------------------------------------------------------------------------

void UserNet::to_guest(std::span<const std::byte> frame) {
    if (events_ == nullptr)
        return;
    if (waiting_.empty() && events_->deliver(frame))
        return;
    // Full: TCP will send it again.
    static_cast<void>(waiting_.push(frame));
}

std::size_t UserNet::receive(std::span<const struct iovec> room) {
    if (waiting_.empty())
        return 0;
    const NetHeader header{.flags = net_data_valid};
    const std::span<const std::byte> frame = waiting_.front();
    std::size_t copied = 0;
    const auto copy = [&](std::span<const std::byte> from, std::size_t skip) {
        std::size_t at = 0; // in the room
        for (const struct iovec& piece : room) {
            const std::size_t begin = std::max(at, skip + copied);
            if (begin < at + piece.iov_len && copied < from.size()) {
                const std::size_t here = std::min(at + piece.iov_len - begin, from.size() - copied);
                std::memcpy(static_cast<std::byte*>(piece.iov_base) + (begin - at),
                            from.data() + copied, here);
                copied += here;
            }
            at += piece.iov_len;
        }
    };
    copy(std::as_bytes(std::span(&header, 1)), 0);
    copied = 0;
    copy(frame, sizeof header);
    waiting_.pop();
    return sizeof header + copied;
}

// ---- libslirp's time and sockets -------------------------------------------------------------

void UserNet::on_sockets() {
    poll_.look();
    slirp_pollfds_poll(slirp_, 0, Callbacks::ready_events, this);
    refill();
}

void UserNet::on_timer() {
    std::uint64_t expirations = 0;
    static_cast<void>(!::read(timer_.get(), &expirations, sizeof expirations));
    timer_at_ms_ = 0;
    const std::uint64_t now = now_ms();
    for (std::size_t i = 0; i < timers_.size(); ++i) {
        Timer& timer = *timers_[i];
        if (timer.at_ms == 0)
            continue;
        if (timer.at_ms > now) {
            wake_at(timer.at_ms);
            continue;
        }
        timer.at_ms = 0;
        slirp_handle_timer(slirp_, timer.id, timer.argument);
    }
    on_sockets();
}

void UserNet::watch(bool on) {
    if (!on || std::exchange(started_, true))
        return;
    introduce_guest();
    refill();
}

// Says to libslirp what the guest would if it were asked: who has its addresses. For an IPv6
// address libslirp's question leaves late, and the packet that waits for the answer is given up
// after a second.
void UserNet::introduce_guest() {
    if (config_.guest_mac == MacAddress{})
        return;
    Announcement announcement(config_);
    slirp_input(slirp_, announcement.arp().data(), static_cast<int>(announcement.arp().size()));
    slirp_input(slirp_, announcement.neighbour().data(),
                static_cast<int>(announcement.neighbour().size()));
}

// Asks libslirp what it waits for next.
void UserNet::refill() {
    if (!started_)
        return;
    constexpr std::uint32_t for_ever = std::numeric_limits<std::uint32_t>::max();
    std::uint32_t timeout_ms = for_ever;
    poll_.begin();
    slirp_pollfds_fill(slirp_, &timeout_ms, Callbacks::add_poll, this);
    poll_.end();
    if (timeout_ms != for_ever)
        wake_at(now_ms() + timeout_ms);
}

// At that time or earlier: waking too early costs less than setting the timer each time.
void UserNet::wake_at(std::uint64_t time_ms) {
    if (timer_at_ms_ != 0 && timer_at_ms_ <= time_ms)
        return;
    timer_at_ms_ = time_ms;
    // One of 0 would not be set at all.
    const std::uint64_t at = std::max<std::uint64_t>(time_ms * ns_per_ms, 1);
    itimerspec when{};
    when.it_value.tv_sec = static_cast<time_t>(at / 1'000'000'000);
    when.it_value.tv_nsec = static_cast<long>(at % 1'000'000'000);
    ::timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &when, nullptr);
}

} // namespace virtio
