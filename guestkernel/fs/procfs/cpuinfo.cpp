// /proc/cpuinfo, from CPUID (Intel SDM 2A; AMD APM 3), in the words of Linux's
// arch/x86/include/asm/cpufeatures.h.
#include "guestkernel/arch/arch.hpp"
#include "guestkernel/arch/cpuid.hpp"
#include "guestkernel/cgroup/view.hpp"
#include "guestkernel/core/clock.hpp"
#include "guestkernel/fs/procfs/subject.hpp"

namespace kernel::procfs {
namespace {

using arch::cpuid;
using Leaf = arch::CpuidLeaf;

enum Register : u8 { Eax, Ebx, Ecx, Edx };

struct Feature {
    u32 leaf, subleaf;
    Register where;
    u8 bit;
    const char* name;
};

// In the order in which Linux shows them: by its feature words.
constexpr Feature features[] = {
    {1, 0, Edx, 0, "fpu"},
    {1, 0, Edx, 1, "vme"},
    {1, 0, Edx, 2, "de"},
    {1, 0, Edx, 3, "pse"},
    {1, 0, Edx, 4, "tsc"},
    {1, 0, Edx, 5, "msr"},
    {1, 0, Edx, 6, "pae"},
    {1, 0, Edx, 7, "mce"},
    {1, 0, Edx, 8, "cx8"},
    {1, 0, Edx, 9, "apic"},
    {1, 0, Edx, 11, "sep"},
    {1, 0, Edx, 12, "mtrr"},
    {1, 0, Edx, 13, "pge"},
    {1, 0, Edx, 14, "mca"},
    {1, 0, Edx, 15, "cmov"},
    {1, 0, Edx, 16, "pat"},
    {1, 0, Edx, 17, "pse36"},
    {1, 0, Edx, 19, "clflush"},
    {1, 0, Edx, 23, "mmx"},
    {1, 0, Edx, 24, "fxsr"},
    {1, 0, Edx, 25, "sse"},
    {1, 0, Edx, 26, "sse2"},
    {1, 0, Edx, 27, "ss"},
    {1, 0, Edx, 28, "ht"},
    {0x8000'0001, 0, Edx, 11, "syscall"},
    {0x8000'0001, 0, Edx, 20, "nx"},
    {0x8000'0001, 0, Edx, 22, "mmxext"},
    {0x8000'0001, 0, Edx, 25, "fxsr_opt"},
    {0x8000'0001, 0, Edx, 26, "pdpe1gb"},
    {0x8000'0001, 0, Edx, 27, "rdtscp"},
    {0x8000'0001, 0, Edx, 29, "lm"},
    {0x8000'0007, 0, Edx, 8, "constant_tsc"},
    {1, 0, Ecx, 0, "pni"},
    {1, 0, Ecx, 1, "pclmulqdq"},
    {1, 0, Ecx, 9, "ssse3"},
    {1, 0, Ecx, 12, "fma"},
    {1, 0, Ecx, 13, "cx16"},
    {1, 0, Ecx, 17, "pcid"},
    {1, 0, Ecx, 19, "sse4_1"},
    {1, 0, Ecx, 20, "sse4_2"},
    {1, 0, Ecx, 21, "x2apic"},
    {1, 0, Ecx, 22, "movbe"},
    {1, 0, Ecx, 23, "popcnt"},
    {1, 0, Ecx, 24, "tsc_deadline_timer"},
    {1, 0, Ecx, 25, "aes"},
    {1, 0, Ecx, 26, "xsave"},
    {1, 0, Ecx, 28, "avx"},
    {1, 0, Ecx, 29, "f16c"},
    {1, 0, Ecx, 30, "rdrand"},
    {1, 0, Ecx, 31, "hypervisor"},
    {0x8000'0001, 0, Ecx, 0, "lahf_lm"},
    {0x8000'0001, 0, Ecx, 1, "cmp_legacy"},
    {0x8000'0001, 0, Ecx, 4, "cr8_legacy"},
    {0x8000'0001, 0, Ecx, 5, "abm"},
    {0x8000'0001, 0, Ecx, 6, "sse4a"},
    {0x8000'0001, 0, Ecx, 7, "misalignsse"},
    {0x8000'0001, 0, Ecx, 8, "3dnowprefetch"},
    {7, 0, Ebx, 0, "fsgsbase"},
    {7, 0, Ebx, 1, "tsc_adjust"},
    {7, 0, Ebx, 3, "bmi1"},
    {7, 0, Ebx, 5, "avx2"},
    {7, 0, Ebx, 7, "smep"},
    {7, 0, Ebx, 8, "bmi2"},
    {7, 0, Ebx, 9, "erms"},
    {7, 0, Ebx, 10, "invpcid"},
    {7, 0, Ebx, 16, "avx512f"},
    {7, 0, Ebx, 17, "avx512dq"},
    {7, 0, Ebx, 18, "rdseed"},
    {7, 0, Ebx, 19, "adx"},
    {7, 0, Ebx, 20, "smap"},
    {7, 0, Ebx, 21, "avx512ifma"},
    {7, 0, Ebx, 23, "clflushopt"},
    {7, 0, Ebx, 24, "clwb"},
    {7, 0, Ebx, 28, "avx512cd"},
    {7, 0, Ebx, 29, "sha_ni"},
    {7, 0, Ebx, 30, "avx512bw"},
    {7, 0, Ebx, 31, "avx512vl"},
    {0xd, 1, Eax, 0, "xsaveopt"},
    {0xd, 1, Eax, 1, "xsavec"},
    {0xd, 1, Eax, 2, "xgetbv1"},
    {0xd, 1, Eax, 3, "xsaves"},
    {7, 1, Eax, 4, "avx_vnni"},
    {7, 1, Eax, 5, "avx512_bf16"},
    {0x8000'0008, 0, Ebx, 0, "clzero"},
    {0x8000'0008, 0, Ebx, 9, "wbnoinvd"},
    {7, 0, Ecx, 1, "avx512vbmi"},
    {7, 0, Ecx, 2, "umip"},
    {7, 0, Ecx, 3, "pku"},
    {7, 0, Ecx, 6, "avx512_vbmi2"},
    {7, 0, Ecx, 8, "gfni"},
    {7, 0, Ecx, 9, "vaes"},
    {7, 0, Ecx, 10, "vpclmulqdq"},
    {7, 0, Ecx, 11, "avx512_vnni"},
    {7, 0, Ecx, 12, "avx512_bitalg"},
    {7, 0, Ecx, 14, "avx512_vpopcntdq"},
    {7, 0, Ecx, 16, "la57"},
    {7, 0, Ecx, 22, "rdpid"},
    {7, 0, Ecx, 27, "movdiri"},
    {7, 0, Ecx, 28, "movdir64b"},
    {7, 0, Edx, 4, "fsrm"},
    {7, 0, Edx, 8, "avx512_vp2intersect"},
    {7, 0, Edx, 14, "serialize"},
    {7, 0, Edx, 22, "amx_bf16"},
    {7, 0, Edx, 23, "avx512_fp16"},
    {7, 0, Edx, 24, "amx_tile"},
    {7, 0, Edx, 25, "amx_int8"},
};

void append_registers(TextBuilder& out, std::initializer_list<u32> registers) {
    for (const u32 value : registers)
        for (unsigned shift = 0; shift < 32; shift += 8) {
            const char c = static_cast<char>(value >> shift & 0xff);
            if (c != '\0')
                out.append({&c, 1});
        }
}

void show_flags(TextBuilder& out, u32 last_basic, u32 last_extended) {
    u32 leaf = ~u32{0}, subleaf = 0;
    Leaf bits{};
    for (const Feature& feature : features) {
        if (feature.leaf != leaf || feature.subleaf != subleaf) {
            leaf = feature.leaf;
            subleaf = feature.subleaf;
            const bool present = leaf < 0x8000'0000 ? leaf <= last_basic : leaf <= last_extended;
            bits = present ? cpuid(leaf, subleaf) : Leaf{};
        }
        const u32 words[] = {bits.eax, bits.ebx, bits.ecx, bits.edx};
        if ((words[feature.where] >> feature.bit & 1) != 0) {
            out.append(" ");
            out.append(feature.name);
        }
    }
}

} // namespace

Result<void> show_cpuinfo(TextBuilder& out, const TableContext&) {
    // All of them are alike, so each fact is asked for once: CPUID traps (3.6 us).
    const Leaf first = cpuid(0);
    const Leaf version = cpuid(1);
    const u32 last_extended = cpuid(0x8000'0000).eax;
    const u32 family = arch::cpu_family(version.eax);
    u32 model = version.eax >> 4 & 0xf;
    if (family >= 0xf || family == 6)
        model |= (version.eax >> 16 & 0xf) << 4;
    TextBuilder vendor, name, flags;
    append_registers(vendor, {first.ebx, first.edx, first.ecx});
    for (u32 leaf = 0x8000'0002; leaf <= 0x8000'0004 && leaf <= last_extended; leaf++) {
        const Leaf part = cpuid(leaf);
        append_registers(name, {part.eax, part.ebx, part.ecx, part.edx});
    }
    show_flags(flags, first.eax, last_extended);
    const u32 cache = last_extended >= 0x8000'0006 ? cpuid(0x8000'0006).ecx >> 16 : 0;
    const u32 widths = last_extended >= 0x8000'0008 ? cpuid(0x8000'0008).eax : 0x3024;
    // 32.32 nanoseconds per tick, back to kHz.
    const u64 khz = (u64{1'000'000} << 32) / clock_parameters().ns_per_tick;
    const u64 usable = resource_view().cpus;
    unsigned cpus = 0;
    for (unsigned cpu = 0; cpu < arch::cpu_count(); cpu++)
        cpus += (usable >> cpu & 1) != 0 && arch::cpu_online(cpu) ? 1 : 0;
    // Those that the reader may use, numbered from 0 like the machine's.
    for (unsigned cpu = 0; cpu < cpus; cpu++) {
        out.print("processor\t: {}\nvendor_id\t: {}\ncpu family\t: {}\nmodel\t\t: {}\n", cpu,
                  vendor.view(), family, model);
        out.print("model name\t: {}\nstepping\t: {}\nmicrocode\t: 0x1\ncpu MHz\t\t: {}.",
                  name.view(), version.eax & 0xf, khz / 1000);
        out.number(khz % 1000, 3, '0');
        out.print("\ncache size\t: {} KB\nphysical id\t: 0\nsiblings\t: {}\ncore id\t\t: {}\n"
                  "cpu cores\t: {}\napicid\t\t: {}\ninitial apicid\t: {}\n",
                  cache, cpus, cpu, cpus, cpu, cpu);
        out.print("fpu\t\t: yes\nfpu_exception\t: yes\ncpuid level\t: {}\nwp\t\t: yes\nflags\t\t:",
                  first.eax);
        out.append(flags.view());
        out.append("\nbugs\t\t:");
        speculation::append_bugs(out);
        out.print("\nbogomips\t: {}.", khz * 2 / 1000);
        out.number(khz * 2 % 1000 / 10, 2, '0');
        out.print("\nclflush size\t: {}\ncache_alignment\t: 64\naddress sizes\t: {} bits physical, "
                  "{} bits virtual\npower management:\n\n",
                  (version.ebx >> 8 & 0xff) * 8, widths & 0xff, widths >> 8 & 0xff);
    }
    return {};
}

} // namespace kernel::procfs
