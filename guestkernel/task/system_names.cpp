#include "guestkernel/task/system_names.hpp"

#include "guestkernel/core/boot_config.hpp"
#include "guestkernel/core/lock.hpp"

namespace kernel {

namespace {

struct Names {
    char host[65] = {}, domain[65] = {};
    bool set = false;
};
constinit Guarded<Names, LockRank::Leaf> names;

void copy(char (&to)[65], std::string_view from) {
    usize i = 0;
    for (; i < from.size() && i < sizeof to - 1; i++)
        to[i] = from[i];
    for (; i < sizeof to; i++)
        to[i] = '\0';
}

void init(Names& state) {
    if (state.set)
        return;
    copy(state.host, boot_config().hostname);
    copy(state.domain, "(none)");
    state.set = true;
}

} // namespace

SystemNames system_names() {
    // The release is that of the Linux whose ABI this is: glibc and others refuse what looks too
    // old.
    SystemNames out = {};
    copy(out.system, "Linux");
    copy(out.release, "6.1.0-joey");
    copy(out.version, "#1 SMP Joey 0.1.0");
    copy(out.machine, "x86_64");
    auto state = names.lock();
    init(*state);
    copy(out.node, state->host);
    copy(out.domain, state->domain);
    return out;
}

void set_host_name(std::string_view name) {
    auto state = names.lock();
    init(*state);
    copy(state->host, name);
}

void set_domain_name(std::string_view name) {
    auto state = names.lock();
    init(*state);
    copy(state->domain, name);
}

} // namespace kernel
