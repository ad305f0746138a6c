// syslog(2): the kernel's log.
#include <linux/capability.h>
#include <linux/errno.h>

#include "guestkernel/core/log.hpp"
#include "guestkernel/core/log_buffer.hpp"
#include "guestkernel/fs/procfs/text.hpp"
#include "guestkernel/syscalls/task_calls.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

enum Action : int {
    Close = 0,
    Open = 1,
    Read = 2,
    ReadAll = 3,
    ReadClear = 4,
    Clear = 5,
    ConsoleOff = 6,
    ConsoleOn = 7,
    ConsoleLevel = 8,
    SizeUnread = 9,
    SizeBuffer = 10,
};

constinit base::Atomic<u64> read_up_to{0}; // by Read, which forgets
constexpr u64 buffer_size = log::record_capacity * sizeof(log::Record);

// "<6>[    1.234567] text"
Result<void> print_record(TextBuilder& out, const log::Record& record) {
    out.print("<{}>[", record.priority);
    out.number(record.time_ns / nanoseconds_per_second, 5);
    out.append(".");
    out.number(record.time_ns % nanoseconds_per_second / 1000, 6, '0');
    out.append("] ");
    out.append({record.text, record.length});
    out.append("\n");
    if (out.failed())
        return fail(ENOMEM);
    return {};
}

// The newest whole records that fit into `room`.
Result<long> read_all(u64 buffer, u64 room, bool clear) {
    const u64 end = log::next_record();
    u64 first =
        log::cleared_up_to() > log::first_record() ? log::cleared_up_to() : log::first_record();
    TextBuilder text;
    u64 total = 0;
    u64 from = end;
    log::Record record;
    while (from > first && log::read_record(from - 1, record)) {
        text.clear();
        TRY(print_record(text, record));
        if (total + text.size() > room)
            break;
        total += text.size();
        from--;
    }
    u64 done = 0;
    for (u64 at = from; at < end; at++) {
        if (!log::read_record(at, record))
            continue;
        text.clear();
        TRY(print_record(text, record));
        if (done + text.size() > room)
            break;
        TRY(copy_out_bytes(buffer + done, text.view().data(), text.size()));
        done += text.size();
    }
    if (clear)
        log::clear_records();
    return static_cast<long>(done);
}

Result<long> read_unread(u64 buffer, u64 room) {
    TextBuilder text;
    log::Record record;
    if (wait_until(log::record_waiters(), [] { return read_up_to.load() < log::next_record(); }) ==
        WaitOutcome::Interrupted)
        return fail(restart_syscall);
    u64 done = 0;
    for (u64 at = read_up_to.load(); at < log::next_record(); at++) {
        if (log::read_record(at, record)) {
            text.clear();
            TRY(print_record(text, record));
            if (done + text.size() > room)
                break;
            TRY(copy_out_bytes(buffer + done, text.view().data(), text.size()));
            done += text.size();
        }
        read_up_to.store(at + 1);
    }
    return static_cast<long>(done);
}

Result<long> size_unread() {
    TextBuilder text;
    log::Record record;
    u64 total = 0;
    for (u64 at = read_up_to.load(); at < log::next_record(); at++)
        if (log::read_record(at, record)) {
            text.clear();
            TRY(print_record(text, record));
            total += text.size();
        }
    return static_cast<long>(total);
}

} // namespace

Result<long> sys_syslog(Task&, int action, u64 buffer, int length) {
    // kernel.dmesg_restrict = 0: looking is free.
    if (action != ReadAll && action != SizeBuffer && !capable(CAP_SYSLOG) &&
        !capable(CAP_SYS_ADMIN))
        return fail(EPERM);
    switch (action) {
    case Close:
    case Open:
    case ConsoleOff:
    case ConsoleOn:
        return 0; // the console is not the log's: its level is the VMM's
    case Read:
    case ReadAll:
    case ReadClear:
        if (buffer == 0 || length < 0)
            return fail(EINVAL);
        if (length == 0)
            return 0;
        if (!user_range_ok(buffer, static_cast<u64>(length)))
            return fail(EFAULT);
        if (action == Read)
            return read_unread(buffer, static_cast<u64>(length));
        return read_all(buffer, static_cast<u64>(length), action == ReadClear);
    case Clear:
        log::clear_records();
        return 0;
    case ConsoleLevel:
        return length >= 1 && length <= 8 ? Result<long>(0) : Result<long>(fail(EINVAL));
    case SizeUnread:
        return size_unread();
    case SizeBuffer:
        return static_cast<long>(buffer_size);
    default:
        return fail(EINVAL);
    }
}

} // namespace kernel
