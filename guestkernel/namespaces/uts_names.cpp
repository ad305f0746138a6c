// What uname(2) shows of the running task's namespace. Not in unit tests: the boot's configuration
// is the machine's.
#include <linux/errno.h>

#include "guestkernel/core/boot_config.hpp"
#include "guestkernel/namespaces/uts_namespace.hpp"

namespace kernel {

namespace {

usize get(UtsName UtsNamespace::*which, std::string_view otherwise, char (&out)[uts_length + 1]) {
    std::string_view text = otherwise;
    UtsName copy;
    if (UtsNamespace* space = current_uts_namespace()) {
        SpinGuard guard(space->lock);
        copy = space->*which;
    }
    if (copy.set)
        text = {copy.text, copy.length};
    text = text.substr(0, uts_length);
    __builtin_memcpy(out, text.data(), text.size());
    out[text.size()] = '\0';
    return text.size();
}

Result<void> set(UtsName UtsNamespace::*which, std::string_view text) {
    UtsNamespace* space = current_uts_namespace();
    if (text.size() > uts_length || space == nullptr)
        return fail(EINVAL);
    SpinGuard guard(space->lock);
    UtsName& name = space->*which;
    __builtin_memcpy(name.text, text.data(), text.size());
    name.length = text.size();
    name.set = true;
    return {};
}

} // namespace

usize get_hostname(char (&out)[uts_length + 1]) {
    return get(&UtsNamespace::host, boot_config().hostname, out);
}
usize get_domainname(char (&out)[uts_length + 1]) {
    return get(&UtsNamespace::domain, "(none)", out);
}
Result<void> set_hostname(std::string_view name) {
    return set(&UtsNamespace::host, name);
}
Result<void> set_domainname(std::string_view name) {
    return set(&UtsNamespace::domain, name);
}

} // namespace kernel
