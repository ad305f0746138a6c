// What the machine's own parts define, for unit tests that link nearly all of the kernel and use
// none of it. Weak: a test may bring its own.
#include <cstdlib>
#include <errno.h>

#include "guestkernel/arch/arch.hpp"
#include "guestkernel/arch/control.hpp"
#include "guestkernel/arch/interrupts.hpp"
#include "guestkernel/core/boot_config.hpp"
#include "guestkernel/core/uts.hpp"
#include "guestkernel/core/vdso.hpp"
#include "guestkernel/fs/vfs.hpp"

namespace kernel {

[[gnu::weak]] const BootConfig& boot_config() {
    static const BootConfig config;
    return config;
}
[[gnu::weak]] std::string_view StringList::operator[](usize) const {
    return {};
}
[[gnu::weak]] usize get_hostname(char (&out)[uts_length + 1]) {
    out[0] = '\0';
    return 0;
}
[[gnu::weak]] usize get_domainname(char (&out)[uts_length + 1]) {
    out[0] = '\0';
    return 0;
}
[[gnu::weak]] Result<void> set_hostname(std::string_view) {
    return fail(ENOSYS);
}
[[gnu::weak]] Result<void> set_domainname(std::string_view) {
    return fail(ENOSYS);
}
[[gnu::weak]] void arch::apply_speculation(const Task&) {}
[[gnu::weak]] void arch::forget_program() {}
[[gnu::weak]] bool arch::breakpoints_work() {
    return false;
}
[[gnu::weak]] void arch::load_breakpoints(const Breakpoints*) {}
[[gnu::weak]] const VdsoImage& vdso_image() {
    std::abort();
}
[[gnu::weak]] void update_vdso_clock() {}
[[gnu::weak]] Result<Ref<Superblock>> make_virtiofs(std::string_view, bool) {
    return fail(ENODEV);
}

namespace arch {

[[gnu::weak]] void mark(boot::Mark) {}
[[gnu::weak]] void power_off(u32) {
    std::abort();
}
[[gnu::weak]] void report_exec_failure(int) {}
[[gnu::weak]] void register_device_interrupt(u8, void (*)(void*), void*) {}

} // namespace arch
} // namespace kernel
