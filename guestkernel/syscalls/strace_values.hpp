// How --strace shows a value: names of flags, text, what structures hold.
#pragma once

#include <string_view>

#include "guestkernel/syscalls/syscall.hpp"

namespace kernel {

// What an argument is. Those from BytesOut on are written by the call.
enum class ArgumentKind : u8 {
    Unknown,
    Int,
    Size,
    Hex,
    Mode,
    Fd,
    Dirfd,
    Path,
    Bytes, // as many as the next argument says
    Strings,
    OpenFlags,
    Protection,
    MapFlags,
    Access,
    AtFlags,
    Signal,
    SigHow,
    SigSet,
    CloneFlags,
    CloneArguments,
    WaitOptions,
    Time,
    Clock,
    Whence,
    Fcntl,
    FutexOp,
    Domain,
    SocketType,
    Address, // as long as the next argument says
    PollFds, // as many as the next argument says
    Vectors, // as many as the next argument says
    Limit,
    LimitValue,
    Advice,
    ArchPrctl,
    EpollOp,
    EpollEvent,
    Ioctl,
    BytesOut, // as many as the call answers
    TextOut,
    StatOut,
    SigSetOut,
    StatusOut,
    TimeOut,
    FdsOut,
    LimitValueOut,
};
constexpr bool is_output(ArgumentKind kind) {
    return kind >= ArgumentKind::BytesOut;
}

// The kind of an argument; Unknown for calls that strace_args.def does not have.
ArgumentKind argument_kind(u32 number, usize index);

// One line of text; what does not fit is cut.
class StraceText {
public:
    void put(char c) {
        if (length_ < sizeof text_)
            text_[length_++] = c;
    }
    void put(std::string_view text) {
        for (const char c : text)
            put(c);
    }
    void decimal(i64 value);
    void hexadecimal(u64 value);
    void octal(u64 value);
    void quoted(const char* bytes, usize count); // with escapes as in C
    std::string_view view() const { return {text_, length_}; }
    void pad_to(usize column) {
        while (length_ < column)
            put(' ');
    }

private:
    char text_[960];
    usize length_ = 0;
};

// `result` is the call's, for what it wrote; before the call it does not matter.
void put_value(StraceText& out, ArgumentKind kind, const SyscallArgs& args, usize index,
               long result);
bool open_makes_file(u64 flags); // O_CREAT, O_TMPFILE
std::string_view error_name(int number);

struct ValueName {
    u64 value;
    const char* name;
};
// strace_names.cpp: the names of a kind's flags or values, and whether they are flags.
struct NameTable {
    const ValueName* names;
    usize count;
    bool flags;
};
NameTable name_table(ArgumentKind kind);

} // namespace kernel
