// Builds the text of a generated file. Running out of memory is noted and told once at the end, so
// that the generators read like printf.
#pragma once

#include <string_view>

#include "guestkernel/core/log.hpp"
#include "guestkernel/lib/vector.hpp"

namespace kernel {

class TextBuilder {
public:
    void append(std::string_view text) {
        if (!data_.append(std::span<const char>(text.data(), text.size())))
            failed_ = true;
    }
    // As log::format(); pieces longer than 400 bytes go through append().
    template <typename... A>
    void print(std::string_view format, const A&... arguments) {
        char piece[512];
        append({piece, log::format(piece, sizeof piece, format, arguments...)});
    }
    void number(u64 value, unsigned width = 0, char fill = ' ') { digits(value, 10, width, fill); }
    void hex(u64 value, unsigned width = 0, char fill = '0') { digits(value, 16, width, fill); }
    // As most of /proc/net has it.
    void hex_upper(u64 value, unsigned width) { digits(value, 16, width, '0', "0123456789ABCDEF"); }
    void octal(u64 value, unsigned width = 0) { digits(value, 8, width, '0'); }
    void text(std::string_view value, unsigned width) { // padded on the right
        append(value);
        pad_to(value.size(), width);
    }
    void pad_to(usize length, usize width) {
        for (; length < width; length++)
            append(" ");
    }
    // "name<colon><padding>value kB": the lines of meminfo and smaps, by pages.
    void kilobytes(std::string_view label, usize label_width, u64 pages) {
        text(label, static_cast<unsigned>(label_width));
        number(pages * (page_size / 1024), 8);
        append(" kB\n");
    }
    // A name of the tree in a line of fields: blanks, backslashes and newlines in octal, as
    // /proc/mounts has them.
    void escaped(std::string_view name) {
        for (const char& c : name) {
            if (c == ' ' || c == '\t' || c == '\n' || c == '\\') {
                append("\\");
                octal(static_cast<u8>(c), 3);
            } else {
                append({&c, 1});
            }
        }
    }

    // Those below `limit` of which `contains` is true: "0-2,5".
    template <typename F>
    void ranges(u32 limit, F&& contains) {
        std::string_view separator;
        for (u32 first = 0; first < limit; first++) {
            if (!contains(first))
                continue;
            u32 last = first;
            while (last + 1 < limit && contains(last + 1))
                last++;
            append(separator);
            number(first);
            if (last > first)
                print("-{}", last);
            separator = ",";
            first = last;
        }
    }
    void bits(u64 mask) {
        ranges(64, [mask](u32 bit) { return (mask >> bit & 1) != 0; });
    }

    // A read(2) of the text as a file. EFAULT.
    template <typename Buffer>
    Result<usize> read(Buffer& out, u64 offset) const {
        constexpr int efault = 14; // <linux/errno.h>
        if (offset >= size())
            return usize{0};
        const usize left = size() - static_cast<usize>(offset);
        const usize wanted = out.remaining() < left ? out.remaining() : left;
        const usize done = out.copy_out(data_.data() + offset, wanted);
        return done == 0 && wanted != 0 ? Result<usize>(fail(efault)) : Result<usize>(done);
    }

    usize size() const { return data_.size(); }
    std::string_view view() const { return {data_.data(), data_.size()}; }
    bool failed() const { return failed_; }
    void clear() {
        data_.clear();
        failed_ = false;
    }
    Vector<char>& bytes() { return data_; }

private:
    void digits(u64 value, unsigned base, unsigned width, char fill,
                const char* names = "0123456789abcdef") {
        char reversed[64];
        usize count = 0;
        do {
            reversed[count++] = names[value % base];
            value /= base;
        } while (value != 0);
        while (count < width && count < sizeof reversed)
            reversed[count++] = fill;
        char out[64];
        for (usize i = 0; i < count; i++)
            out[i] = reversed[count - 1 - i];
        append({out, count});
    }

    Vector<char> data_;
    bool failed_ = false;
};

} // namespace kernel
