#include <cerrno>

#include <catch2/catch.hpp>

#include "guestkernel/arch/hosted/hosted.hpp"
#include "guestkernel/mm/fake_file.hpp"
#include "guestkernel/mm/memory_internal.hpp"
#include "guestkernel/mm/page_cache.hpp"

using namespace kernel;
using hosted::FakeSource;

namespace {

constexpr u64 mebibyte = u64{1} << 20;

struct CacheTest {
    explicit CacheTest(u64 bytes, u64 ram = 64 * mebibyte) : source(bytes) {
        hosted::reset(ram);
        cache = *make_ref<PageCache>(&source);
    }
    bool right(u64 index) {
        Result<FrameRef> frame = cache->get(index);
        if (!frame) {
            UNSCOPED_INFO("page " << index << " error " << frame.error().code << " free "
                                  << memory_stats().free);
            return false;
        }
        const u64 bytes = std::min<u64>(page_size, source.content.size() - index * page_size);
        return std::memcmp((*frame).data(), source.content.data() + index * page_size, bytes) == 0;
    }
    FakeSource source;
    Ref<PageCache> cache;
};

} // namespace

TEST_CASE("pages read in order come in ever larger requests") {
    CacheTest test(8 * mebibyte);
    for (u64 i = 0; i < 2048; i++)
        REQUIRE(test.right(i));
    CHECK(test.source.pages_read == 2048);
    CHECK(test.source.reads <= 16);
    CHECK(test.cache->resident_pages() == 2048);
}

TEST_CASE("pages read at random are read in small requests") {
    CacheTest test(64 * mebibyte);
    for (u64 i = 1; i <= 100; i++)
        REQUIRE(test.right(i * 7919 % 16000 + 100));
    CHECK(test.source.pages_read <= 420);
}

TEST_CASE("a small file is read at once") {
    CacheTest test(100'000);
    REQUIRE(test.right(20));
    REQUIRE(test.right(0));
    CHECK(test.source.reads == 1);
    CHECK(test.cache->get(25).error().code == ENXIO);
}

TEST_CASE("a failed read is told, leaves nothing behind and can be tried again") {
    CacheTest test(mebibyte);
    test.source.fail_with = EIO;
    CHECK(test.cache->get(3).error().code == EIO);
    CHECK(test.cache->resident_pages() == 0);
    test.source.fail_with = 0;
    CHECK(test.right(3));
}

TEST_CASE("dirty pages are written back in runs, once") {
    CacheTest test(mebibyte);
    for (const u64 index : {10, 11, 12, 50}) {
        FrameRef frame = *test.cache->get_for_write(index, false);
        std::memset(frame.data(), 0x5a, page_size);
        test.cache->mark_dirty(*frame);
    }
    CHECK(test.cache->dirty_pages() == 4);
    REQUIRE(test.cache->write_back(0, ~u64{0}));
    CHECK(test.source.writes == 2);
    CHECK(test.source.pages_written == 4);
    CHECK(test.source.content[11 * page_size] == 0x5a);
    CHECK(test.cache->dirty_pages() == 0);
    REQUIRE(test.cache->write_back(0, ~u64{0}));
    CHECK(test.source.writes == 2);
    CHECK(memory_stats().dirty == 0);
}

TEST_CASE("a page that will be overwritten is not read") {
    CacheTest test(mebibyte);
    FrameRef frame = *test.cache->get_for_write(100, true);
    CHECK(test.source.reads == 0);
    CHECK(frame.data()[0] == 0);
    CHECK(test.cache->get_for_write(1000, false)); // past the end: created
    CHECK(test.source.reads == 0);
}

TEST_CASE("truncation drops pages and zeroes the rest of the last one") {
    CacheTest test(mebibyte);
    for (u64 i = 0; i < 256; i++)
        REQUIRE(test.right(i));
    test.cache->truncate(10 * page_size + 100);
    CHECK(test.cache->resident_pages() == 11);
    FrameRef last = test.cache->lookup(10);
    REQUIRE(last);
    CHECK(last.data()[99] == test.source.content[10 * page_size + 99]);
    CHECK(last.data()[100] == 0);
    CHECK(last.data()[page_size - 1] == 0);
}

TEST_CASE("a hole is punched to the byte in memory that is the pages' only home") {
    hosted::reset(64 * mebibyte);
    Ref<PageCache> cache = *make_ref<PageCache>(nullptr);
    for (u64 i = 0; i < 8; i++)
        std::memset((*cache->get_for_write(i, true)).data(), 1, page_size);
    cache->punch(page_size + 10, 5 * page_size + 20);
    CHECK(cache->resident_pages() == 5);
    CHECK(cache->next_hole(0, 8) == 2);
    CHECK(cache->next_present(2, 8) == 5);
    CHECK((*cache->get(1)).data()[9] == 1);
    CHECK((*cache->get(1)).data()[10] == 0);
    CHECK((*cache->get(3)).data()[0] == 0);
    CHECK(cache->resident_pages() == 5); // reading a hole costs no memory
    CHECK((*cache->get(5)).data()[19] == 0);
    CHECK((*cache->get(5)).data()[20] == 1);
}

TEST_CASE("pages of files are given up when memory runs short, dirty ones written first") {
    CacheTest test(64 * mebibyte, 16 * mebibyte);
    FrameRef changed = *test.cache->get_for_write(1, false);
    changed.data()[0] = 0xee;
    test.cache->mark_dirty(*changed);
    changed.reset();
    for (u64 i = 2; i < 16384; i++)
        REQUIRE(test.right(i));
    CHECK(test.cache->resident_pages() < 4096);
    CHECK(test.source.content[page_size] == 0xee);
    CHECK(memory_stats().cached == test.cache->resident_pages());
}

TEST_CASE("pages in use are not given up") {
    CacheTest test(64 * mebibyte, 16 * mebibyte);
    FrameRef held = *test.cache->get(7);
    for (u64 i = 0; i < 16384; i++)
        REQUIRE(test.right(i));
    CHECK(test.cache->lookup(7).get() == held.get());
}

TEST_CASE("a write-back that was interrupted, or found no memory, leaves its pages dirty") {
    CacheTest test(mebibyte);
    FrameRef frame = *test.cache->get_for_write(10, false);
    frame.data()[0] = 0x5a;
    test.cache->mark_dirty(*frame);
    for (const int error : {EINTR, ENOMEM}) {
        test.source.fail_writes_with = error;
        CHECK(test.cache->write_back(0, ~u64{0}).error().code == error);
        CHECK(test.cache->dirty_pages() == 1);
        write_back_all(); // ends
    }
    test.source.fail_writes_with = 0;
    REQUIRE(test.cache->write_back(0, ~u64{0}));
    CHECK(test.source.content[10 * page_size] == 0x5a);
    CHECK(test.cache->dirty_pages() == 0);
}

TEST_CASE("whoever still holds the cache of a file that is gone finds no page to write") {
    CacheTest test(mebibyte);
    FrameRef frame = *test.cache->get_for_write(10, false);
    test.cache->mark_dirty(*frame);
    test.cache->detach();
    CHECK(test.cache->resident_pages() == 0);
    CHECK(test.cache->dirty_pages() == 0);
    CHECK(test.cache->write_back(0, ~u64{0}));
    CHECK(test.source.writes == 0);
}
