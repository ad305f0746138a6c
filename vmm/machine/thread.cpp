#include "vmm/machine/thread.hpp"

#include <csignal>
#include <ctime>

#include <sys/prctl.h>

namespace vmm {
namespace {

// Deep enough for every thread of the machine; the default, 8 MiB of address space, counts against
// RLIMIT_AS and with many vCPUs.
constexpr std::size_t stack_size = 256u << 10;

} // namespace

void* Thread::main(void* start) noexcept {
    const Start& self = *static_cast<Start*>(start);
    // From within: pthread_setname_np() of another thread goes through /proc.
    prctl(PR_SET_NAME, self.name.c_str());
    self.body();
    return nullptr;
}

Result<void> Thread::start(const char* name, std::function<void()> body) {
    start_ = std::make_unique<Start>(Start{name, std::move(body)});
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, stack_size);
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int error = pthread_create(&handle_, &attributes, main, start_.get());
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    pthread_attr_destroy(&attributes);
    if (error != 0) {
        start_.reset();
        return fail(error, "start a thread");
    }
    return {};
}

std::uint64_t Thread::cpu_ns() const {
    clockid_t clock{};
    timespec used{};
    if (!started() || pthread_getcpuclockid(handle_, &clock) != 0 ||
        clock_gettime(clock, &used) != 0)
        return 0;
    return static_cast<std::uint64_t>(used.tv_sec) * 1'000'000'000 +
           static_cast<std::uint64_t>(used.tv_nsec);
}

void Thread::join() {
    if (start_ == nullptr)
        return;
    pthread_join(handle_, nullptr);
    start_.reset();
}

} // namespace vmm
