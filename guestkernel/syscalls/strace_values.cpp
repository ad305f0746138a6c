#include "guestkernel/syscalls/strace_values.hpp"

#include <asm/stat.h>
#include <asm/unistd_64.h>
#include <linux/eventpoll.h>
#include <linux/fcntl.h>
#include <linux/futex.h>
#include <linux/resource.h>
#include <linux/sched.h>
#include <linux/uio.h>

#include "guestkernel/core/log.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/mm/user_copy.hpp"

namespace kernel {

namespace {

constexpr usize shown_bytes = 48, shown_path = 160;
constexpr u64 shown_items = 8;

struct Decoding {
    u32 number;
    ArgumentKind kinds[6];
};
template <typename... Kinds>
constexpr Decoding decoding(u32 number, Kinds... kinds) {
    return {number, {kinds...}};
}
using enum ArgumentKind;
constexpr Decoding decodings[] = {
#define DECODE(call, ...) decoding(__NR_##call, __VA_ARGS__),
#include "guestkernel/syscalls/strace_args.def"
#undef DECODE
};

void put_flags(StraceText& out, const NameTable& table, u64 value, std::string_view none) {
    bool first = true;
    for (usize i = 0; i < table.count; i++) {
        const ValueName& entry = table.names[i];
        if (entry.value == 0 || (value & entry.value) != entry.value)
            continue;
        out.put(first ? "" : "|");
        out.put(entry.name);
        value &= ~entry.value;
        first = false;
    }
    if (first && value == 0)
        return out.put(none);
    if (value == 0)
        return;
    out.put(first ? "" : "|");
    out.hexadecimal(value);
}

void put_named(StraceText& out, const NameTable& table, u64 value) {
    for (usize i = 0; i < table.count; i++)
        if (table.names[i].value == value)
            return out.put(table.names[i].name);
    out.decimal(static_cast<i64>(value));
}

void put_bytes(StraceText& out, u64 address, u64 count) {
    if (address == 0)
        return out.put("NULL");
    char bytes[shown_bytes];
    const usize shown = count < sizeof bytes ? count : sizeof bytes;
    if (!copy_in_bytes(bytes, address, shown))
        return out.hexadecimal(address);
    out.quoted(bytes, shown);
    out.put(shown < count ? "..." : "");
}

void put_text(StraceText& out, u64 address, usize limit) {
    if (address == 0)
        return out.put("NULL");
    const auto text = copy_in_string(address, 4096);
    if (!text)
        return out.hexadecimal(address);
    const usize shown = text->size() < limit ? text->size() : limit;
    out.quoted(text->view().data(), shown);
    out.put(shown < text->size() ? "..." : "");
}

void put_strings(StraceText& out, u64 address) {
    if (address == 0)
        return out.put("NULL");
    out.put("[");
    for (u64 i = 0;; i++) {
        const auto pointer = UserPtr<const u64>(address + i * sizeof(u64)).copy_in();
        if (!pointer || *pointer == 0)
            break;
        out.put(i == 0 ? "" : ", ");
        if (i == shown_items) {
            out.put("...");
            break;
        }
        put_text(out, *pointer, shown_bytes);
    }
    out.put("]");
}

void put_signals(StraceText& out, u64 address) {
    if (address == 0)
        return out.put("NULL");
    const auto mask = UserPtr<const u64>(address).copy_in();
    if (!mask)
        return out.hexadecimal(address);
    const NameTable table = name_table(Signal);
    u64 set = *mask;
    // Almost all of them: what is not in the set says more.
    if (__builtin_popcountll(set) > 32) {
        out.put("~");
        set = ~set;
    }
    out.put("[");
    bool first = true;
    for (u64 signal = 1; signal <= 64; signal++) {
        if ((set >> (signal - 1) & 1) == 0)
            continue;
        out.put(first ? "" : " ");
        first = false;
        put_named(out, table, signal);
    }
    out.put("]");
}

void put_time(StraceText& out, u64 address) {
    if (address == 0)
        return out.put("NULL");
    i64 words[2];
    if (!copy_in_bytes(words, address, sizeof words))
        return out.hexadecimal(address);
    out.put("{tv_sec=");
    out.decimal(words[0]);
    out.put(", tv_nsec=");
    out.decimal(words[1]);
    out.put("}");
}

void put_stat(StraceText& out, u64 address) {
    struct stat status;
    if (!copy_in_bytes(&status, address, sizeof status))
        return out.hexadecimal(address);
    static constexpr ValueName types[] = {{mode_regular, "S_IFREG"}, {mode_directory, "S_IFDIR"},
                                          {mode_symlink, "S_IFLNK"}, {mode_socket, "S_IFSOCK"},
                                          {0010000, "S_IFIFO"},      {0020000, "S_IFCHR"},
                                          {0060000, "S_IFBLK"}};
    out.put("{st_mode=");
    put_named(out, {types, sizeof types / sizeof types[0], false}, status.st_mode & mode_type);
    out.put("|");
    out.octal(status.st_mode & ~mode_type);
    out.put(", st_size=");
    out.decimal(static_cast<i64>(status.st_size));
    out.put(", ...}");
}

void put_status(StraceText& out, u64 address) {
    if (address == 0)
        return out.put("NULL");
    const auto status = UserPtr<const u32>(address).copy_in();
    if (!status)
        return out.hexadecimal(address);
    const u32 signal = *status & 0x7f;
    out.put("[");
    if (signal == 0) {
        out.put("exited ");
        out.decimal(*status >> 8 & 0xff);
    } else if (signal == 0x7f || *status == 0xffff) {
        out.put(*status == 0xffff ? "continued" : "stopped ");
        if (*status != 0xffff)
            put_named(out, name_table(Signal), *status >> 8 & 0xff);
    } else {
        out.put("killed by ");
        put_named(out, name_table(Signal), signal);
        out.put((*status & 0x80) != 0 ? ", core dumped" : "");
    }
    out.put("]");
}

void put_descriptors(StraceText& out, u64 address) {
    i32 pair[2];
    if (!copy_in_bytes(pair, address, sizeof pair))
        return out.hexadecimal(address);
    out.put("[");
    out.decimal(pair[0]);
    out.put(", ");
    out.decimal(pair[1]);
    out.put("]");
}

void put_limit(StraceText& out, u64 address) {
    if (address == 0)
        return out.put("NULL");
    u64 pair[2];
    if (!copy_in_bytes(pair, address, sizeof pair))
        return out.hexadecimal(address);
    const auto one = [&](u64 value) {
        if (value == ~u64{0})
            out.put("RLIM64_INFINITY");
        else
            out.decimal(static_cast<i64>(value));
    };
    out.put("{rlim_cur=");
    one(pair[0]);
    out.put(", rlim_max=");
    one(pair[1]);
    out.put("}");
}

void put_address(StraceText& out, u64 address, u64 length) {
    if (address == 0)
        return out.put("NULL");
    u8 bytes[128] = {};
    const usize got = length < sizeof bytes ? length : sizeof bytes;
    if (got < sizeof(u16) || !copy_in_bytes(bytes, address, got))
        return out.hexadecimal(address);
    constexpr u32 af_unix = 1, af_inet = 2, af_inet6 = 10;
    const u32 family = bytes[0] | u32{bytes[1]} << 8;
    out.put("{sa_family=");
    put_named(out, name_table(Domain), family);
    if (family == af_unix && got > 2) {
        const bool abstract = bytes[2] == 0;
        const auto* name = reinterpret_cast<const char*>(bytes + 2 + (abstract ? 1 : 0));
        usize size = got - 2 - (abstract ? 1 : 0);
        if (!abstract) {
            const std::string_view whole(name, size);
            size = whole.substr(0, whole.find('\0')).size();
        }
        out.put(abstract ? ", sun_path=@" : ", sun_path=");
        out.quoted(name, size);
    } else if ((family == af_inet && got >= 8) || (family == af_inet6 && got >= 24)) {
        out.put(", port=");
        out.decimal(u32{bytes[2]} << 8 | bytes[3]);
        if (family == af_inet) {
            out.put(", addr=");
            for (usize i = 4; i < 8; i++) {
                out.put(i == 4 ? "" : ".");
                out.decimal(bytes[i]);
            }
        }
    }
    out.put("}");
}

void put_poll(StraceText& out, u64 address, u64 count) {
    struct Entry {
        i32 fd;
        u16 events, revents;
    };
    out.put("[");
    for (u64 i = 0; i < count && i < shown_items; i++) {
        const auto entry = UserPtr<const Entry>(address + i * sizeof(Entry)).copy_in();
        if (!entry)
            break;
        out.put(i == 0 ? "{fd=" : ", {fd=");
        out.decimal(entry->fd);
        out.put(", events=");
        out.hexadecimal(entry->events);
        out.put("}");
    }
    out.put(count > shown_items ? ", ...]" : "]");
}

void put_vectors(StraceText& out, u64 address, u64 count) {
    out.put("[");
    for (u64 i = 0; i < count && i < shown_items; i++) {
        const auto vector = UserPtr<const iovec>(address + i * sizeof(iovec)).copy_in();
        if (!vector)
            break;
        out.put(i == 0 ? "{" : ", {");
        out.hexadecimal(reinterpret_cast<u64>(vector->iov_base));
        out.put(", ");
        out.decimal(static_cast<i64>(vector->iov_len));
        out.put("}");
    }
    out.put(count > shown_items ? ", ...]" : "]");
}

void put_clone_arguments(StraceText& out, u64 address) {
    const auto flags = UserPtr<const u64>(address).copy_in();
    if (!flags)
        return out.hexadecimal(address);
    out.put("{flags=");
    put_flags(out, name_table(CloneFlags), *flags, "0");
    out.put(", ...}");
}

void put_epoll_event(StraceText& out, u64 address) {
    if (address == 0)
        return out.put("NULL");
    epoll_event event = {};
    if (!copy_in_bytes(&event, address, sizeof event))
        return out.hexadecimal(address);
    out.put("{events=");
    out.hexadecimal(event.events);
    out.put(", data=");
    out.hexadecimal(event.data);
    out.put("}");
}

void put_open_flags(StraceText& out, u64 value) {
    if ((value & O_ACCMODE) == O_RDONLY)
        out.put(value == 0 ? "O_RDONLY" : "O_RDONLY|");
    if (value != 0)
        put_flags(out, name_table(OpenFlags), value & 0xffff'ffff, "");
}

void put_futex(StraceText& out, u64 value) {
    put_named(out, name_table(FutexOp), value & static_cast<u32>(FUTEX_CMD_MASK));
    out.put((value & FUTEX_PRIVATE_FLAG) != 0 ? "|FUTEX_PRIVATE_FLAG" : "");
    out.put((value & FUTEX_CLOCK_REALTIME) != 0 ? "|FUTEX_CLOCK_REALTIME" : "");
}

void put_plain(StraceText& out, u64 value) {
    constexpr i64 small = 65536;
    const auto number = static_cast<i64>(value);
    if (number > -4096 && number < small)
        return out.decimal(number);
    // A descriptor or an int: the upper half of the register is not part of it.
    if (static_cast<i32>(value) < 0 && static_cast<i32>(value) > -4096)
        return out.decimal(static_cast<i32>(value));
    out.hexadecimal(value);
}

// What the call wrote, if it did.
void put_output(StraceText& out, ArgumentKind kind, u64 value, long result) {
    if (result < 0)
        return value == 0 ? out.put("NULL") : out.hexadecimal(value);
    switch (kind) {
    case BytesOut:
        return put_bytes(out, value, static_cast<u64>(result));
    case TextOut:
        return put_text(out, value, shown_path);
    case StatOut:
        return put_stat(out, value);
    case SigSetOut:
        return put_signals(out, value);
    case StatusOut:
        return result == 0 ? out.hexadecimal(value) : put_status(out, value);
    case TimeOut:
        return put_time(out, value);
    case FdsOut:
        return put_descriptors(out, value);
    default:
        return put_limit(out, value);
    }
}

// What is at an address that the call reads.
bool put_input(StraceText& out, ArgumentKind kind, u64 value, u64 next) {
    switch (kind) {
    case Path:
        put_text(out, value, shown_path);
        return true;
    case Bytes:
        put_bytes(out, value, next);
        return true;
    case Strings:
        put_strings(out, value);
        return true;
    case SigSet:
        put_signals(out, value);
        return true;
    case CloneArguments:
        put_clone_arguments(out, value);
        return true;
    case Time:
        put_time(out, value);
        return true;
    case Address:
        put_address(out, value, next);
        return true;
    case PollFds:
        put_poll(out, value, next);
        return true;
    case Vectors:
        put_vectors(out, value, next);
        return true;
    case LimitValue:
        put_limit(out, value);
        return true;
    case EpollEvent:
        put_epoll_event(out, value);
        return true;
    default:
        return false;
    }
}

} // namespace

ArgumentKind argument_kind(u32 number, usize index) {
    for (const Decoding& entry : decodings)
        if (entry.number == number)
            return entry.kinds[index];
    return Unknown;
}

void put_value(StraceText& out, ArgumentKind kind, const SyscallArgs& args, usize index,
               long result) {
    const u64 value = args[index];
    if (is_output(kind))
        return put_output(out, kind, value, result);
    if (put_input(out, kind, value, index < 5 ? args[index + 1] : 0))
        return;
    switch (kind) {
    case Int:
        return out.decimal(static_cast<i32>(value) == static_cast<i64>(value) || (value >> 32) == 0
                               ? static_cast<i32>(value)
                               : static_cast<i64>(value));
    case Size:
        return out.decimal(static_cast<i64>(value));
    case Hex:
        return value == 0 ? out.put("NULL") : out.hexadecimal(value);
    case Mode:
        return out.octal(value & 0xffff'ffff);
    case Fd:
        return out.decimal(static_cast<i32>(value));
    case Dirfd:
        return static_cast<i32>(value) == AT_FDCWD ? out.put("AT_FDCWD")
                                                   : out.decimal(static_cast<i32>(value));
    case OpenFlags:
        return put_open_flags(out, value);
    case FutexOp:
        return put_futex(out, value);
    case SocketType:
        put_named(out, name_table(kind), value & 0xf);
        out.put((value & O_CLOEXEC) != 0 ? "|SOCK_CLOEXEC" : "");
        return out.put((value & O_NONBLOCK) != 0 ? "|SOCK_NONBLOCK" : "");
    case Access:
        return put_flags(out, name_table(kind), value & 0xffff'ffff, "F_OK");
    case Protection:
        return put_flags(out, name_table(kind), value, "PROT_NONE");
    default:
        break;
    }
    const NameTable table = name_table(kind);
    if (table.names == nullptr)
        return put_plain(out, value);
    if (table.flags)
        return put_flags(out, table, value & 0xffff'ffff, "0");
    if (kind == Ioctl) {
        for (usize i = 0; i < table.count; i++)
            if (table.names[i].value == (value & 0xffff'ffff))
                return out.put(table.names[i].name);
        return out.hexadecimal(value & 0xffff'ffff);
    }
    put_named(out, table, static_cast<u64>(static_cast<i64>(static_cast<i32>(value))));
}

bool open_makes_file(u64 flags) {
    return (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE;
}

void StraceText::decimal(i64 value) {
    char digits[24];
    put(std::string_view(digits, log::format(digits, sizeof digits, "{}", value)));
}

void StraceText::hexadecimal(u64 value) {
    char digits[24];
    put(std::string_view(digits, log::format(digits, sizeof digits, "0x{x}", value)));
}

void StraceText::octal(u64 value) {
    char digits[24];
    usize count = 0;
    do {
        digits[count++] = static_cast<char>('0' + value % 8);
        value /= 8;
    } while (value != 0);
    put('0');
    while (count > 0)
        put(digits[--count]);
}

void StraceText::quoted(const char* bytes, usize count) {
    put('"');
    for (usize i = 0; i < count; i++) {
        const char c = bytes[i];
        const auto code = static_cast<u8>(c);
        if (c == '"' || c == '\\') {
            put('\\');
            put(c);
        } else if (c == '\n' || c == '\t' || c == '\r') {
            put('\\');
            put(c == '\n' ? 'n' : c == '\t' ? 't' : 'r');
        } else if (code >= ' ' && code < 0x7f) {
            put(c);
        } else {
            put('\\');
            put(static_cast<char>('0' + (code >> 6)));
            put(static_cast<char>('0' + (code >> 3 & 7)));
            put(static_cast<char>('0' + (code & 7)));
        }
    }
    put('"');
}

} // namespace kernel
