#include "virtio/testing/fake_guest.hpp"

#include <algorithm>
#include <cassert>
#include <cstdlib>
#include <cstring>
#include <new>

namespace virtio::testing {

namespace {

constexpr std::size_t page = 4096;

struct Descriptor {
    std::uint64_t address;
    std::uint32_t length;
    std::uint16_t flags;
    std::uint16_t next;
};

} // namespace

void FakeRam::Free::operator()(std::byte* memory) const {
    ::operator delete (memory, std::align_val_t{page});
}

FakeRam::FakeRam(std::size_t size)
    : size_(size), bytes_(static_cast<std::byte*>(::operator new (size, std::align_val_t{page}))) {
    std::memset(bytes_.get(), 0, size);
    const bool added = memory_.add_region({base, bytes_.get(), size_});
    assert(added);
    static_cast<void>(added);
}

GuestAddr FakeRam::allocate(std::size_t size, std::size_t alignment) {
    used_ = (used_ + alignment - 1) & ~(alignment - 1);
    const GuestAddr at = base + used_;
    used_ += size;
    if (used_ > size_)
        std::abort(); // the test needs a larger FakeRam
    return at;
}

void FakeRam::write(GuestAddr at, std::span<const std::byte> bytes) {
    std::copy(bytes.begin(), bytes.end(), bytes_.get() + (at - base));
}

std::vector<std::byte> FakeRam::read(GuestAddr at, std::size_t length) const {
    const std::byte* begin = bytes_.get() + (at - base);
    return {begin, begin + length};
}

std::string FakeRam::read_text(GuestAddr at, std::size_t length) const {
    std::string text(length, '\0');
    std::memcpy(text.data(), bytes_.get() + (at - base), length);
    return text;
}

GuestAddr FakeRam::place(std::string_view text) {
    const GuestAddr at = allocate(text.size());
    write(at, text);
    return at;
}

FakeRing::FakeRing(FakeRam& ram, std::uint16_t size, std::uint16_t index)
    : ram_(ram), config_{.index = index, .size = size, .max_size = size, .ready = true},
      chains_(size) {
    config_.descriptors = ram.allocate(std::size_t{16} * size, 16);
    config_.available = ram.allocate(std::size_t{2} * size + 6, 2);
    config_.used = ram.allocate(std::size_t{8} * size + 6, 4);
    for (std::uint16_t i = size; i > 0; --i)
        free_.push_back(static_cast<std::uint16_t>(i - 1));
}

template <typename T>
void FakeRing::put(GuestAddr at, T value) {
    ram_.memory().slice(at, sizeof(T))->template store<T>(0, value, base::Order::SeqCst);
}

template <typename T>
T FakeRing::get(GuestAddr at) const {
    return ram_.memory().slice(at, sizeof(T))->template load<T>(0, base::Order::SeqCst);
}

std::uint16_t FakeRing::take_free() {
    if (free_.empty())
        std::abort(); // the test offers more than the ring holds
    const std::uint16_t at = free_.back();
    free_.pop_back();
    return at;
}

std::uint16_t FakeRing::offer(std::span<const Piece> pieces) {
    std::vector<std::uint16_t> used;
    for (std::size_t i = 0; i < pieces.size(); ++i)
        used.push_back(take_free());
    for (std::size_t i = 0; i < pieces.size(); ++i) {
        const bool last = i + 1 == pieces.size();
        const auto flags = static_cast<std::uint16_t>(
            (last ? 0 : flag_next) | (pieces[i].writable ? flag_write : 0) | pieces[i].extra_flags);
        write_descriptor(used[i], pieces[i].address, pieces[i].length, flags,
                         last ? std::uint16_t{0} : used[i + 1]);
    }
    const std::uint16_t head = used.front();
    chains_[head] = std::move(used);
    offer_head(head);
    return head;
}

std::uint16_t FakeRing::offer_indirect(std::span<const Piece> pieces) {
    const GuestAddr table = ram_.allocate(16 * pieces.size(), 16);
    for (std::size_t i = 0; i < pieces.size(); ++i) {
        const bool last = i + 1 == pieces.size();
        const Descriptor descriptor{
            pieces[i].address.raw(), pieces[i].length,
            static_cast<std::uint16_t>((last ? 0 : flag_next) |
                                       (pieces[i].writable ? flag_write : 0) |
                                       pieces[i].extra_flags),
            static_cast<std::uint16_t>(last ? 0 : i + 1)};
        ram_.write(table + 16 * i, std::as_bytes(std::span(&descriptor, 1)));
    }
    return offer({{table, static_cast<std::uint32_t>(16 * pieces.size()), false, flag_indirect}});
}

bool FakeRing::must_notify() {
    const std::uint16_t before = std::exchange(notified_, available_next_);
    const std::uint16_t event = available_event();
    return static_cast<std::uint16_t>(available_next_ - event - 1) <
           static_cast<std::uint16_t>(available_next_ - before);
}

std::optional<UsedElement> FakeRing::take_used() {
    if (used_index() == used_next_)
        return std::nullopt;
    const GuestAddr at = config_.used + 4 + 8ull * (used_next_ % config_.size);
    const UsedElement element{get<std::uint32_t>(at), get<std::uint32_t>(at + 4)};
    ++used_next_;
    for (const std::uint16_t descriptor : chains_[element.head])
        free_.push_back(descriptor);
    chains_[element.head].clear();
    set_used_event(used_next_); // an interrupt for the next one
    return element;
}

void FakeRing::write_descriptor(std::uint16_t at, GuestAddr address, std::uint32_t length,
                                std::uint16_t flags, std::uint16_t next) {
    const Descriptor descriptor{address.raw(), length, flags, next};
    ram_.write(config_.descriptors + 16ull * at, std::as_bytes(std::span(&descriptor, 1)));
}

void FakeRing::offer_head(std::uint16_t head) {
    put(config_.available + 4 + 2ull * (available_next_ % config_.size), head);
    set_available_index(static_cast<std::uint16_t>(available_next_ + 1));
}

void FakeRing::set_available_index(std::uint16_t index) {
    available_next_ = index;
    put(config_.available + 2, index);
}

void FakeRing::set_available_flags(std::uint16_t flags) {
    put(config_.available, flags);
}

void FakeRing::set_used_event(std::uint16_t event) {
    put(config_.available + 4 + 2ull * config_.size, event);
}

std::uint16_t FakeRing::available_event() const {
    return get<std::uint16_t>(config_.used + 4 + 8ull * config_.size);
}

std::uint16_t FakeRing::used_index() const {
    return get<std::uint16_t>(config_.used + 2);
}

FakeDriver::FakeDriver(Device& device, FakeRam& ram)
    : ram_(ram),
      transport_(std::make_unique<MmioTransport>(
          device, ram.memory(), std::span<std::byte, register_page_size>(page_), interrupt_)) {}

std::uint32_t FakeDriver::read(std::uint32_t offset) const {
    std::uint32_t value = 0;
    std::memcpy(&value, page_.data() + offset, sizeof value);
    return value;
}

std::uint64_t FakeDriver::offered_features() {
    write(0x14, 1);
    const std::uint64_t high = read(0x10);
    write(0x14, 0);
    return high << 32 | read(0x10);
}

void FakeDriver::set_up_queue(const QueueConfig& config) {
    const auto address = [this](std::uint32_t offset, GuestAddr at) {
        write(offset, static_cast<std::uint32_t>(at.raw()));
        write(offset + 4, static_cast<std::uint32_t>(at.raw() >> 32));
    };
    write(0x30, config.index);
    write(0x38, config.size);
    address(0x80, config.descriptors);
    address(0x90, config.available);
    address(0xa0, config.used);
    write(0x44, 1);
}

bool FakeDriver::start(std::uint64_t without, std::uint16_t ring_size) {
    write(0x70, 0);
    write(0x70, 1);
    write(0x70, 1 | 2);
    const std::uint64_t features = offered_features() & ~without;
    write(0x24, 0);
    write(0x20, static_cast<std::uint32_t>(features));
    write(0x24, 1);
    write(0x20, static_cast<std::uint32_t>(features >> 32));
    write(0x70, 1 | 2 | 8);
    if ((status() & 8) == 0)
        return false;
    rings_.clear();
    for (std::size_t i = 0; i < transport_->queue_count(); ++i) {
        write(0x30, static_cast<std::uint32_t>(i));
        const auto size =
            static_cast<std::uint16_t>(std::min<std::uint32_t>(ring_size, read(0x34)));
        rings_.push_back(std::make_unique<FakeRing>(ram_, size, static_cast<std::uint16_t>(i)));
        set_up_queue(rings_.back()->config());
    }
    write(0x70, 1 | 2 | 8 | 4);
    return status() == (1 | 2 | 8 | 4);
}

void FakeDriver::notify(std::uint32_t queue) {
    if (!rings_[queue]->must_notify())
        return;
    if (transport_->notify_style(queue) == NotifyStyle::Inline)
        write(queue_notify_offset, queue);
    else
        transport_->notify(queue);
}

} // namespace virtio::testing
