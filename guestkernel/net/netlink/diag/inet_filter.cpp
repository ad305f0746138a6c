#include "guestkernel/net/netlink/diag/inet_filter.hpp"

#include <linux/errno.h>
#include <linux/inet_diag.h>

namespace kernel::net::netlink {

namespace {

constexpr u32 op_bytes = sizeof(inet_diag_bc_op);
constexpr int family_none = 0, family_v4 = 2, family_v6 = 10;

inet_diag_bc_op op_at(std::span<const u8> code, usize at) {
    inet_diag_bc_op out;
    __builtin_memcpy(&out, code.data() + at, sizeof out);
    return out;
}

template <typename T>
T argument(std::span<const u8> code, usize at) {
    T out;
    __builtin_memcpy(&out, code.data() + at + op_bytes, sizeof out);
    return out;
}

usize address_bytes(u8 family) {
    return family == family_v6 ? 16 : family == family_v4 ? 4 : 0;
}

// How long the operation at `at` is at least; 0: it is wrong.
u32 least_length(std::span<const u8> code, usize at) {
    const usize left = code.size() - at;
    u32 least = op_bytes;
    switch (op_at(code, at).code) {
    case INET_DIAG_BC_S_COND:
    case INET_DIAG_BC_D_COND: {
        least += sizeof(inet_diag_hostcond);
        if (left < least)
            return 0;
        const auto condition = argument<inet_diag_hostcond>(code, at);
        if (condition.family != family_none && address_bytes(condition.family) == 0)
            return 0;
        least += static_cast<u32>(address_bytes(condition.family));
        if (condition.prefix_len > 8 * address_bytes(condition.family))
            return 0;
        break;
    }
    case INET_DIAG_BC_DEV_COND:
        least += sizeof(u32);
        break;
    case INET_DIAG_BC_S_EQ:
    case INET_DIAG_BC_S_GE:
    case INET_DIAG_BC_S_LE:
    case INET_DIAG_BC_D_EQ:
    case INET_DIAG_BC_D_GE:
    case INET_DIAG_BC_D_LE:
        least += op_bytes; // the port stands in the next one's `no`
        break;
    case INET_DIAG_BC_MARK_COND:
        least += sizeof(inet_diag_markcond);
        break;
    case INET_DIAG_BC_CGROUP_COND:
        least += sizeof(u64);
        break;
    case INET_DIAG_BC_AUTO:
    case INET_DIAG_BC_JMP:
    case INET_DIAG_BC_NOP:
        break;
    default:
        return 0;
    }
    return left < least ? 0 : least;
}

// Whether an operation begins at `target`, going from one to the next.
bool begins_operation(std::span<const u8> code, usize target) {
    usize at = 0;
    while (at < target && code.size() - at >= op_bytes) {
        const u32 step = op_at(code, at).yes;
        if (step < op_bytes || (step & 3) != 0)
            return false;
        at += step;
    }
    return at == target;
}

bool valid_jump(u32 jump, u32 least, usize left) {
    // Past the end by one operation is how a filter says no.
    return jump >= least && jump <= left + op_bytes && (jump & 3) == 0;
}

bool same_bits(const u8* a, const u8* b, unsigned bits) {
    if (__builtin_memcmp(a, b, bits / 8) != 0)
        return false;
    const unsigned rest = bits % 8;
    return rest == 0 || ((a[bits / 8] ^ b[bits / 8]) >> (8 - rest)) == 0;
}

bool host_matches(std::span<const u8> code, usize at, const SocketRecord& record, bool source) {
    const auto condition = argument<inet_diag_hostcond>(code, at);
    const u16 port = source ? record.port : record.peer_port;
    if (condition.port != -1 && condition.port != port)
        return false;
    const IpAddress& address = source ? record.local : record.peer;
    const int family = record.v6 ? family_v6 : family_v4;
    const u8* bytes = record.v6 ? address.bytes() : address.bytes() + 12;
    if (condition.family != family_none && condition.family != family) {
        // An IPv6 socket that talks IPv4.
        if (family != family_v6 || !address.is_v4() || condition.family != family_v4)
            return false;
        bytes = address.bytes() + 12;
    }
    const u8* wanted = code.data() + at + op_bytes + sizeof condition;
    return condition.prefix_len == 0 || same_bits(bytes, wanted, condition.prefix_len);
}

bool holds(std::span<const u8> code, usize at, const SocketRecord& record) {
    const inet_diag_bc_op op = op_at(code, at);
    const auto port = [&] { return argument<inet_diag_bc_op>(code, at).no; };
    switch (op.code) {
    case INET_DIAG_BC_JMP:
        return false;
    case INET_DIAG_BC_S_EQ:
        return record.port == port();
    case INET_DIAG_BC_S_GE:
        return record.port >= port();
    case INET_DIAG_BC_S_LE:
        return record.port <= port();
    case INET_DIAG_BC_D_EQ:
        return record.peer_port == port();
    case INET_DIAG_BC_D_GE:
        return record.peer_port >= port();
    case INET_DIAG_BC_D_LE:
        return record.peer_port <= port();
    case INET_DIAG_BC_AUTO:
        return !record.bound_by_hand;
    case INET_DIAG_BC_S_COND:
    case INET_DIAG_BC_D_COND:
        return host_matches(code, at, record, op.code == INET_DIAG_BC_S_COND);
    case INET_DIAG_BC_DEV_COND:
        return argument<u32>(code, at) == record.interface;
    case INET_DIAG_BC_MARK_COND: {
        const auto condition = argument<inet_diag_markcond>(code, at);
        return (record.mark & condition.mask) == condition.mark;
    }
    case INET_DIAG_BC_CGROUP_COND:
        return false; // sockets belong to no group here
    default:
        return true;
    }
}

} // namespace

Result<void> check_filter(std::span<const u8> code, bool administrator) {
    if (code.size() < op_bytes)
        return fail(EINVAL);
    usize at = 0;
    while (at < code.size()) {
        const usize left = code.size() - at;
        if (left < op_bytes)
            return fail(EINVAL);
        const inet_diag_bc_op op = op_at(code, at);
        if (op.code == INET_DIAG_BC_MARK_COND && !administrator)
            return fail(EPERM);
        const u32 least = least_length(code, at);
        if (least == 0 || !valid_jump(op.yes, least, left))
            return fail(EINVAL);
        if (op.code != INET_DIAG_BC_NOP) {
            if (!valid_jump(op.no, least, left))
                return fail(EINVAL);
            if (op.no < left && !begins_operation(code, at + op.no))
                return fail(EINVAL);
        }
        if (op.yes > left)
            return fail(EINVAL);
        at += op.yes;
    }
    return {};
}

bool run_filter(std::span<const u8> code, const SocketRecord& record) {
    usize at = 0;
    while (at < code.size()) {
        const inet_diag_bc_op op = op_at(code, at);
        at += holds(code, at, record) ? op.yes : op.no;
    }
    return at == code.size();
}

} // namespace kernel::net::netlink
