// Matches and targets of iptables: each a name with a revision, a structure that programs fill, and
// what it does.
#pragma once

#include "guestkernel/core/lock.hpp"
#include "guestkernel/net/filter/expression.hpp"
#include "guestkernel/net/filter/ruleset.hpp"

namespace kernel::net::filter {

// What a rule's chain must be for it.
struct Placement {
    bool nat = false; // in chains of type nat only
    u8 points = 0x1f; // a bit for each HookPoint
    u8 protocol = 0;  // the rule must be for this one; 0: any
};

// What a match remembers of the packets that it saw.
struct MatchState {
    base::Atomic<u32> count{0};
    SpinLock lock{LockRank::NetQueue};
    u64 credit = 0, last = 0;
};

struct MatchKind {
    std::string_view name;
    u8 revision;
    u8 family;                     // 0: both, 4 or 6
    u16 size;                      // of the structure
    u16 user_size;                 // of what programs see of it
    bool (*check)(const u8* info); // null: anything goes
    bool (*matches)(Evaluation& at, const u8* info, MatchState& state);
    Placement placement{};
    bool tracks = false;
};
struct TargetKind {
    std::string_view name;
    u8 revision;
    u8 family;
    u16 size, user_size;
    bool (*check)(const u8* info);
    // The rule goes on where it says Continue.
    Verdict (*apply)(Evaluation& at, const u8* info);
    Placement placement{};
    bool tracks = false;
};

std::span<const MatchKind> header_matches();      // of what stands in packets
std::span<const MatchKind> environment_matches(); // of what is known besides
std::span<const TargetKind> nat_targets();
std::span<const TargetKind> other_targets();

template <typename T>
T info_as(const u8* info) {
    T out;
    __builtin_memcpy(&out, info, sizeof out);
    return out;
}

} // namespace kernel::net::filter
