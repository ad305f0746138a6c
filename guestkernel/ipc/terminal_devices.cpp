// Terminals as device files: /dev/tty, /dev/console; the console's device side.
#include <asm/termbits.h>
#include <linux/errno.h>

#include "guestkernel/core/boot_config.hpp"
#include "guestkernel/drivers/console.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/ipc/terminal.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

constexpr u32 tty_major = 5, tty_minor = 0, console_minor = 1;
constexpr u64 console_device = u64{tty_major} << 8 | console_minor;

class ConsoleTerminal final : public Terminal {
public:
    // A person types here, in UTF-8.
    ConsoleTerminal() : Terminal(console_device, IUTF8, HUPCL) {}

protected:
    Result<usize> put(const u8* data, usize bytes, bool) override {
        console_terminal_write(data, bytes);
        return bytes;
    }
    void echo(const u8* data, usize bytes) override { console_terminal_echo(data, bytes); }
    bool can_put() override { return console_terminal_can_write(); }
    void watch_output(PollTable& table) override { table.watch(console_terminal_queue()); }
};

constinit Terminal* console = nullptr; // holds a reference for good

void console_input(const u8* data, usize bytes, void*) {
    console->receive(data, bytes);
}
void console_window(u32 columns, u32 rows) {
    console->set_window({static_cast<u16>(rows), static_cast<u16>(columns), 0, 0});
}

Result<Ref<File>> open_terminal(const Path& path, Ref<Inode> inode, u32 flags,
                                Ref<Terminal> terminal) {
    TRY(terminal->opened(flags));
    TRY(Ref<TerminalFile> file,
        make_ref<TerminalFile>(path, std::move(inode), flags, std::move(terminal)));
    return Ref<File>(std::move(file));
}

Result<Ref<File>> open_current(const Path& path, Ref<Inode> inode, u32 flags, u64) {
    Ref<Terminal> terminal = controlling_terminal();
    if (!terminal)
        return fail(ENXIO);
    return open_terminal(path, std::move(inode), flags, std::move(terminal));
}

Result<Ref<File>> open_console(const Path& path, Ref<Inode> inode, u32 flags, u64) {
    if (console == nullptr)
        return fail(EIO); // no terminal behind the streams
    return open_terminal(path, std::move(inode), flags, console_terminal());
}

} // namespace

TerminalFile::TerminalFile(const Path& path, Ref<Inode> inode, u32 flags, Ref<Terminal> terminal)
    : File(path, std::move(inode), flags), terminal_(std::move(terminal)) {
    pty_slave_opened(*terminal_);
}

TerminalFile::~TerminalFile() {
    pty_slave_closed(*terminal_);
}

Ref<Terminal> console_terminal() {
    return Ref<Terminal>::share(console);
}

Result<void> init_terminals() {
    register_char_device(tty_major, tty_minor, 1, open_current);
    register_char_device(tty_major, console_minor, 1, open_console);
    register_ptys();
    const BootConfig& config = boot_config();
    bool wanted = false;
    for (const StreamKind kind : config.streams)
        wanted = wanted || kind == StreamKind::Terminal;
    if (!wanted)
        return {};
    TRY(Ref<ConsoleTerminal> terminal, make_ref<ConsoleTerminal>());
    console = terminal.leak();
    console_window(config.columns, config.rows);
    set_console_window_handler(console_window);
    set_console_terminal_sink(console_input, nullptr);
    return {};
}

} // namespace kernel
