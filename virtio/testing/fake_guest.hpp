// A guest for unit tests: RAM in a buffer, the driver's side of virtqueues, and a driver that
// brings up any device through its register page. It can also misbehave: every raw write a hostile
// guest could do.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "virtio/device/device.hpp"
#include "virtio/memory/guest_memory.hpp"
#include "virtio/queue/queue.hpp"
#include "virtio/transport/mmio_transport.hpp"

namespace virtio::testing {

// RAM from `base`; nothing is mapped below or above.
class FakeRam {
public:
    static constexpr GuestAddr base{0x10'0000};

    explicit FakeRam(std::size_t size = std::size_t{1} << 20);

    const GuestMemory& memory() const { return memory_; }
    GuestAddr end() const { return base + size_; }
    // Never freed. Requires: there is room.
    GuestAddr allocate(std::size_t size, std::size_t alignment = 16);
    // Requires: inside RAM.
    void write(GuestAddr at, std::span<const std::byte> bytes);
    void write(GuestAddr at, std::string_view text) { write(at, std::as_bytes(std::span(text))); }
    std::vector<std::byte> read(GuestAddr at, std::size_t length) const;
    std::string read_text(GuestAddr at, std::size_t length) const;
    // Text in freshly allocated RAM.
    GuestAddr place(std::string_view text);

private:
    struct Free {
        void operator()(std::byte* memory) const;
    };
    std::size_t size_;
    std::unique_ptr<std::byte, Free> bytes_;
    std::size_t used_ = 0;
    GuestMemory memory_;
};

struct Piece {
    GuestAddr address;
    std::uint32_t length;
    bool writable = false;
    std::uint16_t extra_flags = 0; // for hostile tests
};

struct UsedElement {
    std::uint32_t head;
    std::uint32_t written;
    bool operator==(const UsedElement&) const = default;
};

// The driver's side of one queue.
class FakeRing {
public:
    static constexpr std::uint16_t flag_next = 1;
    static constexpr std::uint16_t flag_write = 2;
    static constexpr std::uint16_t flag_indirect = 4;

    FakeRing(FakeRam& ram, std::uint16_t size, std::uint16_t index = 0);

    QueueConfig config() const { return config_; }

    // Offers a chain and returns its head; descriptors come back by take_used(). Requires: enough
    // are free.
    std::uint16_t offer(std::span<const Piece> pieces);
    std::uint16_t offer(std::initializer_list<Piece> pieces) {
        return offer(std::span(pieces.begin(), pieces.size()));
    }
    // The same through an indirect table.
    std::uint16_t offer_indirect(std::span<const Piece> pieces);
    std::uint16_t offer_indirect(std::initializer_list<Piece> pieces) {
        return offer_indirect(std::span(pieces.begin(), pieces.size()));
    }
    // Whether the driver would notify for what was offered since the last call, by the event index.
    bool must_notify();

    std::optional<UsedElement> take_used();

    // Raw access.
    void write_descriptor(std::uint16_t at, GuestAddr address, std::uint32_t length,
                          std::uint16_t flags, std::uint16_t next = 0);
    void offer_head(std::uint16_t head); // into the available ring, and the index with it
    void set_available_index(std::uint16_t index);
    void set_available_flags(std::uint16_t flags);
    void set_used_event(std::uint16_t event);
    std::uint16_t available_event() const;
    std::uint16_t used_index() const;

private:
    template <typename T>
    void put(GuestAddr at, T value);
    template <typename T>
    T get(GuestAddr at) const;
    std::uint16_t take_free();

    FakeRam& ram_;
    QueueConfig config_;
    std::vector<std::uint16_t> free_;
    std::vector<std::vector<std::uint16_t>> chains_; // by head: its descriptors
    std::uint16_t available_next_ = 0;
    std::uint16_t notified_ = 0;
    std::uint16_t used_next_ = 0;
};

class CountingInterrupt final : public InterruptSink {
public:
    void signal() override { count_.fetch_add(1); }
    unsigned count() const { return count_.load(); }

private:
    std::atomic<unsigned> count_{0};
};

// A register page, a transport on it, and the driver's steps.
class FakeDriver {
public:
    FakeDriver(Device& device, FakeRam& ram);

    std::uint32_t read(std::uint32_t offset) const;
    void write(std::uint32_t offset, std::uint32_t value) { transport_->write(offset, 4, value); }

    // The whole of 3.1.1 with all offered features but those in `without`. False if the device
    // refuses.
    bool start(std::uint64_t without = 0, std::uint16_t ring_size = 16);
    std::uint64_t offered_features();
    void set_up_queue(const QueueConfig& config);
    void reset() { write(0x70, 0); }
    std::uint32_t status() const { return read(0x70); }
    bool needs_reset() const { return (status() & 64) != 0; }

    FakeRing& ring(std::size_t index) { return *rings_[index]; }
    // As an ioeventfd or an exit would, if the event index wants it.
    void notify(std::uint32_t queue);

    MmioTransport& transport() { return *transport_; }
    CountingInterrupt& interrupt() { return interrupt_; }

private:
    FakeRam& ram_;
    alignas(16) std::array<std::byte, register_page_size> page_{};
    CountingInterrupt interrupt_;
    std::unique_ptr<MmioTransport> transport_;
    std::vector<std::unique_ptr<FakeRing>> rings_;
};

} // namespace virtio::testing
