#include <fcntl.h>
#include <thread>
#include <unistd.h>

#include <sys/eventfd.h>

#include <catch2/catch.hpp>

#include "vmm/machine/event_loop.hpp"

namespace {

virtio::UniqueFd event(unsigned value) {
    return virtio::UniqueFd(eventfd(value, EFD_CLOEXEC | EFD_NONBLOCK));
}

std::unique_ptr<vmm::EventLoop> make_loop() {
    auto loop = vmm::EventLoop::create();
    REQUIRE(loop);
    return std::move(*loop);
}

} // namespace

TEST_CASE("a readable descriptor calls back until it is removed from within") {
    const auto loop = make_loop();
    const auto fd = event(1);
    int calls = 0;
    REQUIRE(loop->add(fd.get(), {.read = true}, [&](virtio::Readiness ready) {
        CHECK(ready.readable);
        CHECK_FALSE(ready.hangup);
        if (++calls == 3) {
            loop->remove(fd.get());
            loop->post([&] { loop->stop(); });
        }
    }));
    REQUIRE(loop->run());
    CHECK(calls == 3);
}

TEST_CASE("a watch without interest sleeps until it is modified") {
    const auto loop = make_loop();
    const auto fd = event(1);
    bool woken = false;
    bool called = false;
    REQUIRE(loop->add(fd.get(), {}, [&](virtio::Readiness ready) {
        CHECK(woken);
        CHECK(ready.writable);
        called = true;
        loop->stop();
    }));
    loop->post([&] {
        woken = true;
        CHECK(loop->modify(fd.get(), {.write = true}));
    });
    REQUIRE(loop->run());
    CHECK(called);
}

TEST_CASE("an event fetched for a removed descriptor reaches nobody, not even its successor") {
    const auto loop = make_loop();
    const auto first = event(1);
    const auto second = event(1);
    int calls = 0;
    const auto remove_both = [&](virtio::Readiness) {
        ++calls;
        loop->remove(first.get());
        loop->remove(second.get());
        const auto reopened = loop->add(second.get(), {}, [&](virtio::Readiness) { calls += 100; });
        CHECK(reopened);
        loop->post([&] { loop->stop(); });
    };
    REQUIRE(loop->add(first.get(), {.read = true}, remove_both));
    REQUIRE(loop->add(second.get(), {.read = true}, remove_both));
    REQUIRE(loop->run());
    CHECK(calls == 1);
}

TEST_CASE("a pipe whose writer is gone is readable and hung up") {
    const auto loop = make_loop();
    int ends[2];
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    const virtio::UniqueFd reader(ends[0]);
    close(ends[1]);
    bool seen = false;
    REQUIRE(loop->add(reader.get(), {.read = true}, [&](virtio::Readiness ready) {
        seen = ready.readable && ready.hangup;
        loop->stop();
    }));
    REQUIRE(loop->run());
    CHECK(seen);
}

TEST_CASE("what cannot be watched is refused with the errno") {
    const auto loop = make_loop();
    const virtio::UniqueFd file(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    const auto added = loop->add(file.get(), {.read = true}, [](virtio::Readiness) {});
    REQUIRE_FALSE(added);
    CHECK(added.error().code == EPERM);
    CHECK_FALSE(loop->modify(12345, {}));
}

TEST_CASE("stop from another thread ends run, also before it began") {
    const auto loop = make_loop();
    std::thread other([&] { loop->stop(); });
    CHECK(loop->run());
    other.join();
    CHECK(loop->run());
}

TEST_CASE("run_until() goes on after stop(), until it is done or out of time") {
    auto loop = make_loop();
    loop->stop();
    REQUIRE(loop->run());
    int left = 3;
    std::function<void()> step = [&] {
        if (--left > 0)
            loop->post(step);
    };
    loop->post(step);
    REQUIRE(loop->run_until([&] { return left == 0; }, 60'000));
    CHECK(left == 0);
    REQUIRE(loop->run_until([] { return false; }, 1));
}
