#include "vmm/machine/thread.hpp"

#include <csignal>

namespace vmm {
namespace {

void* run_body(void* body) noexcept {
    (*static_cast<std::function<void()>*>(body))();
    return nullptr;
}

// Deep enough for every thread of the machine; the default, 8 MiB of address space, counts against
// RLIMIT_AS and with many vCPUs.
constexpr std::size_t stack_size = 256u << 10;

} // namespace

Result<void> Thread::start(const char* name, std::function<void()> body) {
    body_ = std::make_unique<std::function<void()>>(std::move(body));
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, stack_size);
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int error = pthread_create(&handle_, &attributes, run_body, body_.get());
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    pthread_attr_destroy(&attributes);
    if (error != 0) {
        body_.reset();
        return fail(error, "start a thread");
    }
    pthread_setname_np(handle_, name);
    return {};
}

void Thread::join() {
    if (body_ == nullptr)
        return;
    pthread_join(handle_, nullptr);
    body_.reset();
}

} // namespace vmm
