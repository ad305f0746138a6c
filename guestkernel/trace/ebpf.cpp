#include "guestkernel/trace/ebpf.hpp"

#include <linux/bpf.h>

namespace kernel {

namespace {

constexpr u32 stack_bytes = 512; // bpf-helpers(7): MAX_BPF_STACK

struct Machine {
    u64 registers[MAX_BPF_REG] = {};
    u8 stack[stack_bytes] = {};
};

u32 access_bytes(u8 code) {
    switch (BPF_SIZE(code)) {
    case BPF_B:
        return 1;
    case BPF_H:
        return 2;
    case BPF_W:
        return 4;
    default:
        return 8; // BPF_DW
    }
}

u64 swap_to(u64 value, bool big_endian, i32 bits) {
    switch (bits) {
    case 16:
        return big_endian ? __builtin_bswap16(static_cast<u16>(value)) : static_cast<u16>(value);
    case 32:
        return big_endian ? __builtin_bswap32(static_cast<u32>(value)) : static_cast<u32>(value);
    default:
        return big_endian ? __builtin_bswap64(value) : value;
    }
}

// Both widths: T is u64 or u32, S the same with a sign.
template <typename T, typename S>
T calculate(u8 operation, T left, T right) {
    constexpr T shift_mask = sizeof(T) * 8 - 1;
    switch (operation) {
    case BPF_ADD:
        return left + right;
    case BPF_SUB:
        return left - right;
    case BPF_MUL:
        return left * right;
    case BPF_DIV:
        return right == 0 ? 0 : left / right;
    case BPF_MOD:
        return right == 0 ? left : left % right;
    case BPF_OR:
        return left | right;
    case BPF_AND:
        return left & right;
    case BPF_XOR:
        return left ^ right;
    case BPF_LSH:
        return left << (right & shift_mask);
    case BPF_RSH:
        return left >> (right & shift_mask);
    case BPF_ARSH:
        return static_cast<T>(static_cast<S>(left) >> (right & shift_mask));
    case BPF_NEG:
        return 0 - left;
    default:
        return right; // BPF_MOV
    }
}

template <typename T, typename S>
bool compare(u8 operation, T left, T right) {
    const auto a = static_cast<S>(left), b = static_cast<S>(right);
    switch (operation) {
    case BPF_JEQ:
        return left == right;
    case BPF_JNE:
        return left != right;
    case BPF_JGT:
        return left > right;
    case BPF_JGE:
        return left >= right;
    case BPF_JLT:
        return left < right;
    case BPF_JLE:
        return left <= right;
    case BPF_JSET:
        return (left & right) != 0;
    case BPF_JSGT:
        return a > b;
    case BPF_JSGE:
        return a >= b;
    case BPF_JSLT:
        return a < b;
    default:
        return a <= b; // BPF_JSLE
    }
}

u64 operand(const Machine& machine, const EbpfInstruction& step) {
    return BPF_SRC(step.code) == BPF_X ? machine.registers[step.source()]
                                       : static_cast<u64>(i64{step.immediate});
}

u64 load(const Machine& machine, const EbpfInstruction& step, std::span<const u8> context) {
    u64 value = 0;
    const u8* from = step.source() == BPF_REG_10 ? machine.stack + stack_bytes : context.data();
    __builtin_memcpy(&value, from + step.offset, access_bytes(step.code));
    return value;
}

void store(Machine& machine, const EbpfInstruction& step) {
    const u64 value = BPF_CLASS(step.code) == BPF_STX ? machine.registers[step.source()]
                                                      : static_cast<u64>(i64{step.immediate});
    __builtin_memcpy(machine.stack + stack_bytes + step.offset, &value, access_bytes(step.code));
}

bool jumps(const Machine& machine, const EbpfInstruction& step) {
    const u64 left = machine.registers[step.destination()], right = operand(machine, step);
    if (BPF_CLASS(step.code) == BPF_JMP32)
        return compare<u32, i32>(BPF_OP(step.code), static_cast<u32>(left),
                                 static_cast<u32>(right));
    return compare<u64, i64>(BPF_OP(step.code), left, right);
}

} // namespace

u64 run_ebpf(std::span<const EbpfInstruction> program, std::span<const u8> context) {
    Machine machine;
    for (usize at = 0;; at++) {
        const EbpfInstruction& step = program[at];
        u64& target = machine.registers[step.destination()];
        switch (BPF_CLASS(step.code)) {
        case BPF_ALU:
            if (BPF_OP(step.code) == BPF_END)
                target = swap_to(target, BPF_SRC(step.code) == BPF_TO_BE, step.immediate);
            else
                target = calculate<u32, i32>(BPF_OP(step.code), static_cast<u32>(target),
                                             static_cast<u32>(operand(machine, step)));
            break;
        case BPF_ALU64:
            target = calculate<u64, i64>(BPF_OP(step.code), target, operand(machine, step));
            break;
        case BPF_LDX:
            target = load(machine, step, context);
            break;
        case BPF_ST:
        case BPF_STX:
            store(machine, step);
            break;
        case BPF_LD: // a 64-bit constant, in two instructions
            target = static_cast<u32>(step.immediate) |
                     u64{static_cast<u32>(program[at + 1].immediate)} << 32;
            at++;
            break;
        default: // BPF_JMP, BPF_JMP32
            if (BPF_OP(step.code) == BPF_EXIT)
                return machine.registers[BPF_REG_0];
            if (BPF_OP(step.code) == BPF_JA || jumps(machine, step))
                at += static_cast<usize>(step.offset);
            break;
        }
    }
}

} // namespace kernel
