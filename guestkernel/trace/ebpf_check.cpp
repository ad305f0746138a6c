// The verifier. Jumps only go forward, so that one pass in the order of the instructions sees every
// path: what is known of the registers at an instruction is what all paths to it agree on.
#include <linux/bpf.h>
#include <linux/errno.h>

#include "guestkernel/lib/vector.hpp"
#include "guestkernel/trace/ebpf.hpp"

namespace kernel {

namespace {

constexpr i32 stack_bytes = 512; // bpf-helpers(7): MAX_BPF_STACK

// What a register holds. A Flag is a scalar that is known to be 0 or 1.
enum class Kind : u8 { Unusable, Scalar, Flag, Context };

constexpr u32 kind_bits = 2;

// What is known before an instruction.
struct State {
    u32 kinds = 0;
    bool reached = false;

    Kind of(u32 number) const { return static_cast<Kind>(kinds >> (number * kind_bits) & 3); }
    void set(u32 number, Kind kind) {
        kinds = (kinds & ~(3u << (number * kind_bits))) | static_cast<u32>(kind)
                                                              << (number * kind_bits);
    }
    bool is_scalar(u32 number) const {
        return of(number) == Kind::Scalar || of(number) == Kind::Flag;
    }
};

Kind agreed(Kind a, Kind b) {
    if (a == b)
        return a;
    const bool scalars =
        (a == Kind::Scalar || a == Kind::Flag) && (b == Kind::Scalar || b == Kind::Flag);
    return scalars ? Kind::Scalar : Kind::Unusable;
}

class Verifier {
public:
    Verifier(std::span<const EbpfInstruction> program, EbpfContextRule rule,
             EbpfRejection& rejection)
        : program_(program), rule_(rule), rejection_(rejection) {}

    Result<void> run();

private:
    Result<void> reject(int error, const char* why) {
        rejection_ = {at_, why};
        return fail(error);
    }
    Result<void> need(bool condition, const char* why) {
        return condition ? Result<void>() : reject(EINVAL, why);
    }
    Result<void> readable(u32 number, const char* why) {
        return now_.is_scalar(number) ? Result<void>() : reject(EACCES, why);
    }
    Result<void> writable(u32 number) {
        return number != BPF_REG_10 ? Result<void>()
                                    : reject(EACCES, "the frame pointer is read only");
    }
    Result<void> flow(usize to);
    Result<void> step(const EbpfInstruction& instruction);
    Result<void> source_operand(const EbpfInstruction& instruction);
    Result<void> arithmetic(const EbpfInstruction& instruction);
    Result<void> move(const EbpfInstruction& instruction);
    Result<void> byte_order(const EbpfInstruction& instruction);
    Result<void> constant(const EbpfInstruction& instruction);
    Result<void> load(const EbpfInstruction& instruction);
    Result<void> store(const EbpfInstruction& instruction);
    Result<void> jump(const EbpfInstruction& instruction);
    Result<void> leave(const EbpfInstruction& instruction);
    Result<void> stack_access(const EbpfInstruction& instruction);

    std::span<const EbpfInstruction> program_;
    EbpfContextRule rule_;
    EbpfRejection& rejection_;
    Vector<State> known_;
    State now_;
    usize at_ = 0;
    usize next_ = 0;       // where the instruction goes on to
    bool goes_on_ = false; // whether it does
};

i32 access_bytes(u8 code) {
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

Result<void> Verifier::flow(usize to) {
    TRY(need(to < program_.size(), "jump out of range"));
    State& there = known_[to];
    if (!there.reached) {
        there = now_;
        there.reached = true;
        return {};
    }
    for (u32 number = 0; number < MAX_BPF_REG; number++)
        there.set(number, agreed(there.of(number), now_.of(number)));
    return {};
}

Result<void> Verifier::run() {
    for (usize i = 0; i < program_.size(); i++)
        TRY(known_.push_back({}));
    known_[0].reached = true;
    known_[0].set(BPF_REG_1, Kind::Context);
    for (at_ = 0; at_ < program_.size(); at_ = next_) {
        const EbpfInstruction& instruction = program_[at_];
        TRY(need(known_[at_].reached, "unreachable instruction"));
        TRY(need(instruction.destination() < MAX_BPF_REG && instruction.source() < MAX_BPF_REG,
                 "no such register"));
        now_ = known_[at_];
        next_ = at_ + 1;
        goes_on_ = true;
        TRY(step(instruction));
        if (goes_on_)
            TRY(flow(next_));
    }
    return {};
}

Result<void> Verifier::step(const EbpfInstruction& instruction) {
    switch (BPF_CLASS(instruction.code)) {
    case BPF_ALU:
    case BPF_ALU64:
        return arithmetic(instruction);
    case BPF_LD:
        return constant(instruction);
    case BPF_LDX:
        return load(instruction);
    case BPF_ST:
    case BPF_STX:
        return store(instruction);
    default:
        return jump(instruction);
    }
}

// The second operand, a register or a constant: what is not used must be zero.
Result<void> Verifier::source_operand(const EbpfInstruction& instruction) {
    if (BPF_SRC(instruction.code) == BPF_K)
        return need(instruction.source() == 0, "reserved fields are used");
    TRY(need(instruction.immediate == 0, "reserved fields are used"));
    return readable(instruction.source(), "the source register is not a readable number");
}

Result<void> Verifier::move(const EbpfInstruction& instruction) {
    TRY(writable(instruction.destination()));
    if (BPF_SRC(instruction.code) == BPF_K) {
        TRY(need(instruction.source() == 0, "reserved fields are used"));
        const bool flag = instruction.immediate == 0 || instruction.immediate == 1;
        now_.set(instruction.destination(), flag ? Kind::Flag : Kind::Scalar);
        return {};
    }
    TRY(need(instruction.immediate == 0, "reserved fields are used"));
    const Kind kind = now_.of(instruction.source());
    // The frame pointer's copies would have to be followed; here it is used where it stands.
    if (kind == Kind::Unusable)
        return reject(EACCES, "the source register is not readable");
    if (kind == Kind::Context && BPF_CLASS(instruction.code) == BPF_ALU)
        return reject(EACCES, "partial copy of a pointer");
    now_.set(instruction.destination(), kind);
    return {};
}

Result<void> Verifier::byte_order(const EbpfInstruction& instruction) {
    const i32 bits = instruction.immediate;
    TRY(need(BPF_CLASS(instruction.code) == BPF_ALU && instruction.source() == 0 &&
                 (bits == 16 || bits == 32 || bits == 64),
             "bad byte swap"));
    TRY(writable(instruction.destination()));
    TRY(readable(instruction.destination(), "the register is not a readable number"));
    now_.set(instruction.destination(), Kind::Scalar);
    return {};
}

Result<void> Verifier::arithmetic(const EbpfInstruction& instruction) {
    const u8 operation = BPF_OP(instruction.code);
    TRY(need(operation <= BPF_END, "unknown instruction"));
    TRY(need(instruction.offset == 0, "reserved fields are used"));
    if (operation == BPF_MOV)
        return move(instruction);
    if (operation == BPF_END)
        return byte_order(instruction);
    const u32 target = instruction.destination();
    const bool constant = BPF_SRC(instruction.code) == BPF_K;
    if (operation == BPF_NEG)
        TRY(need(constant && instruction.immediate == 0, "reserved fields are used"));
    TRY(source_operand(instruction));
    TRY(readable(target, "the destination register is not a readable number"));
    TRY(writable(target));
    if (constant && (operation == BPF_DIV || operation == BPF_MOD))
        TRY(need(instruction.immediate != 0, "division by zero"));
    if (constant && (operation == BPF_LSH || operation == BPF_RSH || operation == BPF_ARSH)) {
        const i32 width = BPF_CLASS(instruction.code) == BPF_ALU64 ? 64 : 32;
        TRY(need(instruction.immediate >= 0 && instruction.immediate < width, "invalid shift"));
    }
    const bool source_is_flag = constant ? instruction.immediate == 0 || instruction.immediate == 1
                                         : now_.of(instruction.source()) == Kind::Flag;
    const bool target_is_flag = now_.of(target) == Kind::Flag;
    const bool remains =
        (operation == BPF_AND && (source_is_flag || target_is_flag)) ||
        ((operation == BPF_OR || operation == BPF_XOR) && source_is_flag && target_is_flag);
    now_.set(target, remains ? Kind::Flag : Kind::Scalar);
    return {};
}

// A 64-bit constant in two instructions; those that stand for maps are not known here.
Result<void> Verifier::constant(const EbpfInstruction& instruction) {
    TRY(need(instruction.code == (BPF_LD | BPF_IMM | BPF_DW), "unknown instruction"));
    TRY(need(at_ + 1 < program_.size(), "a constant without its second half"));
    const EbpfInstruction& half = program_[at_ + 1];
    TRY(need(half.code == 0 && half.registers == 0 && half.offset == 0 && instruction.offset == 0 &&
                 instruction.source() == 0,
             "bad 64-bit constant"));
    TRY(need(!known_[at_ + 1].reached, "jump into the middle of a constant"));
    TRY(writable(instruction.destination()));
    now_.set(instruction.destination(), Kind::Scalar);
    next_ = at_ + 2;
    return {};
}

Result<void> Verifier::stack_access(const EbpfInstruction& instruction) {
    const i32 size = access_bytes(instruction.code);
    if (instruction.offset < -stack_bytes || instruction.offset > -size ||
        instruction.offset % size != 0)
        return reject(EACCES, "invalid access to the stack");
    return {};
}

Result<void> Verifier::load(const EbpfInstruction& instruction) {
    TRY(need(BPF_MODE(instruction.code) == BPF_MEM && instruction.immediate == 0,
             "unknown instruction"));
    TRY(writable(instruction.destination()));
    if (instruction.source() == BPF_REG_10) {
        TRY(stack_access(instruction));
    } else {
        if (now_.of(instruction.source()) != Kind::Context)
            return reject(EACCES, "a load through what is no pointer");
        if (!rule_(instruction.offset, static_cast<u32>(access_bytes(instruction.code))))
            return reject(EACCES, "invalid access to the context");
    }
    now_.set(instruction.destination(), Kind::Scalar);
    return {};
}

Result<void> Verifier::store(const EbpfInstruction& instruction) {
    TRY(need(BPF_MODE(instruction.code) == BPF_MEM, "unknown instruction"));
    if (instruction.destination() != BPF_REG_10)
        return reject(EACCES, "a store to what is not the stack");
    TRY(stack_access(instruction));
    if (BPF_CLASS(instruction.code) == BPF_ST)
        return need(instruction.source() == 0, "reserved fields are used");
    TRY(need(instruction.immediate == 0, "reserved fields are used"));
    return readable(instruction.source(), "the source register is not a readable number");
}

Result<void> Verifier::leave(const EbpfInstruction& instruction) {
    TRY(need(instruction.code == (BPF_JMP | BPF_EXIT) && instruction.registers == 0 &&
                 instruction.offset == 0 && instruction.immediate == 0,
             "reserved fields are used"));
    goes_on_ = false;
    switch (now_.of(BPF_REG_0)) {
    case Kind::Flag:
        return {};
    case Kind::Scalar:
    case Kind::Context:
        return reject(EINVAL, "the answer is not known to be 0 or 1");
    default:
        return reject(EACCES, "the answer was not written");
    }
}

Result<void> Verifier::jump(const EbpfInstruction& instruction) {
    const u8 operation = BPF_OP(instruction.code);
    if (operation == BPF_EXIT)
        return leave(instruction);
    TRY(need(operation != BPF_CALL, "unknown function"));
    TRY(need(operation <= BPF_JSLE, "unknown instruction"));
    TRY(need(instruction.offset >= 0, "jump backwards"));
    const usize target = at_ + 1 + static_cast<usize>(instruction.offset);
    if (operation == BPF_JA) {
        TRY(need(instruction.code == (BPF_JMP | BPF_JA) && instruction.registers == 0 &&
                     instruction.immediate == 0,
                 "reserved fields are used"));
        goes_on_ = false;
        return flow(target);
    }
    TRY(source_operand(instruction));
    TRY(readable(instruction.destination(), "the register is not a readable number"));
    return flow(target);
}

} // namespace

Result<void> check_ebpf(std::span<const EbpfInstruction> program, EbpfContextRule rule,
                        EbpfRejection& rejection) {
    return Verifier(program, rule, rejection).run();
}

} // namespace kernel
