// The line discipline: what happens to bytes on their way in and out (termios(3)).
#include "guestkernel/ipc/terminal.hpp"

#include <asm/termbits.h>
#include <linux/errno.h>

#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/mm/heap.hpp"
#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/syscalls/syscall.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

static_assert(sizeof(TerminalModes) == sizeof(termios) &&
              offsetof(TerminalModes, characters) == offsetof(termios, c_cc));

constexpr int sigint = 2, sigquit = 3, sigttin = 21, sigttou = 22, sigtstp = 20, sigwinch = 28,
              sighup = 1, sigcont = 18;
constexpr u8 disabled = 0; // _POSIX_VDISABLE
constexpr u64 decisecond_ns = 100'000'000;

constexpr TerminalModes initial_modes = {
    .input = ICRNL | IXON,
    .output = OPOST | ONLCR,
    .control = B38400 | CS8 | CREAD,
    .local = ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN,
    .line = 0,
    // VINTR VQUIT VERASE VKILL VEOF VTIME VMIN VSWTC VSTART VSTOP VSUSP VEOL VREPRINT VDISCARD
    // VWERASE VLNEXT VEOL2
    .characters = {3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22, 0, 0, 0},
};

constexpr u32 signal_mask(int signal) {
    return 1u << signal;
}
bool is_continuation(u8 byte) {
    return (byte & 0xc0) == 0x80;
}

} // namespace

// Echo is collected under the lock and sent after it.
struct Terminal::EchoBuffer {
    u8 bytes[256];
    usize count = 0;
    void put(u8 byte) {
        if (count < sizeof bytes)
            bytes[count++] = byte;
    }
};

Terminal::Terminal(u64 device_number, u32 input_flags, u32 control_flags)
    : device_number_(device_number), modes_(initial_modes) {
    modes_.input |= input_flags;
    modes_.control |= control_flags;
}

Terminal::~Terminal() {
    kfree(input_);
}

TerminalModes Terminal::modes() const {
    SpinGuard guard(lock_);
    return modes_;
}

bool Terminal::is_character(unsigned which, u8 byte) const {
    return modes_.characters[which] == byte && modes_.characters[which] != disabled;
}

void Terminal::append(u16 entry) {
    if (head_ - tail_ < buffer_size) {
        input_[head_ % buffer_size] = entry;
        head_ = head_ + 1;
    }
}

void Terminal::reset_input() {
    tail_ = head_;
    committed_ = head_;
}

void Terminal::echo_byte(u8 byte, EchoBuffer& echo) {
    if (byte < 32 && byte != '\t' && byte != '\n' && local(ECHOCTL)) {
        echo.put('^');
        echo.put(static_cast<u8>(byte ^ 0x40));
        column_ += 2;
        return;
    }
    if (byte == 127 && local(ECHOCTL)) {
        echo.put('^');
        echo.put('?');
        column_ += 2;
        return;
    }
    u8 processed[8];
    const usize count = process_output(byte, processed);
    for (usize i = 0; i < count; i++)
        echo.put(processed[i]);
}

// Takes back the last character of the line that is being edited.
void Terminal::erase_one(EchoBuffer& echo) {
    u8 byte = 0;
    do {
        head_ = head_ - 1;
        byte = static_cast<u8>(input_[head_ % buffer_size]);
    } while ((modes_.input & IUTF8) != 0 && is_continuation(byte) && head_ != committed_);
    if (!local(ECHO))
        return;
    if (!local(ECHOE)) {
        echo_byte(modes_.characters[VERASE], echo);
        return;
    }
    usize width = 1;
    if (byte == '\t') {
        // As wide as it was: replay the line up to here.
        u32 column = line_start_column_;
        for (u32 at = committed_; at != head_; at = at + 1) {
            const u8 earlier = static_cast<u8>(input_[at % buffer_size]);
            if (earlier == '\t')
                column = (column | 7) + 1;
            else if (earlier < 32 || earlier == 127)
                column += local(ECHOCTL) ? 2 : 0;
            else if (!((modes_.input & IUTF8) != 0 && is_continuation(earlier)))
                column++;
        }
        width = column_ > column ? column_ - column : 1;
        for (usize i = 0; i < width; i++)
            echo.put('\b');
        column_ = column;
        return;
    }
    if (byte < 32 || byte == 127)
        width = local(ECHOCTL) ? 2 : 0;
    for (usize i = 0; i < width; i++) {
        echo.put('\b');
        echo.put(' ');
        echo.put('\b');
    }
    column_ = column_ >= width ? column_ - static_cast<u32>(width) : 0;
}

// Canonical mode's own characters. True: the byte has been dealt with.
bool Terminal::edit_line(u8 byte, EchoBuffer& echo) {
    if (is_character(VERASE, byte)) {
        if (head_ != committed_)
            erase_one(echo);
        return true;
    }
    if (is_character(VKILL, byte)) {
        if (local(ECHO) && local(ECHOK) && !(local(ECHOKE) && local(ECHOE))) {
            head_ = committed_;
            echo_byte(byte, echo);
            echo_byte('\n', echo);
        }
        while (head_ != committed_)
            erase_one(echo);
        return true;
    }
    if (is_character(VWERASE, byte) && local(IEXTEN)) {
        const auto last = [&] { return static_cast<u8>(input_[(head_ - 1) % buffer_size]); };
        while (head_ != committed_ && (last() == ' ' || last() == '\t'))
            erase_one(echo);
        while (head_ != committed_ && last() != ' ' && last() != '\t')
            erase_one(echo);
        return true;
    }
    if (is_character(VREPRINT, byte) && local(IEXTEN) && local(ECHO)) {
        echo_byte(byte, echo);
        echo_byte('\n', echo);
        for (u32 at = committed_; at != head_; at = at + 1)
            echo_byte(static_cast<u8>(input_[at % buffer_size]), echo);
        return true;
    }
    if (is_character(VEOF, byte)) {
        append(entry_end_of_file);
        committed_ = head_;
        return true;
    }
    if (byte == '\n' || is_character(VEOL, byte) || (is_character(VEOL2, byte) && local(IEXTEN))) {
        if (local(ECHO) || (byte == '\n' && local(ECHONL)))
            echo_byte(byte, echo);
        append(static_cast<u16>(byte | entry_line_end));
        committed_ = head_;
        line_start_column_ = column_;
        return true;
    }
    return false;
}

void Terminal::receive_byte(u8 byte, EchoBuffer& echo, u32& signals) {
    if ((modes_.input & ISTRIP) != 0)
        byte &= 0x7f;
    if (literal_next_) {
        literal_next_ = false;
        if (local(ECHO))
            echo_byte(byte, echo);
        append(byte);
        if (!local(ICANON))
            committed_ = head_;
        return;
    }
    if (byte == '\r') {
        if ((modes_.input & IGNCR) != 0)
            return;
        if ((modes_.input & ICRNL) != 0)
            byte = '\n';
    } else if (byte == '\n' && (modes_.input & INLCR) != 0) {
        byte = '\r';
    }
    if ((modes_.input & IXON) != 0) {
        if (is_character(VSTOP, byte)) {
            stopped_ = true;
            return;
        }
        if (is_character(VSTART, byte) || (stopped_ && (modes_.input & IXANY) != 0)) {
            stopped_ = false;
            if (is_character(VSTART, byte))
                return;
        }
    }
    if (local(ISIG)) {
        const int signal = is_character(VINTR, byte)   ? sigint
                           : is_character(VQUIT, byte) ? sigquit
                           : is_character(VSUSP, byte) ? sigtstp
                                                       : 0;
        if (signal != 0) {
            signals |= signal_mask(signal);
            if (!local(NOFLSH))
                reset_input();
            if (local(ECHO))
                echo_byte(byte, echo);
            stopped_ = false;
            return;
        }
    }
    if (is_character(VLNEXT, byte) && local(ICANON) && local(IEXTEN)) {
        literal_next_ = true;
        if (local(ECHO) && local(ECHOCTL)) {
            echo.put('^');
            echo.put('\b');
        }
        return;
    }
    if (local(ICANON)) {
        if (head_ == committed_)
            line_start_column_ = column_;
        if (edit_line(byte, echo))
            return;
        // Room stays for the end of the line.
        if (head_ - tail_ >= buffer_size - 1) {
            if ((modes_.input & IMAXBEL) != 0)
                echo.put(7);
            return;
        }
    }
    if (local(ECHO))
        echo_byte(byte, echo);
    append(byte);
    if (!local(ICANON))
        committed_ = head_;
}

usize Terminal::receive(const u8* data, usize bytes) {
    usize done = 0;
    while (done < bytes) {
        EchoBuffer collected;
        u32 signals = 0;
        bool full = false;
        {
            SpinGuard guard(lock_);
            if (input_ == nullptr)
                input_ = static_cast<u16*>(kmalloc(buffer_size * sizeof(u16)));
            if (input_ == nullptr)
                return bytes; // out of memory: the input is lost, as from a line without flow
                              // control
            while (done < bytes && collected.count < sizeof collected.bytes / 2) {
                // In raw mode nothing is dropped: the device keeps what does not fit.
                if (!local(ICANON) && head_ - tail_ >= buffer_size) {
                    full = true;
                    break;
                }
                receive_byte(data[done++], collected, signals);
            }
        }
        if (collected.count > 0)
            echo(collected.bytes, collected.count);
        for (const int signal : {sigint, sigquit, sigtstp})
            if ((signals & signal_mask(signal)) != 0)
                signal_foreground(signal);
        if (!stopped_)
            write_waiters.wake_all(poll_out | poll_wrnorm);
        if (full)
            break;
    }
    read_waiters.wake_all(poll_in | poll_rdnorm);
    return done;
}

void Terminal::signal_foreground(int signal) {
    if (const i32 group = foreground_; group > 0)
        (void)send_signal_to_group(session_, group, signal);
}

void Terminal::set_window(const WindowSize& size) {
    {
        SpinGuard guard(lock_);
        if (size.rows == window_.rows && size.columns == window_.columns &&
            size.x_pixels == window_.x_pixels && size.y_pixels == window_.y_pixels)
            return;
        window_ = size;
    }
    signal_foreground(sigwinch);
}

void Terminal::hang_up() {
    hung_up_ = true;
    if (session_ > 0)
        (void)send_signal_to_process(session_, sighup);
    end_session(session_);
    clear_controlling_terminal(*this);
    read_waiters.wake_all();
    write_waiters.wake_all();
}

void Terminal::end_session(i32 session) {
    if (session <= 0 || session != session_)
        return;
    signal_foreground(sighup);
    signal_foreground(sigcont);
    session_ = 0;
    foreground_ = 0;
}

// --- reading
// -------------------------------------------------------------------------------------------

bool Terminal::input_ready() const {
    return committed_ != tail_;
}

// Requires: lock held. Takes up to the end of the line in canonical mode.
usize Terminal::take(u8* out, usize capacity, bool& line_ended) {
    usize count = 0;
    line_ended = false;
    while (count < capacity && tail_ != committed_) {
        const u16 entry = input_[tail_ % buffer_size];
        tail_ = tail_ + 1;
        if ((entry & entry_end_of_file) != 0) {
            line_ended = true;
            break;
        }
        out[count++] = static_cast<u8>(entry);
        if ((entry & entry_line_end) != 0 && local(ICANON)) {
            line_ended = true;
            break;
        }
    }
    // A line that exactly filled the reader's buffer has its end-of-file mark still to come: it
    // belongs to this read.
    if (!line_ended && tail_ != committed_ &&
        (input_[tail_ % buffer_size] & entry_end_of_file) != 0 && count == capacity && count > 0) {
        tail_ = tail_ + 1;
        line_ended = true;
    }
    return count;
}

// A background process may not use its controlling terminal (credentials(7), setpgid(2)).
Result<void> Terminal::check_background(int signal, bool even_if_blocked) {
    if (session_ == 0 || session_ != current_session() || foreground_ == 0 ||
        foreground_ == current_group())
        return {};
    if (signal_blocked_or_ignored(signal)) {
        if (signal == sigttin || even_if_blocked)
            return fail(EIO);
        return {};
    }
    if (group_is_orphaned(current_group()))
        return fail(EIO);
    (void)send_signal_to_group(current_session(), current_group(), signal);
    return fail(restart_syscall);
}

Result<void> Terminal::wait_for_input(bool non_blocking, u64 deadline, bool& timed_out) {
    timed_out = false;
    if (non_blocking)
        return fail(EAGAIN);
    const auto outcome = wait_until(
        read_waiters, [&] { return input_ready() || hung_up_; }, deadline,
        TaskState::Interruptible);
    if (outcome == WaitOutcome::Interrupted)
        return fail(restart_syscall);
    timed_out = outcome == WaitOutcome::TimedOut;
    return {};
}

// VMIN and VTIME, termios(3), "Canonical and noncanonical mode".
Result<usize> Terminal::read_raw(IoBuffer& out, bool non_blocking) {
    const TerminalModes modes = this->modes();
    const usize minimum = modes.characters[VMIN];
    const u64 interval = modes.characters[VTIME] * decisecond_ns;
    usize total = 0;
    u64 deadline = interval != 0 && minimum == 0 ? monotonic_ns() + interval : no_deadline;
    for (;;) {
        u8 piece[256];
        usize count = 0;
        bool ended = false;
        {
            SpinGuard guard(lock_);
            count =
                take(piece, out.remaining() < sizeof piece ? out.remaining() : sizeof piece, ended);
        }
        if (count > 0) {
            const usize copied = out.copy_out(piece, count);
            total += copied;
            input_consumed();
            if (copied < count) {
                if (total == 0)
                    return fail(EFAULT);
                return total;
            }
            if (interval != 0 && minimum > 0)
                deadline = monotonic_ns() + interval; // between bytes
        }
        if (out.remaining() == 0 || (total > 0 && total >= minimum && !input_ready()) || hung_up_)
            return total;
        if (input_ready())
            continue;
        if (minimum == 0 && interval == 0)
            return total;
        bool timed_out = false;
        if (auto waited = wait_for_input(non_blocking, deadline, timed_out); !waited) {
            if (total > 0)
                return total;
            return fail(waited.error().code);
        }
        if (timed_out)
            return total;
        if (modes.characters[VMIN] == 0 && !input_ready())
            return total;
    }
}

Result<usize> Terminal::read(IoBuffer& out, bool non_blocking) {
    TRY(check_background(sigttin, false));
    if (out.remaining() == 0)
        return usize{0};
    if ((modes().local & ICANON) == 0)
        return read_raw(out, non_blocking);
    for (;;) {
        if (!input_ready()) {
            if (hung_up_)
                return usize{0};
            bool timed_out = false;
            TRY(wait_for_input(non_blocking, no_deadline, timed_out));
            TRY(check_background(sigttin, false));
            if ((modes().local & ICANON) == 0)
                return read_raw(out, non_blocking);
            continue;
        }
        usize total = 0;
        bool ended = false;
        while (!ended && out.remaining() > 0) {
            u8 piece[256];
            usize count = 0;
            {
                SpinGuard guard(lock_);
                if (!input_ready())
                    break;
                count = take(piece, out.remaining() < sizeof piece ? out.remaining() : sizeof piece,
                             ended);
            }
            const usize copied = out.copy_out(piece, count);
            total += copied;
            if (copied < count) {
                if (total == 0)
                    return fail(EFAULT);
                break;
            }
        }
        input_consumed();
        if (total > 0 || ended)
            return total;
    }
}

// --- writing
// -------------------------------------------------------------------------------------------

// One byte of output as the modes say; returns how many bytes it became.
usize Terminal::process_output(u8 byte, u8 (&out)[8]) {
    usize count = 0;
    if ((modes_.output & OPOST) == 0) {
        out[count++] = byte;
        return count;
    }
    switch (byte) {
    case '\n':
        if ((modes_.output & ONLRET) != 0)
            column_ = 0;
        if ((modes_.output & ONLCR) != 0) {
            out[count++] = '\r';
            column_ = 0;
        }
        out[count++] = '\n';
        return count;
    case '\r':
        if ((modes_.output & ONOCR) != 0 && column_ == 0)
            return 0;
        column_ = 0;
        out[count++] = (modes_.output & OCRNL) != 0 ? '\n' : '\r';
        return count;
    case '\t': {
        const u32 next = (column_ | 7) + 1;
        if ((modes_.output & TABDLY) == TAB3)
            while (column_ < next) {
                out[count++] = ' ';
                column_++;
            }
        else
            out[count++] = '\t';
        column_ = next;
        return count;
    }
    case '\b':
        column_ = column_ > 0 ? column_ - 1 : 0;
        out[count++] = byte;
        return count;
    default:
        if ((modes_.output & OLCUC) != 0 && byte >= 'a' && byte <= 'z')
            byte = static_cast<u8>(byte - 'a' + 'A');
        if (byte >= 32 && !((modes_.input & IUTF8) != 0 && is_continuation(byte)))
            column_++;
        out[count++] = byte;
        return count;
    }
}

Result<usize> Terminal::write(IoBuffer& in, bool non_blocking) {
    if ((modes().local & TOSTOP) != 0)
        TRY(check_background(sigttou, false));
    TRY(begin_write(non_blocking));
    auto written = write_alone(in, non_blocking);
    write_mutex_.unlock();
    next_writer_.wake_all();
    return written;
}

// Whoever writes may wait for as long as nobody reads: those behind it may have to end meanwhile,
// or not to wait at all.
Result<void> Terminal::begin_write(bool non_blocking) {
    const auto begun = [&] { return write_mutex_.try_lock(); };
    if (non_blocking)
        return begun() ? Result<void>() : Result<void>(fail(EAGAIN));
    if (wait_until(next_writer_, begun) == WaitOutcome::Interrupted)
        return fail(restart_syscall);
    return {};
}

Result<usize> Terminal::write_alone(IoBuffer& in, bool non_blocking) {
    usize taken = 0;
    while (in.remaining() > 0) {
        if (hung_up_)
            return fail(EIO);
        if (stopped_) {
            if (non_blocking) {
                if (taken > 0)
                    return taken;
                return fail(EAGAIN);
            }
            if (wait_until(write_waiters, [&] { return !stopped_ || hung_up_; }) ==
                WaitOutcome::Interrupted) {
                if (taken > 0)
                    return taken;
                return fail(restart_syscall);
            }
            continue;
        }
        if (non_blocking && !can_put()) {
            if (taken > 0)
                return taken;
            return fail(EAGAIN);
        }
        u8 raw[512];
        const usize count =
            in.copy_in(raw, in.remaining() < sizeof raw ? in.remaining() : sizeof raw);
        if (count == 0) {
            if (taken > 0)
                return taken;
            return fail(EFAULT);
        }
        u8 processed[sizeof raw * 8];
        u8 became[sizeof raw]; // how many bytes each byte became
        usize length = 0;
        {
            SpinGuard modes_guard(lock_);
            for (usize i = 0; i < count; i++) {
                u8 bytes[8];
                const usize produced = process_output(raw[i], bytes);
                for (usize j = 0; j < produced; j++)
                    processed[length++] = bytes[j];
                became[i] = static_cast<u8>(produced);
            }
        }
        for (usize sent = 0; sent < length;) {
            auto done = put(processed + sent, length - sent, non_blocking);
            if (!done) {
                // What has gone out is written, and must not be written again.
                for (usize i = 0, end = 0; i < count && (end += became[i]) <= sent; i++)
                    taken++;
                if (taken > 0)
                    return taken;
                return fail(done.error().code);
            }
            sent += *done;
        }
        taken += count;
    }
    return taken;
}

u32 Terminal::poll(PollTable* table) {
    if (table != nullptr) {
        table->watch(read_waiters);
        table->watch(write_waiters);
        watch_output(*table);
    }
    if (hung_up_)
        return poll_in | poll_rdnorm | poll_out | poll_wrnorm | poll_hup | poll_err;
    return (input_ready() ? poll_in | poll_rdnorm : 0) |
           (!stopped_ && can_put() ? poll_out | poll_wrnorm : 0);
}

} // namespace kernel
