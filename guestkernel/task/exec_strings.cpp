#include "guestkernel/task/exec_strings.hpp"

#include <linux/errno.h>

#include "guestkernel/mm/heap.hpp"
#include "guestkernel/mm/user_copy.hpp"

namespace kernel {

ExecStrings::~ExecStrings() {
    for (char* chunk : chunks_)
        kfree(chunk);
}

Result<char*> ExecStrings::room(usize& available) {
    const usize used = bytes_ % chunk_bytes;
    if (bytes_ / chunk_bytes == chunks_.size()) {
        TRY(chunks_.reserve(chunks_.size() + 1));
        auto* chunk = static_cast<char*>(kmalloc(chunk_bytes));
        if (chunk == nullptr)
            return fail(ENOMEM);
        TRY(chunks_.push_back(chunk));
    }
    available = chunk_bytes - used;
    return chunks_.back() + used;
}

Result<void> ExecStrings::charge(usize bytes) {
    charged_ += bytes;
    if (charged_ > limit_)
        return fail(E2BIG);
    return {};
}

Result<void> ExecStrings::add(std::string_view text) {
    if (text.size() >= max_string)
        return fail(E2BIG);
    TRY(charge(text.size() + 1 + sizeof(u64)));
    TRY(offsets_.push_back(bytes_));
    for (usize at = 0; at <= text.size();) {
        usize available = 0;
        TRY(char* to, room(available));
        const usize rest = text.size() + 1 - at;
        const usize part = rest < available ? rest : available;
        for (usize i = 0; i < part; i++)
            to[i] = at + i < text.size() ? text[at + i] : '\0';
        at += part;
        bytes_ += part;
    }
    return {};
}

Result<void> ExecStrings::copy_string(ExecStrings& out, usize index) const {
    const u64 end = index + 1 < offsets_.size() ? offsets_[index + 1] : bytes_;
    TRY(out.charge(end - offsets_[index] + sizeof(u64)));
    TRY(out.offsets_.push_back(out.bytes_));
    for (u64 at = offsets_[index]; at < end;) {
        usize available = 0;
        TRY(char* to, out.room(available));
        u64 part = chunk_bytes - at % chunk_bytes;
        part = part < available ? part : available;
        part = part < end - at ? part : end - at;
        __builtin_memcpy(to, chunks_[at / chunk_bytes] + at % chunk_bytes, part);
        at += part;
        out.bytes_ += part;
    }
    return {};
}

Result<void> ExecStrings::copy_to(ExecStrings& out, usize skip) const {
    for (usize i = skip; i < argument_count_; i++)
        TRY(copy_string(out, i));
    out.begin_environment();
    for (usize i = argument_count_; i < offsets_.size(); i++)
        TRY(copy_string(out, i));
    return {};
}

Result<void> ExecStrings::add_user_string(u64 address) {
    TRY(charge(sizeof(u64)));
    TRY(offsets_.push_back(bytes_));
    for (usize length = 0;;) {
        usize available = 0;
        TRY(char* to, room(available));
        if (!user_range_ok(address, 1))
            return fail(EFAULT);
        const u64 below_limit = user_max - address;
        const usize capacity = below_limit < available ? below_limit : available;
        const i64 got = arch::copy_string_from_user(to, address, capacity);
        if (got < 0)
            return fail(EFAULT);
        const bool complete = static_cast<usize>(got) < capacity;
        const usize taken = static_cast<usize>(got) + (complete ? 1 : 0);
        length += taken;
        bytes_ += taken;
        address += taken;
        if (length > max_string)
            return fail(E2BIG);
        TRY(charge(taken));
        if (complete)
            return {};
    }
}

Result<void> ExecStrings::add_user_vector(u64 vector) {
    if (vector == 0)
        return {}; // Linux takes a null vector for an empty one
    constexpr usize batch = 32;
    for (u64 at = vector;;) {
        u64 pointers[batch];
        // As many as lie on this page: the vector may end right before an unmapped one.
        const usize on_page = (page_size - at % page_size) / sizeof(u64);
        const usize count = on_page == 0 ? 1 : on_page < batch ? on_page : batch;
        TRY(copy_in_bytes(pointers, at, count * sizeof(u64)));
        for (usize i = 0; i < count; i++) {
            if (pointers[i] == 0)
                return {};
            TRY(add_user_string(pointers[i]));
        }
        at += count * sizeof(u64);
    }
}

} // namespace kernel
