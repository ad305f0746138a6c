// What ioctl(2) does to a terminal: tty_ioctl(4).
#include <asm/ioctls.h>
#include <asm/termios.h>
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/tty.h>

#include "guestkernel/ipc/terminal.hpp"
#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/namespaces/pid_namespace.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

constexpr int sigttou = 22;
constexpr unsigned cap_sys_admin = CAP_SYS_ADMIN;
constexpr u32 poll_out_events = 0x4 | 0x100; // POLLOUT, POLLWRNORM

// What a master in packet mode is told of (ioctl_tty(2), TIOCPKT_DOSTOP).
bool has_usual_flow(const TerminalModes& modes) {
    constexpr u8 xon = 'Q' & 0x1f, xoff = 'S' & 0x1f;
    return (modes.input & IXON) != 0 && modes.characters[VSTART] == xon &&
           modes.characters[VSTOP] == xoff;
}

// struct termio (asm/termios.h): the low halves, and fewer characters.
struct OldModes {
    u16 input, output, control, local;
    u8 line;
    u8 characters[NCC];
    u8 unused;
};
static_assert(sizeof(OldModes) == sizeof(termio) &&
              offsetof(OldModes, characters) == offsetof(termio, c_cc));

OldModes old_form(const TerminalModes& modes) {
    OldModes old{.input = static_cast<u16>(modes.input),
                 .output = static_cast<u16>(modes.output),
                 .control = static_cast<u16>(modes.control),
                 .local = static_cast<u16>(modes.local),
                 .line = modes.line,
                 .characters = {},
                 .unused = 0};
    __builtin_memcpy(old.characters, modes.characters, sizeof old.characters);
    return old;
}

TerminalModes with_old_form(TerminalModes modes, const OldModes& old) {
    const auto low_half = [](u32& whole, u16 low) { whole = (whole & ~u32{0xffff}) | low; };
    low_half(modes.input, old.input);
    low_half(modes.output, old.output);
    low_half(modes.control, old.control);
    low_half(modes.local, old.local);
    modes.line = old.line;
    __builtin_memcpy(modes.characters, old.characters, sizeof old.characters);
    return modes;
}

// Of a line's speed code (termios(3)); BOTHER says that the number stands beside it.
u32 speed_of(u32 code, u32 beside) {
    constexpr u32 usual[] = {0,   50,   75,   110,  134,  150,  200,   300,
                             600, 1200, 1800, 2400, 4800, 9600, 19200, 38400};
    constexpr u32 fast[] = {57600,   115200,  230400,  460800,  500000,  576000,  921600, 1000000,
                            1152000, 1500000, 2000000, 2500000, 3000000, 3500000, 4000000};
    if (code == BOTHER)
        return beside;
    return (code & CBAUDEX) != 0 ? fast[(code & ~u32{CBAUDEX}) - 1] : usual[code];
}

// What a call of the TCSETS family asks for; the speeds are for BOTHER.
Result<TerminalModes> modes_asked_for(u32 command, u64 argument, const TerminalModes& now,
                                      u32& input_speed, u32& output_speed) {
    switch (command) {
    case TCSETS2:
    case TCSETSW2:
    case TCSETSF2: {
        TRY(const termios2 larger, UserPtr<const termios2>(argument).copy_in());
        TerminalModes wanted;
        __builtin_memcpy(&wanted, &larger, sizeof wanted);
        input_speed = larger.c_ispeed;
        output_speed = larger.c_ospeed;
        return wanted;
    }
    case TCSETA:
    case TCSETAW:
    case TCSETAF: {
        TRY(const OldModes old, UserPtr<const OldModes>(argument).copy_in());
        return with_old_form(now, old);
    }
    default:
        return UserPtr<const TerminalModes>(argument).copy_in();
    }
}

// TIOCSLCKTRMIOS: bits keep their values; so do characters whose place is not zero.
TerminalModes keep_fixed(TerminalModes wanted, const TerminalModes& now,
                         const TerminalModes& fixed) {
    const auto keep = [](u32& word, u32 old, u32 mask) { word = (word & ~mask) | (old & mask); };
    keep(wanted.input, now.input, fixed.input);
    keep(wanted.output, now.output, fixed.output);
    keep(wanted.control, now.control, fixed.control);
    keep(wanted.local, now.local, fixed.local);
    if (fixed.line != 0)
        wanted.line = now.line;
    for (usize i = 0; i < sizeof wanted.characters; i++)
        if (fixed.characters[i] != 0)
            wanted.characters[i] = now.characters[i];
    return wanted;
}

} // namespace

Result<void> Terminal::set_modes(u32 command, u64 argument) {
    u32 input_speed = input_speed_, output_speed = output_speed_;
    TRY(const TerminalModes wanted,
        modes_asked_for(command, argument, modes(), input_speed, output_speed));
    TRY(check_background(sigttou, false));
    change_modes(wanted, command == TCSETSF || command == TCSETSF2 || command == TCSETAF,
                 input_speed, output_speed);
    return {};
}

void Terminal::change_modes(const TerminalModes& wanted, bool flushes, u32 input_speed,
                            u32 output_speed) {
    u32 events = flushes ? TIOCPKT_FLUSHREAD : 0;
    {
        SpinGuard guard(lock_);
        if (flushes)
            reset_input();
        const bool was_canonical = local(ICANON);
        const bool had_flow = has_usual_flow(modes_);
        modes_ = keep_fixed(wanted, modes_, fixed_);
        // There is no line: whole bytes pass, and are taken.
        modes_.control = (modes_.control & ~u32{CSIZE | PARENB}) | CS8 | CREAD;
        const u32 input_code = modes_.control >> IBSHIFT & CBAUD;
        output_speed_ = speed_of(modes_.control & CBAUD, output_speed);
        input_speed_ = input_code == B0 ? output_speed_ : speed_of(input_code, input_speed);
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
            (session_ != 0 && !(argument == 1 && capable(cap_sys_admin)))) // steals it
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

Result<long> Terminal::modes_ioctl(u32 command, u64 argument) {
    switch (command) {
    case TCGETS: {
        TRY(UserPtr<TerminalModes>(argument).copy_out(modes()));
        return 0;
    }
    case TCGETS2: {
        termios2 larger{};
        {
            SpinGuard guard(lock_);
            __builtin_memcpy(&larger, &modes_, sizeof modes_);
            larger.c_ispeed = input_speed_;
            larger.c_ospeed = output_speed_;
        }
        TRY(UserPtr<termios2>(argument).copy_out(larger));
        return 0;
    }
    case TCGETA: {
        TRY(UserPtr<OldModes>(argument).copy_out(old_form(modes())));
        return 0;
    }
    case TIOCGLCKTRMIOS: {
        TerminalModes fixed;
        {
            SpinGuard guard(lock_);
            fixed = fixed_;
        }
        TRY(UserPtr<TerminalModes>(argument).copy_out(fixed));
        return 0;
    }
    case TIOCSLCKTRMIOS: {
        if (!capable(cap_sys_admin))
            return fail(EPERM);
        TRY(const TerminalModes fixed, UserPtr<const TerminalModes>(argument).copy_in());
        SpinGuard guard(lock_);
        fixed_ = fixed;
        return 0;
    }
    case TIOCGSOFTCAR: {
        TRY(UserPtr<int>(argument).copy_out((modes().control & CLOCAL) != 0 ? 1 : 0));
        return 0;
    }
    case TIOCSSOFTCAR: {
        TRY(const int on, UserPtr<const int>(argument).copy_in());
        TerminalModes wanted = modes();
        wanted.control = (wanted.control & ~u32{CLOCAL}) | (on != 0 ? u32{CLOCAL} : 0);
        change_modes(wanted, false, input_speed_, output_speed_);
        return 0;
    }
    default: // the TCSETS family
        TRY(set_modes(command, argument));
        return 0;
    }
}

// TIOCSTI, as Linux has it with dev.tty.legacy_tiocsti=0: who shares a terminal with a shell that
// may do more could type commands for it.
Result<void> Terminal::simulate_input(u64 argument) {
    if (!capable(cap_sys_admin))
        return fail(EIO);
    TRY(const u8 byte, UserPtr<const u8>(argument).copy_in());
    (void)receive(&byte, 1);
    return {};
}

// What nearly no program asks a terminal.
Result<long> Terminal::rare_ioctl(u32 command, u64 argument) {
    switch (command) {
    case TIOCGETD: {
        TRY(UserPtr<int>(argument).copy_out(N_TTY));
        return 0;
    }
    case TIOCSETD: {
        TRY(const int discipline, UserPtr<const int>(argument).copy_in());
        TRY(check_background(sigttou, false));
        if (discipline != N_TTY)
            return fail(EINVAL); // there is no other
        return 0;
    }
    case TIOCGDEV: {
        TRY(UserPtr<u32>(argument).copy_out(static_cast<u32>(device_number_)));
        return 0;
    }
    case TIOCEXCL:
    case TIOCNXCL:
        exclusive_ = command == TIOCEXCL;
        return 0;
    case TIOCGEXCL: {
        TRY(UserPtr<int>(argument).copy_out(exclusive_ ? 1 : 0));
        return 0;
    }
    case TIOCSBRK:
    case TCSBRK:
    case TCSBRKP:
        TRY(check_background(sigttou, false));
        return 0; // drained by nature, and there is no line to break
    case TIOCCBRK:
        return 0;
    case TIOCSTI:
        TRY(simulate_input(argument));
        return 0;
    default:
        return fail(ENOTTY);
    }
}

Result<long> Terminal::ioctl(File&, u32 command, u64 argument) {
    if (hung_up_)
        return fail(command == TIOCSPGRP ? ENOTTY : EIO);
    switch (command) {
    case TCGETS:
    case TCGETS2:
    case TCGETA:
    case TIOCGLCKTRMIOS:
    case TIOCSLCKTRMIOS:
    case TIOCGSOFTCAR:
    case TIOCSSOFTCAR:
    case TCSETS:
    case TCSETSW:
    case TCSETSF:
    case TCSETS2:
    case TCSETSW2:
    case TCSETSF2:
    case TCSETA:
    case TCSETAW:
    case TCSETAF:
        return modes_ioctl(command, argument);
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
    default:
        return rare_ioctl(command, argument);
    }
}

Result<void> Terminal::opened(u32 flags) {
    constexpr u32 o_noctty = 0400;
    if (exclusive_ && !capable(cap_sys_admin))
        return fail(EBUSY);
    if ((flags & o_noctty) != 0 || session_ != 0 || !is_session_leader())
        return {};
    if (!set_controlling_terminal(Ref<Terminal>::share(this)))
        return {};
    session_ = current_session();
    foreground_ = current_group();
    return {};
}

void session_leader_ended(Terminal& terminal, i32 session) {
    terminal.end_session(session);
}

} // namespace kernel
