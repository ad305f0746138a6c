#include "virtio/backend/net/user_net.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <limits>
#include <slirp/libslirp.h>
#include <unistd.h>

#include <sys/epoll.h>
#include <sys/timerfd.h>

#include "virtio/device/net/packet_check.hpp"

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

// The sum of RFC 1071 over all 16-bit words as they lie in memory, an odd last byte with a zero.
std::uint16_t internet_checksum(std::span<const std::byte> bytes) {
    std::uint64_t sum = 0;
    const std::byte* at = bytes.data();
    std::size_t left = bytes.size();
    for (; left >= 4; left -= 4, at += 4) {
        std::uint32_t word = 0;
        std::memcpy(&word, at, sizeof word);
        sum += word;
    }
    std::uint32_t last = 0;
    if (left > 0)
        std::memcpy(&last, at, left);
    sum += last;
    while (sum >> 16 != 0)
        sum = (sum & 0xffff) + (sum >> 16);
    return static_cast<std::uint16_t>(~sum);
}

} // namespace

in_addr UserNetConfig::address4(std::uint8_t host) const {
    return {htonl(network | host)};
}

in6_addr UserNetConfig::address6(std::uint8_t host) {
    in6_addr address{};
    constexpr std::uint8_t prefix[] = {0xfd, 0x6a, 0x6f, 0x65, 0x79};
    std::copy(std::begin(prefix), std::end(prefix), address.s6_addr);
    address.s6_addr[15] = host;
    return address;
}

struct UserNet::Timer {
    SlirpTimerId id;
    void* argument;
    std::uint64_t at_ms = 0; // 0: not armed
};

// libslirp's view of us.
struct UserNet::Callbacks {
    static UserNet& self(void* opaque) { return *static_cast<UserNet*>(opaque); }

    static ssize_t send_packet(const void* buffer, size_t length, void* opaque) {
        self(opaque).to_guest({static_cast<const std::byte*>(buffer), length});
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
    static void register_poll_fd(int, void*) {}
    static void unregister_poll_fd(int fd, void* opaque) { self(opaque).poll_.forget(fd); }
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
    : config_(config), poll_(std::move(poll)), timer_(std::move(timer)), frame_(net_max_frame) {
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
    settings.vdhcp_start = config_.address4(UserNetConfig::guest);
    settings.vnameserver = config_.address4(UserNetConfig::resolver);
    settings.vnameserver6 = UserNetConfig::address6(UserNetConfig::resolver);
    settings.vdnssearch = search.size() > 1 ? search.data() : nullptr;
    settings.if_mtu = settings.if_mru = std::min<std::size_t>(config_.mtu, 65521);
    settings.disable_host_loopback = !config_.host_loopback;
    settings.disable_dhcp = true; // the guest is told by its kernel's boot parameters
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
    refill();
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
        guest6.sin6_addr = UserNetConfig::address6(UserNetConfig::guest);
        guest6.sin6_port = htons(port.guest_port);
        failed = slirp_add_hostxfwd(slirp_, generic(&host6), sizeof host6, generic(&guest6),
                                    sizeof guest6, udp | SLIRP_HOSTFWD_V6ONLY);
    } else {
        host4.sin_family = guest4.sin_family = AF_INET;
        host4.sin_addr = port.host4;
        host4.sin_port = htons(port.host_port);
        guest4.sin_addr = config_.address4(UserNetConfig::guest);
        guest4.sin_port = htons(port.guest_port);
        failed = slirp_add_hostxfwd(slirp_, generic(&host4), sizeof host4, generic(&guest4),
                                    sizeof guest4, udp);
    }
    if (failed != 0)
        return base::Failure(HostError{errno, "listen"});
    return {};
}

std::uint64_t UserNet::offloads() const {
    // A segment of 64 KiB needs no cutting: libslirp takes the payload and acknowledges it.
    return net_bit(net_feature_csum) | net_bit(net_feature_guest_csum) |
           net_bit(net_feature_host_tso4) | net_bit(net_feature_host_tso6);
}

// ---- from the guest ------------------------------------------------------------------------

// libslirp keeps the guest from the host's loopback by the gateway's address only; what is
// addressed to 127.0.0.1 itself it would connect to.
bool UserNet::forbidden(std::span<const std::byte> frame) const {
    if (config_.host_loopback)
        return false;
    const PacketLayout layout =
        read_layout(frame.first(std::min<std::size_t>(frame.size(), net_head_bytes)));
    if (layout.ip_version == 4) {
        // Linux takes 0.0.0.0 for itself as well.
        const auto first = std::to_integer<unsigned>(frame[layout.network + 16u]);
        return first == 127 || first == 0;
    }
    if (layout.ip_version != 6)
        return false;
    in6_addr to{};
    std::memcpy(&to, frame.data() + layout.network + 24, sizeof to);
    return IN6_IS_ADDR_LOOPBACK(&to) || IN6_IS_ADDR_UNSPECIFIED(&to) || IN6_IS_ADDR_V4MAPPED(&to) ||
           IN6_IS_ADDR_V4COMPAT(&to);
}

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
    if (forbidden(whole))
        return Sent::Refused;
    if ((header.flags & net_needs_csum) != 0) {
        // The field holds the sum of the pseudo header; it was checked to lie inside.
        std::uint16_t sum = internet_checksum(whole.subspan(header.csum_start));
        // RFC 768: none is written as 0xffff, which is as good for TCP.
        if (sum == 0)
            sum = 0xffff;
        std::memcpy(whole.data() + header.csum_start + header.csum_offset, &sum, sizeof sum);
    }
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

// Asks libslirp what it waits for next.
void UserNet::refill() {
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
