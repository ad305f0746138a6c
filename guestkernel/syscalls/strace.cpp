#include "guestkernel/syscalls/strace.hpp"

#include <asm/unistd_64.h>

#include "guestkernel/core/boot_config.hpp"
#include "guestkernel/core/log.hpp"
#include "guestkernel/core/time.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

bool never_returns(u32 number) {
    return number == __NR_exit || number == __NR_exit_group;
}

// Seconds with six digits behind the point.
void put_seconds(StraceText& out, u64 ns) {
    constexpr u64 second = 1'000'000'000;
    out.decimal(static_cast<i64>(ns / second));
    out.put('.');
    const u64 fraction = ns % second / 1000;
    for (u64 unit = 100'000; unit != 0; unit /= 10)
        out.put(static_cast<char>('0' + fraction / unit % 10));
}

bool answers_address(u32 number) {
    return number == __NR_mmap || number == __NR_brk || number == __NR_mremap ||
           number == __NR_shmat;
}

} // namespace

StraceLine::StraceLine(Task& task, u32 number, const SyscallEntry* entry, const SyscallArgs& args)
    : args_(args), number_(number), count_(entry != nullptr ? entry->argument_count : 6) {
    wanted_ = strace_only_missing() || strace_wants(number);
    if (!wanted_)
        return;
    if (boot_config().strace_time) {
        began_ns_ = monotonic_ns();
        put_seconds(text_, began_ns_);
        text_.put(' ');
    }
    text_.put('[');
    text_.decimal(task.tid);
    text_.put(' ');
    text_.put(std::string_view(task.name));
    text_.put("] ");
    if (entry != nullptr) {
        text_.put(entry->name);
    } else {
        text_.put("syscall_");
        text_.decimal(number);
    }
    text_.put('(');
    put_arguments(false, 0);
    if (never_returns(number) && !strace_only_missing()) {
        text_.put(") = ?");
        log::write_line(boot::LogLevel::Strace, text_.view());
    }
}

void StraceLine::put_arguments(bool outputs, long result) {
    // The mode of open(2) means something only when a file may be made.
    for (; shown_ < count_; shown_++) {
        const ArgumentKind kind = argument_kind(number_, shown_);
        if (!outputs && is_output(kind))
            return;
        if (kind == ArgumentKind::Mode && shown_ > 0 &&
            argument_kind(number_, shown_ - 1) == ArgumentKind::OpenFlags &&
            !open_makes_file(args_[shown_ - 1]))
            continue;
        text_.put(shown_ == 0 ? "" : ", ");
        put_value(text_, kind, args_, shown_, result);
    }
}

void StraceLine::put_result(long result, const SyscallEntry* entry) {
    constexpr long most_errno = 4095;
    text_.put(" = ");
    if (result < 0 && result >= -most_errno) {
        text_.put("-1 ");
        text_.put(error_name(static_cast<int>(-result)));
    } else if (answers_address(number_)) {
        text_.hexadecimal(static_cast<u64>(result));
    } else {
        text_.decimal(result);
    }
    if (entry == nullptr || entry->support == Support::Missing) {
        text_.put(" (not implemented)");
    } else if (entry->support == Support::Refused) {
        text_.put(" (refused: ");
        text_.put(entry->note);
        text_.put(")");
    } else if (entry->support == Support::Partial && strace_only_missing()) {
        text_.put(" (partial: ");
        text_.put(entry->note);
        text_.put(")");
    }
}

void StraceLine::finish(long result, const SyscallEntry* entry) {
    if (!wanted_ || (strace_only_missing() && !strace_tells_missing(number_, entry, result)))
        return;
    put_arguments(true, result);
    text_.put(')');
    put_result(result, entry);
    if (boot_config().strace_time) {
        text_.put(" <");
        put_seconds(text_, monotonic_ns() - began_ns_);
        text_.put('>');
    }
    log::write_line(boot::LogLevel::Strace, text_.view());
}

} // namespace kernel
