#include <string>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include "virtio/queue/queue.hpp"
#include "virtio/testing/fake_guest.hpp"

using namespace virtio;
using virtio::testing::FakeRam;
using virtio::testing::FakeRing;
using virtio::testing::Piece;
using virtio::testing::UsedElement;

namespace {

struct Counter final : QueueInterrupt {
    void used_buffer() override { ++count; }
    unsigned count = 0;
};

struct Fixture {
    explicit Fixture(std::uint16_t size = 8, QueueFeatures features = {true, true})
        : ring(ram, size) {
        auto made = Queue::activate(ring.config(), features, ram.memory(), &interrupt);
        REQUIRE(made);
        queue = std::move(*made);
    }
    Chain pop() {
        auto chain = queue->pop();
        REQUIRE(chain);
        return std::move(*chain);
    }
    FaultKind pop_fault() {
        const auto chain = queue->pop();
        REQUIRE_FALSE(chain);
        return chain.error().kind;
    }

    FakeRam ram;
    FakeRing ring;
    Counter interrupt;
    std::unique_ptr<Queue> queue;
};

std::string text_of(const Chain& chain) {
    ChainReader reader(chain);
    std::string text(reader.remaining(), '\0');
    REQUIRE(reader.read(std::as_writable_bytes(std::span(text))));
    return text;
}

FaultKind check_fault(const QueueConfig& config, const FakeRam& ram) {
    const auto checked = Queue::check(config, ram.memory());
    return checked ? FaultKind::None : checked.error().kind;
}

} // namespace

TEST_CASE("queue: an empty ring gives an empty chain") {
    Fixture f;
    CHECK_FALSE(f.pop());
}

TEST_CASE("queue: a chain carries its readable and writable parts in order") {
    Fixture f;
    const GuestAddr out = f.ram.allocate(64);
    f.ring.offer({{f.ram.place("hello "), 6}, {out, 3}, {out, 0}, {out + 8, 5, true}});
    f.ram.write(out, "you");

    Chain chain = f.pop();
    REQUIRE(chain);
    CHECK(text_of(chain) == "hello you");
    CHECK(chain.readable_bytes() == 9);
    CHECK(chain.writable_bytes() == 5);
    ChainWriter writer(chain);
    REQUIRE(writer.write(std::as_bytes(std::span("world", 5))));
    CHECK_FALSE(writer.write_object(std::uint8_t{0}));
    f.queue->complete(std::move(chain), static_cast<std::uint32_t>(writer.position()));

    CHECK(f.ring.take_used() == UsedElement{0, 5});
    CHECK(f.ram.read_text(out + 8, 5) == "world");
    CHECK(f.interrupt.count == 1);
    CHECK(f.queue->in_flight() == 0);
}

TEST_CASE("queue: neighbouring descriptors of one kind become one piece") {
    Fixture f;
    const GuestAddr at = f.ram.allocate(64);
    f.ring.offer(
        {{at, 8}, {at + 8, 8}, {at + 16, 8, true}, {at + 24, 8, true}, {at + 40, 8, true}});
    const Chain chain = f.pop();
    CHECK(chain.readable().size() == 1);
    CHECK(chain.writable().size() == 2);
    CHECK(chain.writable()[0].iov_len == 16);
}

TEST_CASE("queue: indirect tables are followed, after plain descriptors too") {
    Fixture f;
    f.ring.offer_indirect({{f.ram.place("one"), 3}, {f.ram.allocate(4), 4, true}});
    Chain first = f.pop();
    CHECK(text_of(first) == "one");
    CHECK(first.writable_bytes() == 4);

    struct Entry {
        std::uint64_t address;
        std::uint32_t length;
        std::uint16_t flags, next;
    } const entry{f.ram.place("indirect").raw(), 8, 0, 0};
    const GuestAddr table = f.ram.allocate(16);
    f.ram.write(table, std::as_bytes(std::span(&entry, 1)));
    f.ring.offer({{f.ram.place("plain "), 6}, {table, 16, false, FakeRing::flag_indirect}});
    const Chain second = f.pop();
    CHECK(text_of(second) == "plain indirect");
}

TEST_CASE("queue: chains may be returned in any order") {
    Fixture f;
    std::vector<Chain> chains;
    for (const char* text : {"a", "b", "c"}) {
        f.ring.offer({{f.ram.place(text), 1}});
        chains.push_back(f.pop());
    }
    CHECK(f.queue->in_flight() == 3);
    f.queue->push_used(std::move(chains[2]), 3);
    f.queue->push_used(std::move(chains[0]), 1);
    f.queue->push_used(std::move(chains[1]), 2);
    CHECK(f.ring.take_used() == UsedElement{2, 3});
    CHECK(f.ring.take_used() == UsedElement{0, 1});
    CHECK(f.ring.take_used() == UsedElement{1, 2});
    CHECK_FALSE(f.ring.take_used());
}

TEST_CASE("queue: indices wrap at 65536 and nothing is lost") {
    Fixture f(4);
    const GuestAddr at = f.ram.place("x");
    unsigned completed = 0;
    for (unsigned i = 0; i < 70'000; ++i) {
        f.ring.offer({{at, 1}});
        Chain chain = f.pop();
        completed += chain ? 1 : 0;
        f.queue->complete(std::move(chain), i);
        completed += f.ring.take_used()->written == i ? 1 : 0;
    }
    CHECK(completed == 140'000);
    CHECK(f.interrupt.count == 70'000);
}

TEST_CASE("queue: the driver notifies only after an empty pop") {
    Fixture f;
    const GuestAddr at = f.ram.place("x");
    f.ring.offer({{at, 1}});
    CHECK(f.ring.must_notify()); // armed from the start: avail_event is 0
    const Chain first = f.pop();
    f.ring.offer({{at, 1}});
    CHECK_FALSE(f.ring.must_notify()); // the device is at work
    const Chain second = f.pop();
    CHECK(f.queue->pop(Queue::WhenEmpty::StaySilent));
    f.ring.offer({{at, 1}});
    CHECK_FALSE(f.ring.must_notify());
    const Chain third = f.pop();
    CHECK_FALSE(f.pop());
    f.ring.offer({{at, 1}});
    CHECK(f.ring.must_notify());
}

TEST_CASE("queue: one interrupt per batch, and only past used_event") {
    Fixture f;
    const GuestAddr at = f.ram.place("x");
    for (int i = 0; i < 4; ++i)
        f.ring.offer({{at, 1}});
    f.ring.set_used_event(2); // wants to hear of the third
    f.queue->push_used(f.pop(), 0);
    CHECK_FALSE(f.queue->needs_interrupt());
    f.queue->push_used(f.pop(), 0);
    f.queue->push_used(f.pop(), 0);
    CHECK(f.queue->needs_interrupt());
    CHECK_FALSE(f.queue->needs_interrupt());
    f.queue->push_used(f.pop(), 0);
    CHECK_FALSE(f.queue->needs_interrupt());
}

TEST_CASE("queue: without the event index the flag decides") {
    Fixture f(8, {false, false});
    const GuestAddr at = f.ram.place("x");
    f.ring.offer({{at, 1}});
    f.queue->push_used(f.pop(), 0);
    CHECK(f.queue->needs_interrupt());
    f.ring.set_available_flags(1);
    f.ring.offer({{at, 1}});
    f.queue->push_used(f.pop(), 0);
    CHECK_FALSE(f.queue->needs_interrupt());
}

TEST_CASE("queue: bad configurations are refused") {
    FakeRam ram;
    const FakeRing ring(ram, 8);
    const QueueConfig good = ring.config();
    CHECK(check_fault(good, ram) == FaultKind::None);
    QueueConfig bad = good;
    for (const unsigned size : {0u, 3u, 16u, 65535u}) {
        bad.size = static_cast<std::uint16_t>(size);
        CHECK(check_fault(bad, ram) == FaultKind::QueueSize);
    }
    bad = good;
    bad.descriptors = good.descriptors + 8;
    CHECK(check_fault(bad, ram) == FaultKind::QueueAlignment);
    bad = good;
    bad.available = good.available + 1;
    CHECK(check_fault(bad, ram) == FaultKind::QueueAlignment);
    bad = good;
    bad.used = good.used + 2;
    CHECK(check_fault(bad, ram) == FaultKind::QueueAlignment);
    bad = good;
    bad.used = ram.end() - 8;
    CHECK(check_fault(bad, ram) == FaultKind::QueueOutsideMemory);
    bad = good;
    bad.descriptors = GuestAddr(~std::uint64_t{15});
    CHECK(check_fault(bad, ram) == FaultKind::QueueOutsideMemory);
    bad = good;
    bad.available = FakeRam::base - 2;
    CHECK(check_fault(bad, ram) == FaultKind::QueueOutsideMemory);
}

TEST_CASE("queue: hostile rings end in a fault, and the fault stays") {
    Fixture f;
    const GuestAddr at = f.ram.allocate(64);

    SECTION("a loop of two descriptors") {
        f.ring.write_descriptor(0, at, 1, FakeRing::flag_next, 1);
        f.ring.write_descriptor(1, at, 1, FakeRing::flag_next, 0);
        f.ring.offer_head(0);
        CHECK(f.pop_fault() == FaultKind::ChainTooLong);
    }
    SECTION("a loop inside an indirect table") {
        struct Entry {
            std::uint64_t address;
            std::uint32_t length;
            std::uint16_t flags, next;
        } const entry{at.raw(), 1, FakeRing::flag_next, 0};
        const GuestAddr table = f.ram.allocate(16);
        f.ram.write(table, std::as_bytes(std::span(&entry, 1)));
        f.ring.write_descriptor(0, table, 16, FakeRing::flag_indirect);
        f.ring.offer_head(0);
        CHECK(f.pop_fault() == FaultKind::ChainTooLong);
    }
    SECTION("a head outside of the table") {
        f.ring.offer_head(8);
        CHECK(f.pop_fault() == FaultKind::DescriptorIndex);
    }
    SECTION("a next outside of the table") {
        f.ring.write_descriptor(0, at, 1, FakeRing::flag_next, 8);
        f.ring.offer_head(0);
        CHECK(f.pop_fault() == FaultKind::DescriptorIndex);
    }
    SECTION("a next outside of an indirect table") {
        struct Entry {
            std::uint64_t address;
            std::uint32_t length;
            std::uint16_t flags, next;
        } const entry{at.raw(), 1, FakeRing::flag_next, 1};
        const GuestAddr table = f.ram.allocate(32);
        f.ram.write(table, std::as_bytes(std::span(&entry, 1)));
        f.ring.write_descriptor(0, table, 16, FakeRing::flag_indirect);
        f.ring.offer_head(0);
        CHECK(f.pop_fault() == FaultKind::DescriptorIndex);
    }
    SECTION("an available index that jumps") {
        f.ring.set_available_index(9);
        CHECK(f.pop_fault() == FaultKind::AvailableIndex);
    }
    SECTION("an available index that goes back") {
        f.ring.set_available_index(0xffff);
        CHECK(f.pop_fault() == FaultKind::AvailableIndex);
    }
    SECTION("memory outside of RAM") {
        f.ring.offer({{f.ram.end() - 1, 2}});
        CHECK(f.pop_fault() == FaultKind::ChainOutsideMemory);
    }
    SECTION("a length that wraps") {
        f.ring.offer({{GuestAddr(~std::uint64_t{0}), 0xffff'ffff, true}});
        CHECK(f.pop_fault() == FaultKind::ChainOutsideMemory);
    }
    SECTION("readable after writable") {
        f.ring.offer({{at, 1, true}, {at, 1, false}});
        CHECK(f.pop_fault() == FaultKind::ReadableAfterWritable);
    }
    SECTION("an indirect table in an indirect table") {
        f.ring.offer_indirect({{at, 16, false, FakeRing::flag_indirect}});
        CHECK(f.pop_fault() == FaultKind::IndirectTable);
    }
    SECTION("an indirect table with a next") {
        f.ring.write_descriptor(0, at, 16, FakeRing::flag_indirect | FakeRing::flag_next, 1);
        f.ring.offer_head(0);
        CHECK(f.pop_fault() == FaultKind::IndirectTable);
    }
    SECTION("an indirect table of no or half an entry") {
        for (const std::uint32_t length : {0u, 8u, 24u}) {
            Fixture other;
            other.ring.offer({{other.ram.allocate(32), length, false, FakeRing::flag_indirect}});
            CHECK(other.pop_fault() == FaultKind::IndirectTable);
        }
        f.ring.offer_head(8);
    }
    SECTION("an indirect table outside of RAM") {
        f.ring.offer({{f.ram.end() - 16, 32, false, FakeRing::flag_indirect}});
        CHECK(f.pop_fault() == FaultKind::ChainOutsideMemory);
    }
    SECTION("a head that is still in flight") {
        const std::uint16_t head = f.ring.offer({{at, 1}});
        const Chain chain = f.pop();
        f.ring.offer_head(head);
        CHECK(f.pop_fault() == FaultKind::HeadInFlight);
    }
    const FaultKind first = f.pop_fault();
    f.ring.set_available_index(0);
    CHECK(f.pop_fault() == first);
}

TEST_CASE("queue: indirect descriptors are a fault where they were not negotiated") {
    Fixture f(8, {true, false});
    f.ring.offer_indirect({{f.ram.place("x"), 1}});
    CHECK(f.pop_fault() == FaultKind::IndirectTable);
}

TEST_CASE("queue: chains without bytes are whole chains") {
    Fixture f;
    f.ring.offer({{f.ram.end() - 1, 0}});
    Chain chain = f.pop();
    REQUIRE(chain);
    CHECK(chain.readable().empty());
    CHECK(chain.writable().empty());
    f.queue->complete(std::move(chain), 0);
    CHECK(f.ring.take_used());
}

TEST_CASE("queue: requests popped by one thread and completed by several all come back") {
    constexpr unsigned rounds = 20'000;
    Fixture f(64);
    const GuestAddr at = f.ram.place("x");
    Guarded<std::vector<Chain>> work;
    std::atomic<bool> stop{false};
    std::vector<std::thread> workers;
    for (int i = 0; i < 3; ++i) {
        workers.emplace_back([&] {
            for (;;) {
                Chain chain = work.with([](std::vector<Chain>& list) {
                    Chain last;
                    if (!list.empty()) {
                        last = std::move(list.back());
                        list.pop_back();
                    }
                    return last;
                });
                if (chain)
                    f.queue->push_used(std::move(chain), 1);
                else if (stop.load())
                    return;
                else
                    std::this_thread::yield();
            }
        });
    }
    unsigned offered = 0;
    unsigned returned = 0;
    bool sound = true;
    while (sound && returned < rounds) {
        if (offered < rounds && offered - returned < 64) {
            f.ring.offer({{at, 1}});
            ++offered;
        }
        auto chain = f.queue->pop();
        sound = sound && chain;
        if (chain && *chain)
            work.with([&](std::vector<Chain>& list) { list.push_back(std::move(*chain)); });
        while (f.ring.take_used())
            ++returned;
    }
    stop.store(true);
    for (std::thread& worker : workers)
        worker.join();
    CHECK(sound);
    CHECK(returned == rounds);
    CHECK(f.queue->in_flight() == 0);
}

TEST_CASE("chain cursor: peek and skip walk the pieces") {
    char a[4] = {};
    char b[6] = {};
    const struct iovec pieces[] = {{a, 4}, {b, 0}, {b, 6}};
    ChainCursor cursor(pieces);
    struct iovec out[3];
    std::uint64_t bytes = 0;
    CHECK(cursor.peek(out, 7, &bytes).size() == 2);
    CHECK(bytes == 7);
    REQUIRE(cursor.skip(5));
    const auto rest = cursor.peek(out, 100, &bytes);
    REQUIRE(rest.size() == 1);
    CHECK(rest[0].iov_base == b + 1);
    CHECK(bytes == 5);
    CHECK_FALSE(cursor.skip(6));
    CHECK(cursor.remaining() == 5);
    CHECK(cursor.position() == 5);
    REQUIRE(cursor.skip(5));
    CHECK(cursor.peek(out, 1).empty());
}
