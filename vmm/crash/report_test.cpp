#include <array>
#include <cstring>

#include <catch2/catch.hpp>

#include "boot/elf/elf_builder.hpp"
#include "boot/protocol/layout.hpp"
#include "vmm/crash/disassembly.hpp"
#include "vmm/crash/guest_view.hpp"
#include "vmm/crash/report.hpp"

namespace {

using boot::kernel_virt;

// A few pages of guest memory with page tables: kernel_virt maps page 5, the "stack" at
// direct_map_base + 0x6000 maps page 6.
class SmallGuest {
public:
    SmallGuest() : bytes_(16 * boot::page_size) {
        added_ = memory_.add_region({virtio::GuestAddr(0), bytes_.data(), bytes_.size()});
        link(root, kernel_virt, 4, 0x2000);
        link(0x2000, kernel_virt, 3, 0x3000);
        link(0x3000, kernel_virt, 2, 0x4000);
        link(0x4000, kernel_virt, 1, 0x5000);
        link(root, stack, 4, 0x7000);
        link(0x7000, stack, 3, 0x8000);
        link(0x8000, stack, 2, 0x0, large);
    }
    static constexpr std::uint64_t root = 0x1000;
    static constexpr std::uint64_t stack = boot::direct_map_base + 0x6000;
    static constexpr std::uint64_t large = 0x80;

    void link(std::uint64_t table, std::uint64_t virt, unsigned level, std::uint64_t to,
              std::uint64_t flags = 0) {
        put(table + (virt >> (12 + 9 * (level - 1)) & 511) * 8, to | 3 | flags);
    }
    void put(std::uint64_t phys, std::uint64_t value) {
        std::memcpy(bytes_.data() + phys, &value, sizeof(value));
    }
    void put_code(std::uint64_t offset, std::initializer_list<unsigned> code) {
        for (const unsigned byte : code)
            bytes_[0x5000 + offset++] = static_cast<std::byte>(byte);
    }
    const virtio::GuestMemory& memory() const { return memory_; }
    bool ready() const { return added_; }

private:
    std::vector<std::byte> bytes_;
    virtio::GuestMemory memory_;
    bool added_ = false;
};

boot::SymbolTable symbols(const std::vector<std::byte>& file) {
    return boot::SymbolTable(file);
}

std::vector<std::byte> symbol_file() {
    auto elf = boot::testing::ElfBuilder::kernel();
    elf.functions = {{"_ZN4joey2mm4freeEm", kernel_virt, 0x40},
                     {"outer", kernel_virt + 0x40, 0x40},
                     {"outermost", kernel_virt + 0x80, 0x40}};
    return elf.build();
}

bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

} // namespace

TEST_CASE("guest-virtual memory is read through the page tables, large pages included") {
    SmallGuest guest;
    REQUIRE(guest.ready());
    const vmm::crash::GuestView view(guest.memory(), SmallGuest::root);
    CHECK(view.translate(kernel_virt + 0x123)->raw() == 0x5123);
    CHECK(view.translate(SmallGuest::stack + 8)->raw() == 0x6008);
    CHECK_FALSE(view.translate(kernel_virt + 0x1000));
    CHECK_FALSE(view.translate(0));
    CHECK_FALSE(view.translate(0x1234'5678'0000'0000)); // not canonical
    guest.put(0x6000, 77);
    CHECK(view.read_word(SmallGuest::stack) == 77);
    std::array<std::byte, 32> bytes{};
    CHECK(view.read(kernel_virt + 0xff0, bytes) == 16);
}

TEST_CASE("page tables that point outside of memory or to themselves read as nothing") {
    SmallGuest guest;
    const vmm::crash::GuestView view(guest.memory(), SmallGuest::root);
    guest.link(SmallGuest::root, kernel_virt, 4, 0x7fff'ffff'f000);
    CHECK_FALSE(view.translate(kernel_virt));
    guest.link(SmallGuest::root, kernel_virt, 4, SmallGuest::root);
    // A self-map ends after four levels like any other walk.
    CHECK(view.translate(kernel_virt).has_value() == view.translate(kernel_virt).has_value());
    const vmm::crash::GuestView wild(guest.memory(), ~0ull);
    CHECK_FALSE(wild.translate(kernel_virt));
}

TEST_CASE("a report names the symbol, the callers and the instruction") {
    SmallGuest guest;
    guest.put_code(0, {0x55, 0x48, 0x89, 0xe5, 0x0f, 0x0b, 0xc3}); // push rbp; mov; ud2; ret
    guest.put(0x6100, SmallGuest::stack + 0x200);
    guest.put(0x6108, kernel_virt + 0x50);
    guest.put(0x6200, 0);
    guest.put(0x6208, kernel_virt + 0x80); // the call was the last instruction of `outer`
    vmm::crash::Crash crash;
    crash.title = "guest kernel panic: \x1b[31mred";
    crash.cpu = 3;
    crash.registers.rip = kernel_virt + 4;
    crash.registers.rbp = SmallGuest::stack + 0x100;
    crash.registers.rsp = SmallGuest::stack;
    crash.registers.cr3 = SmallGuest::root;
    crash.exception = vmm::crash::Exception{6, 0};
    const auto file = symbol_file();
    const std::string report = vmm::crash::write_report(crash, guest.memory(), symbols(file));
    INFO(report);
    CHECK(contains(report, "guest kernel panic: ?[31mred\n"));
    CHECK(contains(report,
                   "vCPU 3 at joey::mm::free(unsigned long)+0x4, exception 6 (invalid opcode)"));
    CHECK(contains(report, "ffffffff80000050 outer+0xf"));
    CHECK(contains(report, "ffffffff80000080 outer+0x3f"));
    CHECK(contains(report, "   ffffffff80000001  mov rbp, rsp\n-> ffffffff80000004  ud2\n"));
}

TEST_CASE("a broken frame pointer leaves the stack's return addresses as hints") {
    SmallGuest guest;
    guest.put(0x6010, kernel_virt + 0x60);
    vmm::crash::Crash crash;
    crash.registers.rip = 0;
    crash.registers.rbp = 0x1234;
    crash.registers.rsp = SmallGuest::stack;
    crash.registers.cr3 = SmallGuest::root;
    const auto file = symbol_file();
    const std::string report = vmm::crash::write_report(crash, guest.memory(), symbols(file));
    INFO(report);
    CHECK(contains(report, "(user address)"));
    CHECK(contains(report, "possible callers, from the stack:\n  ffffffff80000060 outer+0x1f"));
    CHECK(contains(report, "code: not mapped"));
}

TEST_CASE("a frame chain that loops ends") {
    SmallGuest guest;
    guest.put(0x6100, SmallGuest::stack + 0x100);
    guest.put(0x6108, kernel_virt + 0x50);
    vmm::crash::Crash crash;
    crash.registers.rip = kernel_virt;
    crash.registers.rbp = SmallGuest::stack + 0x100;
    crash.registers.cr3 = SmallGuest::root;
    const std::string report = vmm::crash::write_report(crash, guest.memory(), {});
    CHECK(contains(report, "backtrace:"));
    CHECK(report.size() < 4000);
}

TEST_CASE("disassembly stops at what is no instruction") {
    const std::array code{std::byte{0x90}, std::byte{0x06}, std::byte{0x90}};
    const auto instructions = vmm::crash::disassemble(code, 0x1000);
    REQUIRE(instructions.size() == 1);
    CHECK(instructions[0].address == 0x1000);
    CHECK(instructions[0].text == "nop");
    CHECK(vmm::crash::disassemble({}, 0).empty());
}
