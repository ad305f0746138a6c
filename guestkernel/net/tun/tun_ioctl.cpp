// What ioctl(2) does to an open /dev/net/tun.
#include <asm/ioctl.h>
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>

#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/namespaces/user_namespace.hpp"
#include "guestkernel/net/netlink/route/link_kind.hpp"
#include "guestkernel/net/offload_header.hpp"
#include "guestkernel/net/tun/tun_file.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel::net {

namespace {

struct LinkAddress { // struct sockaddr
    u16 type;
    u8 bytes[14];
};

struct TunRequest { // struct ifreq
    char name[16];
    union {
        u16 flags;
        LinkAddress address;
        u8 all[24];
    };
    std::string_view text() const {
        usize length = 0;
        while (length < sizeof name - 1 && name[length] != 0)
            length++;
        return {name, length};
    }
    void set_name(std::string_view text) {
        __builtin_memset(name, 0, sizeof name);
        __builtin_memcpy(name, text.data(), text.size());
    }
};
static_assert(sizeof(TunRequest) == 40);

// IFF_NAPI is accepted and shown: what a program writes is received in batches anyway.
constexpr u16 framing_flags =
    IFF_NO_PI | IFF_ONE_QUEUE | IFF_VNET_HDR | IFF_MULTI_QUEUE | IFF_NAPI | IFF_NAPI_FRAGS;
constexpr u32 accept_udp_segments = 0x20 | 0x40; // TUN_F_USO4, TUN_F_USO6; together only

// IFF_TUN, IFF_TAP, or 0: neither.
u16 type_in(u16 flags) {
    return (flags & IFF_TUN) != 0 ? u16{IFF_TUN} : static_cast<u16>(flags & IFF_TAP);
}

// The owner, a member of the group, or an administrator of the network; anybody if there are none.
bool may_attach(const TunInterface& device, const Stack& stack) {
    const Credentials& who = *current_task().credentials;
    const u32 owner = device.owner.load(), group = device.owner_group.load();
    const bool stranger = (owner != TunInterface::nobody && owner != who.euid) ||
                          (group != TunInterface::nobody && !who.in_group(group));
    return !stranger || capable_over(stack.owner(), CAP_NET_ADMIN);
}

Result<void> set_offloads(TunInterface& device, u64 wanted) {
    u32 features = 0;
    if ((wanted & TUN_F_CSUM) != 0) {
        features |= feature_checksum;
        features |= (wanted & TUN_F_TSO4) != 0 ? feature_tso4 : 0u;
        features |= (wanted & TUN_F_TSO6) != 0 ? feature_tso6 : 0u;
        if ((wanted & accept_udp_segments) == accept_udp_segments) {
            features |= feature_uso;
            wanted &= ~u64{accept_udp_segments};
        }
        if ((wanted & (TUN_F_TSO4 | TUN_F_TSO6)) != 0)
            wanted &= ~u64{TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN};
        wanted &= ~u64{TUN_F_CSUM | TUN_F_UFO};
    }
    if (wanted != 0)
        return fail(EINVAL);
    device.set_offloads(features);
    return {};
}

Result<void> set_owner(base::Atomic<u32>& place, bool group, u64 id) {
    const u32 global =
        to_global_id(current_task().credentials->user_ns.get(), group, static_cast<u32>(id));
    if (global == invalid_id)
        return fail(EINVAL);
    place.store(global);
    return {};
}

Result<void> get_mac(const TunInterface& device, u64 argument) {
    TRY(TunRequest out, UserPtr<TunRequest>(argument).copy_in()); // its name stays
    out.address.type = static_cast<u16>(device.type());
    __builtin_memcpy(out.address.bytes, device.mac().bytes, sizeof device.mac().bytes);
    return UserPtr<TunRequest>(argument).copy_out(out);
}

Result<void> set_mac(TunInterface& device, u64 argument) {
    TRY(const TunRequest wanted, UserPtr<const TunRequest>(argument).copy_in());
    if (!device.has_link_addresses())
        return fail(EOPNOTSUPP);
    if (wanted.address.type != static_cast<u16>(device.type()))
        return fail(EINVAL);
    MacAddress mac;
    __builtin_memcpy(mac.bytes, wanted.address.bytes, sizeof mac.bytes);
    const Ref<Stack> at = device.stack();
    return at ? at->set_mac(device, mac) : fail(EBADFD);
}

// TUNSETTXFILTER's argument: struct tun_filter and its addresses. The first few are compared, of
// the others groups only, by their hashes; with more of stations than are compared all frames pass.
// Returns how many are compared, as Linux does.
Result<long> set_transmit_filter(TunInterface& device, u64 argument) {
    if (!device.has_link_addresses())
        return fail(EINVAL);
    struct {
        u16 flags, count;
    } wanted{};
    static_assert(sizeof wanted == sizeof(tun_filter));
    TRY(copy_in_bytes(&wanted, argument, sizeof wanted));
    Vector<MacAddress> addresses;
    TRY(addresses.resize(wanted.count));
    TRY(copy_in_bytes(addresses.data(), argument + sizeof wanted,
                      addresses.size() * sizeof(MacAddress)));
    TransmitFilter filter;
    u32 count = 0;
    for (const MacAddress& address : addresses) {
        if (count < TransmitFilter::most_exact) {
            filter.exact[count++] = address;
            continue;
        }
        if ((address.bytes[0] & 1) == 0) {
            device.set_transmit_filter({});
            return 0;
        }
        filter.groups |= TransmitFilter::bit(address);
    }
    if ((wanted.flags & TUN_FLT_ALLMULTI) != 0)
        filter.groups = ~u64{0};
    filter.count = count;
    device.set_transmit_filter(filter);
    return static_cast<long>(count);
}

} // namespace

// A new one, which goes with the file unless somebody makes it persistent.
Result<Ref<TunInterface>> TunFile::make_interface(std::string_view name, u16 flags) {
    if (!capable_over(stack_->owner(), CAP_NET_ADMIN))
        return fail(EPERM);
    const u16 type = type_in(flags);
    if (type == 0)
        return fail(EINVAL);
    if (name.empty())
        name = type == IFF_TAP ? "tap%d" : "tun%d";
    TRY(Ref<TunInterface> made, make_ref<TunInterface>(name, type == IFF_TAP));
    if (type == IFF_TAP)
        TRY(static_cast<Interface&>(*made).set_mac(netlink::random_mac()));
    made->framing.store(flags & framing_flags);
    TRY(stack_->attach(made, wanted_index_));
    return made;
}

Result<Ref<TunInterface>> TunFile::attach(std::string_view name, u16 flags) {
    if ((flags & IFF_NAPI_FRAGS) != 0) {
        if (!capable_over(nullptr, CAP_NET_ADMIN))
            return fail(EPERM);
        if ((flags & IFF_NAPI) == 0 || type_in(flags) != IFF_TAP)
            return fail(EINVAL);
    }
    Ref<Interface> there = name.empty() ? Ref<Interface>() : stack_->interface(name);
    Ref<TunInterface> device;
    if (there) {
        if ((flags & IFF_TUN_EXCL) != 0)
            return fail(EBUSY);
        const u16 type = there->has_link_addresses() ? IFF_TAP : IFF_TUN;
        if (there->kind() != "tun" || type_in(flags) != type)
            return fail(EINVAL);
        device = Ref<TunInterface>::share(static_cast<TunInterface*>(there.get()));
        if (((device->framing.load() ^ flags) & IFF_MULTI_QUEUE) != 0)
            return fail(EINVAL);
        if (!may_attach(*device, *stack_))
            return fail(EPERM);
    } else {
        TRY(device, make_interface(name, flags));
    }
    TRY(device->add(queue_));
    if (device->queue_counts().all > 1) // another file has said already how it is to be
        return device;
    device->set_wanted_carrier((flags & IFF_NO_CARRIER) == 0);
    device->framing.store(flags & framing_flags);
    return device;
}

Result<void> TunFile::set_interface(u64 argument) {
    TRY(TunRequest request, UserPtr<const TunRequest>(argument).copy_in());
    TRY(Ref<TunInterface> attached, attach(request.text(), request.flags));
    request.set_name(attached->name());
    {
        SpinGuard guard(lock_);
        device_ = std::move(attached);
    }
    return UserPtr<TunRequest>(argument).copy_out(request);
}

// TUNSETQUEUE: its share of packets is given up, or asked for again.
Result<void> TunFile::set_queue(u64 argument) {
    TRY(const TunRequest request, UserPtr<const TunRequest>(argument).copy_in());
    const bool attach = (request.flags & IFF_ATTACH_QUEUE) != 0;
    const auto own = device();
    if (!own || (!attach && (request.flags & IFF_DETACH_QUEUE) == 0) ||
        ((*own)->framing.load() & IFF_MULTI_QUEUE) == 0)
        return fail(EINVAL);
    return (*own)->set_active(queue_, attach) ? Result<void>() : Result<void>(fail(EINVAL));
}

Result<void> TunFile::get_interface(TunInterface& device, u64 argument) {
    TunRequest out{};
    out.set_name(device.name());
    out.flags = static_cast<u16>(device.shown_flags() | IFF_NOFILTER |
                                 (device.is_active(queue_) ? 0 : IFF_DETACH_QUEUE));
    return UserPtr<TunRequest>(argument).copy_out(out);
}

// Numbers by address, which count for the file.
Result<void> TunFile::change_number(u32 command, u64 argument) {
    const UserPtr<i32> place(argument);
    switch (command) {
    case TUNGETVNETHDRSZ:
        return place.copy_out(static_cast<i32>(header_bytes_.load()));
    case TUNGETSNDBUF:
        return place.copy_out(send_buffer_.load());
    case TUNGETVNETLE:
        return place.copy_out(1);
    default:
        break;
    }
    TRY(const i32 wanted, place.copy_in());
    switch (command) {
    case TUNSETVNETHDRSZ:
        if (wanted < i32{sizeof(OffloadHeader)})
            return fail(EINVAL);
        header_bytes_.store(static_cast<u32>(wanted));
        return {};
    case TUNSETSNDBUF: // what is written is received at once
        if (wanted <= 0)
            return fail(EINVAL);
        send_buffer_.store(wanted);
        return {};
    default: // TUNSETVNETLE: they are little-endian anyway
        return {};
    }
}

Result<long> TunFile::ioctl(u32 command, u64 argument) {
    MutexGuard guard(changes_);
    if (command == TUNGETFEATURES) {
        TRY(UserPtr<u32>(argument).copy_out(
            u32{IFF_TUN | IFF_TAP | IFF_NO_CARRIER | framing_flags}));
        return 0;
    }
    if (command == TUNSETIFF || command == TUNSETIFINDEX) {
        if (device())
            return fail(command == TUNSETIFF ? EEXIST : EPERM);
        if (device_)
            return fail(EBADFD); // deleted: the file is of no more use
        if (command == TUNSETIFF) {
            TRY(set_interface(argument));
            return 0;
        }
        TRY(const i32 index, UserPtr<const i32>(argument).copy_in());
        if (index < 0)
            return fail(EINVAL);
        wanted_index_ = static_cast<u32>(index);
        return 0;
    }
    if (command == TUNSETQUEUE) {
        TRY(set_queue(argument));
        return 0;
    }
    TRY(const Ref<TunInterface> own, device());
    if (command == TUNSETTXFILTER)
        return set_transmit_filter(*own, argument);
    const auto serve = [&]() -> Result<void> {
        switch (command) {
        case TUNGETIFF:
            return get_interface(*own, argument);
        case SIOCGIFHWADDR:
            return get_mac(*own, argument);
        case SIOCSIFHWADDR:
            return set_mac(*own, argument);
        case TUNSETPERSIST:
            own->persistent.store(argument != 0);
            return {};
        case TUNSETOWNER:
            return set_owner(own->owner, false, argument);
        case TUNSETGROUP:
            return set_owner(own->owner_group, true, argument);
        case TUNSETOFFLOAD:
            return set_offloads(*own, argument);
        case TUNSETCARRIER: {
            TRY(const i32 on, UserPtr<const i32>(argument).copy_in());
            own->set_wanted_carrier(on != 0);
            return {};
        }
        case TUNSETNOCSUM: // nothing to do, on Linux either
        case TUNSETDEBUG:
            return {};
        case TUNGETVNETHDRSZ:
        case TUNSETVNETHDRSZ:
        case TUNGETSNDBUF:
        case TUNSETSNDBUF:
        case TUNGETVNETLE:
        case TUNSETVNETLE:
            return change_number(command, argument);
        default:
            return fail(EINVAL);
        }
    };
    TRY(serve());
    return 0;
}

} // namespace kernel::net
