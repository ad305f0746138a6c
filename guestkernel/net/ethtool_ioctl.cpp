// SIOCETHTOOL: what tools ask of an interface's driver (ethtool(8), tcpdump's time stamps). Nothing
// can be set by it. linux/ethtool.h.
#include <linux/errno.h>
#include <linux/ethtool.h>
#include <linux/if.h>

#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/net/inet_socket.hpp"
#include "guestkernel/net/interface.hpp"

namespace kernel::net {

namespace {

template <usize N>
void copy_name(char (&to)[N], std::string_view name) {
    __builtin_memcpy(to, name.data(), name.size() < N ? name.size() : N - 1);
}

Result<void> tell_driver(Interface& interface, u64 user) {
    if (interface.driver().empty())
        return fail(EOPNOTSUPP);
    ethtool_drvinfo info{};
    info.cmd = ETHTOOL_GDRVINFO;
    copy_name(info.driver, interface.driver());
    copy_name(info.version, "1.0");
    return UserPtr<ethtool_drvinfo>(user).copy_out(info);
}

// Packets are stamped when the kernel gets them and when it hands them over; there is no clock in
// the device.
Result<void> tell_time_stamps(u64 user) {
    ethtool_ts_info info{};
    info.cmd = ETHTOOL_GET_TS_INFO;
    info.so_timestamping = 1u << 3 | 1u << 4; // SOF_TIMESTAMPING_RX_SOFTWARE, _SOFTWARE
    info.phc_index = -1;
    return UserPtr<ethtool_ts_info>(user).copy_out(info);
}

Result<void> tell_value(u32 command, bool value, u64 user) {
    return UserPtr<ethtool_value>(user).copy_out(ethtool_value{command, value});
}

} // namespace

Result<void> ethtool_ioctl(Interface& interface, u64 user) {
    TRY(const u32 command, UserPtr<u32>(user).copy_in());
    const auto has = [&](u32 features) { return (interface.features() & features) != 0; };
    switch (command) {
    case ETHTOOL_GDRVINFO:
        return tell_driver(interface, user);
    case ETHTOOL_GET_TS_INFO:
        return tell_time_stamps(user);
    case ETHTOOL_GLINK:
        return tell_value(command, (interface.flags() & IFF_LOWER_UP) != 0, user);
    case ETHTOOL_GRXCSUM:
    case ETHTOOL_GTXCSUM:
        return tell_value(command, has(feature_checksum), user);
    case ETHTOOL_GSG:
        return tell_value(command, has(feature_fragments), user);
    case ETHTOOL_GTSO:
        return tell_value(command, has(feature_tso4 | feature_tso6), user);
    case ETHTOOL_GGSO:
    case ETHTOOL_GGRO:
        return tell_value(command, true, user);
    case ETHTOOL_GUFO:
    case ETHTOOL_GFLAGS:
        return tell_value(command, false, user);
    default:
        return fail(EOPNOTSUPP);
    }
}

} // namespace kernel::net
