#include "guestkernel/net/socket_filter.hpp"

#include <linux/errno.h>
#include <linux/filter.h>

#include "guestkernel/arch/arch.hpp"
#include "guestkernel/core/random.hpp"
#include "guestkernel/mm/user_copy.hpp"

namespace kernel::net {

namespace {

constexpr u32 words = BPF_MEMWORDS;

Result<void> check_one(const FilterInstruction& step, usize rest) {
    switch (BPF_CLASS(step.code)) {
    case BPF_LD:
    case BPF_LDX: {
        const u16 mode = BPF_MODE(step.code);
        if (mode == BPF_MEM)
            return step.k < words ? Result<void>() : fail(EINVAL);
        if (mode == BPF_IMM || mode == BPF_LEN)
            return {};
        if (BPF_CLASS(step.code) == BPF_LDX)
            return step.code == (BPF_LDX | BPF_B | BPF_MSH) ? Result<void>() : fail(EINVAL);
        if (mode != BPF_ABS && mode != BPF_IND)
            return fail(EINVAL);
        return BPF_SIZE(step.code) <= BPF_B ? Result<void>() : fail(EINVAL);
    }
    case BPF_ST:
    case BPF_STX:
        return step.k < words ? Result<void>() : fail(EINVAL);
    case BPF_ALU: {
        const u16 operation = BPF_OP(step.code);
        if ((operation == BPF_DIV || operation == BPF_MOD) && BPF_SRC(step.code) == BPF_K &&
            step.k == 0)
            return fail(EINVAL);
        if ((operation == BPF_LSH || operation == BPF_RSH) && BPF_SRC(step.code) == BPF_K &&
            step.k >= 32)
            return fail(EINVAL);
        return operation <= BPF_XOR ? Result<void>() : fail(EINVAL);
    }
    case BPF_JMP:
        if (BPF_OP(step.code) == BPF_JA)
            return step.k < rest ? Result<void>() : fail(EINVAL);
        if (BPF_OP(step.code) > BPF_JSET)
            return fail(EINVAL);
        return step.jump_true < rest && step.jump_false < rest ? Result<void>() : fail(EINVAL);
    case BPF_RET:
        return BPF_RVAL(step.code) == BPF_K || BPF_RVAL(step.code) == BPF_A ? Result<void>()
                                                                            : fail(EINVAL);
    default: // BPF_MISC
        return BPF_MISCOP(step.code) == BPF_TAX || BPF_MISCOP(step.code) == BPF_TXA ? Result<void>()
                                                                                    : fail(EINVAL);
    }
}

struct Machine {
    u32 a = 0, x = 0;
    u32 memory[words] = {}; // all zero: no program reads what it did not write
};

// A load from the packet. False: outside of it, which ends the program.
bool load(const Packet& packet, u32 base, u32 offset, u16 size, u32& out) {
    // Linux's ancillary data (SKF_AD_OFF): those that tcpdump, DHCP clients and servers ask for.
    if (offset >= static_cast<u32>(SKF_AD_OFF)) {
        switch (offset - static_cast<u32>(SKF_AD_OFF)) {
        case SKF_AD_PROTOCOL:
            out = packet.link_protocol;
            return true;
        case SKF_AD_PKTTYPE:
            out = static_cast<u32>(packet.kind);
            return true;
        case SKF_AD_IFINDEX:
            out = packet.ingress_index;
            return true;
        case SKF_AD_MARK:
            out = packet.mark;
            return true;
        case SKF_AD_VLAN_TAG:
            out = packet.vlan;
            return true;
        case SKF_AD_VLAN_TAG_PRESENT:
            out = packet.vlan_present ? 1 : 0;
            return true;
        case SKF_AD_CPU:
            out = arch::cpu_id();
            return true;
        case SKF_AD_QUEUE:
            out = 0;
            return true;
        case SKF_AD_RANDOM:
            out = static_cast<u32>(random_u64());
            return true;
        default:
            return false;
        }
    }
    if (offset > Packet::max_bytes)
        return false;
    switch (size) {
    case BPF_W: {
        Be32 value;
        if (!packet.read(base + offset, value))
            return false;
        out = value.get();
        return true;
    }
    case BPF_H: {
        Be16 value;
        if (!packet.read(base + offset, value))
            return false;
        out = value.get();
        return true;
    }
    default: {
        u8 value = 0;
        if (!packet.read(base + offset, value))
            return false;
        out = value;
        return true;
    }
    }
}

bool calculate(u16 operation, u32& a, u32 operand) {
    switch (operation) {
    case BPF_ADD:
        a += operand;
        return true;
    case BPF_SUB:
        a -= operand;
        return true;
    case BPF_MUL:
        a *= operand;
        return true;
    case BPF_DIV:
    case BPF_MOD:
        if (operand == 0)
            return false;
        a = operation == BPF_DIV ? a / operand : a % operand;
        return true;
    case BPF_OR:
        a |= operand;
        return true;
    case BPF_AND:
        a &= operand;
        return true;
    case BPF_LSH:
        a <<= operand & 31;
        return true;
    case BPF_RSH:
        a >>= operand & 31;
        return true;
    case BPF_NEG:
        a = 0 - a;
        return true;
    default:
        a ^= operand;
        return true;
    }
}

bool compare(u16 operation, u32 a, u32 operand) {
    switch (operation) {
    case BPF_JEQ:
        return a == operand;
    case BPF_JGT:
        return a > operand;
    case BPF_JGE:
        return a >= operand;
    default:
        return (a & operand) != 0;
    }
}

// BPF_LD and BPF_LDX. False: the program ends.
bool run_load(Machine& machine, const FilterInstruction& step, const Packet& packet, u32 base) {
    u32 value = 0;
    switch (BPF_MODE(step.code)) {
    case BPF_IMM:
        value = step.k;
        break;
    case BPF_LEN:
        value = packet.length() - base;
        break;
    case BPF_MEM:
        value = machine.memory[step.k];
        break;
    case BPF_ABS:
        if (!load(packet, base, step.k, BPF_SIZE(step.code), value))
            return false;
        break;
    case BPF_IND:
        if (step.k + machine.x < step.k ||
            !load(packet, base, step.k + machine.x, BPF_SIZE(step.code), value))
            return false;
        break;
    default: // BPF_MSH
        if (!load(packet, base, step.k, BPF_B, value))
            return false;
        value = (value & 0xf) * 4;
        break;
    }
    (BPF_CLASS(step.code) == BPF_LD ? machine.a : machine.x) = value;
    return true;
}

} // namespace

Result<Ref<SocketFilter>> SocketFilter::make(std::span<const FilterInstruction> program) {
    if (program.empty() || program.size() > BPF_MAXINSNS)
        return fail(EINVAL);
    for (usize at = 0; at < program.size(); at++)
        TRY(check_one(program[at], program.size() - at - 1));
    if (BPF_CLASS(program.back().code) != BPF_RET)
        return fail(EINVAL);
    TRY(Ref<SocketFilter> made, make_ref<SocketFilter>());
    TRY(made->program_.append(program));
    return made;
}

Result<Ref<SocketFilter>> SocketFilter::of_user(std::span<const u8> value) {
    struct {
        u16 length;
        u64 program;
    } given{}; // struct sock_fprog
    static_assert(sizeof given == 16);
    if (value.size() != sizeof given)
        return fail(EINVAL);
    __builtin_memcpy(&given, value.data(), sizeof given);
    if (given.length == 0 || given.length > BPF_MAXINSNS)
        return fail(EINVAL);
    Vector<FilterInstruction> program;
    TRY(program.resize(given.length));
    TRY(copy_in_bytes(program.data(), given.program, program.size() * sizeof(FilterInstruction)));
    return make(program.span());
}

u32 SocketFilter::run(const Packet& packet, u32 base) const {
    Machine machine;
    for (usize at = 0;; at++) {
        const FilterInstruction& step = program_.data()[at];
        const u32 operand = BPF_SRC(step.code) == BPF_X ? machine.x : step.k;
        switch (BPF_CLASS(step.code)) {
        case BPF_LD:
        case BPF_LDX:
            if (!run_load(machine, step, packet, base))
                return 0;
            break;
        case BPF_ST:
            machine.memory[step.k] = machine.a;
            break;
        case BPF_STX:
            machine.memory[step.k] = machine.x;
            break;
        case BPF_ALU:
            if (!calculate(BPF_OP(step.code), machine.a, operand))
                return 0;
            break;
        case BPF_JMP:
            if (BPF_OP(step.code) == BPF_JA)
                at += step.k;
            else
                at += compare(BPF_OP(step.code), machine.a, operand) ? step.jump_true
                                                                     : step.jump_false;
            break;
        case BPF_RET:
            return BPF_RVAL(step.code) == BPF_A ? machine.a : step.k;
        default:
            if (BPF_MISCOP(step.code) == BPF_TAX)
                machine.x = machine.a;
            else
                machine.a = machine.x;
            break;
        }
    }
}

} // namespace kernel::net
