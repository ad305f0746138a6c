// reboot(2), vhangup(2), swapon(2), quotactl(2), iopl(2), modify_ldt(2), sysfs(2).
#include "guestkernel/syscalls/machine_calls.hpp"

#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/quota.h>
#include <linux/reboot.h>
#include <linux/signal.h>

#include "guestkernel/arch/arch.hpp"
#include "guestkernel/core/log.hpp"
#include "guestkernel/drivers/console.hpp"
#include "guestkernel/drivers/vsock.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/ipc/terminal.hpp"
#include "guestkernel/namespaces/pid_namespace.hpp"
#include "guestkernel/syscalls/file_calls.hpp"
#include "guestkernel/syscalls/file_helpers.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

bool known_magic(u32 magic) {
    return magic == LINUX_REBOOT_MAGIC2 || magic == LINUX_REBOOT_MAGIC2A ||
           magic == LINUX_REBOOT_MAGIC2B || magic == LINUX_REBOOT_MAGIC2C;
}

// The machine is the VM: it ends, and with success. Programs that are still there get no signals,
// as on Linux. What files hold is written first, since nobody loses by that.
[[noreturn]] void end_machine(Task& task, std::string_view how) {
    log::info("reboot(2): {}", how);
    flush_vsock_device();
    flush_console();
    (void)sys_sync(task);
    arch::power_off(0);
}

// In a nested pid namespace there is no machine to end: its first process is killed, and who waits
// for that is told by the signal what was meant.
Result<long> reboot_namespace(u32 command) {
    switch (command) {
    case LINUX_REBOOT_CMD_RESTART:
    case LINUX_REBOOT_CMD_RESTART2:
        end_own_pid_namespace(SIGHUP);
    case LINUX_REBOOT_CMD_HALT:
    case LINUX_REBOOT_CMD_POWER_OFF:
        end_own_pid_namespace(SIGINT);
    default:
        return fail(EINVAL);
    }
}

constexpr u32 swap_flags = 0x7ffff; // SWAP_FLAGS_VALID

Result<void> check_swap_file(u64 name) {
    if (!capable(CAP_SYS_ADMIN))
        return fail(EPERM);
    TRY(String path, copy_path(name));
    TRY(lookup_path(at_fdcwd, path.view(), lookup_follow));
    return fail(EINVAL); // no file system here can hold swap, and nothing is in use as such
}

} // namespace

Result<long> sys_reboot(Task& task, u32 magic1, u32 magic2, u32 command, u64 argument) {
    PidNamespace* space = current_pid_namespace();
    const bool nested = space != nullptr && space->level() > 0;
    if (nested ? !capable_over(space->owner(), CAP_SYS_BOOT) : !capable(CAP_SYS_BOOT))
        return fail(EPERM);
    if (magic1 != LINUX_REBOOT_MAGIC1 || !known_magic(magic2))
        return fail(EINVAL);
    if (nested)
        return reboot_namespace(command);
    switch (command) {
    case LINUX_REBOOT_CMD_CAD_ON:
    case LINUX_REBOOT_CMD_CAD_OFF:
        return 0; // there is no keyboard to press Ctrl-Alt-Del on
    case LINUX_REBOOT_CMD_RESTART2: {
        TRY(const String reason, copy_in_string(argument, 256));
        end_machine(task, reason.view());
    }
    case LINUX_REBOOT_CMD_RESTART:
        end_machine(task, "restart");
    case LINUX_REBOOT_CMD_HALT:
        end_machine(task, "halt");
    case LINUX_REBOOT_CMD_POWER_OFF:
        end_machine(task, "power off");
    default:
        return fail(EINVAL); // no suspension, no kexec
    }
}

Result<long> sys_vhangup(Task&) {
    if (!capable(CAP_SYS_TTY_CONFIG))
        return fail(EPERM);
    if (Ref<Terminal> terminal = controlling_terminal())
        terminal->hang_up();
    return 0;
}

// Ports are refused as a locked-down kernel does (kernel_lockdown(7)): in a VM there is nothing
// behind them but the VMM.
Result<long> sys_iopl(Task&, u32 level) {
    if (level > 3)
        return fail(EINVAL);
    return level == 0 ? Result<long>(0) : Result<long>(fail(EPERM));
}

Result<long> sys_ioperm(Task&, u64 from, u64 count, int on) {
    constexpr u64 ports = 65536;
    if (from + count <= from || from + count > ports)
        return fail(EINVAL);
    return on == 0 ? Result<long>(0) : Result<long>(fail(EPERM));
}

// 64-bit programs need no segments of their own; the table stays empty.
Result<long> sys_modify_ldt(Task&, int function, u64 buffer, u64 bytes) {
    constexpr int read = 0, write_old = 1, read_default = 2, write = 0x11;
    constexpr u64 default_size = 128;
    // The answer is an int that Linux does not sign-extend to a long (arch/x86/kernel/ldt.c).
    const auto as_int = [](int value) { return static_cast<long>(static_cast<u32>(value)); };
    switch (function) {
    case read:
        return 0;
    case read_default: {
        static constexpr u8 zeros[default_size] = {};
        const u64 size = bytes < default_size ? bytes : default_size;
        if (!copy_out_bytes(buffer, zeros, size))
            return as_int(-EFAULT);
        return static_cast<long>(size);
    }
    case write_old:
    case write:
        return as_int(-EINVAL);
    default:
        return as_int(-ENOSYS);
    }
}

Result<long> sys_swapon(Task&, u64 name, u32 flags) {
    if ((flags & ~swap_flags) != 0)
        return fail(EINVAL);
    TRY(check_swap_file(name));
    return 0;
}

Result<long> sys_swapoff(Task&, u64 name) {
    TRY(check_swap_file(name));
    return 0;
}

// No file system here has quotas, and there are no block devices to name one by.
Result<long> sys_quotactl(Task&, u32 command, u64 special, u32, u64) {
    const u32 kind = command & SUBCMDMASK, operation = command >> SUBCMDSHIFT;
    if (kind >= MAXQUOTAS)
        return fail(EINVAL);
    constexpr u32 sync_command = (Q_SYNC & 0xffffff);
    if (special == 0)
        return operation == sync_command ? Result<long>(0) : Result<long>(fail(ENODEV));
    TRY(String path, copy_path(special));
    TRY(lookup_path(at_fdcwd, path.view(), lookup_follow));
    return fail(ENOTBLK);
}

Result<long> sys_quotactl_fd(Task& task, u32 fd, u32 command, u32, u64) {
    TRY(usable_file(task, static_cast<int>(fd)));
    if ((command & SUBCMDMASK) >= MAXQUOTAS)
        return fail(EINVAL);
    return fail(ENOSYS); // the answer of file systems without them
}

// sysfs(2): 1 index of a name, 2 name of an index, 3 how many.
Result<long> sys_sysfs(Task&, int option, u64 first, u64 second) {
    const char* const* types = filesystem_types();
    u64 count = 0;
    while (types[count] != nullptr)
        count++;
    switch (option) {
    case 1: {
        TRY(String name, copy_in_string(first, 4096));
        for (u64 i = 0; i < count; i++)
            if (name == types[i])
                return static_cast<long>(i);
        return fail(EINVAL);
    }
    case 2: {
        if (static_cast<u32>(first) >= count)
            return fail(EINVAL);
        const std::string_view name(types[static_cast<u32>(first)]);
        TRY(copy_out_bytes(second, name.data(), name.size() + 1));
        return 0;
    }
    case 3:
        return static_cast<long>(count);
    default:
        return fail(EINVAL);
    }
}

} // namespace kernel
