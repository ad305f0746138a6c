#include "guestkernel/core/log.hpp"

#include "guestkernel/core/log_buffer.hpp"

namespace kernel::log {

namespace {

constinit boot::LogLevel threshold = boot::LogLevel::Warning;

class Output {
public:
    Output(char* out, usize capacity) : out_(out), capacity_(capacity) {}
    void put(char c) {
        if (length_ < capacity_)
            out_[length_++] = c;
    }
    void put(std::string_view text) {
        for (const char c : text)
            put(c);
    }
    void put_number(u64 value, unsigned radix) {
        char digits[20];
        usize count = 0;
        do {
            digits[count++] = "0123456789abcdef"[value % radix];
            value /= radix;
        } while (value != 0);
        while (count > 0)
            put(digits[--count]);
    }
    usize length() const { return length_; }

private:
    char* out_;
    usize capacity_;
    usize length_ = 0;
};

void put_argument(Output& out, const Argument& argument, bool hexadecimal) {
    if (argument.kind == Argument::Kind::Text)
        return out.put(argument.text);
    if (hexadecimal)
        return out.put_number(argument.number, 16);
    if (argument.kind == Argument::Kind::Signed && static_cast<i64>(argument.number) < 0) {
        out.put('-');
        return out.put_number(0 - argument.number, 10);
    }
    out.put_number(argument.number, 10);
}

} // namespace

usize format_to(char* out, usize capacity, std::string_view format, const Argument* arguments,
                usize count) {
    Output output(out, capacity);
    usize used = 0;
    for (usize i = 0; i < format.size(); i++) {
        const bool hexadecimal = format.substr(i, 3) == "{x}";
        if (!hexadecimal && format.substr(i, 2) != "{}") {
            output.put(format[i]);
            continue;
        }
        i += hexadecimal ? 2 : 1;
        if (used < count)
            put_argument(output, arguments[used++], hexadecimal);
    }
    return output.length();
}

bool wanted(boot::LogLevel level) {
    return level <= boot::LogLevel::Info || enabled(level);
}

void emit(boot::LogLevel level, std::string_view line) {
    static constexpr u32 priorities[] = {3, 4, 6, 7, 7}; // KERN_ERR, ...
    if (level <= boot::LogLevel::Info)
        append_record(priorities[static_cast<u32>(level)], line);
    if (enabled(level))
        write_line(level, line);
}

bool enabled(boot::LogLevel level) {
    return static_cast<u32>(level) <= static_cast<u32>(threshold);
}
void set_level(boot::LogLevel level) {
    threshold = level;
}

} // namespace kernel::log
