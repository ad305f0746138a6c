#include <algorithm>
#include <cstring>
#include <map>
#include <random>
#include <vector>

#include <catch2/catch.hpp>

#include "guestkernel/arch/arch.hpp"
#include "guestkernel/arch/hosted/hosted.hpp"
#include "guestkernel/mm/frame.hpp"
#include "guestkernel/mm/heap.hpp"
#include "guestkernel/mm/memory_internal.hpp"
#include "guestkernel/task/task.hpp"

using namespace kernel;

namespace {

constexpr u64 mebibyte = u64{1} << 20;

bool is_zero(const Frame& frame) {
    const u8* data = static_cast<const u8*>(frame_data(frame));
    return std::all_of(data, data + page_size, [](u8 byte) { return byte == 0; });
}

} // namespace

TEST_CASE("frames never overlap and come back whole, whatever the order of use") {
    hosted::reset(96 * mebibyte);
    const u64 free_before = memory_stats().free;
    std::mt19937 random(1);
    std::map<u64, std::pair<Frame*, u64>> live; // by address: frame, bytes
    for (int step = 0; step < 20000; step++) {
        if (live.size() < 300 && random() % 2 == 0) {
            const unsigned order = random() % 4 == 0 ? static_cast<unsigned>(random() % 9) : 0;
            Frame* frame = alloc_frames(order);
            if (frame == nullptr)
                continue;
            const u64 at = frame_to_phys(*frame).raw();
            const u64 bytes = u64{page_size} << order;
            REQUIRE(at % bytes == 0);
            REQUIRE(phys_to_frame(PhysAddr(at)) == frame);
            const auto next = live.lower_bound(at);
            REQUIRE((next == live.end() || at + bytes <= next->first));
            REQUIRE((next == live.begin() ||
                     std::prev(next)->first + std::prev(next)->second.second <= at));
            live[at] = {frame, bytes};
        } else if (!live.empty()) {
            auto victim = live.begin();
            std::advance(victim, static_cast<long>(random() % live.size()));
            put_frame(*victim->second.first);
            live.erase(victim);
        }
    }
    for (auto& [at, block] : live)
        put_frame(*block.first);
    // Chunks that were opened since have given some frames to their descriptors.
    REQUIRE(free_before - memory_stats().free <=
            3 * (32 * mebibyte / page_size * sizeof(Frame) / page_size + 1));
    REQUIRE(alloc_frames(9) != nullptr);
}

TEST_CASE("zeroed frames are zero, fresh or used before") {
    hosted::reset(16 * mebibyte);
    std::vector<Frame*> frames;
    for (int i = 0; i < 500; i++) {
        frames.push_back(alloc_zeroed_frame());
        REQUIRE(frames.back() != nullptr);
        REQUIRE(is_zero(*frames.back()));
        std::memset(frame_data(*frames.back()), 0xaa, page_size);
    }
    for (Frame* frame : frames)
        put_frame(*frame);
    for (int i = 0; i < 500; i++)
        REQUIRE(is_zero(*alloc_zeroed_frame()));
}

TEST_CASE("the frame that was freed last is the next one used") {
    hosted::reset(16 * mebibyte);
    Frame* first = alloc_frame();
    Frame* second = alloc_frame();
    put_frame(*first);
    put_frame(*second);
    CHECK(alloc_frame() == second);
    CHECK(alloc_frame() == first);
}

TEST_CASE("all memory can be used, then allocation fails, then it works again") {
    hosted::reset(8 * mebibyte);
    std::vector<Frame*> frames;
    while (Frame* frame = alloc_frames(0, false))
        frames.push_back(frame);
    CHECK(frames.size() + 64 >= memory_stats().total);
    CHECK(alloc_frames(3, false) == nullptr);
    for (Frame* frame : frames)
        put_frame(*frame);
    CHECK(alloc_frames(3, false) != nullptr);
}

TEST_CASE(
    "a frame from the reserve, when nothing is left to reclaim or to end, has one reference") {
    hosted::reset(8 * mebibyte);
    Task task; // whom a signal would go to
    hosted::set_current(&task);
    std::vector<Frame*> frames;
    while (Frame* frame = alloc_frame())
        frames.push_back(frame);
    const bool one_each = std::all_of(frames.begin(), frames.end(),
                                      [](const Frame* frame) { return frame->refs.load() == 1; });
    CHECK(one_each);
    for (Frame* frame : frames)
        put_frame(*frame);
    hosted::set_current(nullptr);
}

TEST_CASE("opening the first memory touches few pages however much there is") {
    hosted::reset(u64{3} << 30);
    Frame* frame = alloc_frame();
    REQUIRE(frame != nullptr);
    CHECK(frame_to_phys(*frame).raw() < 4 * mebibyte);
    CHECK(phys_to_frame(PhysAddr(u64{2} << 30)) == nullptr); // descriptors not set up yet
}

TEST_CASE("kmalloc gives disjoint, aligned memory of every size and takes it back") {
    hosted::reset(64 * mebibyte);
    std::mt19937 random(2);
    struct Block {
        u8* at;
        usize bytes;
        u8 mark;
    };
    std::vector<Block> live;
    for (int step = 0; step < 30000; step++) {
        if (live.size() < 500 && random() % 5 < 3) {
            const usize bytes = random() % 10 == 0 ? 1 + random() % 20000 : 1 + random() % 2100;
            u8* at = static_cast<u8*>(kmalloc(bytes));
            REQUIRE(at != nullptr);
            const usize alignment = bytes >= 4096 ? 4096 : bytes >= 64 ? 64 : 16;
            REQUIRE(reinterpret_cast<u64>(at) % alignment == 0);
            const u8 mark = static_cast<u8>(random());
            std::memset(at, mark, bytes);
            live.push_back({at, bytes, mark});
        } else if (!live.empty()) {
            const usize victim = random() % live.size();
            const Block block = live[victim];
            REQUIRE(std::all_of(block.at, block.at + block.bytes,
                                [&](u8 byte) { return byte == block.mark; }));
            kfree(block.at);
            live[victim] = live.back();
            live.pop_back();
        }
    }
    for (const Block& block : live)
        kfree(block.at);
    CHECK(memory_stats().slab < 200);
}

TEST_CASE("kernel stacks are aligned to their size and used again") {
    hosted::reset(16 * mebibyte);
    void* stack = alloc_kernel_stack();
    REQUIRE(stack != nullptr);
    CHECK(arch::virt_to_phys(stack).raw() % arch::kernel_stack_size == 0);
    free_kernel_stack(stack);
    CHECK(alloc_kernel_stack() == stack);
}
