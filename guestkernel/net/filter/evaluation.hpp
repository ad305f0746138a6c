// A packet on its way through rules: registers, where its headers are, what was decided.
#pragma once

#include "guestkernel/core/ref.hpp"
#include "guestkernel/net/stack.hpp"

namespace kernel::net::filter {

class Connection;
class Filter;
struct Chain;
struct ChainKey;
struct Program;

enum class Verdict : u8 { Continue, Break, Jump, Goto, Return, Accept, Drop };

inline constexpr u32 register_words = 20; // the first four stand for the verdict, unused
inline constexpr u32 most_jumps = 16;
// That one packet may meet on its way through one base chain. Chains that are short multiply where
// each of their rules jumps to the next, nothing else runs on the CPU meanwhile, and who may load
// rules may be a container's root.
inline constexpr u32 most_rules_met = 1u << 20;

struct Evaluation {
    Stack& stack;
    Filter& filter;
    const HookContext& hook;
    PacketPtr& packet;
    const Program* program = nullptr;
    const Chain* chain = nullptr; // the base chain
    u8 family = 0;                // of its table
    // --- the packet
    bool has_transport = false; // not a later fragment
    u8 protocol = 0;
    u16 fragment_offset = 0;
    u32 transport = 0; // offset of its header
    // --- what expressions say
    Verdict verdict = Verdict::Continue;
    const ChainKey* target = nullptr; // of Jump and Goto: compared only, `target_slot` leads there
    u32 target_slot = 0;
    u32 words[register_words] = {};

    u8* bytes(u8 word) { return reinterpret_cast<u8*>(words + word); } // SAFETY: bytes of words
    void leave() { verdict = Verdict::Break; }
    // Finds the headers: false, there are none to speak of.
    bool find_headers();
};

} // namespace kernel::net::filter
