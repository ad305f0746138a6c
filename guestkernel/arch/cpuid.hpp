// CPUID (Intel SDM 2A; AMD APM 3, appendix E). In ring-3 mode it traps and answers the VMM's
// table: 3.6 us.
#pragma once

#include "guestkernel/core/types.hpp"

namespace kernel::arch {

struct CpuidLeaf {
    u32 eax = 0, ebx = 0, ecx = 0, edx = 0;
};

inline CpuidLeaf cpuid(u32 leaf, u32 subleaf = 0) {
    CpuidLeaf out;
    asm volatile("cpuid"
                 : "=a"(out.eax), "=b"(out.ebx), "=c"(out.ecx), "=d"(out.edx)
                 : "a"(leaf), "c"(subleaf));
    return out;
}

// From leaf 1's EAX.
constexpr u32 cpu_family(u32 version) {
    const u32 family = version >> 8 & 0xf;
    return family == 0xf ? family + (version >> 20 & 0xff) : family;
}

} // namespace kernel::arch
