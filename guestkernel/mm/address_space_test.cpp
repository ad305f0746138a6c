#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <map>
#include <random>
#include <vector>

#include <linux/userfaultfd.h>
#include <sys/mman.h>

#include <catch2/catch.hpp>

#include "guestkernel/arch/arch.hpp"
#include "guestkernel/arch/hosted/hosted.hpp"
#include "guestkernel/mm/address_space_impl.hpp"
#include "guestkernel/mm/fake_file.hpp"
#include "guestkernel/mm/heap.hpp"
#include "guestkernel/mm/memory_internal.hpp"
#include "guestkernel/mm/page_cache.hpp"
#include "guestkernel/task/task.hpp"

using namespace kernel;
using hosted::FakeFile;

namespace {

constexpr u64 mebibyte = u64{1} << 20;
constexpr u32 read_write = PROT_READ | PROT_WRITE;

struct SpaceTest {
    explicit SpaceTest(u64 ram = 64 * mebibyte) {
        hosted::reset(ram);
        hosted::set_current(&task); // whom signals would go to
        space = *AddressSpace::create();
    }
    ~SpaceTest() { hosted::set_current(nullptr); }
    u64 map(u64 pages, u32 protection = read_write, u32 flags = MAP_PRIVATE | MAP_ANONYMOUS,
            Ref<File> file = nullptr, u64 offset = 0, u64 hint = 0) {
        MapRequest request;
        request.hint = VirtAddr(hint);
        request.length = pages * page_size;
        request.protection = protection;
        request.flags = flags;
        request.file = std::move(file);
        request.offset = offset;
        auto mapped = space->map(request);
        return mapped ? (*mapped).raw() : static_cast<u64>(-mapped.error().code);
    }
    Task task;
    Ref<AddressSpace> space;
    u32 signal_code = 0;
};

u8* at(AddressSpace& space, u64 address, u64 access) {
    u32 signal_code = 0;
    return hosted::access(space, address, access, signal_code);
}
int load(AddressSpace& space, u64 address) {
    u8* byte = at(space, address, 0);
    return byte == nullptr ? -1 : *byte;
}
bool store(AddressSpace& space, u64 address, u8 value) {
    u8* byte = at(space, address, arch::fault_write);
    if (byte != nullptr)
        *byte = value;
    return byte != nullptr;
}
u32 signal_of(AddressSpace& space, u64 address, u64 access) {
    u32 signal_code = 0;
    return hosted::access(space, address, access, signal_code) == nullptr ? signal_code : 0;
}
constexpr u32 packed(int signal, int code) {
    return static_cast<u32>(signal << 8 | code);
}
u64 count_mappings(AddressSpace& space) {
    u64 count = 0;
    space.for_each_mapping(
        [](const MappingInfo&, void* context) {
            ++*static_cast<u64*>(context);
            return true;
        },
        &count, false);
    return count;
}

} // namespace

TEST_CASE(
    "anonymous memory reads as zeros, keeps what is written, and faults once per neighbourhood") {
    SpaceTest test;
    const u64 start = test.map(256);
    hosted::counters().faults = 0;
    for (u64 i = 0; i < 256; i++) {
        REQUIRE(load(*test.space, start + i * page_size) == 0);
        REQUIRE(store(*test.space, start + i * page_size, static_cast<u8>(i)));
    }
    CHECK(hosted::counters().faults <= 8);
    for (u64 i = 0; i < 256; i++)
        REQUIRE(load(*test.space, start + i * page_size) == static_cast<int>(i));
    CHECK(test.space->usage().resident_anonymous == 256);
    CHECK(hosted::counters().flushes == 0);
    const u64 free_before = memory_stats().free;
    REQUIRE(test.space->unmap(VirtAddr(start), 256 * page_size));
    CHECK(memory_stats().free >= free_before + 256);
    CHECK(signal_of(*test.space, start, 0) == packed(SIGSEGV, SEGV_MAPERR));
}

TEST_CASE("protection is what mprotect says, and its contents survive PROT_NONE") {
    SpaceTest test;
    const u64 start = test.map(8);
    REQUIRE(store(*test.space, start + 3 * page_size, 7));
    REQUIRE(test.space->protect(VirtAddr(start + 2 * page_size), 3 * page_size, PROT_READ));
    CHECK(count_mappings(*test.space) == 3);
    CHECK(signal_of(*test.space, start + 3 * page_size, arch::fault_write) ==
          packed(SIGSEGV, SEGV_ACCERR));
    CHECK(load(*test.space, start + 3 * page_size) == 7);
    REQUIRE(test.space->protect(VirtAddr(start + 2 * page_size), 3 * page_size, PROT_NONE));
    CHECK(signal_of(*test.space, start + 3 * page_size, 0) == packed(SIGSEGV, SEGV_ACCERR));
    REQUIRE(test.space->protect(VirtAddr(start + 2 * page_size), 3 * page_size, read_write));
    CHECK(count_mappings(*test.space) == 1);
    CHECK(load(*test.space, start + 3 * page_size) == 7);
    CHECK(signal_of(*test.space, start, arch::fault_fetch) == packed(SIGSEGV, SEGV_ACCERR));
    CHECK(test.space->protect(VirtAddr(start), 9 * page_size, PROT_READ).error().code == ENOMEM);
}

TEST_CASE("a copy shares memory until either side writes") {
    SpaceTest test;
    const u64 start =
        test.map(64, read_write, MAP_PRIVATE | MAP_ANONYMOUS, nullptr, 0, 0x1000'0000);
    for (u64 i = 0; i < 64; i++)
        REQUIRE(store(*test.space, start + i * page_size, static_cast<u8>(i)));
    const u64 anonymous = memory_stats().anonymous;
    Ref<AddressSpace> child = *test.space->clone();
    REQUIRE(store(*child, start, 100));
    REQUIRE(store(*test.space, start + page_size, 101));
    CHECK(load(*test.space, start) == 0);
    CHECK(load(*child, start) == 100);
    CHECK(load(*child, start + page_size) == 1);
    CHECK(load(*test.space, start + page_size) == 101);
    CHECK(load(*child, start + 5 * page_size) == 5);
    child = nullptr;
    // Alone again: one fault makes the neighbourhood writable, nothing is copied.
    hosted::counters().faults = 0;
    for (u64 i = 16; i < 32; i++)
        REQUIRE(store(*test.space, start + i * page_size, 1));
    CHECK(hosted::counters().faults == 1);
    CHECK(memory_stats().anonymous == anonymous);
}

TEST_CASE("a file mapping shows the file, maps resident neighbours, and faults past the end") {
    SpaceTest test;
    auto file = *make_ref<FakeFile>(40 * page_size + 10, u32{O_RDONLY});
    const u64 start = test.map(48, PROT_READ, MAP_PRIVATE, file, 0, 0x1000'0000);
    hosted::counters().faults = 0;
    for (u64 i = 0; i <= 40; i++)
        REQUIRE(load(*test.space, start + i * page_size) == file->source.content[i * page_size]);
    CHECK(hosted::counters().faults <= 3);
    CHECK(load(*test.space, start + 40 * page_size + 100) == 0);
    CHECK(signal_of(*test.space, start + 41 * page_size, 0) == packed(SIGBUS, BUS_ADRERR));
    CHECK(test.map(1, read_write, MAP_SHARED, file) == static_cast<u64>(-EACCES));
    CHECK(test.space->protect(VirtAddr(start), page_size, read_write)); // private: allowed
}

TEST_CASE("while a page of a file is read, its mappings are everybody's to look at and to change") {
    SpaceTest test;
    AddressSpaceImpl& impl = AddressSpaceImpl::of(*test.space);
    constexpr u64 pages = 100; // not all of them in one read
    u64 read = 0;
    const auto fresh = [&](u32 flags) {
        Ref<FakeFile> file = *make_ref<FakeFile>(pages * page_size, u32{O_RDWR});
        file->source.while_reading = [&] {
            read++;
            REQUIRE(impl.mutex.try_lock());
            impl.mutex.unlock();
        };
        return test.map(pages, read_write, flags, std::move(file));
    };
    u8 byte = 1;
    u32 signal_code = 0;
    for (const u32 flags : {u32{MAP_PRIVATE}, u32{MAP_SHARED}}) {
        const u64 loaded = fresh(flags);
        bool major = false;
        REQUIRE(test.space->handle_fault(VirtAddr(loaded), 0, signal_code, major));
        CHECK((major && read == 1));
        major = false;
        REQUIRE(test.space->handle_fault(VirtAddr(loaded), 0, signal_code, major));
        CHECK((!major && read == 1));
        CHECK((store(*test.space, fresh(flags), 1) && read == 2));
        CHECK((test.space->read_foreign(VirtAddr(fresh(flags)), &byte, 1) == 1 && read == 3));
        CHECK((test.space->write_foreign(VirtAddr(fresh(flags)), &byte, 1) == 1 && read == 4));
        CHECK((test.space->frame_at(VirtAddr(fresh(flags)), true) && read == 5));
        CHECK(
            (test.space->lock_range(VirtAddr(fresh(flags)), pages * page_size, true) && read > 5));
        for (const int advice : {MADV_WILLNEED, MADV_POPULATE_READ, MADV_POPULATE_WRITE}) {
            const u64 before = read;
            REQUIRE(test.space->advise(VirtAddr(fresh(flags)), pages * page_size, advice));
            CHECK(read > before);
        }
        const u64 before = read;
        const u64 populated = fresh(flags | MAP_POPULATE);
        CHECK((read > before && hosted::leaf_entry(*test.space, populated + 99 * page_size) != 0));
        read = 0;
    }
}

TEST_CASE("a fault is served by what is mapped when its page has been read") {
    SpaceTest test;
    auto file = *make_ref<FakeFile>(4 * page_size, u32{O_RDWR});
    const u64 start = test.map(4, read_write, MAP_PRIVATE, file);
    file->source.while_reading = [&] {
        test.map(1, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, nullptr, 0, start);
    };
    CHECK(signal_of(*test.space, start, arch::fault_write) == packed(SIGSEGV, SEGV_ACCERR));
    CHECK(load(*test.space, start) == 0);

    auto gone = *make_ref<FakeFile>(4 * page_size, u32{O_RDWR});
    const u64 there = test.map(4, read_write, MAP_PRIVATE, gone);
    gone->source.while_reading = [&] {
        REQUIRE(test.space->unmap(VirtAddr(there), 4 * page_size));
    };
    CHECK(signal_of(*test.space, there, 0) == packed(SIGSEGV, SEGV_MAPERR));
}

TEST_CASE("an error of a file's server is told as before, page by page") {
    SpaceTest test;
    auto file = *make_ref<FakeFile>(4 * page_size, u32{O_RDWR});
    const u64 start = test.map(4, read_write, MAP_PRIVATE, file);
    file->source.fail_with = EIO;
    CHECK(signal_of(*test.space, start, 0) == packed(SIGBUS, BUS_ADRERR));
    const auto populated = test.space->advise(VirtAddr(start), page_size, MADV_POPULATE_READ);
    CHECK((!populated && populated.error().code == EFAULT));
    file->source.reads = 0;
    CHECK(test.space->lock_range(VirtAddr(start), 4 * page_size, true));
    CHECK(file->source.reads == 4);
    file->source.fail_with = 0;
    CHECK(load(*test.space, start) == file->source.content[0]);
}

TEST_CASE("private writes stay private, shared writes reach the file through write-back") {
    SpaceTest test;
    auto file = *make_ref<FakeFile>(64 * page_size, u32{O_RDWR});
    const u64 own = test.map(64, read_write, MAP_PRIVATE, file);
    const u64 common = test.map(64, read_write, MAP_SHARED, file);
    const u8 before = file->source.content[5 * page_size];
    REQUIRE(store(*test.space, own + 5 * page_size, 0xaa));
    CHECK(load(*test.space, common + 5 * page_size) == before);
    CHECK(load(*test.space, common + 6 * page_size) >= 0);
    CHECK(file->cache->dirty_pages() == 0);
    REQUIRE(store(*test.space, common + 6 * page_size, 0xbb));
    CHECK(file->cache->dirty_pages() == 1);
    REQUIRE(test.space->sync(VirtAddr(common), 64 * page_size, MS_SYNC));
    CHECK(file->source.content[6 * page_size] == 0xbb);
    CHECK(file->source.content[5 * page_size] == before);
    // Written back, the page is watched again.
    REQUIRE(store(*test.space, common + 6 * page_size, 0xcc));
    CHECK(file->cache->dirty_pages() == 1);
}

TEST_CASE("truncation takes pages out of page tables, private copies too") {
    SpaceTest test;
    auto file = *make_ref<FakeFile>(16 * page_size, u32{O_RDWR});
    const u64 own = test.map(16, read_write, MAP_PRIVATE, file);
    const u64 common = test.map(16, read_write, MAP_SHARED, file);
    REQUIRE(store(*test.space, own + 9 * page_size, 1));
    REQUIRE(store(*test.space, common + 9 * page_size, 2));
    file->source.content.resize(4 * page_size);
    file->cache->truncate(4 * page_size);
    CHECK(signal_of(*test.space, own + 9 * page_size, 0) == packed(SIGBUS, BUS_ADRERR));
    CHECK(signal_of(*test.space, common + 9 * page_size, 0) == packed(SIGBUS, BUS_ADRERR));
    CHECK(load(*test.space, common + 3 * page_size) >= 0);
    CHECK(memory_stats().dirty == 0);
}

TEST_CASE("shared anonymous memory is one memory for parent and child") {
    SpaceTest test;
    const u64 start = test.map(4, read_write, MAP_SHARED | MAP_ANONYMOUS);
    Ref<AddressSpace> child = *test.space->clone();
    REQUIRE(store(*child, start + page_size, 9));
    CHECK(load(*test.space, start + page_size) == 9);
    const auto key = test.space->futex_key(VirtAddr(start + 8), true);
    const auto same = child->futex_key(VirtAddr(start + 8), true);
    CHECK((*key == *same));
    const auto other = child->futex_key(VirtAddr(start + 8), false);
    CHECK_FALSE((*key == *other));
}

TEST_CASE("the futexes of an object are never those of one that was there before") {
    SpaceTest test;
    const auto key_of_new = [&] {
        const u64 start = test.map(1, read_write, MAP_SHARED | MAP_ANONYMOUS);
        const auto key = test.space->futex_key(VirtAddr(start), true);
        REQUIRE(key);
        REQUIRE(test.space->unmap(VirtAddr(start), page_size));
        return *key;
    };
    const auto gone = key_of_new();
    for (unsigned i = 0; i < 100; i++)
        REQUIRE_FALSE((key_of_new() == gone));
}

TEST_CASE("mremap grows in place, moves with its contents, shrinks") {
    SpaceTest test;
    const u64 start =
        test.map(4, read_write, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, nullptr, 0, 0x1000'0000);
    REQUIRE(start == 0x1000'0000);
    REQUIRE(store(*test.space, start + page_size, 42));
    CHECK(
        (*test.space->remap(VirtAddr(start), 4 * page_size, 8 * page_size, 0, VirtAddr(0))).raw() ==
        start);
    REQUIRE(test.map(1, read_write, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, nullptr, 0,
                     start + 8 * page_size) != 0);
    CHECK(test.space->remap(VirtAddr(start), 8 * page_size, 700 * page_size, 0, VirtAddr(0))
              .error()
              .code == ENOMEM);
    const u64 moved = (*test.space->remap(VirtAddr(start), 8 * page_size, 700 * page_size,
                                          MREMAP_MAYMOVE, VirtAddr(0)))
                          .raw();
    CHECK(moved != start);
    CHECK(load(*test.space, moved + page_size) == 42);
    CHECK(signal_of(*test.space, start + page_size, 0) == packed(SIGSEGV, SEGV_MAPERR));
    CHECK(store(*test.space, moved + 699 * page_size, 1));
    CHECK(test.space->remap(VirtAddr(moved), 700 * page_size, page_size, 0, VirtAddr(0)));
    CHECK(signal_of(*test.space, moved + page_size, 0) == packed(SIGSEGV, SEGV_MAPERR));
}

TEST_CASE("the stack grows down to its limit and no further") {
    SpaceTest test;
    test.space->limits.stack = 64 * page_size;
    const u64 top = 0x7fff'f000'0000;
    REQUIRE(test.map(2, read_write, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_GROWSDOWN,
                     nullptr, 0, top - 2 * page_size) == top - 2 * page_size);
    CHECK(store(*test.space, top - 30 * page_size, 1));
    CHECK(store(*test.space, top - 64 * page_size, 1));
    CHECK(signal_of(*test.space, top - 65 * page_size, arch::fault_write) ==
          packed(SIGSEGV, SEGV_MAPERR));
}

TEST_CASE("brk moves both ways and gives memory back") {
    SpaceTest test;
    test.space->init_break(VirtAddr(0x60'0000));
    CHECK(test.space->set_break(VirtAddr(0)).raw() == 0x60'0000);
    CHECK(test.space->set_break(VirtAddr(0x60'5123)).raw() == 0x60'5123);
    REQUIRE(store(*test.space, 0x60'5fff, 3));
    CHECK(signal_of(*test.space, 0x60'6000, 0) == packed(SIGSEGV, SEGV_MAPERR));
    CHECK(test.space->set_break(VirtAddr(0x60'1000)).raw() == 0x60'1000);
    CHECK(test.space->set_break(VirtAddr(0x60'6000)).raw() == 0x60'6000);
    CHECK(load(*test.space, 0x60'5fff) == 0);
}

TEST_CASE("terabytes can be reserved, but not promised") {
    SpaceTest test;
    constexpr u64 terabyte_pages = (u64{1} << 40) / page_size;
    CHECK(test.map(16 * terabyte_pages, PROT_NONE) < user_max);
    CHECK(test.map(16 * terabyte_pages, read_write, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE) <
          user_max);
    CHECK(test.map(terabyte_pages) == static_cast<u64>(-ENOMEM));
    CHECK(test.map(1, read_write, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, nullptr, 0,
                   0x5000'0000) == 0x5000'0000);
    CHECK(test.map(1, read_write, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, nullptr, 0,
                   0x5000'0000) == static_cast<u64>(-EEXIST));
}

TEST_CASE("madvise: dropped pages read as zeros, forks obey the advice") {
    SpaceTest test;
    const u64 start = test.map(48);
    for (u64 i = 0; i < 48; i++)
        REQUIRE(store(*test.space, start + i * page_size, 1));
    REQUIRE(test.space->advise(VirtAddr(start), 16 * page_size, MADV_DONTNEED));
    CHECK(load(*test.space, start) == 0);
    CHECK(load(*test.space, start + 16 * page_size) == 1);
    REQUIRE(test.space->advise(VirtAddr(start + 16 * page_size), 16 * page_size, MADV_DONTFORK));
    REQUIRE(test.space->advise(VirtAddr(start + 32 * page_size), 16 * page_size, MADV_WIPEONFORK));
    Ref<AddressSpace> child = *test.space->clone();
    CHECK(signal_of(*child, start + 16 * page_size, 0) == packed(SIGSEGV, SEGV_MAPERR));
    CHECK(load(*child, start + 32 * page_size) == 0);
    CHECK(load(*test.space, start + 32 * page_size) == 1);
    CHECK(test.space->advise(VirtAddr(start), 100 * page_size, MADV_DONTNEED).error().code ==
          ENOMEM);
    CHECK(test.space->advise(VirtAddr(start), page_size, 12345).error().code == EINVAL);
}

TEST_CASE("memory that runs out ends in SIGKILL of who asks, and comes back") {
    SpaceTest test(8 * mebibyte);
    const u64 free_before = memory_stats().free;
    const u64 start = test.map(4096, read_write, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
    u64 written = 0;
    while (written < 4096 && store(*test.space, start + written * page_size, 1))
        written++;
    CHECK(written > 1000);
    CHECK(written < 2048);
    CHECK(signal_of(*test.space, start + written * page_size, arch::fault_write) >> 8 == SIGKILL);
    test.space->release_memory();
    CHECK(memory_stats().free + 64 >= free_before);
}

TEST_CASE("foreign copies cross pages and write through protection to private copies") {
    SpaceTest test;
    auto file = *make_ref<FakeFile>(16 * page_size, u32{O_RDONLY});
    const u64 start = test.map(16, PROT_READ | PROT_EXEC, MAP_PRIVATE, file);
    u8 out[8] = {};
    CHECK(test.space->read_foreign(VirtAddr(start + page_size - 4), out, 8) == 8);
    CHECK(std::memcmp(out, file->source.content.data() + page_size - 4, 8) == 0);
    const u8 breakpoint = 0xcc;
    CHECK(test.space->write_foreign(VirtAddr(start + 100), &breakpoint, 1) == 1);
    CHECK(load(*test.space, start + 100) == 0xcc);
    CHECK(signal_of(*test.space, start + 100, arch::fault_write) == packed(SIGSEGV, SEGV_ACCERR));
    CHECK((*file->cache->get(0)).data()[100] == file->source.content[100]);
    CHECK(test.space->read_foreign(VirtAddr(start + 16 * page_size - 4), out, 8) == 4);
}

TEST_CASE("random mappings, protections, unmappings and copies agree with a model, byte for byte") {
    SpaceTest test(128 * mebibyte);
    constexpr u64 base = 0x4000'0000;
    constexpr u64 pages = 600; // crosses a leaf table
    struct Page {
        u32 protection = 0;
        u8 value = 0;
    };
    std::map<u64, Page> model;
    std::mt19937 random(5);
    const auto check = [&](AddressSpace& space, std::map<u64, Page>& pages_of) {
        for (u64 i = 0; i < pages; i++) {
            const auto found = pages_of.find(i);
            const int expected =
                found == pages_of.end() || found->second.protection == 0 ? -1 : found->second.value;
            REQUIRE(load(space, base + i * page_size) == expected);
        }
    };
    for (int step = 0; step < 1500; step++) {
        const u64 first = random() % pages;
        const u64 count = std::min<u64>(1 + random() % 80, pages - first);
        const u64 start = base + first * page_size;
        const u32 protection = random() % 3 == 0   ? u32{PROT_NONE}
                               : random() % 2 == 0 ? u32{PROT_READ}
                                                   : read_write;
        switch (random() % 6) {
        case 0:
            REQUIRE(test.map(count, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, nullptr, 0,
                             start) == start);
            for (u64 i = first; i < first + count; i++)
                model[i] = Page{protection, 0};
            break;
        case 1:
            REQUIRE(test.space->unmap(VirtAddr(start), count * page_size));
            for (u64 i = first; i < first + count; i++)
                model.erase(i);
            break;
        case 2: {
            const bool done = static_cast<bool>(
                test.space->protect(VirtAddr(start), count * page_size, protection));
            u64 end = first;
            while (end < first + count && model.count(end) != 0)
                model[end++].protection = protection;
            REQUIRE(done == (end == first + count));
            break;
        }
        case 3: {
            Ref<AddressSpace> child = *test.space->clone();
            auto twin = model;
            for (auto& [page, state] : twin)
                if ((state.protection & PROT_WRITE) != 0 && random() % 3 == 0) {
                    state.value = static_cast<u8>(random());
                    REQUIRE(store(*child, base + page * page_size, state.value));
                }
            if (step % 10 == 0) {
                check(*child, twin);
                check(*test.space, model);
            }
            break;
        }
        default:
            for (u64 i = first; i < first + count; i++) {
                const auto found = model.find(i);
                const bool writable =
                    found != model.end() && (found->second.protection & PROT_WRITE) != 0;
                const u8 value = static_cast<u8>(random());
                REQUIRE(store(*test.space, base + i * page_size, value) == writable);
                if (writable)
                    found->second.value = value;
            }
        }
    }
    check(*test.space, model);
    test.space = nullptr;
    CHECK(memory_stats().anonymous == 0);
    release_kept_page_tables();
    CHECK(memory_stats().page_tables == 0);
}

// --- what other CPUs do meanwhile; CPU 1 works in the space, too

TEST_CASE("a store to a shared page while it is being write-protected is not forgotten") {
    SpaceTest test;
    Ref<FakeFile> file = *make_ref<FakeFile>(mebibyte, O_RDWR);
    const u64 start = test.map(4, read_write, MAP_SHARED, file);
    REQUIRE(store(*test.space, start, 1));
    test.space->active_cpus.store(2);
    hosted::meanwhile().flush = [&] { CHECK(store(*test.space, start, 2)); };
    REQUIRE(file->cache->write_back(0, ~u64{0}));
    CHECK(!hosted::meanwhile().flush);
    CHECK(file->source.content[0] == 2);
    REQUIRE(store(*test.space, start, 3));
    REQUIRE(file->cache->write_back(0, ~u64{0}));
    CHECK(file->source.content[0] == 3);
}

TEST_CASE("a store to a shared page that has just been dropped goes to the one that follows") {
    SpaceTest test;
    Ref<FakeFile> file = *make_ref<FakeFile>(mebibyte, O_RDWR);
    const u64 first = test.map(4, read_write, MAP_SHARED, file);
    Ref<AddressSpace> other = *test.space->clone();
    REQUIRE(load(*test.space, first) == file->source.content[0]);
    REQUIRE(load(*other, first) == file->source.content[0]);
    test.space->active_cpus.store(2);
    // The first space has lost the page, the other one is to lose it next.
    hosted::meanwhile().flush = [&] { CHECK(store(*other, first, 0x5a)); };
    file->cache->invalidate();
    CHECK(!hosted::meanwhile().flush);
    CHECK(load(*other, first) == 0x5a);
    CHECK(load(*test.space, first) == 0x5a);
    REQUIRE(file->cache->write_back(0, ~u64{0}));
    CHECK(file->source.content[0] == 0x5a);
}

TEST_CASE("a page cut off behind its mapping's move is in neither place") {
    SpaceTest test;
    Ref<FakeFile> file = *make_ref<FakeFile>(mebibyte, O_RDWR);
    const u64 start = test.map(4, read_write, MAP_SHARED, file);
    const u64 target = test.map(4, PROT_NONE);
    REQUIRE(store(*test.space, start, 1));
    test.space->active_cpus.store(2);
    // Nobody can cut it off while a CPU may still reach its frame by the old place.
    hosted::meanwhile().flush = [&] {
        CHECK(AddressSpaceImpl::of(*test.space).table.lock().is_locked());
    };
    REQUIRE(test.space->remap(VirtAddr(start), 4 * page_size, 4 * page_size,
                              MREMAP_MAYMOVE | MREMAP_FIXED, VirtAddr(target)));
    CHECK(!hosted::meanwhile().flush);
    file->source.content.clear();
    file->cache->truncate(0);
    CHECK(hosted::leaf_entry(*test.space, start) == 0);
    CHECK(signal_of(*test.space, target, 0) == packed(SIGBUS, BUS_ADRERR));
}

TEST_CASE("a page loses its protection for all CPUs before others can take it away") {
    SpaceTest test;
    Ref<FakeFile> file = *make_ref<FakeFile>(mebibyte, O_RDWR);
    const u64 start = test.map(4, read_write, MAP_SHARED, file);
    for (const u32 protection : {u32{PROT_READ}, u32{PROT_NONE}}) {
        REQUIRE(test.space->protect(VirtAddr(start), 4 * page_size, read_write));
        REQUIRE(store(*test.space, start, 1));
        test.space->active_cpus.store(2);
        hosted::meanwhile().flush = [&] {
            CHECK(AddressSpaceImpl::of(*test.space).table.lock().is_locked());
        };
        REQUIRE(test.space->protect(VirtAddr(start), 4 * page_size, protection));
        CHECK(!hosted::meanwhile().flush);
        test.space->active_cpus.store(0);
    }
}

TEST_CASE("no CPU finds the copy of a page while another still reads the page") {
    SpaceTest test;
    constexpr u64 pages = 64;
    const u64 start = test.map(pages);
    for (u64 i = 0; i < pages; i++)
        REQUIRE(store(*test.space, start + i * page_size, 1));
    Ref<AddressSpace> child = *test.space->clone();
    test.space->active_cpus.store(2);
    u64 before[pages];
    u64 flushes = 0;
    for (u64 i = 0; i < pages; i++) { // in order: copies are made ahead, too
        for (u64 k = 0; k < pages; k++)
            before[k] = hosted::leaf_entry(*test.space, start + k * page_size);
        std::function<void()> look = [&] {
            flushes++;
            for (u64 k = 0; k < pages; k++) {
                const u64 now = hosted::leaf_entry(*test.space, start + k * page_size);
                const bool same = ((now ^ before[k]) & arch::pte_address) == 0;
                if ((before[k] & arch::pte_write) == 0 && now != 0 && !same)
                    FAIL_CHECK("page " << k << " at the store to page " << i);
                before[k] = now == 0 ? arch::pte_write : now; // may have any other from now on
            }
            hosted::meanwhile().flush = look;
        };
        hosted::meanwhile().flush = look;
        REQUIRE(store(*test.space, start + i * page_size, 2));
        hosted::meanwhile().flush = nullptr;
    }
    CHECK(flushes > 0);
    for (u64 i = 0; i < pages; i++) {
        CHECK(load(*test.space, start + i * page_size) == 2);
        CHECK(load(*child, start + i * page_size) == 1);
    }
}

TEST_CASE("nothing is written back for copies that are made ahead") {
    SpaceTest test(16 * mebibyte);
    Ref<FakeFile> file = *make_ref<FakeFile>(16 * page_size, O_RDWR);
    const u64 start = test.map(16);
    for (u64 i = 0; i < 16; i++)
        REQUIRE(store(*test.space, start + i * page_size, 1));
    Ref<AddressSpace> child = *test.space->clone();
    const u64 view = test.map(16, read_write, MAP_SHARED, file);
    for (u64 i = 0; i < 16; i++)
        REQUIRE(store(*test.space, view + i * page_size, 1));
    // In order, so that the window grows.
    REQUIRE(store(*test.space, start, 2));
    REQUIRE(store(*test.space, start + page_size, 2));
    std::vector<Frame*> taken;
    while (Frame* frame = alloc_frame(false))
        taken.push_back(frame);
    put_frame(*taken.back()); // for the page itself
    taken.pop_back();
    CHECK(store(*test.space, start + 3 * page_size, 2));
    CHECK(file->source.writes == 0);
    for (Frame* frame : taken)
        put_frame(*frame);
    CHECK(load(*test.space, start + 3 * page_size) == 2);
    CHECK(load(*child, start + 3 * page_size) == 1);
}

TEST_CASE("fork and mremap give page cache up for the tables that they need") {
    constexpr u64 leaf = 512 * page_size;
    constexpr u64 leaves = 48;
    SpaceTest test(32 * mebibyte);
    const u64 start =
        test.map(512 * (leaves + 1), read_write, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
    for (u64 i = 0; i < leaves; i++)
        REQUIRE(store(*test.space, start + i * leaf, static_cast<u8>(i + 1)));
    const u64 cached = 1024;
    Ref<FakeFile> file = *make_ref<FakeFile>(cached * page_size, O_RDWR);
    for (u64 i = 0; i < cached; i++)
        REQUIRE(file->cache->get(i));
    std::vector<Frame*> taken;
    while (Frame* frame = alloc_frame(false))
        taken.push_back(frame);
    auto child = test.space->clone();
    REQUIRE(child);
    while (Frame* frame = alloc_frame(false))
        taken.push_back(frame);
    const u64 length = leaf * leaves;
    auto moved = test.space->remap(VirtAddr(start), length, length, MREMAP_MAYMOVE | MREMAP_FIXED,
                                   VirtAddr(u64{1} << 40));
    REQUIRE(moved);
    CHECK(file->source.writes == 0);
    CHECK(file->cache->resident_pages() < cached);
    for (Frame* frame : taken)
        put_frame(*frame);
    for (u64 i = 0; i < leaves; i++) {
        CHECK(load(*test.space, (*moved).raw() + i * leaf) == static_cast<int>(i + 1));
        CHECK(load(**child, start + i * leaf) == static_cast<int>(i + 1));
    }
}

TEST_CASE("a fork that fails half-way leaves no child behind for who would serve its faults") {
    SpaceTest test(16 * mebibyte);
    Ref<UserfaultContext> context = *make_ref<UserfaultContext>(test.space, false);
    context->features.store(UserfaultContext::ready | UFFD_FEATURE_EVENT_FORK);
    const u64 start = test.map(4);
    REQUIRE(store(*test.space, start, 1));
    u64 ioctls = 0;
    REQUIRE(register_userfault(*context, {start, 4 * page_size}, vma_fault_write, ioctls));
    for (usize bytes = 16; bytes <= 1024; bytes *= 2)
        kfree(kmalloc(bytes)); // small objects do not run out
    const u64 tables = memory_stats().page_tables;
    std::vector<Frame*> taken;
    while (Frame* frame = alloc_frame(false))
        taken.push_back(frame);
    for (int i = 0; i < 2; i++) { // for the root and the table below it
        put_frame(*taken.back());
        taken.pop_back();
    }
    auto child = test.space->clone();
    REQUIRE(!child);
    CHECK(child.error().code == ENOMEM);
    release_kept_page_tables();
    CHECK(memory_stats().page_tables == tables);
    for (Frame* frame : taken)
        put_frame(*frame);
    context->close();
}

TEST_CASE("views of shared memory are no more than mappings may be") {
    SpaceTest test;
    const u64 start = test.map(1, read_write, MAP_SHARED | MAP_ANONYMOUS);
    u64 made = 0;
    while (made < 70'000 &&
           test.space->remap(VirtAddr(start), 0, page_size, MREMAP_MAYMOVE, VirtAddr(0)))
        made++;
    CHECK(made < 65'530);
    CHECK(made > 60'000);
}
