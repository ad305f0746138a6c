// What ioctl(2) does to a terminal: tty_ioctl(4).
#include <asm/ioctls.h>
#include <asm/termbits.h>
#include <linux/errno.h>

#include "guestkernel/ipc/terminal.hpp"
#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/namespaces/pid_namespace.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

constexpr int sigttou = 22;
constexpr u16 entry_end_of_file = Terminal::entry_end_of_file;
constexpr u32 poll_out_events = 0x4 | 0x100; // POLLOUT, POLLWRNORM

} // namespace

namespace {

// What a master in packet mode is told of (ioctl_tty(2), TIOCPKT_DOSTOP).
bool has_usual_flow(const TerminalModes& modes) {
    constexpr u8 xon = 'Q' & 0x1f, xoff = 'S' & 0x1f;
    return (modes.input & IXON) != 0 && modes.characters[VSTART] == xon &&
           modes.characters[VSTOP] == xoff;
}

} // namespace

Result<void> Terminal::set_modes(u32 command, u64 argument) {
    TerminalModes wanted;
    if (command == TCSETS2 || command == TCSETSW2 || command == TCSETSF2) {
        TRY(const termios2 larger, UserPtr<const termios2>(argument).copy_in());
        __builtin_memcpy(&wanted, &larger, sizeof wanted);
    } else {
        TRY(wanted, UserPtr<const TerminalModes>(argument).copy_in());
    }
    TRY(check_background(sigttou, false));
    const bool flushes = command == TCSETSF || command == TCSETSF2;
    u32 events = flushes ? TIOCPKT_FLUSHREAD : 0;
    {
        SpinGuard guard(lock_);
        if (flushes)
            reset_input();
        const bool was_canonical = local(ICANON);
        const bool had_flow = has_usual_flow(modes_);
        modes_ = wanted;
        // What was typed ahead as an unfinished line becomes readable in raw mode.
        if (was_canonical && !local(ICANON))
            committed_ = head_;
        if ((modes_.input & IXON) == 0)
            stopped_ = false;
        if (had_flow != has_usual_flow(modes_))
            events |= had_flow ? TIOCPKT_NOSTOP : TIOCPKT_DOSTOP;
    }
    line_changed(events);
    modes_changed();
    read_waiters.wake_all();
    write_waiters.wake_all();
    return {};
}

Result<long> Terminal::job_ioctl(u32 command, u64 argument) {
    const bool ours = session_ != 0 && session_ == current_session();
    switch (command) {
    case TIOCGPGRP: {
        if (!ours)
            return fail(ENOTTY);
        TRY(UserPtr<i32>(argument).copy_out(visible_pid(foreground_)));
        return 0;
    }
    case TIOCSPGRP: {
        TRY(i32 group, UserPtr<const i32>(argument).copy_in());
        if (!ours)
            return fail(ENOTTY);
        TRY(check_background(sigttou, false));
        if (group < 0)
            return fail(EINVAL);
        group = global_pid(group);
        if (!group_in_session(group, session_))
            return fail(group_exists(group) ? EPERM : ESRCH);
        foreground_ = group;
        return 0;
    }
    case TIOCGSID: {
        if (!ours)
            return fail(ENOTTY);
        TRY(UserPtr<i32>(argument).copy_out(visible_pid(session_)));
        return 0;
    }
    case TIOCSCTTY:
        if (ours)
            return 0;
        if (!is_session_leader() ||
            (session_ != 0 && !(argument == 1 && capable(21)))) // CAP_SYS_ADMIN steals it
            return fail(EPERM);
        if (session_ != 0)
            clear_controlling_terminal(*this);
        TRY(set_controlling_terminal(Ref<Terminal>::share(this)));
        session_ = current_session();
        foreground_ = current_group();
        return 0;
    default: // TIOCNOTTY
        if (!ours)
            return fail(ENOTTY);
        if (is_session_leader()) {
            end_session(session_);
            clear_controlling_terminal(*this);
        }
        return 0;
    }
}

Result<long> Terminal::ioctl(File&, u32 command, u64 argument) {
    switch (command) {
    case TCGETS: {
        TRY(UserPtr<TerminalModes>(argument).copy_out(modes()));
        return 0;
    }
    case TCGETS2: {
        termios2 larger{};
        const TerminalModes now = modes();
        __builtin_memcpy(&larger, &now, sizeof now);
        larger.c_ispeed = larger.c_ospeed = 38400;
        TRY(UserPtr<termios2>(argument).copy_out(larger));
        return 0;
    }
    case TCSETS:
    case TCSETSW:
    case TCSETSF:
    case TCSETS2:
    case TCSETSW2:
    case TCSETSF2:
        TRY(set_modes(command, argument));
        return 0;
    case TIOCGWINSZ: {
        WindowSize size;
        {
            SpinGuard guard(lock_);
            size = window_;
        }
        TRY(UserPtr<WindowSize>(argument).copy_out(size));
        return 0;
    }
    case TIOCSWINSZ: {
        TRY(const WindowSize size, UserPtr<const WindowSize>(argument).copy_in());
        set_window(size);
        return 0;
    }
    case TIOCGPGRP:
    case TIOCSPGRP:
    case TIOCGSID:
    case TIOCSCTTY:
    case TIOCNOTTY:
        return job_ioctl(command, argument);
    case FIONREAD: {
        int count = 0;
        {
            SpinGuard guard(lock_);
            for (u32 at = tail_; at != committed_; at = at + 1)
                count += (input_[at % buffer_size] & entry_end_of_file) == 0 ? 1 : 0;
        }
        TRY(UserPtr<int>(argument).copy_out(count));
        return 0;
    }
    case TIOCOUTQ: {
        TRY(UserPtr<int>(argument).copy_out(static_cast<int>(output_pending())));
        return 0;
    }
    case TCFLSH: {
        if (argument > TCIOFLUSH)
            return fail(EINVAL);
        TRY(check_background(sigttou, false));
        if (argument != TCOFLUSH) {
            SpinGuard guard(lock_);
            reset_input();
        }
        if (argument != TCIFLUSH)
            flush_output();
        input_consumed();
        line_changed((argument != TCOFLUSH ? TIOCPKT_FLUSHREAD : 0) |
                     (argument != TCIFLUSH ? TIOCPKT_FLUSHWRITE : 0));
        return 0;
    }
    case TCXONC:
        if (argument > TCION)
            return fail(EINVAL);
        TRY(check_background(sigttou, false));
        if (argument == TCOOFF || argument == TCOON) {
            stopped_ = argument == TCOOFF;
            write_waiters.wake_all(poll_out_events);
            line_changed(argument == TCOOFF ? TIOCPKT_STOP : TIOCPKT_START);
        }
        return 0;
    case TCSBRK:
    case TCSBRKP:
        TRY(check_background(sigttou, false));
        return 0; // drained by nature, and there is no line to break
    case TIOCGETD: {
        TRY(UserPtr<int>(argument).copy_out(0)); // N_TTY
        return 0;
    }
    case TIOCEXCL:
    case TIOCNXCL:
        return 0;
    case TIOCSTI:
        return fail(EIO); // as Linux with dev.tty.legacy_tiocsti=0
    default:
        return fail(ENOTTY);
    }
}

void Terminal::opened(u32 flags) {
    constexpr u32 o_noctty = 0400;
    if ((flags & o_noctty) != 0 || session_ != 0 || !is_session_leader())
        return;
    if (!set_controlling_terminal(Ref<Terminal>::share(this)))
        return;
    session_ = current_session();
    foreground_ = current_group();
}

void session_leader_ended(Terminal& terminal, i32 session) {
    terminal.end_session(session);
}

} // namespace kernel
