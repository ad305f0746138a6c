// A kernel of a few functions that tries one thing each, named by the program's first argument.
#include <cstddef>
#include <cstdint>

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

#include "boot/protocol/boot_block.hpp"
#include "boot/protocol/control.hpp"
#include "boot/protocol/layout.hpp"

extern "C" {
void write_msr(unsigned msr, std::uint64_t value);
void nucleus_gate();
void device_interrupt();
[[noreturn]] void kernel_main(const boot::BootBlock* block, std::uint64_t cpu);
volatile std::uint32_t interrupt_count = 0;
}

// GCC may turn loops into calls of these.
extern "C" void* memset(void* to, int value, std::size_t size) {
    auto* bytes = static_cast<volatile char*>(to);
    for (std::size_t i = 0; i < size; ++i)
        bytes[i] = static_cast<char>(value);
    return to;
}
extern "C" void* memcpy(void* to, const void* from, std::size_t size) {
    auto* out = static_cast<volatile char*>(to);
    const auto* in = static_cast<const char*>(from);
    for (std::size_t i = 0; i < size; ++i)
        out[i] = in[i];
    return to;
}

namespace {

using boot::direct_map_base;

// SAFETY, for all casts here: the addresses are those of the boot contract.
template <typename T>
volatile T& at_phys(std::uint64_t phys) {
    return *reinterpret_cast<volatile T*>(direct_map_base + phys);
}

template <typename T>
std::uint64_t phys_of(const T* object) {
    return reinterpret_cast<std::uint64_t>(object) - boot::kernel_virt + boot::kernel_phys;
}

template <typename T>
void control(boot::Control reg, T value) {
    at_phys<T>(boot::control_page + static_cast<std::uint64_t>(reg)) = value;
}

struct {
    boot::LogLevel level;
    std::uint32_t length;
    char text[200];
} log_record;

void log(const char* text) {
    log_record.level = boot::LogLevel::Info;
    std::uint32_t length = 0;
    for (; text[length] != '\0' && length < sizeof(log_record.text); ++length)
        log_record.text[length] = text[length];
    log_record.length = length;
    control(boot::Control::log, phys_of(&log_record));
}

[[noreturn]] void exit_with(unsigned code) {
    control(boot::Control::exit, static_cast<std::uint32_t>(code << 8));
    for (;;) {
    }
}

void require(bool condition, const char* what) {
    if (condition)
        return;
    log(what);
    exit_with(1);
}

std::uint64_t rdtsc() {
    return __builtin_ia32_rdtsc();
}

// Whether the device tree holds `word`, to its end: the name of a test is no suffix of any other.
bool is_asked(const boot::BootBlock& block, const char* word) {
    const auto* tree = reinterpret_cast<const char*>(direct_map_base + block.fdt_phys);
    for (std::uint32_t i = 0; i < block.fdt_size; ++i) {
        std::uint32_t n = 0;
        while (word[n] != '\0' && i + n < block.fdt_size && tree[i + n] == word[n])
            ++n;
        if (word[n] == '\0' && tree[i + n] == '\0')
            return true;
    }
    return false;
}

void check_boot_block(const boot::BootBlock& block) {
    require(block.magic == boot::boot_block_magic, "magic");
    require(block.version == boot::boot_block_version, "version");
    require(block.tsc_khz > 100'000, "tsc_khz");
    require(block.boot_area_end < block.low_ram_end, "boot_area_end");
    require(block.kernel_size != 0 && block.kernel_size % boot::page_size == 0, "kernel_size");
    const std::uint64_t now = rdtsc();
    require(now > block.wall_clock_tsc && now - block.wall_clock_tsc < block.tsc_khz * 5000,
            "wall_clock_tsc is not the guest's clock");
    require(at_phys<std::uint64_t>(block.low_ram_end - 8) == 0, "RAM is not zeroed");
    if (block.high_ram_end != 0) {
        at_phys<std::uint64_t>(block.high_ram_end - 8) = 42;
        require(at_phys<std::uint64_t>(block.high_ram_end - 8) == 42, "high RAM");
    }
    std::uint32_t low = 0;
    std::uint32_t high = 0;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    require((low & 3) == 3, "XCR0");
}

[[gnu::noinline]] void panic_deep(bool with_registers) {
    static boot::PanicRecord record;
    const char message[] = "deliberate";
    for (std::size_t i = 0; i + 1 < sizeof(message); ++i)
        record.message[i] = message[i];
    record.message_length = sizeof(message) - 1;
    if (with_registers) {
        record.has_registers = 1;
        record.vector = 14;
        record.cr2 = 0xdead;
        record.rip = reinterpret_cast<std::uint64_t>(&panic_deep);
        record.rbp = reinterpret_cast<std::uint64_t>(__builtin_frame_address(0));
        record.rsp = record.rbp;
    }
    control(boot::Control::panic, phys_of(&record));
    asm volatile("");
}

[[gnu::noinline]] void panic_caller(bool with_registers) {
    panic_deep(with_registers);
    asm volatile("");
}

std::uint32_t cpus_running = 0;

void start_all_cpus(const boot::BootBlock& block) {
    for (std::uint32_t cpu = 1; cpu < block.cpu_count; ++cpu)
        control(boot::Control::start_cpu, cpu);
    while (__atomic_load_n(&cpus_running, __ATOMIC_SEQ_CST) != block.cpu_count - 1)
        __builtin_ia32_pause();
}

// --- interrupts ----------------------------------------------------------------------------------

struct Gate {
    std::uint64_t low;
    std::uint64_t high;
};

bool in_ring3() {
    std::uint16_t selector = 0;
    asm volatile("mov %%cs, %0" : "=r"(selector));
    return (selector & 3) == 3;
}

void set_gate(std::uint64_t area, unsigned vector, void (*handler)(), std::uint16_t selector,
              std::uint64_t ist, std::uint64_t type) {
    const auto address = reinterpret_cast<std::uint64_t>(handler);
    auto& low = at_phys<std::uint64_t>(area + boot::cpu_area_idt + vector * 16);
    auto& high = at_phys<std::uint64_t>(area + boot::cpu_area_idt + vector * 16 + 8);
    low = (address & 0xffff) | std::uint64_t{selector} << 16 | ist << 32 | type << 40 |
          (address >> 16 & 0xffff) << 48;
    high = address >> 32;
}

void enable_interrupts(unsigned cpu) {
    const std::uint64_t area = boot::cpu_areas_phys + cpu * boot::cpu_area_size;
    const std::uint64_t tss = direct_map_base + area + boot::cpu_area_tss;
    const std::uint64_t gdt[] = {0,
                                 0,
                                 0x00af'9b00'0000'ffff,
                                 0x00cf'9300'0000'ffff,
                                 0x00cf'fb00'0000'ffff,
                                 0x00cf'f300'0000'ffff,
                                 0x00af'fb00'0000'ffff,
                                 0x0000'8b00'0000'0067 | (tss & 0xff'ffff) << 16 |
                                     (tss >> 24 & 0xff) << 56,
                                 tss >> 32};
    for (unsigned i = 0; i < 9; ++i)
        at_phys<std::uint64_t>(area + boot::cpu_area_gdt + i * 8) = gdt[i];
    const auto put = [&](std::uint64_t offset, std::uint64_t value) {
        at_phys<std::uint32_t>(area + boot::cpu_area_tss + offset) =
            static_cast<std::uint32_t>(value);
        at_phys<std::uint32_t>(area + boot::cpu_area_tss + offset + 4) =
            static_cast<std::uint32_t>(value >> 32);
    };
    put(4, direct_map_base + area + 0x4000);  // RSP0
    put(36, direct_map_base + area + 0x5000); // IST1
    const bool ring3 = in_ring3();
    const std::uint16_t code = ring3 ? boot::user_code_selector : boot::kernel_code_selector;
    set_gate(area, 3, nucleus_gate, boot::kernel_code_selector, 0, 0xee);
    for (unsigned i = 0; i < boot::device_vectors; ++i)
        set_gate(area, boot::device_vector_base + i, device_interrupt, code, 1,
                 ring3 ? 0xef : 0x8e);
    write_msr(0x80f, 0x1ff); // x2APIC spurious vector: enable
    if (!ring3)
        asm volatile("sti");
}

// --- one virtio device
// -----------------------------------------------------------------------------

struct Descriptor {
    std::uint64_t address;
    std::uint32_t length;
    std::uint16_t flags;
    std::uint16_t next;
};

constexpr std::uint16_t ring_size = 4;
struct Ring {
    alignas(16) Descriptor descriptors[ring_size];
    alignas(2) std::uint16_t available[2 + ring_size + 1];
    alignas(4) std::uint32_t used[1 + ring_size * 2 + 1]; // flags | index << 16, then id, length
};
Ring rings[2];
std::uint32_t question;
volatile std::uint32_t answer;

volatile std::uint32_t& reg(unsigned offset) {
    return at_phys<std::uint32_t>(boot::virtio_mmio_base + offset);
}

void set_address(unsigned offset, std::uint64_t address) {
    reg(offset) = static_cast<std::uint32_t>(address);
    reg(offset + 4) = static_cast<std::uint32_t>(address >> 32);
}

void set_up_device() {
    require(reg(VIRTIO_MMIO_MAGIC_VALUE) == 0x7472'6976, "magic value");
    require(reg(VIRTIO_MMIO_VERSION) == 2, "mmio version");
    reg(VIRTIO_MMIO_STATUS) = 0;
    reg(VIRTIO_MMIO_STATUS) = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
    reg(VIRTIO_MMIO_DRIVER_FEATURES_SEL) = 1;
    reg(VIRTIO_MMIO_DRIVER_FEATURES) = 1; // VIRTIO_F_VERSION_1
    reg(VIRTIO_MMIO_STATUS) =
        VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK;
    require((reg(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_FEATURES_OK) != 0, "features");
    for (std::uint32_t queue = 0; queue < 2; ++queue) {
        Ring& ring = rings[queue];
        ring.descriptors[0] = {phys_of(&question), 4, 1, 1};
        ring.descriptors[1] = {reinterpret_cast<std::uint64_t>(&answer) - boot::kernel_virt +
                                   boot::kernel_phys,
                               4, 2, 0};
        reg(VIRTIO_MMIO_QUEUE_SEL) = queue;
        reg(VIRTIO_MMIO_QUEUE_NUM) = ring_size;
        set_address(VIRTIO_MMIO_QUEUE_DESC_LOW, phys_of(&ring.descriptors));
        set_address(VIRTIO_MMIO_QUEUE_AVAIL_LOW, phys_of(&ring.available));
        set_address(VIRTIO_MMIO_QUEUE_USED_LOW, phys_of(&ring.used));
        reg(VIRTIO_MMIO_QUEUE_READY) = 1;
    }
    reg(VIRTIO_MMIO_STATUS) = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
                              VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;
}

// Asks queue `queue` its `round`-th question and waits for the device's interrupt.
void ask(std::uint32_t queue, std::uint16_t round) {
    Ring& ring = rings[queue];
    question = 1000u + round;
    answer = 0;
    const std::uint32_t interrupts = interrupt_count;
    ring.available[2 + round % ring_size] = 0;
    __atomic_store_n(&ring.available[1], static_cast<std::uint16_t>(round + 1), __ATOMIC_SEQ_CST);
    reg(VIRTIO_MMIO_QUEUE_NOTIFY) = queue;
    while (interrupt_count == interrupts)
        __builtin_ia32_pause();
    require(__atomic_load_n(&ring.used[0], __ATOMIC_SEQ_CST) >> 16 == round + 1u, "used index");
    require(answer == 2 * question, "answer");
}

void use_device() {
    enable_interrupts(0);
    set_up_device();
    for (std::uint16_t round = 0; round < 20; ++round) {
        ask(0, round);
        ask(1, round);
    }
}

} // namespace

void kernel_main(const boot::BootBlock* block, std::uint64_t cpu) {
    if (cpu != 0) {
        __atomic_fetch_add(&cpus_running, 1, __ATOMIC_SEQ_CST);
        for (;;)
            __builtin_ia32_pause();
    }
    control(boot::Control::mark, static_cast<std::uint32_t>(boot::Mark::kernel_entered));
    if (is_asked(*block, "log")) {
        log("hello from the guest");
    } else if (is_asked(*block, "exit-7")) {
        exit_with(7);
    } else if (is_asked(*block, "boot-block")) {
        check_boot_block(*block);
    } else if (is_asked(*block, "not-found")) {
        control(boot::Control::exec_failed, std::uint32_t{2});
    } else if (is_asked(*block, "panic")) {
        panic_caller(true);
    } else if (is_asked(*block, "panic-bare")) {
        panic_caller(false);
    } else if (is_asked(*block, "triple-fault")) {
        asm volatile("ud2");
    } else if (is_asked(*block, "bad-record")) {
        control(boot::Control::log, block->low_ram_end);
    } else if (is_asked(*block, "bad-size")) {
        control(boot::Control::exit, std::uint64_t{0});
    } else if (is_asked(*block, "wild-write")) {
        at_phys<std::uint32_t>(boot::kernel_phys + boot::max_kernel_size) = 1;
    } else if (is_asked(*block, "write-text")) {
        *reinterpret_cast<volatile char*>(&kernel_main) = 0;
    } else if (is_asked(*block, "start-cpus")) {
        start_all_cpus(*block);
    } else if (is_asked(*block, "start-twice")) {
        start_all_cpus(*block);
        control(boot::Control::start_cpu, std::uint32_t{1});
    } else if (is_asked(*block, "device")) {
        use_device();
    } else if (is_asked(*block, "spin")) {
        start_all_cpus(*block);
        log("spinning");
        for (;;)
            __builtin_ia32_pause();
    } else {
        exit_with(99);
    }
    exit_with(0);
}
