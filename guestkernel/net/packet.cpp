// Packets: memory, headers, reading and writing.
#include "guestkernel/net/packet.hpp"

#include <linux/errno.h>

#include "boot/protocol/layout.hpp"
#include "guestkernel/arch/arch.hpp"
#include "guestkernel/core/panic.hpp"
#include "guestkernel/mm/heap.hpp"
#include "guestkernel/mm/memory_group.hpp"

namespace kernel::net {

namespace {

// Two sizes of the heap: one for headers in front of fragments and for small payloads, one for
// what fits the MTU of Ethernet.
constexpr usize small_bytes = 768, large_bytes = 2048;
constexpr u32 small_capacity = small_bytes - sizeof(Packet);
constexpr u32 large_capacity = large_bytes - sizeof(Packet);
static_assert(sizeof(Packet) + Packet::default_headroom + 80 <= small_bytes);
static_assert(large_capacity >= 1500 + 64);

constexpr u32 smaller(u32 a, u32 b) {
    return a < b ? a : b;
}

} // namespace

// Freed packets of each CPU, for its next ones.
class PacketPool {
public:
    static void* take(bool large) {
        Shelf& shelf = shelves_[arch::cpu_id()][large ? 1 : 0];
        if (shelf.first == nullptr)
            return kmalloc(large ? large_bytes : small_bytes);
        Free* taken = shelf.first;
        shelf.first = taken->next;
        shelf.count--;
        return taken;
    }
    static void give_back(void* memory, bool large) {
        Shelf& shelf = shelves_[arch::cpu_id()][large ? 1 : 0];
        if (shelf.count >= limit) {
            kfree(memory);
            return;
        }
        shelf.first = ::new (memory) Free{shelf.first};
        shelf.count++;
    }
    static void forget() {
        for (auto& cpu : shelves_)
            for (Shelf& shelf : cpu)
                shelf = {};
    }
    static Packet* make(u32 capacity, u32 headroom) {
        void* memory = take(capacity > small_capacity);
        return memory == nullptr ? nullptr : ::new (memory) Packet(capacity, headroom);
    }

private:
    static constexpr u32 limit = 64;
    struct Free {
        Free* next;
    };
    struct alignas(32) Shelf {
        Free* first = nullptr;
        u32 count = 0;
    };
    static constinit Shelf shelves_[boot::max_cpus][2];
};
constinit PacketPool::Shelf PacketPool::shelves_[boot::max_cpus][2];

void reset_packet_pool_for_test() {
    PacketPool::forget();
}

u32 Packet::max_linear() {
    return large_capacity;
}

PacketPtr Packet::allocate(u32 linear, u32 headroom) {
    if (linear > large_capacity || headroom > large_capacity - linear)
        return {};
    return PacketPtr(PacketPool::make(
        linear + headroom <= small_capacity ? small_capacity : large_capacity, headroom));
}

Packet::~Packet() {
    for (u32 i = 0; i < fragment_count_; i++)
        put_frame(*fragments_[i].frame);
    release_charge();
}

void Packet::operator delete(Packet* packet, std::destroying_delete_t) {
    const bool large = packet->capacity_ > small_capacity;
    packet->~Packet();
    PacketPool::give_back(packet, large);
}

void Packet::charge_to(const PacketCharge& charge) {
    release_charge();
    charge_ = charge;
}
void Packet::release_charge() {
    const PacketCharge charge = std::exchange(charge_, PacketCharge());
    if (charge.release != nullptr)
        charge.release(charge.owner, charge.bytes);
}

u8* Packet::push(u32 bytes) {
    ASSERT(bytes <= start_);
    start_ = static_cast<u16>(start_ - bytes);
    linear_ += bytes;
    return data();
}

u8* Packet::put(u32 bytes) {
    if (fragment_count_ != 0 || bytes > tailroom())
        return nullptr;
    u8* at = data() + linear_;
    linear_ += bytes;
    return at;
}

void Packet::drop_front_fragments(u32 bytes) {
    u32 gone = 0;
    fragment_bytes_ -= bytes;
    while (bytes > 0) {
        Fragment& front = fragments_[gone];
        if (bytes < front.length) {
            front.offset += bytes;
            front.length -= bytes;
            break;
        }
        bytes -= front.length;
        put_frame(*front.frame);
        gone++;
    }
    if (gone == 0)
        return;
    fragment_count_ = static_cast<u16>(fragment_count_ - gone);
    for (u32 i = 0; i < fragment_count_; i++)
        fragments_[i] = fragments_[i + gone];
}

bool Packet::pull(u32 bytes) {
    if (bytes > length())
        return false;
    const u32 from_linear = smaller(bytes, linear_);
    start_ = static_cast<u16>(start_ + from_linear);
    linear_ -= from_linear;
    if (bytes > from_linear)
        drop_front_fragments(bytes - from_linear);
    return true;
}

bool Packet::trim(u32 bytes) {
    if (bytes > length())
        return false;
    if (bytes <= linear_) {
        linear_ = bytes;
        while (fragment_count_ > 0)
            put_frame(*fragments_[--fragment_count_].frame);
        fragment_bytes_ = 0;
        return true;
    }
    u32 extra = length() - bytes;
    fragment_bytes_ -= extra;
    while (extra > 0) {
        Fragment& last = fragments_[fragment_count_ - 1];
        if (extra < last.length) {
            last.length -= extra;
            break;
        }
        extra -= last.length;
        put_frame(*last.frame);
        fragment_count_--;
    }
    return true;
}

u8* Packet::linear(u32 bytes) {
    if (bytes <= linear_)
        return data();
    const u32 missing = bytes - linear_;
    if (bytes > length())
        return nullptr;
    if (missing > tailroom()) {
        // Headers in front are kept: positions of pulled headers must stay right.
        return nullptr;
    }
    u8* to = data() + linear_;
    if (!copy_out(linear_, to, missing))
        return nullptr;
    drop_front_fragments(missing);
    linear_ += missing;
    return data();
}

void Packet::copy_state(const Packet& from) {
    const i32 moved = i32{start_} - i32{from.start_};
    const auto shifted = [moved](u16 position) {
        // A header that lies before what was copied is gone.
        const i32 at = i32{position} + moved;
        return position == no_header || at < 0 ? no_header : static_cast<u16>(at);
    };
    link_ = shifted(from.link_);
    network_ = shifted(from.network_);
    transport_ = shifted(from.transport_);
    checksum_start_ = static_cast<u16>(i32{from.checksum_start_} + moved);
    timestamp = from.timestamp;
    ingress = from.ingress;
    ingress_index = from.ingress_index;
    mark = from.mark;
    hash = from.hash;
    link_protocol = from.link_protocol;
    vlan = from.vlan;
    vlan_present = from.vlan_present;
    checksum_state = from.checksum_state;
    checksum_offset = from.checksum_offset;
    segmentation = from.segmentation;
    segments_have_ecn = from.segments_have_ecn;
    kind = from.kind;
    priority = from.priority;
    local = from.local;
    looped = from.looped;
    segment_size = from.segment_size;
    tracking = from.tracking;
    connection = from.connection;
    __builtin_memcpy(scratch_, from.scratch_, sizeof scratch_);
}

// The linear part and the state in a new packet, pulled headers included.
PacketPtr Packet::copy_head(u32 headroom) const {
    // From the first header that is still there.
    u32 first = start_;
    for (const u16 position : {link_, network_, transport_})
        if (position != no_header && position < first)
            first = position;
    const u32 before = start_ - first;
    if (linear_ + before > large_capacity)
        return {};
    PacketPtr copy =
        allocate(linear_, before + smaller(headroom, large_capacity - linear_ - before));
    if (!copy)
        return {};
    __builtin_memcpy(copy->data() - before, data() - before, before + linear_);
    copy->linear_ = linear_;
    copy->copy_state(*this);
    return copy;
}

// Like copy_head(), where the linear part leaves too little room: its end goes to pages.
PacketPtr Packet::spill_head(u32 headroom) const {
    if (headroom < start_ || headroom > large_capacity)
        return {};
    PacketPtr copy = allocate(smaller(linear_, large_capacity - headroom), headroom);
    if (!copy || !copy->share_range(*this, 0, linear_))
        return {};
    __builtin_memcpy(copy->data() - start_, buffer(), start_); // pulled headers
    copy->copy_state(*this);
    return copy;
}

PacketPtr Packet::clone(u32 headroom) const {
    PacketPtr copy = copy_head(headroom);
    if (!copy)
        return {};
    for (u32 i = 0; i < fragment_count_; i++) {
        get_frame(*fragments_[i].frame);
        copy->fragments_[i] = fragments_[i];
    }
    copy->fragment_count_ = fragment_count_;
    copy->fragment_bytes_ = fragment_bytes_;
    return copy;
}

PacketPtr Packet::with_headroom(PacketPtr packet, u32 bytes) {
    if (packet->start_ >= bytes)
        return packet;
    PacketPtr copy = packet->copy_head(bytes);
    if (copy && copy->start_ < bytes)
        copy = packet->spill_head(bytes);
    if (!copy || !copy->take_fragments(*packet))
        return {};
    packet->move_charge(*copy);
    return copy;
}

PacketPtr Packet::without_fragments(PacketPtr packet) {
    if (packet->fragment_count_ == 0)
        return packet;
    const u32 before = packet->start_;
    const u32 bytes = packet->length();
    const u32 kept = smaller(before, large_capacity - smaller(bytes, large_capacity));
    PacketPtr copy = allocate(bytes, kept);
    if (!copy || !packet->copy_out(0, copy->put(bytes), bytes))
        return {};
    __builtin_memcpy(copy->data() - kept, packet->data() - kept, kept); // pulled headers
    copy->copy_state(*packet);
    packet->move_charge(*copy);
    return copy;
}

void Packet::restore(u16 position) {
    ASSERT(position != no_header && position <= start_);
    linear_ += u32{start_} - position;
    start_ = position;
}

bool Packet::copy_out(u32 offset, void* to, u32 bytes) const {
    if (offset <= linear_ && bytes <= linear_ - offset) {
        __builtin_memcpy(to, data() + offset, bytes);
        return true;
    }
    u8* at = static_cast<u8*>(to);
    return for_pieces(offset, bytes, [&at](const u8* piece, u32 count) {
        __builtin_memcpy(at, piece, count);
        at += count;
    });
}

bool Packet::copy_in(u32 offset, const void* from, u32 bytes) {
    const u8* at = static_cast<const u8*>(from);
    return for_pieces(offset, bytes, [&at](const u8* piece, u32 count) {
        __builtin_memcpy(const_cast<u8*>(piece), at, count); // our own memory: *this is not const
        at += count;
    });
}

bool Packet::append_fragment(FrameRef& frame, u32 offset, u32 length) {
    if (fragment_count_ > 0) {
        Fragment& last = fragments_[fragment_count_ - 1];
        if (last.frame == frame.get() && last.offset + last.length == offset) {
            last.length += length;
            fragment_bytes_ += length;
            frame.reset(); // the one it joins holds its own
            return true;
        }
    }
    if (fragment_count_ == max_fragments)
        return false;
    fragments_[fragment_count_++] = {frame.leak(), offset, length};
    fragment_bytes_ += length;
    return true;
}

bool Packet::take_fragments(Packet& other) {
    if (fragment_count_ + other.fragment_count_ > max_fragments)
        return false;
    for (u32 i = 0; i < other.fragment_count_; i++)
        fragments_[fragment_count_ + i] = other.fragments_[i];
    fragment_count_ =
        static_cast<u16>(fragment_count_ + std::exchange(other.fragment_count_, u16{0}));
    fragment_bytes_ += std::exchange(other.fragment_bytes_, 0);
    return true;
}

bool Packet::share_range(const Packet& from, u32 offset, u32 bytes) {
    if (offset > from.length() || bytes > from.length() - offset)
        return false;
    if (offset < from.linear_) {
        const u32 piece = smaller(from.linear_ - offset, bytes);
        if (!append(from.data() + offset, piece))
            return false;
        offset += piece;
        bytes -= piece;
    }
    u32 at = from.linear_;
    for (u32 i = 0; bytes > 0; i++) {
        const Fragment& fragment = from.fragments_[i];
        if (offset < at + fragment.length) {
            const u32 skip = offset - at;
            const u32 piece = smaller(fragment.length - skip, bytes);
            FrameRef frame = FrameRef::share(*fragment.frame);
            if (!append_fragment(frame, fragment.offset + skip, piece))
                return false;
            offset += piece;
            bytes -= piece;
        }
        at += fragment.length;
    }
    return true;
}

void Packet::add_to(ChecksumSum& sum, u32 offset, u32 bytes) const {
    const bool whole =
        for_pieces(offset, bytes, [&sum](const u8* piece, u32 count) { sum.add(piece, count); });
    ASSERT(whole);
}

void Packet::start_checksum(const ChecksumSum& pseudo, u32 transport, u32 field) {
    checksum_state = ChecksumState::Partial;
    checksum_start_ = static_cast<u16>(start_ + transport);
    checksum_offset = static_cast<u16>(field);
    const u16 folded = pseudo.folded();
    __builtin_memcpy(buffer() + checksum_start_ + field, &folded, sizeof folded);
}

bool Packet::set_partial_checksum(u32 start, u32 offset) {
    if (start > linear_ || offset > linear_ - start || linear_ - start - offset < sizeof(u16))
        return false;
    checksum_state = ChecksumState::Partial;
    checksum_start_ = static_cast<u16>(start_ + start);
    checksum_offset = static_cast<u16>(offset);
    return true;
}

void Packet::finish_checksum() {
    if (checksum_state != ChecksumState::Partial)
        return;
    checksum_state = ChecksumState::None;
    // The start may have been pulled: then from the header on.
    const u16 saved_start = start_;
    if (checksum_start_ < start_)
        restore(checksum_start_);
    const u32 from = u32{checksum_start_} - start_;
    ChecksumSum sum;
    add_to(sum, from, length() - from);
    u16 result = sum.finish();
    if (result == 0)
        result = 0xffff; // of UDP: zero says that there is none (RFC 768); the others take both
    __builtin_memcpy(buffer() + checksum_start_ + checksum_offset, &result, sizeof result);
    linear_ -= u32{saved_start} - start_;
    start_ = saved_start;
}

} // namespace kernel::net
