#include "guestkernel/net/tcp/send_buffer.hpp"

#include "guestkernel/mm/heap.hpp"

namespace kernel::tcp {

namespace {
constexpr unsigned large_order = 3;
constexpr u32 large_wish = 2 * page_size; // writes from here on get a large block
} // namespace

void SendBuffer::clear() {
    release(bytes_);
    if (heap_ != nullptr)
        kfree(heap_);
    heap_ = nullptr;
    capacity_ = inline_slots;
    head_ = count_ = 0;
}

SendBuffer::Room SendBuffer::room(u32 wanted) {
    if (block_ && block_->refs.load(base::Order::Acquire) == 1)
        block_used_ = 0; // everything in it has arrived and been read
    // A block with little left is left to those who share it, unless little is wanted.
    const u32 left = block_size_ - block_used_;
    if (!block_ || left == 0 || (left < wanted && left < page_size / 4)) {
        const unsigned order = wanted >= large_wish ? large_order : 0;
        Frame* frame = alloc_frames(order, order == 0);
        block_size_ = static_cast<u32>(page_size << order);
        if (frame == nullptr && order != 0) {
            frame = alloc_frames(0, true);
            block_size_ = page_size;
        }
        block_ = FrameRef::adopt(as_kind(FrameKind::Kernel, frame));
        block_used_ = 0;
        if (frame == nullptr) {
            block_size_ = 0;
            return {};
        }
    }
    const u32 bytes = block_size_ - block_used_;
    return {block_.data() + block_used_, bytes < wanted ? bytes : wanted};
}

void SendBuffer::close_block() {
    block_.reset();
    block_used_ = block_size_ = 0;
}

bool SendBuffer::grow() {
    const u32 capacity = capacity_ * 2;
    auto* fresh = static_cast<net::Fragment*>(kmalloc(capacity * sizeof(net::Fragment)));
    if (fresh == nullptr)
        return false;
    for (u32 i = 0; i < count_; i++)
        fresh[i] = slot(i);
    if (heap_ != nullptr)
        kfree(heap_);
    heap_ = fresh;
    capacity_ = capacity;
    head_ = 0;
    return true;
}

bool SendBuffer::push(Frame* frame, u32 offset, u32 length) {
    if (count_ == capacity_ && !grow())
        return false;
    slot(count_++) = {frame, offset, length};
    bytes_ += length;
    return true;
}

bool SendBuffer::commit(u32 bytes) {
    if (bytes == 0)
        return true;
    Frame* const frame = block_.get();
    if (count_ != 0) {
        net::Fragment& last = slot(count_ - 1);
        if (last.frame == frame && last.offset + last.length == block_used_) {
            last.length += bytes;
            bytes_ += bytes;
            block_used_ += bytes;
            return true;
        }
    }
    if (!push(frame, block_used_, bytes))
        return false;
    get_frame(*frame);
    block_used_ += bytes;
    return true;
}

void SendBuffer::release(u32 bytes) {
    bytes_ -= bytes;
    hint_offset_ = hint_offset_ > bytes ? hint_offset_ - bytes : 0;
    while (bytes != 0) {
        net::Fragment& first = slot(0);
        if (first.length > bytes) {
            first.offset += bytes;
            first.length -= bytes;
            if (hint_slot_ == 0)
                hint_offset_ = 0;
            return;
        }
        bytes -= first.length;
        put_frame(*first.frame);
        head_ = (head_ + 1) & (capacity_ - 1);
        count_--;
        if (hint_slot_ > 0)
            hint_slot_--;
        else
            hint_offset_ = 0;
    }
}

u32 SendBuffer::fill(net::Packet& packet, u32 offset, u32 length) {
    if (offset < hint_offset_)
        hint_slot_ = hint_offset_ = 0;
    u32 index = hint_slot_, at = hint_offset_;
    while (index < count_ && at + slot(index).length <= offset)
        at += slot(index++).length;
    hint_slot_ = index;
    hint_offset_ = at;
    u32 done = 0;
    while (done < length) {
        const net::Fragment& from = slot(index);
        const u32 skip = offset + done - at;
        const u32 left = from.length - skip;
        const u32 piece = left < length - done ? left : length - done;
        if (length <= small_piece && packet.tailroom() >= piece && packet.fragments().empty()) {
            __builtin_memcpy(packet.put(piece), from.data() + skip, piece);
        } else {
            FrameRef frame = FrameRef::share(*from.frame);
            if (!packet.append_fragment(frame, from.offset + skip, piece))
                return done;
        }
        done += piece;
        at += from.length;
        index++;
    }
    return done;
}

} // namespace kernel::tcp
