#include "virtio/backend/net/tap.hpp"

#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <fcntl.h>

#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

namespace virtio {

namespace {

// linux/if_tun.h since 6.2; the running kernel may know them although our headers do not.
constexpr unsigned tun_uso = 0x20 | 0x40; // TUN_F_USO4, TUN_F_USO6

base::Failure<TapError> fail(std::string reason) {
    return base::Failure(TapError{std::move(reason)});
}

base::Failure<TapError> fail_errno(const char* action) {
    return fail(std::string(action) + ": " + std::strerror(errno));
}

// Opens another queue of the interface; errno if that fails.
UniqueFd open_queue(const std::string& name, bool multi_queue) {
    UniqueFd fd(::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
    if (!fd)
        return fd;
    struct ifreq request {};
    name.copy(request.ifr_name, IFNAMSIZ - 1);
    request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR |
                                           (multi_queue ? IFF_MULTI_QUEUE : 0));
    if (::ioctl(fd.get(), TUNSETIFF, &request) != 0)
        fd.reset();
    return fd;
}

std::uint16_t interface_mtu(const std::string& name) {
    const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    struct ifreq request {};
    name.copy(request.ifr_name, IFNAMSIZ - 1);
    constexpr int least = 68;
    constexpr int most = 65535;
    if (!socket || ::ioctl(socket.get(), SIOCGIFMTU, &request) != 0)
        return 1500;
    return static_cast<std::uint16_t>(std::clamp(request.ifr_mtu, least, most));
}

} // namespace

class Tap::Port final : public NetPort {
public:
    Port(EventLoop& loop, int fd) : loop_(loop), fd_(fd) {}
    Port(const Port&) = delete;
    Port& operator=(const Port&) = delete;
    ~Port() override {
        if (watched_)
            loop_.remove(fd_);
    }

    base::Result<void, HostError> connect() {
        TRY(loop_.add(fd_, {}, [this](Readiness ready) { on_ready(ready); }));
        watched_ = true;
        return {};
    }

    void attach(NetPortEvents& events) override { events_ = &events; }

    Sent send(const NetHeader& header, std::span<const struct iovec> frame, std::size_t) override {
        std::array<struct iovec, max_pieces> pieces;
        if (frame.size() + 1 > pieces.size())
            return Sent::Refused;
        // writev reads only.
        pieces[0] = {const_cast<NetHeader*>(&header), sizeof header};
        std::copy(frame.begin(), frame.end(), pieces.begin() + 1);
        while (::writev(fd_, pieces.data(), static_cast<int>(frame.size()) + 1) < 0) {
            if (errno == EAGAIN) {
                wants_write_ = true;
                update();
                return Sent::Full;
            }
            // EIO: the interface is down. EINVAL: the host's kernel sees a packet differently.
            if (errno != EINTR)
                return Sent::Refused;
        }
        return Sent::Taken;
    }

    std::size_t receive(std::span<const struct iovec> room) override {
        ssize_t got = 0;
        do {
            got = ::readv(fd_, room.data(), static_cast<int>(room.size()));
        } while (got < 0 && errno == EINTR);
        return got > 0 ? static_cast<std::size_t>(got) : 0;
    }

    void watch(bool on) override {
        wants_read_ = on;
        if (on && !watched_) // it was detached; if it still is, we hear of it at once
            static_cast<void>(connect());
        update();
    }

private:
    static constexpr std::size_t max_pieces = 1024; // IOV_MAX

    void update() {
        if (watched_)
            static_cast<void>(loop_.modify(fd_, {.read = wants_read_, .write = wants_write_}));
    }

    void on_ready(Readiness ready) {
        if (ready.hangup) {
            // Detached, or the interface is gone: the loop would tell of it without end.
            loop_.remove(fd_);
            watched_ = false;
            return;
        }
        if (ready.writable && wants_write_) {
            wants_write_ = false;
            update();
            events_->writable();
        }
        if (ready.readable && wants_read_)
            events_->readable();
    }

    EventLoop& loop_;
    const int fd_;
    NetPortEvents* events_ = nullptr;
    bool watched_ = false;
    bool wants_read_ = false;
    bool wants_write_ = false;
};

Tap::Tap() : attached_(0) {}
Tap::~Tap() = default;

base::Result<std::unique_ptr<Tap>, TapError> Tap::open(const std::string& name,
                                                       unsigned most_pairs) {
    if (name.empty() || name.size() >= IFNAMSIZ)
        return fail("not the name of an interface");
    // TUNSETIFF would make one, which nobody has set up.
    if (::if_nametoindex(name.c_str()) == 0)
        return fail("no such interface; make it with 'ip tuntap add dev " + name + " mode tap'");
    std::vector<UniqueFd> queues;
    if (most_pairs > 1) {
        for (unsigned i = 0; i < most_pairs; ++i) {
            UniqueFd queue = open_queue(name, true);
            if (!queue)
                break;
            queues.push_back(std::move(queue));
        }
    }
    if (queues.empty()) {
        UniqueFd queue = open_queue(name, false);
        // An interface made with multi_queue takes nothing else, be it for one.
        if (!queue && errno == EINVAL)
            queue = open_queue(name, true);
        if (!queue && errno == EINVAL)
            return fail("not a TAP interface");
        if (!queue && errno == EBUSY)
            return fail("in use by another program");
        if (!queue)
            return fail_errno("cannot be opened");
        queues.push_back(std::move(queue));
    }
    return adopt(std::move(queues));
}

base::Result<std::unique_ptr<Tap>, TapError> Tap::adopt(std::vector<UniqueFd> descriptors) {
    std::unique_ptr<Tap> tap(new Tap());
    tap->descriptors_ = std::move(descriptors);
    TRY(tap->set_up());
    return tap;
}

base::Result<void, TapError> Tap::set_up() {
    for (const UniqueFd& fd : descriptors_) {
        struct ifreq request {};
        if (::ioctl(fd.get(), TUNGETIFF, &request) != 0)
            return fail("not a descriptor of a TAP interface");
        const std::string name(request.ifr_name, ::strnlen(request.ifr_name, IFNAMSIZ));
        if (!name_.empty() && name != name_)
            return fail("the descriptors belong to different interfaces");
        name_ = name;
        const auto flags = static_cast<unsigned short>(request.ifr_flags);
        if ((flags & IFF_TAP) == 0)
            return fail("a TUN, not a TAP interface");
        if ((flags & IFF_VNET_HDR) == 0 || (flags & IFF_NO_PI) == 0)
            return fail("was opened without IFF_VNET_HDR and IFF_NO_PI");
        int header = sizeof(NetHeader);
        if (::ioctl(fd.get(), TUNSETVNETHDRSZ, &header) != 0)
            return fail_errno("does not take packet headers of 12 bytes");
        const int status = ::fcntl(fd.get(), F_GETFL);
        if (status < 0 || ::fcntl(fd.get(), F_SETFL, status | O_NONBLOCK) != 0)
            return fail_errno("cannot be made non-blocking");
    }
    const int fd = descriptors_[0].get();
    // A kernel that does not know them refuses the lot.
    constexpr unsigned all = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
    segments_udp_ = ::ioctl(fd, TUNSETOFFLOAD, all | tun_uso) == 0;
    if (::ioctl(fd, TUNSETOFFLOAD, 0) != 0)
        return fail_errno("does not know offloads");
    mtu_ = interface_mtu(name_);
    attached_ = pairs();
    return {};
}

base::Result<void, HostError> Tap::connect(std::span<EventLoop* const> loops) {
    assert(loops.size() == descriptors_.size());
    for (std::size_t i = 0; i < loops.size(); ++i) {
        ports_.push_back(std::make_unique<Port>(*loops[i], descriptors_[i].get()));
        TRY(ports_.back()->connect());
    }
    return {};
}

NetPort& Tap::port(unsigned pair) {
    return *ports_[pair];
}

std::uint64_t Tap::offloads() const {
    std::uint64_t bits = 0;
    for (const NetFeature feature :
         {net_feature_csum, net_feature_guest_csum, net_feature_host_tso4, net_feature_host_tso6,
          net_feature_host_ecn, net_feature_guest_tso4, net_feature_guest_tso6,
          net_feature_guest_ecn})
        bits |= net_bit(feature);
    if (segments_udp_)
        bits |= net_bit(net_feature_host_uso) | net_bit(net_feature_guest_uso4) |
                net_bit(net_feature_guest_uso6);
    return bits;
}

void Tap::set_guest_offloads(std::uint64_t features) {
    const auto has = [features](NetFeature feature) { return (features & net_bit(feature)) != 0; };
    unsigned flags = 0;
    if (has(net_feature_guest_csum)) {
        flags |= TUN_F_CSUM;
        flags |= has(net_feature_guest_tso4) ? TUN_F_TSO4 : 0u;
        flags |= has(net_feature_guest_tso6) ? TUN_F_TSO6 : 0u;
        const bool tso = has(net_feature_guest_tso4) || has(net_feature_guest_tso6);
        flags |= tso && has(net_feature_guest_ecn) ? TUN_F_TSO_ECN : 0u;
        // One for both in the kernel as well: it wants them together.
        if (has(net_feature_guest_uso4) && has(net_feature_guest_uso6))
            flags |= tun_uso;
    }
    // What it would refuse, the device throws away (may_receive).
    ::ioctl(descriptors_[0].get(), TUNSETOFFLOAD, flags);
}

void Tap::set_active_pairs(unsigned wanted) {
    for (; attached_ < wanted; ++attached_) {
        struct ifreq request {};
        request.ifr_flags = IFF_ATTACH_QUEUE;
        ::ioctl(descriptors_[attached_].get(), TUNSETQUEUE, &request);
    }
    for (; attached_ > std::max(wanted, 1u); --attached_) {
        struct ifreq request {};
        request.ifr_flags = IFF_DETACH_QUEUE;
        ::ioctl(descriptors_[attached_ - 1].get(), TUNSETQUEUE, &request);
    }
}

} // namespace virtio
