// Packet: one packet, or one of up to 64 KB that is cut up later (GSO). A linear part for headers
// and small payloads stands in the object itself, with room in front for headers to come; what is
// larger lies in page fragments, which clones share.
//
// Nothing in a packet's bytes is to be believed: read() copies a structure out after a bounds
// check, linear() shows bytes only when there are that many. pull() and trim() say when a packet is
// too short. Positions of headers are kept as offsets that stay right when headers are pushed and
// pulled.
//
// A packet has one owner (PacketPtr), who alone changes it; its fragments' memory is never written
// once a packet that has them was cloned or sent. Locks: none of its own. Allocation and freeing
// work in any task context, soft interrupts included, under any spin lock of rank NetQueue or
// above.
#pragma once

#include <span>

#include "guestkernel/core/ref.hpp"
#include "guestkernel/fs/io_buffer.hpp"
#include "guestkernel/mm/frame.hpp"
#include "guestkernel/net/checksum.hpp"

namespace kernel::net {

class Interface;
class Packet;
using PacketPtr = Owned<Packet>;

enum class ChecksumState : u8 {
    None,    // of a received packet: not looked at; of one to send: the bytes are right as they are
    Partial, // the field at checksum_start + checksum_offset holds the folded sum of the pseudo
             // header; the sum from checksum_start on is still to be added (VIRTIO_NET_HDR_F_
             // NEEDS_CSUM). A received packet in this state never was on a wire: it counts as right
    Verified,
};

// Values of struct virtio_net_hdr's gso_type.
enum class Segmentation : u8 { None = 0, Tcp4 = 1, Tcp6 = 4, Udp = 5 };

enum class PacketKind : u8 { // values of linux/if_packet.h: PACKET_*
    Host = 0,
    Broadcast = 1,
    Multicast = 2,
    OtherHost = 3,
    Outgoing = 4,
};

// Bytes in a block of frames; `frame` is the block's first and carries the reference.
struct Fragment {
    Frame* frame;
    u32 offset, length;
    u8* data() const { return static_cast<u8*>(frame_data(*frame)) + offset; }
};

// What a socket is told when memory that it pays for is free again. `release` drops whatever keeps
// `owner` alive; it runs in any context that frees packets, locks of rank Leaf or above may be
// held.
struct PacketCharge {
    void (*release)(void* owner, u32 bytes) = nullptr;
    void* owner = nullptr;
    u32 bytes = 0;
};

class Packet {
public:
    static constexpr u32 max_fragments = 17; // 64 KB in pages, wherever they begin
    static constexpr u32 max_bytes = 65536 + 256;
    // Room for headers of all layers below the transport's payload.
    static constexpr u32 default_headroom = 160;
    static constexpr u16 no_header = 0xffff;

    // Room for `linear` bytes after `headroom`: at most max_linear together. Null: no memory.
    static PacketPtr allocate(u32 linear, u32 headroom = default_headroom);
    static u32 max_linear();
    void operator delete(Packet* packet, std::destroying_delete_t);
    ~Packet(); // by delete only: the memory is the pool's
    Packet(const Packet&) = delete;
    Packet& operator=(const Packet&) = delete;

    u32 length() const { return linear_ + fragment_bytes_; }
    u32 linear_length() const { return linear_; }
    u32 headroom() const { return start_; }
    u32 tailroom() const { return capacity_ - start_ - linear_; }
    u8* data() { return buffer() + start_; }
    const u8* data() const { return buffer() + start_; }
    std::span<const Fragment> fragments() const { return {fragments_, fragment_count_}; }
    // Memory that it takes, as sockets count it.
    u32 true_size() const { return static_cast<u32>(sizeof(Packet)) + capacity_ + fragment_bytes_; }

    // --- headers in front
    // Makes room before the data and returns the new beginning. Requires: headroom() >= bytes
    // (paths that cannot know it use with_headroom()).
    u8* push(u32 bytes);
    template <typename T>
    void push_header(const T& header) {
        __builtin_memcpy(push(sizeof header), &header, sizeof header);
    }
    // Takes bytes from the front, out of fragments too. False: there are fewer; nothing changed.
    [[nodiscard]] bool pull(u32 bytes);
    // Cuts the end off. False: it is shorter than that already.
    bool trim(u32 bytes);
    // The first `bytes`, in one piece: moved out of fragments if need be. Null: too short, or more
    // than the linear part can take.
    u8* linear(u32 bytes);
    // The packet with at least so much headroom: itself, or a copy of its linear part, whose end
    // goes to pages if there is no room for both (null: no memory, or more than max_linear(); the
    // packet is gone).
    static PacketPtr with_headroom(PacketPtr packet, u32 bytes);

    // The packet without fragments: itself, or a copy with all data in the linear part. Null: no
    // memory, or too long for that; the packet is gone.
    static PacketPtr without_fragments(PacketPtr packet);

    // --- reading and writing anywhere
    template <typename T>
    [[nodiscard]] bool read(u32 offset, T& out) const {
        return copy_out(offset, &out, sizeof out);
    }
    template <typename T>
    [[nodiscard]] bool write(u32 offset, const T& value) {
        return copy_in(offset, &value, sizeof value);
    }
    [[nodiscard]] bool copy_out(u32 offset, void* to, u32 bytes) const;
    // Writes through to fragments: only for packets that share none.
    [[nodiscard]] bool copy_in(u32 offset, const void* from, u32 bytes);
    // Calls function(const u8*, u32) for the pieces of the range. False: it is not all there.
    template <typename F>
    bool for_pieces(u32 offset, u32 bytes, F&& function) const;

    // --- building
    // Extends the linear part at its end; null: no room, or there are fragments already.
    u8* put(u32 bytes);
    // Takes the reference over when it returns true. Joins it to the last one when they touch.
    [[nodiscard]] bool append_fragment(FrameRef& frame, u32 offset, u32 length);
    // Appends bytes: to the linear part while there is room and no fragment, then to new pages.
    Result<void> append(const void* from, u32 bytes);
    // The same from the caller's memory (may sleep; no locks held). EFAULT, ENOMEM; what was
    // appended before the error stays.
    Result<void> append(IoBuffer& from, u32 bytes);
    // The same, but into pages from the first byte on: for large payloads, whose linear part is to
    // be headers only.
    Result<void> append_pages(IoBuffer& from, u32 bytes);
    // To the caller's memory (may sleep). EFAULT only if nothing could be copied.
    Result<u32> copy_to(IoBuffer& out, u32 offset, u32 bytes) const;
    // Moves the fragments of `other` behind this one's data; false: too many.
    [[nodiscard]] bool take_fragments(Packet& other);
    // Shares [offset, offset + bytes) of `from` behind this one's data: bytes of its linear part
    // are copied. False: no room or no memory; this one is then to be thrown away.
    [[nodiscard]] bool share_range(const Packet& from, u32 offset, u32 bytes);

    // A packet of its own that shares the fragments; the linear part is copied. Headers, checksum
    // and segmentation state go along, the charge does not. Null: no memory.
    PacketPtr clone(u32 headroom = default_headroom) const;

    // --- checksums
    void add_to(ChecksumSum& sum, u32 offset, u32 bytes) const; // Requires: within the packet
    // Partial becomes None: the sum is made here. Requires: the field is in the linear part.
    void finish_checksum();
    // Sets Partial: `transport` = where the transport header begins now, `field` = the checksum
    // field's offset in it. The pseudo header is stored.
    void start_checksum(const ChecksumSum& pseudo, u32 transport, u32 field);
    bool checksum_known_good() const { return checksum_state != ChecksumState::None; }

    // --- where headers begin, relative to the data as they are now
    void mark_link() { link_ = start_; }
    void mark_network() { network_ = start_; }
    void mark_network_at(u32 offset) { network_ = static_cast<u16>(start_ + offset); }
    void mark_transport(u32 offset = 0) { transport_ = static_cast<u16>(start_ + offset); }
    bool has_link() const { return link_ != no_header; }
    bool has_network() const { return network_ != no_header; }
    bool has_transport() const { return transport_ != no_header; }
    // Negative: the header was pulled and lies before the data.
    i32 link_offset() const { return i32{link_} - i32{start_}; }
    i32 network_offset() const { return i32{network_} - i32{start_}; }
    i32 transport_offset() const { return i32{transport_} - i32{start_}; }
    // Brings headers that were pulled back in front of the data.
    void restore_network() { restore(network_); }
    void restore_link() { restore(link_); }
    // The offset of `checksum_start` from the data, as virtio_net_hdr has it.
    u32 checksum_start_offset() const { return static_cast<u32>(checksum_start_ - start_); }
    // For drivers: a received packet's, counted from the data. False: outside of the packet.
    [[nodiscard]] bool set_partial_checksum(u32 start, u32 offset);

    void charge_to(const PacketCharge& charge);
    void release_charge();
    void move_charge(Packet& to) { to.charge_to(std::exchange(charge_, PacketCharge())); }

    // --- what travels along
    Packet* next = nullptr;       // of whichever list it is on
    u64 timestamp = 0;            // CLOCK_REALTIME of its arrival, 0: not taken
    Interface* ingress = nullptr; // valid while the stack's input path has the packet
    u32 ingress_index = 0;        // stays valid: a number
    u32 mark = 0;
    u32 hash = 0;          // of its flow, 0: unknown
    u16 link_protocol = 0; // ETH_P_* (host order), set by whoever parsed or pushed the link header
    u16 vlan = 0;          // tag taken off, if vlan_present
    bool vlan_present = false;
    ChecksumState checksum_state = ChecksumState::None;
    u16 checksum_offset = 0; // from checksum_start
    Segmentation segmentation = Segmentation::None;
    bool segments_have_ecn = false; // VIRTIO_NET_HDR_GSO_ECN
    PacketKind kind = PacketKind::Host;
    u8 priority = 0;
    bool local = false;         // made here for an address of this very stack: needs no route
    bool looped = false;        // our own packet to a group, come back
    u16 segment_size = 0;       // payload bytes of each, if segmentation
    u8 tracking = 0;            // the filter's: how the packet stands to its connection
    Ref<RefCounted> connection; // that the filter found it to be of
    void forget_connection() {
        connection = nullptr;
        tracking = 0;
    }
    // Bookkeeping of the layer that has the packet now (TCP: sequence numbers).
    template <typename T>
    T& scratch() {
        static_assert(sizeof(T) <= sizeof scratch_ && alignof(T) <= 8);
        return *reinterpret_cast<T*>(scratch_); // SAFETY: aligned, large enough, trivially typed
    }

private:
    friend class PacketPool;
    Packet(u32 capacity, u32 headroom) : capacity_(capacity), start_(static_cast<u16>(headroom)) {}
    u8* buffer() { return reinterpret_cast<u8*>(this + 1); } // SAFETY: allocate() made the room
    const u8* buffer() const { return reinterpret_cast<const u8*>(this + 1); }
    void restore(u16 position);
    void drop_front_fragments(u32 bytes);
    PacketPtr copy_head(u32 headroom) const;
    PacketPtr spill_head(u32 headroom) const;
    void copy_state(const Packet& from);

    u32 capacity_;
    u16 start_;
    u16 link_ = no_header, network_ = no_header, transport_ = no_header;
    u16 checksum_start_ = 0; // in the buffer
    u16 fragment_count_ = 0;
    u32 linear_ = 0;
    u32 fragment_bytes_ = 0;
    PacketCharge charge_;
    alignas(8) u8 scratch_[64] = {};
    Fragment fragments_[max_fragments];
};

template <typename F>
bool Packet::for_pieces(u32 offset, u32 bytes, F&& function) const {
    if (offset > length() || bytes > length() - offset)
        return false;
    if (offset < linear_) {
        const u32 piece = linear_ - offset < bytes ? linear_ - offset : bytes;
        if (piece > 0)
            function(data() + offset, piece);
        bytes -= piece;
        offset = linear_;
    }
    u32 at = linear_;
    for (u32 i = 0; bytes > 0; i++) {
        const Fragment& fragment = fragments_[i];
        if (offset < at + fragment.length) {
            const u32 skip = offset - at;
            const u32 piece = fragment.length - skip < bytes ? fragment.length - skip : bytes;
            function(static_cast<const u8*>(fragment.data()) + skip, piece);
            bytes -= piece;
            offset += piece;
        }
        at += fragment.length;
    }
    return true;
}

// A singly linked list that owns its packets.
class PacketList {
public:
    PacketList() = default;
    PacketList(PacketList&& other) noexcept
        : head_(std::exchange(other.head_, nullptr)), tail_(std::exchange(other.tail_, nullptr)),
          count_(std::exchange(other.count_, 0)) {}
    PacketList& operator=(PacketList&& other) noexcept {
        std::swap(head_, other.head_);
        std::swap(tail_, other.tail_);
        std::swap(count_, other.count_);
        return *this;
    }
    ~PacketList() { clear(); }
    bool empty() const { return head_ == nullptr; }
    u32 size() const { return count_; }
    Packet* front() { return head_; }
    Packet* back() { return tail_; }
    void push_back(PacketPtr packet) {
        Packet* added = packet.leak();
        added->next = nullptr;
        (head_ == nullptr ? head_ : tail_->next) = added;
        tail_ = added;
        count_++;
    }
    void push_front(PacketPtr packet) {
        Packet* added = packet.leak();
        added->next = head_;
        head_ = added;
        if (tail_ == nullptr)
            tail_ = added;
        count_++;
    }
    PacketPtr pop_front() {
        Packet* taken = head_;
        if (taken == nullptr)
            return {};
        head_ = taken->next;
        if (head_ == nullptr)
            tail_ = nullptr;
        taken->next = nullptr;
        count_--;
        return PacketPtr(taken);
    }
    // Behind `before`, which is on the list; null: in front.
    void insert_after(Packet* before, PacketPtr packet) {
        if (before == nullptr) {
            push_front(std::move(packet));
        } else if (before == tail_) {
            push_back(std::move(packet));
        } else {
            Packet* added = packet.leak();
            added->next = before->next;
            before->next = added;
            count_++;
        }
    }
    void append(PacketList&& other) {
        if (other.head_ == nullptr)
            return;
        (head_ == nullptr ? head_ : tail_->next) = other.head_;
        tail_ = other.tail_;
        count_ += other.count_;
        other.head_ = other.tail_ = nullptr;
        other.count_ = 0;
    }
    void clear() {
        while (pop_front()) {
        }
    }

private:
    Packet* head_ = nullptr;
    Packet* tail_ = nullptr;
    u32 count_ = 0;
};

// Cuts a packet with `segmentation` into packets of one segment each, with headers, lengths,
// identifiers and checksums (Partial or None as `finish_checksums` says) of their own. The packet
// begins with the link header if it has one, else with the network header. Null list: malformed
// headers or no memory.
PacketList segment_packet(PacketPtr packet, bool finish_checksums);

void reset_packet_pool_for_test(); // with the heap's
void reset_payload_blocks_for_test();

} // namespace kernel::net
