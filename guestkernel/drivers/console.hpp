// The virtio console's ports as files and as the control channel.
#pragma once

#include "guestkernel/core/boot_config.hpp"
#include "guestkernel/core/result.hpp"
#include "guestkernel/fs/file.hpp"

namespace kernel {

Result<void> init_console(); // finds and starts the device
// The file for standard stream 0, 1 or 2, by boot_config().streams: a port file that looks like a
// pipe (S_IFIFO), a regular-looking stream, /dev/null, or the console terminal. Null when the
// stream is closed.
Result<Ref<File>> open_standard_stream(int stream);

// For the terminal layer (ipc/terminal): bytes from the host's terminal arrive at `input`, in task
// context.
void set_console_terminal_sink(void (*input)(const u8* data, usize bytes, void* context),
                               void* context);
// Output of the terminal; sleeps while the host is slow.
void console_terminal_write(const u8* data, usize bytes);
// The same without sleeping: what the host does not take is dropped. For echo.
void console_terminal_echo(const u8* data, usize bytes);
bool console_terminal_can_write();
WaitQueue& console_terminal_queue(); // woken when output has room again
// Window size and signals from the host's control port: handlers are set by the terminal layer and
// task/. What the host says is heard from the second of them on; until then it waits.
void set_console_window_handler(void (*handler)(u32 columns, u32 rows));
void set_console_signal_handler(void (*handler)(int signal));
// Waits until the host has taken all output; before power-off.
void flush_console();

} // namespace kernel
