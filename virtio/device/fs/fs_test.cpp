#include <atomic>
#include <chrono>
#include <thread>

#include <linux/virtio_fs.h>
#include <linux/virtio_ids.h>

#include <catch2/catch.hpp>

#include "virtio/backend/fs/testing/fuse_client.hpp"
#include "virtio/device/fs/fs.hpp"
#include "virtio/testing/fake_guest.hpp"

using namespace virtio;
using namespace virtio::fs::testing;
using virtio::testing::FakeDriver;
using virtio::testing::FakeRam;
using virtio::testing::FakeRing;
using virtio::testing::UsedElement;

namespace {

struct Guest {
    explicit Guest(unsigned workers = 1)
        : device("root", serve({.path = dir.path()}), {.workers = workers}), driver(device, ram) {}

    // A request with `arguments` on a queue; the answer is put at `reply`.
    std::uint16_t send(std::uint32_t queue, std::uint32_t opcode, std::uint64_t node,
                       std::string_view arguments) {
        fuse_in_header header{};
        header.len = static_cast<std::uint32_t>(sizeof header + arguments.size());
        header.opcode = opcode;
        header.unique = ++unique;
        header.nodeid = node;
        const GuestAddr at = ram.allocate(sizeof header);
        ram.write(at, std::as_bytes(std::span(&header, 1)));
        const GuestAddr body = ram.place(arguments);
        const std::uint16_t head =
            driver.ring(queue).offer_indirect({{at, sizeof header},
                                               {body, static_cast<std::uint32_t>(arguments.size())},
                                               {reply, sizeof(fuse_out_header), true},
                                               {reply + sizeof(fuse_out_header), 4096, true}});
        driver.notify(queue);
        return head;
    }
    template <typename T>
    static std::string_view bytes(const T& object) {
        // SAFETY: any object is bytes.
        return {reinterpret_cast<const char*>(&object), sizeof object};
    }
    void init(std::uint32_t queue) {
        fuse_init_in in{};
        in.major = FUSE_KERNEL_VERSION;
        in.minor = FUSE_KERNEL_MINOR_VERSION;
        send(queue, FUSE_INIT, 0, bytes(in));
    }
    // Waits for a worker; a test that fails may take 10 s.
    std::optional<UsedElement> wait(std::uint32_t queue) {
        for (int i = 0; i < 10'000; ++i) {
            if (auto used = driver.ring(queue).take_used())
                return used;
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        return std::nullopt;
    }
    fuse_out_header answer() const {
        const auto raw = ram.read(reply, sizeof(fuse_out_header));
        fuse_out_header out{};
        std::memcpy(&out, raw.data(), sizeof out);
        return out;
    }

    TemporaryDirectory dir;
    FakeRam ram;
    Fs device;
    FakeDriver driver;
    GuestAddr reply = ram.allocate(8192);
    std::uint64_t unique = 0;
};

} // namespace

TEST_CASE("the file system device shows its tag and its queues") {
    Guest guest;
    CHECK(guest.device.info().id == VIRTIO_ID_FS);
    struct virtio_fs_config config {};
    guest.device.read_config(std::as_writable_bytes(std::span(&config, 1)));
    CHECK(std::string(std::begin(config.tag), std::end(config.tag)).c_str() == std::string("root"));
    CHECK(config.num_request_queues == 2);
    CHECK(guest.driver.transport().queue_count() == 3);
    CHECK(guest.driver.transport().notify_style(fs_hiprio_queue) == NotifyStyle::Eventfd);
    CHECK(guest.driver.transport().notify_style(fs_inline_queue) == NotifyStyle::Inline);
    CHECK(guest.driver.transport().notify_style(fs_pooled_queue) == NotifyStyle::Eventfd);
}

TEST_CASE("an inline request is answered when the notification returns") {
    Guest guest;
    REQUIRE(guest.driver.start());
    guest.init(fs_inline_queue);
    const auto used = guest.driver.ring(fs_inline_queue).take_used();
    REQUIRE(used);
    CHECK(used->written == sizeof(fuse_out_header) + sizeof(fuse_init_out));
    CHECK(guest.answer().error == 0);
    CHECK(guest.answer().unique == 1);
    guest.send(fs_inline_queue, FUSE_LOOKUP, FUSE_ROOT_ID, std::string_view("none\0", 5));
    CHECK(guest.driver.ring(fs_inline_queue).take_used()->written == sizeof(fuse_out_header));
    CHECK(guest.answer().error == -ENOENT);
    CHECK(guest.driver.interrupt().count() >= 2);
}

TEST_CASE("a pooled request is answered by a worker") {
    Guest guest;
    REQUIRE(guest.device.start_workers());
    REQUIRE(guest.driver.start());
    guest.init(fs_inline_queue);
    for (int i = 0; i < 5; ++i) {
        guest.send(fs_pooled_queue, FUSE_GETATTR, FUSE_ROOT_ID, Guest::bytes(fuse_getattr_in{}));
        const auto used = guest.wait(fs_pooled_queue);
        REQUIRE(used);
        CHECK(used->written == sizeof(fuse_out_header) + sizeof(fuse_attr_out));
        CHECK(guest.answer().error == 0);
    }
}

TEST_CASE("whatever is offered after a full round of a ring is served, too") {
    // Who is notified serves one round; what others add meanwhile finds the queue without a wish
    // for notifications.
    Guest guest;
    REQUIRE(guest.device.start_workers());
    REQUIRE(guest.driver.start());
    guest.init(fs_inline_queue);
    REQUIRE(guest.driver.ring(fs_inline_queue).take_used());
    FakeRing& ring = guest.driver.ring(fs_inline_queue);
    fuse_in_header header{};
    header.len = sizeof header + sizeof(fuse_getattr_in);
    header.opcode = FUSE_GETATTR;
    header.nodeid = FUSE_ROOT_ID;
    const GuestAddr at = guest.ram.allocate(header.len);
    guest.ram.write(at, std::as_bytes(std::span(&header, 1)));
    const auto offer = [&] { ring.offer_indirect({{at, header.len}, {guest.reply, 4096, true}}); };
    const unsigned round = ring.config().size;
    for (unsigned i = 0; i < round; ++i)
        offer();
    guest.driver.notify(fs_inline_queue);
    for (unsigned i = 0; i < round; ++i)
        REQUIRE(guest.wait(fs_inline_queue));
    offer();
    guest.driver.notify(fs_inline_queue);
    CHECK(guest.wait(fs_inline_queue));
}

TEST_CASE("without workers the pooled queue is inline") {
    Guest guest(0);
    REQUIRE(guest.device.start_workers());
    REQUIRE(guest.driver.start());
    CHECK(guest.driver.transport().notify_style(fs_pooled_queue) == NotifyStyle::Inline);
    guest.init(fs_pooled_queue);
    CHECK(guest.driver.ring(fs_pooled_queue).take_used());
}

TEST_CASE("the hiprio queue takes FORGET and refuses what would keep the event loop") {
    Guest guest;
    guest.dir.write("file", "");
    REQUIRE(guest.driver.start());
    guest.init(fs_inline_queue);
    guest.send(fs_hiprio_queue, FUSE_LOOKUP, FUSE_ROOT_ID, std::string_view("file\0", 5));
    REQUIRE(guest.driver.ring(fs_hiprio_queue).take_used());
    CHECK(guest.answer().error == -EINVAL);
    guest.send(fs_inline_queue, FUSE_LOOKUP, FUSE_ROOT_ID, std::string_view("file\0", 5));
    const auto entry =
        guest.ram.read(guest.reply + sizeof(fuse_out_header), sizeof(fuse_entry_out));
    fuse_entry_out found{};
    std::memcpy(&found, entry.data(), sizeof found);
    guest.send(fs_hiprio_queue, FUSE_FORGET, found.nodeid, Guest::bytes(fuse_forget_in{1}));
    CHECK(guest.driver.ring(fs_hiprio_queue).take_used()->written == 0);
    guest.send(fs_inline_queue, FUSE_GETATTR, found.nodeid, Guest::bytes(fuse_getattr_in{}));
    CHECK(guest.answer().error == -ESTALE);
}

TEST_CASE("a reset forgets the driver's nodes, and the device works again") {
    Guest guest;
    REQUIRE(guest.device.start_workers());
    REQUIRE(guest.driver.start());
    guest.init(fs_inline_queue);
    guest.driver.reset();
    REQUIRE(guest.driver.start());
    guest.send(fs_inline_queue, FUSE_GETATTR, FUSE_ROOT_ID, Guest::bytes(fuse_getattr_in{}));
    CHECK(guest.answer().error == -EIO); // INIT comes first
    guest.init(fs_inline_queue);
    CHECK(guest.answer().error == 0);
}

TEST_CASE("a broken chain stops the file system device, not the process") {
    Guest guest;
    REQUIRE(guest.driver.start());
    FakeRing& ring = guest.driver.ring(fs_inline_queue);
    ring.write_descriptor(0, GuestAddr(0), 100, 0);
    ring.offer_head(0);
    guest.driver.notify(fs_inline_queue);
    CHECK(guest.driver.needs_reset());
}
