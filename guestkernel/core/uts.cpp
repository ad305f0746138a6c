#include "guestkernel/core/uts.hpp"

#include <linux/errno.h>

#include "guestkernel/core/boot_config.hpp"
#include "guestkernel/core/lock.hpp"

namespace kernel {
namespace {

struct Name {
    char text[uts_length + 1] = {};
    usize length = 0;
    bool set = false;
};
constinit SpinLock lock{LockRank::Leaf};
constinit Name host;
constinit Name domain;

usize get(const Name& name, std::string_view otherwise, char (&out)[uts_length + 1]) {
    SpinGuard guard(lock);
    std::string_view text = name.set ? std::string_view(name.text, name.length) : otherwise;
    text = text.substr(0, uts_length);
    __builtin_memcpy(out, text.data(), text.size());
    out[text.size()] = '\0';
    return text.size();
}

Result<void> set(Name& name, std::string_view text) {
    if (text.size() > uts_length)
        return fail(EINVAL);
    SpinGuard guard(lock);
    __builtin_memcpy(name.text, text.data(), text.size());
    name.length = text.size();
    name.set = true;
    return {};
}

} // namespace

usize get_hostname(char (&out)[uts_length + 1]) {
    return get(host, boot_config().hostname, out);
}
usize get_domainname(char (&out)[uts_length + 1]) {
    return get(domain, "(none)", out);
}
Result<void> set_hostname(std::string_view name) {
    return set(host, name);
}
Result<void> set_domainname(std::string_view name) {
    return set(domain, name);
}

} // namespace kernel
