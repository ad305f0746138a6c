#include <cstring>
#include <string>

#include <catch2/catch.hpp>
#include <libfdt.h>

#include "boot/fdt/device_tree.hpp"
#include "boot/protocol/layout.hpp"

namespace {

struct Tree {
    std::vector<std::byte> bytes;

    int node(const char* path) const { return fdt_path_offset(bytes.data(), path); }
    std::string property(int at, const char* name) const {
        int length = 0;
        const void* data = fdt_getprop(bytes.data(), at, name, &length);
        return data == nullptr
                   ? "(none)"
                   : std::string(static_cast<const char*>(data), static_cast<std::size_t>(length));
    }
    std::vector<std::uint32_t> numbers(int at, const char* name) const {
        const std::string raw = property(at, name);
        std::vector<std::uint32_t> values;
        for (std::size_t i = 0; i + 4 <= raw.size(); i += 4) {
            fdt32_t cell = 0;
            std::memcpy(&cell, raw.data() + i, sizeof(cell));
            values.push_back(fdt32_to_cpu(cell));
        }
        return values;
    }
};

Tree build(const boot::GuestDescription& guest, unsigned devices) {
    auto tree = boot::build_device_tree(guest, devices);
    REQUIRE(tree);
    REQUIRE(fdt_check_full(tree->data(), tree->size()) == 0);
    return {std::move(*tree)};
}

using Numbers = std::vector<std::uint32_t>;

} // namespace

TEST_CASE("the program, its user and its streams stand in chosen") {
    boot::GuestDescription guest;
    guest.args = {"/bin/echo", "", "two words"};
    guest.env = {"A=1", "B="};
    guest.cwd = "/tmp";
    guest.uid = 1000;
    guest.gid = 100;
    guest.groups = {4, 27};
    guest.hostname = "pouch";
    guest.strace = true;
    guest.log_level = boot::LogLevel::Debug;
    guest.root_tag = "root";
    guest.standard_input = boot::StreamKind::Pipe;
    guest.standard_output = boot::StreamKind::Terminal;
    guest.standard_error = boot::StreamKind::Closed;
    guest.window = boot::WindowSize{80, 25};
    guest.umask = 027;
    guest.address_randomization = 1;
    guest.rlimits = {{7, 1024, 0x1'0000'0000}};
    const Tree tree = build(guest, 0);
    const int chosen = tree.node("/chosen");
    REQUIRE(chosen >= 0);
    CHECK(tree.property(0, "compatible") == std::string("joey,vm\0", 8));
    CHECK(tree.property(chosen, "joey,args") == std::string("/bin/echo\0\0two words\0", 21));
    CHECK(tree.property(chosen, "joey,env") == std::string("A=1\0B=\0", 7));
    CHECK(tree.property(chosen, "joey,cwd") == std::string("/tmp\0", 5));
    CHECK(tree.numbers(chosen, "joey,user") == Numbers{1000, 100});
    CHECK(tree.numbers(chosen, "joey,groups") == Numbers{4, 27});
    CHECK(tree.property(chosen, "joey,hostname") == std::string("pouch\0", 6));
    CHECK(tree.property(chosen, "joey,strace").empty());
    CHECK(tree.numbers(chosen, "joey,log-level") == Numbers{3});
    CHECK(tree.property(chosen, "joey,root") == std::string("root\0", 5));
    CHECK(tree.property(chosen, "joey,root-mode") == std::string("overlay\0", 8));
    CHECK(tree.property(chosen, "joey,stdin") == std::string("pipe\0", 5));
    CHECK(tree.property(chosen, "joey,stdout") == std::string("terminal\0", 9));
    CHECK(tree.property(chosen, "joey,stderr") == std::string("closed\0", 7));
    CHECK(tree.numbers(chosen, "joey,window") == Numbers{80, 25});
    CHECK(tree.numbers(chosen, "joey,umask") == Numbers{027});
    CHECK(tree.numbers(chosen, "joey,randomize") == Numbers{1});
    CHECK(tree.numbers(chosen, "joey,rlimits") == Numbers{7, 0, 0, 1024, 1, 0});
}

TEST_CASE("what was not asked for is absent") {
    const Tree tree = build({}, 0);
    const int chosen = tree.node("/chosen");
    for (const char* name : {"joey,strace", "joey,root", "joey,root-mode", "joey,window"})
        CHECK(tree.property(chosen, name) == "(none)");
    CHECK(tree.property(chosen, "joey,args").empty());
    CHECK(fdt_first_subnode(tree.bytes.data(), tree.node("/volumes")) < 0);
}

TEST_CASE("virtio devices have their address and vector") {
    const Tree tree = build({}, 3);
    const int device = tree.node("/virtio@c0012000");
    REQUIRE(device >= 0);
    CHECK(tree.property(device, "compatible") == std::string("virtio,mmio\0", 12));
    CHECK(tree.numbers(device, "reg") == Numbers{0, 0xc001'2000, 0, 0x1000});
    CHECK(tree.numbers(device, "interrupts") == Numbers{boot::device_vector(2)});
    CHECK(tree.node("/virtio@c0013000") < 0);
}

TEST_CASE("volumes are listed in order with their flags") {
    boot::GuestDescription guest;
    guest.volumes = {{"v0", "/data", false, false}, {"v1", "/etc/x", true, true}};
    const Tree tree = build(guest, 0);
    const int first = tree.node("/volumes/volume@0");
    const int second = tree.node("/volumes/volume@1");
    CHECK(tree.property(first, "joey,destination") == std::string("/data\0", 6));
    CHECK(tree.property(first, "joey,read-only") == "(none)");
    CHECK(tree.property(second, "joey,tag") == std::string("v1\0", 3));
    CHECK(tree.property(second, "joey,read-only").empty());
    CHECK(tree.property(second, "joey,is-file").empty());
}

TEST_CASE("large environments fit, absurd ones are refused") {
    boot::GuestDescription guest;
    guest.env.assign(2000, std::string(1000, 'x'));
    const Tree tree = build(guest, 64);
    CHECK(tree.property(tree.node("/chosen"), "joey,env").size() == 2000 * 1001);
    guest.env.assign(20, std::string(1u << 20, 'x'));
    CHECK_FALSE(boot::build_device_tree(guest, 0));
}
