// Arguments and environment of an execve on their way from one address space to another.
#pragma once

#include <string_view>

#include "guestkernel/lib/string.hpp"
#include "guestkernel/lib/vector.hpp"

namespace kernel {

// NUL-terminated strings, packed in pages that need not be adjacent: there may be megabytes of
// them.
class ExecStrings {
public:
    static constexpr usize chunk_bytes = 4096;
    static constexpr usize max_string = 32 * 4096; // MAX_ARG_STRLEN

    ExecStrings() = default;
    ExecStrings(ExecStrings&&) = default;
    ExecStrings& operator=(ExecStrings&&) = default;
    ~ExecStrings();

    // Most bytes that strings and pointers may take together; E2BIG beyond.
    void set_limit(u64 bytes) { limit_ = bytes; }
    Result<void> add(std::string_view text);
    // From user memory: one string; or all of a null-terminated vector of pointers.
    Result<void> add_user_string(u64 address);
    Result<void> add_user_vector(u64 vector);
    // Adds everything but the first `skip` arguments to `out`, which has only arguments so far.
    Result<void> copy_to(ExecStrings& out, usize skip) const;
    // What is added from here on belongs to the environment.
    void begin_environment() { argument_count_ = offsets_.size(); }

    usize argument_count() const { return argument_count_; }
    usize environment_count() const { return offsets_.size() - argument_count_; }
    u64 offset(usize index) const { return offsets_[index]; }
    u64 bytes() const { return bytes_; }
    // Calls write(offset, data, length) for each piece in order, until it returns false.
    template <typename Write>
    bool for_each_piece(Write&& write) const {
        for (u64 at = 0; at < bytes_; at += chunk_bytes) {
            const u64 left = bytes_ - at;
            if (!write(at, chunks_[at / chunk_bytes], left < chunk_bytes ? left : chunk_bytes))
                return false;
        }
        return true;
    }

private:
    Result<void> copy_string(ExecStrings& out, usize index) const;
    Result<char*> room(usize& available); // where the next byte goes
    Result<void> charge(usize bytes);

    Vector<char*> chunks_;
    Vector<u64> offsets_;
    u64 bytes_ = 0;
    u64 charged_ = 0;
    u64 limit_ = ~u64{0};
    usize argument_count_ = 0;
};

} // namespace kernel
