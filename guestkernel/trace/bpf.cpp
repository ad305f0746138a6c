#include "guestkernel/trace/bpf.hpp"

#include <linux/errno.h>
#include <linux/filter.h>

#include "guestkernel/lib/vector.hpp"

namespace kernel {

namespace {

constexpr u32 memory_words = BPF_MEMWORDS;
constexpr u16 all_words = 0xffff;

u32 load(const SeccompData& data, u32 offset) {
    u32 word = 0;
    __builtin_memcpy(&word, reinterpret_cast<const u8*>(&data) + offset, sizeof word);
    return word;
}

Result<void> check_instruction(const BpfInstruction& step, usize rest) {
    switch (step.code) {
    case BPF_LD | BPF_W | BPF_ABS:
        return step.k % 4 == 0 && step.k < sizeof(SeccompData) ? Result<void>() : fail(EINVAL);
    case BPF_ALU | BPF_DIV | BPF_K:
        return step.k != 0 ? Result<void>() : fail(EINVAL);
    case BPF_ALU | BPF_LSH | BPF_K:
    case BPF_ALU | BPF_RSH | BPF_K:
        return step.k < 32 ? Result<void>() : fail(EINVAL);
    case BPF_LD | BPF_MEM:
    case BPF_LDX | BPF_MEM:
    case BPF_ST:
    case BPF_STX:
        return step.k < memory_words ? Result<void>() : fail(EINVAL);
    case BPF_JMP | BPF_JA:
        return step.k < rest ? Result<void>() : fail(EINVAL);
    case BPF_JMP | BPF_JEQ | BPF_K:
    case BPF_JMP | BPF_JEQ | BPF_X:
    case BPF_JMP | BPF_JGE | BPF_K:
    case BPF_JMP | BPF_JGE | BPF_X:
    case BPF_JMP | BPF_JGT | BPF_K:
    case BPF_JMP | BPF_JGT | BPF_X:
    case BPF_JMP | BPF_JSET | BPF_K:
    case BPF_JMP | BPF_JSET | BPF_X:
        return step.jump_true < rest && step.jump_false < rest ? Result<void>() : fail(EINVAL);
    case BPF_LD | BPF_W | BPF_LEN:
    case BPF_LDX | BPF_W | BPF_LEN:
    case BPF_RET | BPF_K:
    case BPF_RET | BPF_A:
    case BPF_ALU | BPF_ADD | BPF_K:
    case BPF_ALU | BPF_ADD | BPF_X:
    case BPF_ALU | BPF_SUB | BPF_K:
    case BPF_ALU | BPF_SUB | BPF_X:
    case BPF_ALU | BPF_MUL | BPF_K:
    case BPF_ALU | BPF_MUL | BPF_X:
    case BPF_ALU | BPF_DIV | BPF_X:
    case BPF_ALU | BPF_AND | BPF_K:
    case BPF_ALU | BPF_AND | BPF_X:
    case BPF_ALU | BPF_OR | BPF_K:
    case BPF_ALU | BPF_OR | BPF_X:
    case BPF_ALU | BPF_XOR | BPF_K:
    case BPF_ALU | BPF_XOR | BPF_X:
    case BPF_ALU | BPF_LSH | BPF_X:
    case BPF_ALU | BPF_RSH | BPF_X:
    case BPF_ALU | BPF_NEG:
    case BPF_LD | BPF_IMM:
    case BPF_LDX | BPF_IMM:
    case BPF_MISC | BPF_TAX:
    case BPF_MISC | BPF_TXA:
        return {};
    default:
        return fail(EINVAL);
    }
}

// Every path to a load from memory stores the word first.
Result<void> check_memory(std::span<const BpfInstruction> program) {
    Vector<u16> known; // words stored on every path that jumps to the instruction
    for (usize i = 0; i < program.size(); i++)
        TRY(known.push_back(all_words));
    u16 valid = 0;
    for (usize at = 0; at < program.size(); at++) {
        const BpfInstruction& step = program[at];
        valid = static_cast<u16>(valid & known[at]);
        const auto flow = [&](usize to) { known[to] = static_cast<u16>(known[to] & valid); };
        switch (step.code) {
        case BPF_ST:
        case BPF_STX:
            valid = static_cast<u16>(valid | 1u << step.k);
            break;
        case BPF_LD | BPF_MEM:
        case BPF_LDX | BPF_MEM:
            if ((valid >> step.k & 1) == 0)
                return fail(EINVAL);
            break;
        case BPF_JMP | BPF_JA:
            flow(at + 1 + step.k);
            valid = all_words;
            break;
        default:
            if (BPF_CLASS(step.code) == BPF_JMP) {
                flow(at + 1 + step.jump_true);
                flow(at + 1 + step.jump_false);
                valid = all_words;
            }
            break;
        }
    }
    return {};
}

bool compare(u16 code, u32 left, u32 right) {
    switch (BPF_OP(code)) {
    case BPF_JEQ:
        return left == right;
    case BPF_JGE:
        return left >= right;
    case BPF_JGT:
        return left > right;
    default:
        return (left & right) != 0; // BPF_JSET
    }
}

// Requires: no division by zero.
u32 calculate(u16 code, u32 left, u32 right) {
    switch (BPF_OP(code)) {
    case BPF_ADD:
        return left + right;
    case BPF_SUB:
        return left - right;
    case BPF_MUL:
        return left * right;
    case BPF_DIV:
        return left / right;
    case BPF_AND:
        return left & right;
    case BPF_OR:
        return left | right;
    case BPF_XOR:
        return left ^ right;
    case BPF_LSH:
        return left << (right & 31);
    case BPF_RSH:
        return left >> (right & 31);
    default:
        return 0 - left; // BPF_NEG
    }
}

struct Machine {
    u32 a = 0, x = 0;
    u32 memory[memory_words] = {};
};

// Loads, stores and moves.
void move(Machine& machine, const BpfInstruction& step, const SeccompData& data) {
    switch (step.code) {
    case BPF_LD | BPF_W | BPF_ABS:
        machine.a = load(data, step.k);
        return;
    case BPF_LD | BPF_W | BPF_LEN:
        machine.a = sizeof(SeccompData);
        return;
    case BPF_LDX | BPF_W | BPF_LEN:
        machine.x = sizeof(SeccompData);
        return;
    case BPF_LD | BPF_IMM:
        machine.a = step.k;
        return;
    case BPF_LDX | BPF_IMM:
        machine.x = step.k;
        return;
    case BPF_LD | BPF_MEM:
        machine.a = machine.memory[step.k];
        return;
    case BPF_LDX | BPF_MEM:
        machine.x = machine.memory[step.k];
        return;
    case BPF_ST:
        machine.memory[step.k] = machine.a;
        return;
    case BPF_STX:
        machine.memory[step.k] = machine.x;
        return;
    case BPF_MISC | BPF_TAX:
        machine.x = machine.a;
        return;
    default:
        machine.a = machine.x; // BPF_TXA
        return;
    }
}

} // namespace

Result<void> check_bpf(std::span<const BpfInstruction> program) {
    if (program.empty() || program.size() > BPF_MAXINSNS)
        return fail(EINVAL);
    for (usize at = 0; at < program.size(); at++)
        TRY(check_instruction(program[at], program.size() - at - 1));
    const u16 last = program.back().code;
    if (last != (BPF_RET | BPF_K) && last != (BPF_RET | BPF_A))
        return fail(EINVAL);
    return check_memory(program);
}

u32 run_bpf(std::span<const BpfInstruction> program, const SeccompData& data) {
    Machine machine;
    for (usize at = 0;; at++) {
        const BpfInstruction& step = program[at];
        const u32 operand = BPF_SRC(step.code) == BPF_X ? machine.x : step.k;
        switch (BPF_CLASS(step.code)) {
        case BPF_RET:
            return BPF_RVAL(step.code) == BPF_A ? machine.a : step.k;
        case BPF_JMP:
            if (BPF_OP(step.code) == BPF_JA)
                at += step.k;
            else
                at += compare(step.code, machine.a, operand) ? step.jump_true : step.jump_false;
            break;
        case BPF_ALU:
            if (BPF_OP(step.code) == BPF_DIV && operand == 0)
                return 0; // bpf(4): the program ends and says 0
            machine.a = calculate(step.code, machine.a, operand);
            break;
        default:
            move(machine, step, data);
            break;
        }
    }
}

bool constant_answer(std::span<const BpfInstruction> program, u32 number, u32 architecture,
                     u32& answer) {
    u32 a = 0;
    for (usize at = 0; at < program.size(); at++) {
        const BpfInstruction& step = program[at];
        switch (step.code) {
        case BPF_LD | BPF_W | BPF_ABS:
            if (step.k == 0)
                a = number;
            else if (step.k == 4)
                a = architecture;
            else
                return false;
            break;
        case BPF_RET | BPF_K:
            answer = step.k;
            return true;
        case BPF_JMP | BPF_JA:
            at += step.k;
            break;
        case BPF_JMP | BPF_JEQ | BPF_K:
        case BPF_JMP | BPF_JGE | BPF_K:
        case BPF_JMP | BPF_JGT | BPF_K:
        case BPF_JMP | BPF_JSET | BPF_K:
            at += compare(step.code, a, step.k) ? step.jump_true : step.jump_false;
            break;
        case BPF_ALU | BPF_AND | BPF_K:
            a &= step.k;
            break;
        default:
            return false;
        }
    }
    return false;
}

} // namespace kernel
