#include "guestkernel/core/speculation.hpp"

#include <linux/errno.h>
#include <linux/prctl.h>

#include "guestkernel/arch/cpuid.hpp"
#include "guestkernel/fs/procfs/text.hpp"

namespace kernel::speculation {
namespace {

constexpr bool has(u64 word, unsigned bit) {
    return (word >> bit & 1) != 0;
}

// IA32_ARCH_CAPABILITIES.
bool says(const Cpu& cpu, unsigned bit) {
    return !cpu.amd && has(cpu.capabilities, bit);
}
constexpr unsigned rdcl_no = 0, ibrs_all = 1, ssb_no = 4, mds_no = 5, taa_no = 8, sbdr_no = 13,
                   fbsdp_no = 14, psdp_no = 15, fb_clear = 17, rrsba = 19, bhi_no = 20,
                   rfds_clear = 28;

// Leaf 7, subleaf 0.
constexpr unsigned ebx_rtm = 11, edx_md_clear = 10, edx_spec_ctrl = 26, edx_stibp = 27,
                   edx_ssbd = 31;
// Leaf 7, subleaf 2.
constexpr unsigned edx_bhi_control = 4;
// Leaf 0x8000'0008, AMD's.
constexpr unsigned ebx_ibpb = 12, ebx_ibrs = 14, ebx_stibp = 15, ebx_ssbd = 24, ebx_ssb_no = 26;
// Leaf 0x8000'0021.
constexpr unsigned eax_verw_clear = 5, eax_automatic_ibrs = 8, eax_srso_no = 29, ecx_tsa_sq_no = 1,
                   ecx_tsa_l1_no = 2;

bool mmio_affects(const Cpu& cpu) {
    return !cpu.amd && !(says(cpu, sbdr_no) && says(cpu, fbsdp_no) && says(cpu, psdp_no));
}
// Transient scheduler attacks.
bool tsa_affects(const Cpu& cpu) {
    return cpu.amd && cpu.family == 0x19 &&
           !(has(cpu.extended_ecx, ecx_tsa_sq_no) && has(cpu.extended_ecx, ecx_tsa_l1_no));
}

bool verw_helps(const Cpu& cpu) {
    if (cpu.amd)
        return tsa_affects(cpu) && has(cpu.extended_eax, eax_verw_clear);
    const bool md_clear = has(cpu.structured_edx, edx_md_clear);
    return (md_clear && (affects(cpu, Weakness::Mds) || affects(cpu, Weakness::TsxAbort))) ||
           ((md_clear || says(cpu, fb_clear)) && mmio_affects(cpu)) || says(cpu, rfds_clear);
}

IndirectBranches choose_branches(const Cpu& cpu) {
    if (cpu.amd && has(cpu.extended_eax, eax_automatic_ibrs))
        return IndirectBranches::AutomaticIbrs;
    // A CPU that falls back from an empty return stack to its branch predictor defeats retpolines;
    // it has enhanced IBRS.
    if (says(cpu, ibrs_all) && has(cpu.structured_edx, edx_spec_ctrl))
        return IndirectBranches::EnhancedIbrs;
    return IndirectBranches::Retpolines;
}

struct State {
    Cpu cpu;
    Measures measures;
};
constinit State state{};

// What helps where mitigated() says so.
const char* remedy(Weakness weakness) {
    switch (weakness) {
    case Weakness::SpectreV1:
        return "usercopy/swapgs barriers and __user pointer sanitization";
    case Weakness::StoreBypass:
        return "Speculative Store Bypass disabled via prctl";
    case Weakness::Retbleed:
        return "Enhanced IBRS";
    default:
        return "Clear CPU buffers; SMT Host state unknown";
    }
}

bool mitigated(Weakness weakness, const Measures& m) {
    switch (weakness) {
    case Weakness::SpectreV1:
        return m.walls;
    case Weakness::StoreBypass:
        return m.store_bypass_control;
    case Weakness::Mds:
    case Weakness::TsxAbort:
    case Weakness::MmioStaleData:
        return m.clear_buffers;
    case Weakness::Retbleed:
        return m.indirect_branches == IndirectBranches::EnhancedIbrs;
    default:
        return false;
    }
}

void describe_branches(TextBuilder& out, const Cpu& cpu, const Measures& m) {
    constexpr const char* words[] = {"Vulnerable", "Mitigation: Retpolines",
                                     "Mitigation: Enhanced / Automatic IBRS",
                                     "Mitigation: Enhanced / Automatic IBRS"};
    out.print("{}; IBPB: {}", words[static_cast<usize>(m.indirect_branches)],
              m.barrier ? "conditional" : "disabled");
    if (m.indirect_branches != IndirectBranches::EnhancedIbrs)
        out.print("; STIBP: {}", m.sibling_control ? "conditional" : "disabled");
    if (m.fill_return_stack)
        out.append("; RSB filling");
    if (cpu.amd || says(cpu, bhi_no))
        out.append("; BHI: Not affected\n");
    else
        out.append((m.control & control_bhi) != 0 ? "; BHI: BHI_DIS_S\n" : "; BHI: Vulnerable\n");
}

bool branches_controlled() {
    return state.measures.barrier || state.measures.sibling_control;
}

long answer_of(u8 wish) {
    return static_cast<long>(PR_SPEC_PRCTL | wish);
}

// PR_SPEC_FORCE_DISABLE is for good.
Result<void> change(u8& wish, u64 wanted) {
    if (wish == PR_SPEC_FORCE_DISABLE &&
        (wanted == PR_SPEC_ENABLE || wanted == PR_SPEC_DISABLE_NOEXEC))
        return fail(EPERM);
    if (wish != PR_SPEC_FORCE_DISABLE)
        wish = static_cast<u8>(wanted);
    return {};
}

} // namespace

Cpu this_cpu() {
    Cpu cpu;
    const arch::CpuidLeaf basic = arch::cpuid(0);
    constexpr u32 authentic = 0x6874'7541, hygon = 0x6f67'7948; // "Auth", "Hygo"
    cpu.amd = basic.ebx == authentic || basic.ebx == hygon;
    cpu.family = arch::cpu_family(arch::cpuid(1).eax);
    if (basic.eax >= 7) {
        const arch::CpuidLeaf structured = arch::cpuid(7);
        cpu.structured_ebx = structured.ebx;
        cpu.structured_edx = structured.edx;
        if (structured.eax >= 2)
            cpu.control_edx = arch::cpuid(7, 2).edx;
    }
    const u32 last = arch::cpuid(0x8000'0000).eax;
    if (last >= 0x8000'0008)
        cpu.sizes_ebx = arch::cpuid(0x8000'0008).ebx;
    if (last >= 0x8000'0021) {
        const arch::CpuidLeaf extended = arch::cpuid(0x8000'0021);
        cpu.extended_eax = extended.eax;
        cpu.extended_ecx = extended.ecx;
    }
    return cpu;
}

Measures choose(const Cpu& cpu, bool walls) {
    Measures m;
    m.walls = walls;
    if (!walls)
        return m;
    const bool intel_control = has(cpu.structured_edx, edx_spec_ctrl);
    m.barrier = intel_control || has(cpu.sizes_ebx, ebx_ibpb);
    m.sibling_control = has(cpu.structured_edx, edx_stibp) || has(cpu.sizes_ebx, ebx_stibp);
    m.store_bypass_control = affects(cpu, Weakness::StoreBypass) &&
                             (has(cpu.structured_edx, edx_ssbd) || has(cpu.sizes_ebx, ebx_ssbd));
    m.has_control = intel_control || has(cpu.sizes_ebx, ebx_ibrs) || m.sibling_control ||
                    m.store_bypass_control;
    m.indirect_branches = choose_branches(cpu);
    m.clear_buffers = verw_helps(cpu);
    m.fill_return_stack = true;
    if (m.indirect_branches == IndirectBranches::EnhancedIbrs) {
        m.control |= control_ibrs;
        if (has(cpu.control_edx, edx_bhi_control))
            m.control |= control_bhi;
    }
    return m;
}

void set_state(const Cpu& cpu, const Measures& measures) {
    state = {cpu, measures};
}

const Measures& measures() {
    return state.measures;
}

bool affects(const Cpu& cpu, Weakness weakness) {
    switch (weakness) {
    case Weakness::Meltdown:
    case Weakness::L1tf:
        return !cpu.amd && !says(cpu, rdcl_no);
    case Weakness::StoreBypass:
        return cpu.amd ? !has(cpu.sizes_ebx, ebx_ssb_no) : !says(cpu, ssb_no);
    case Weakness::Mds:
        return !cpu.amd && !says(cpu, mds_no);
    case Weakness::TsxAbort:
        return !cpu.amd && has(cpu.structured_ebx, ebx_rtm) && !says(cpu, taa_no);
    case Weakness::MmioStaleData:
        return mmio_affects(cpu);
    case Weakness::Retbleed: // Zen 1 and 2; Intel's that guess returns from the branch predictor
        return cpu.amd ? cpu.family == 0x17 || cpu.family == 0x18
                       : says(cpu, rrsba) || !says(cpu, ibrs_all);
    case Weakness::ReturnStack: // Zen 1 to 4
        return cpu.amd && cpu.family >= 0x17 && cpu.family <= 0x19 &&
               !has(cpu.extended_eax, eax_srso_no);
    default:
        return true; // both variants of Spectre: every CPU that guesses
    }
}

void describe(TextBuilder& out, Weakness weakness) {
    const Cpu& cpu = state.cpu;
    const Measures& m = state.measures;
    if (!affects(cpu, weakness))
        out.append("Not affected\n");
    else if (weakness == Weakness::SpectreV2)
        describe_branches(out, cpu, m);
    else if (mitigated(weakness, m))
        out.print("Mitigation: {}\n", remedy(weakness));
    else
        out.append("Vulnerable\n");
}

void append_bugs(TextBuilder& out) {
    constexpr const char* words[] = {
        "cpu_meltdown", "spectre_v1", "spectre_v2",      "spec_store_bypass", "l1tf",
        "mds",          "taa",        "mmio_stale_data", "retbleed",          "srso"};
    static_assert(sizeof words / sizeof words[0] == static_cast<usize>(Weakness::Count));
    for (usize i = 0; i < static_cast<usize>(Weakness::Count); i++)
        if (affects(state.cpu, static_cast<Weakness>(i)))
            out.print(" {}", words[i]);
}

u64 Wishes::control() const {
    u64 bits = 0;
    if (store_bypass != PR_SPEC_ENABLE && state.measures.store_bypass_control)
        bits |= control_ssbd;
    if (guards_branches() && state.measures.sibling_control)
        bits |= control_stibp;
    return bits;
}

void Wishes::after_exec() {
    if (store_bypass == PR_SPEC_DISABLE_NOEXEC)
        store_bypass = PR_SPEC_ENABLE;
}

Result<long> get_wish(const Wishes& wishes, u64 which) {
    switch (which) {
    case PR_SPEC_STORE_BYPASS:
        if (!affects(state.cpu, Weakness::StoreBypass))
            return PR_SPEC_NOT_AFFECTED;
        return state.measures.store_bypass_control ? answer_of(wishes.store_bypass)
                                                   : PR_SPEC_ENABLE;
    case PR_SPEC_INDIRECT_BRANCH:
        return branches_controlled() ? answer_of(wishes.indirect_branch) : PR_SPEC_ENABLE;
    case PR_SPEC_L1D_FLUSH: // off unless a machine is started with it
        return PR_SPEC_FORCE_DISABLE;
    default:
        return fail(ENODEV);
    }
}

Result<void> set_wish(Wishes& wishes, u64 which, u64 wanted) {
    const bool plain =
        wanted == PR_SPEC_ENABLE || wanted == PR_SPEC_DISABLE || wanted == PR_SPEC_FORCE_DISABLE;
    switch (which) {
    case PR_SPEC_STORE_BYPASS:
        if (!state.measures.store_bypass_control)
            return fail(ENXIO);
        if (!plain && wanted != PR_SPEC_DISABLE_NOEXEC)
            return fail(ERANGE);
        return change(wishes.store_bypass, wanted);
    case PR_SPEC_INDIRECT_BRANCH:
        if (!plain)
            return fail(ERANGE);
        if (!branches_controlled())
            return wanted == PR_SPEC_ENABLE ? Result<void>() : Result<void>(fail(EPERM));
        return change(wishes.indirect_branch, wanted);
    case PR_SPEC_L1D_FLUSH:
        return fail(EPERM);
    default:
        return fail(ENODEV);
    }
}

std::string_view store_bypass_text(const Wishes& wishes) {
    if (!affects(state.cpu, Weakness::StoreBypass))
        return "not vulnerable";
    if (!state.measures.store_bypass_control)
        return "vulnerable";
    switch (wishes.store_bypass) {
    case PR_SPEC_FORCE_DISABLE:
        return "thread force mitigated";
    case PR_SPEC_DISABLE:
    case PR_SPEC_DISABLE_NOEXEC:
        return "thread mitigated";
    default:
        return "thread vulnerable";
    }
}

std::string_view indirect_branch_text(const Wishes& wishes) {
    if (!branches_controlled())
        return "always enabled";
    switch (wishes.indirect_branch) {
    case PR_SPEC_FORCE_DISABLE:
        return "conditional force disabled";
    case PR_SPEC_DISABLE:
        return "conditional disabled";
    default:
        return "conditional enabled";
    }
}

} // namespace kernel::speculation
