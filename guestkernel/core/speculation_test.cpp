// Which CPU gets which measures, and what prctl(2) answers where they can be controlled.
#include <string>

#include <linux/errno.h>
#include <linux/prctl.h>

#include <catch2/catch.hpp>

#include "guestkernel/core/speculation.hpp"
#include "guestkernel/fs/procfs/text.hpp"

using namespace kernel;
using namespace kernel::speculation;

namespace {

constexpr u64 bit(unsigned number) {
    return u64{1} << number;
}

// Skylake: nothing is fixed in hardware.
Cpu old_intel() {
    Cpu cpu;
    cpu.family = 6;
    cpu.structured_ebx = 1u << 11; // RTM
    cpu.structured_edx =
        1u << 10 | 1u << 26 | 1u << 27 | 1u << 29 | 1u << 31; // MD_CLEAR and the controls
    return cpu;
}
// Sapphire Rapids.
Cpu new_intel() {
    Cpu cpu = old_intel();
    cpu.control_edx = 1u << 4;
    cpu.capabilities = bit(0) | bit(1) | bit(5) | bit(8) | bit(13) | bit(14) | bit(15);
    return cpu;
}
Cpu zen(u32 family, u32 extended_eax) {
    Cpu cpu;
    cpu.amd = true;
    cpu.family = family;
    cpu.sizes_ebx = 1u << 12 | 1u << 14 | 1u << 15 | 1u << 24;
    cpu.extended_eax = extended_eax;
    return cpu;
}

void use(const Cpu& cpu, bool walls = true) {
    set_state(cpu, choose(cpu, walls));
}

std::string line(Weakness weakness) {
    TextBuilder out;
    describe(out, weakness);
    return std::string(out.view());
}

int error_of(const Result<void>& result) {
    return result ? 0 : result.error().code;
}

} // namespace

TEST_CASE("a CPU with enhanced IBRS keeps it on, and BHI_DIS_S where it has that") {
    const Measures m = choose(new_intel(), true);
    CHECK(m.indirect_branches == IndirectBranches::EnhancedIbrs);
    CHECK(m.control == (control_ibrs | control_bhi));
    CHECK((m.has_control && m.barrier && m.sibling_control && m.store_bypass_control));
    CHECK_FALSE(m.clear_buffers);
}

TEST_CASE("one without gets retpolines, and its buffers cleared") {
    const Measures m = choose(old_intel(), true);
    CHECK(m.indirect_branches == IndirectBranches::Retpolines);
    CHECK(m.control == 0);
    CHECK(m.clear_buffers);
    CHECK(m.fill_return_stack);
    Cpu without_microcode = old_intel();
    without_microcode.structured_edx &= ~(1u << 10);
    CHECK_FALSE(choose(without_microcode, true).clear_buffers);
}

TEST_CASE("AMD's have no meltdown; Zen 4 has automatic IBRS, Zen 3 retpolines") {
    for (const Weakness weakness : {Weakness::Meltdown, Weakness::L1tf, Weakness::Mds,
                                    Weakness::TsxAbort, Weakness::MmioStaleData})
        CHECK_FALSE(affects(zen(0x19, 0), weakness));
    CHECK(choose(zen(0x19, 1u << 8), true).indirect_branches == IndirectBranches::AutomaticIbrs);
    CHECK(choose(zen(0x19, 0), true).indirect_branches == IndirectBranches::Retpolines);
    CHECK(affects(zen(0x17, 0), Weakness::Retbleed));
    CHECK_FALSE(affects(zen(0x19, 0), Weakness::Retbleed));
    CHECK_FALSE(affects(zen(0x1a, 0), Weakness::ReturnStack));
    // Transient scheduler attacks, where the microcode has VERW clear what they read.
    CHECK(choose(zen(0x19, 1u << 5), true).clear_buffers);
    CHECK_FALSE(choose(zen(0x19, 0), true).clear_buffers);
}

TEST_CASE("without walls nothing is done, nor said to be") {
    const Measures m = choose(new_intel(), false);
    CHECK(m.indirect_branches == IndirectBranches::Unrestricted);
    CHECK_FALSE((m.has_control || m.barrier || m.clear_buffers || m.fill_return_stack));
    use(old_intel(), false);
    for (unsigned i = 0; i < static_cast<unsigned>(Weakness::Count); i++) {
        const std::string text = line(static_cast<Weakness>(i));
        CHECK((text.starts_with("Vulnerable") || text == "Not affected\n"));
    }
}

TEST_CASE("sysfs says what is done") {
    use(new_intel());
    CHECK(line(Weakness::Meltdown) == "Not affected\n");
    CHECK(line(Weakness::SpectreV1) ==
          "Mitigation: usercopy/swapgs barriers and __user pointer sanitization\n");
    CHECK(line(Weakness::SpectreV2) == "Mitigation: Enhanced / Automatic IBRS; IBPB: conditional; "
                                       "RSB filling; BHI: BHI_DIS_S\n");
    CHECK(line(Weakness::StoreBypass) ==
          "Mitigation: Speculative Store Bypass disabled via prctl\n");
    use(old_intel());
    CHECK(line(Weakness::Meltdown) == "Vulnerable\n");
    CHECK(line(Weakness::Mds) == "Mitigation: Clear CPU buffers; SMT Host state unknown\n");
    TextBuilder bugs;
    append_bugs(bugs);
    CHECK(std::string(bugs.view()) == " cpu_meltdown spectre_v1 spectre_v2 spec_store_bypass l1tf "
                                      "mds taa mmio_stale_data retbleed");
}

TEST_CASE("what a program asks for is kept, and becomes bits of IA32_SPEC_CTRL") {
    use(new_intel());
    Wishes wishes;
    CHECK(get_wish(wishes, PR_SPEC_STORE_BYPASS).value() == (PR_SPEC_PRCTL | PR_SPEC_ENABLE));
    CHECK(wishes.control() == 0);
    REQUIRE(set_wish(wishes, PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE));
    CHECK(wishes.control() == control_ssbd);
    CHECK(store_bypass_text(wishes) == "thread mitigated");
    REQUIRE(set_wish(wishes, PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE_NOEXEC));
    CHECK(wishes.control() == control_ssbd);
    wishes.after_exec();
    CHECK(wishes.control() == 0);
    REQUIRE(set_wish(wishes, PR_SPEC_INDIRECT_BRANCH, PR_SPEC_FORCE_DISABLE));
    CHECK(wishes.control() == control_stibp);
    CHECK(wishes.guards_branches());
    CHECK(error_of(set_wish(wishes, PR_SPEC_INDIRECT_BRANCH, PR_SPEC_ENABLE)) == EPERM);
    CHECK(error_of(set_wish(wishes, PR_SPEC_INDIRECT_BRANCH, PR_SPEC_DISABLE)) == 0);
    CHECK(get_wish(wishes, PR_SPEC_INDIRECT_BRANCH).value() ==
          (PR_SPEC_PRCTL | PR_SPEC_FORCE_DISABLE));
    CHECK(indirect_branch_text(wishes) == "conditional force disabled");
    wishes.after_exec();
    CHECK(wishes.guards_branches());
    CHECK(error_of(set_wish(wishes, PR_SPEC_STORE_BYPASS, 3)) == ERANGE);
    CHECK(error_of(set_wish(wishes, 3, PR_SPEC_ENABLE)) == ENODEV);
}

TEST_CASE("where nothing can be controlled, prctl says so") {
    use(old_intel(), false);
    Wishes wishes;
    CHECK(get_wish(wishes, PR_SPEC_STORE_BYPASS).value() == PR_SPEC_ENABLE);
    CHECK(error_of(set_wish(wishes, PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE)) == ENXIO);
    CHECK(get_wish(wishes, PR_SPEC_INDIRECT_BRANCH).value() == PR_SPEC_ENABLE);
    CHECK(error_of(set_wish(wishes, PR_SPEC_INDIRECT_BRANCH, PR_SPEC_ENABLE)) == 0);
    CHECK(error_of(set_wish(wishes, PR_SPEC_INDIRECT_BRANCH, PR_SPEC_DISABLE)) == EPERM);
    CHECK(wishes.control() == 0);
}

TEST_CASE("an index out of bounds becomes 0") {
    CHECK(bounded_index(3, 4) == 3);
    CHECK(bounded_index(4, 4) == 0);
    CHECK(bounded_index(~usize{0}, 4) == 0);
    CHECK(bounded_index(0, 0) == 0);
}
