#include "guestkernel/core/boot.hpp"

#include "guestkernel/arch/arch.hpp"
#include "guestkernel/arch/control.hpp"
#include "guestkernel/core/boot_config.hpp"
#include "guestkernel/core/log.hpp"
#include "guestkernel/core/panic.hpp"
#include "guestkernel/core/uts.hpp"
#include "guestkernel/core/vdso.hpp"
#include "guestkernel/drivers/console.hpp"
#include "guestkernel/drivers/entropy.hpp"
#include "guestkernel/drivers/net.hpp"
#include "guestkernel/drivers/vsock.hpp"
#include "guestkernel/fs/boot_files.hpp"
#include "guestkernel/fs/root.hpp"
#include "guestkernel/ipc/terminal.hpp"
#include "guestkernel/ipc/vsock/vsock_socket.hpp"
#include "guestkernel/mm/frame.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/net/inet_socket.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

void must(Result<void> done, const char* what) {
    if (done)
        return;
    log::error("{}: error {}", what, done.error().code);
    PANIC(what);
}

void boot_task(void*) {
    log::info("{} version {} {}", uts_sysname, uts_release, uts_version);
    log::info("{} kB of memory, {} CPUs", memory_stats().total * (page_size / 1024),
              arch::cpu_count());
    must(init_console(), "the console device does not work");
    must(init_terminals(), "no memory for terminals");
    must(init_namespaces(), "no memory for namespaces");
    net::start_network();
    init_vsock();
    must(init_vsock_device(), "the vsock device does not work");
    init_net_device();
    must(mount_first_root(), "the root file system cannot be mounted");
    make_boot_files();
    must(init_vdso(), "no memory for the vDSO");
    must(start_first_program(), "the first program cannot be started");
    for (unsigned cpu = 1; cpu < arch::cpu_count(); cpu++)
        if (auto done = arch::bring_up_cpu(cpu); !done)
            log::warning("CPU {} stays off: error {}", cpu, done.error().code);
    init_entropy(); // RDRAND has seeded the generator: this must not delay the program
    schedule_dead();
}

} // namespace

void boot_kernel() {
    init_scheduler();
    must(
        []() -> Result<void> {
            TRY(Ref<Task> task, start_kernel_task("boot", boot_task, nullptr));
            return {};
        }(),
        "no memory for the first task");
}

} // namespace kernel
