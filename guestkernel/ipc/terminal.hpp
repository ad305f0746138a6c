// Terminals: the line discipline between a program and a device - the console or the master side of
// a pseudo terminal. termios(3), tty_ioctl(4), pty(7).
#pragma once

#include "guestkernel/core/lock.hpp"
#include "guestkernel/core/ref.hpp"
#include "guestkernel/fs/file.hpp"
#include "guestkernel/sched/wait_queue.hpp"

namespace kernel {

// struct termios of the kernel ABI (asm/termbits.h); asserted against it in terminal.cpp.
struct TerminalModes {
    u32 input, output, control, local;
    u8 line;
    u8 characters[19];
};
struct WindowSize { // struct winsize
    u16 rows, columns, x_pixels, y_pixels;
};

class Terminal : public RefCounted {
public:
    // Flags of entries in the input buffer.
    static constexpr u16 entry_line_end =
        0x100; // the line that read(2) returns ends with this byte
    static constexpr u16 entry_end_of_file = 0x200; // nothing to deliver: read(2) ends here

    // The flags are set from the start, beside those of every terminal.
    explicit Terminal(u64 device_number, u32 input_flags = 0, u32 control_flags = 0);
    ~Terminal() override;

    // --- the device's side ---
    // Input as it arrives. Does not sleep. Returns how much was taken (a full buffer takes no
    // more).
    usize receive(const u8* data, usize bytes);
    // The line is gone for good: readers see the end of file, writers EIO, the session is told.
    void hang_up();
    bool hung_up() const { return hung_up_; }
    bool input_full() const { return head_ - tail_ >= buffer_size && !hung_up_; }
    void set_window(const WindowSize& size); // SIGWINCH to the foreground group if it changed

    // --- the program's side ---
    Result<usize> read(IoBuffer& out, bool non_blocking);
    Result<usize> write(IoBuffer& in, bool non_blocking);
    u32 poll(PollTable* table);
    Result<long> ioctl(File& file, u32 command, u64 argument);
    // Before open(2) succeeds: EBUSY when a program has it for itself (TIOCEXCL). A session leader
    // without a terminal gets it as the controlling one.
    Result<void> opened(u32 flags);

    u64 device_number() const { return device_number_; }
    i32 session() const { return session_; }
    i32 foreground() const { return foreground_; }
    TerminalModes modes() const;
    void end_session(i32 session); // its leader is gone
    WaitQueue read_waiters, write_waiters;

protected:
    // Output that has been processed. Sends at least one byte unless it fails (EAGAIN when it would
    // have to sleep but may not).
    virtual Result<usize> put(const u8* data, usize bytes, bool non_blocking) = 0;
    // Echo: may not sleep; what does not fit is dropped.
    virtual void echo(const u8* data, usize bytes) = 0;
    virtual bool can_put() = 0;
    virtual void watch_output(PollTable& table) = 0;
    virtual void input_consumed() {} // room for more input
    virtual usize output_pending() { return 0; }
    virtual void flush_output() {}
    virtual void modes_changed() {}
    // For a master in packet mode: TIOCPKT_* of what the program did to the line.
    virtual void line_changed(u32 /*events*/) {}

private:
    struct EchoBuffer;
    void receive_byte(u8 byte, EchoBuffer& echo, u32& signals);
    bool edit_line(u8 byte, EchoBuffer& echo);
    void append(u16 entry);
    void erase_one(EchoBuffer& echo);
    void echo_byte(u8 byte, EchoBuffer& echo);
    void reset_input();
    bool local(u32 bit) const { return (modes_.local & bit) != 0; }
    bool is_character(unsigned which, u8 byte) const;
    bool input_ready() const;
    usize take(u8* out, usize capacity, bool& line_ended);
    usize process_output(u8 byte, u8 (&out)[8]);
    Result<usize> read_raw(IoBuffer& out, bool non_blocking);
    Result<void> begin_write(bool non_blocking);
    Result<usize> write_alone(IoBuffer& in, bool non_blocking); // Requires: write_mutex_
    Result<void> wait_for_input(bool non_blocking, u64 deadline, bool& timed_out);
    Result<void> check_background(int signal, bool even_if_blocked);
    Result<void> set_modes(u32 command, u64 argument);
    void change_modes(const TerminalModes& wanted, bool flushes, u32 input_speed, u32 output_speed);
    Result<void> simulate_input(u64 argument);
    Result<long> modes_ioctl(u32 command, u64 argument);
    Result<long> job_ioctl(u32 command, u64 argument);
    Result<long> rare_ioctl(u32 command, u64 argument);
    void signal_foreground(int signal);

    static constexpr usize buffer_size = 4096;
    const u64 device_number_;
    mutable SpinLock lock_{LockRank::Terminal};
    TerminalModes modes_;
    u32 input_speed_ = 38400, output_speed_ = 38400; // bits a second, for whoever asks
    TerminalModes fixed_{}; // bits, and whole characters, that programs may not change
    WindowSize window_{};
    volatile i32 session_ = 0, foreground_ = 0;
    volatile bool hung_up_ = false;
    volatile bool stopped_ = false; // by XOFF or tcflow(3)
    volatile bool exclusive_ = false;
    bool literal_next_ = false;
    u32 column_ = 0;
    u32 line_start_column_ = 0;
    // Entries are a byte and flags; counters run freely. [tail, committed) may be read, [committed,
    // head) is being edited.
    u16* input_ = nullptr;
    volatile u32 head_ = 0, committed_ = 0, tail_ = 0;
    Mutex write_mutex_;     // output of one write(2) stays together
    WaitQueue next_writer_; // for write_mutex_, which nobody waits for otherwise
};

class TerminalFile final : public File {
public:
    TerminalFile(const Path& path, Ref<Inode> inode, u32 flags, Ref<Terminal> terminal);
    ~TerminalFile() override;
    static constexpr char file_type[] = "terminal";
    const char* type_name() const override { return file_type; }
    bool is_stream() const override { return true; }
    bool signals_readiness() const override { return true; }
    Result<usize> read(IoBuffer& out, u64) override { return terminal_->read(out, non_blocking()); }
    Result<usize> write(IoBuffer& in, u64) override { return terminal_->write(in, non_blocking()); }
    u32 poll(PollTable* table) override { return terminal_->poll(table); }
    Result<long> ioctl(u32 command, u64 argument) override {
        return terminal_->ioctl(*this, command, argument);
    }
    Terminal& terminal() { return *terminal_; }

private:
    Ref<Terminal> terminal_;
};

// Registers /dev/tty, /dev/console, /dev/ptmx and the pts devices; connects the console when it is
// a terminal. At boot.
Result<void> init_terminals();
// The end of a session's leader: its foreground group is hung up.
void session_leader_ended(Terminal& terminal, i32 session);
// The console's terminal, or null when the streams are no terminal.
Ref<Terminal> console_terminal();
// Called by pty.cpp when the last file of a slave closes, and by its opens.
void pty_slave_opened(Terminal& slave);
void pty_slave_closed(Terminal& slave);
void register_ptys();
u32 pty_count(); // pairs in all instances of devpts

} // namespace kernel
