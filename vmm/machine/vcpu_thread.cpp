#include "vmm/machine/vcpu_thread.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>

namespace vmm {
namespace {

// Runs on the vCPU's thread only to interrupt KVM_RUN; immediate_exit does the rest.
void on_wake_signal(int) {}

int wake_signal() {
    return SIGRTMIN;
}

void let_wake_signal_through() {
    sigset_t set;
    sigfillset(&set);
    sigdelset(&set, wake_signal());
    // Raised by what the thread itself does; blocked, they would end the process unreported.
    for (const int fault : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGABRT, SIGSYS})
        sigdelset(&set, fault);
    pthread_sigmask(SIG_SETMASK, &set, nullptr);
}

} // namespace

Result<void> VcpuThread::install_signal() {
    struct sigaction action {};
    action.sa_handler = on_wake_signal; // no SA_RESTART: KVM_RUN shall return
    if (sigaction(wake_signal(), &action, nullptr) < 0)
        return fail(errno, "sigaction");
    return {};
}

Result<void> VcpuThread::launch(bool eager) {
    char name[16];
    std::snprintf(name, sizeof(name), "vcpu%u", index_);
    return thread_.start(name, [this, eager] { main(eager); });
}

Result<void> VcpuThread::wait_ready() {
    progress_.wait(Progress::Making);
    if (progress_.load() == Progress::Failed)
        return base::Failure(failure_);
    return {};
}

bool VcpuThread::start() {
    Order expected = Order::Wait;
    const bool first = order_.compare_exchange_strong(expected, Order::Run);
    order_.notify_all();
    return first;
}

void VcpuThread::stop() {
    order_.store(Order::Stop);
    order_.notify_all();
    // Either the thread sees the order before it enters the guest, or it has published its kvm_run
    // before it looked, and KVM_RUN returns at once or by the signal.
    if (kvm_run* run = run_.load())
        __atomic_store_n(&run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    if (thread_.started())
        thread_.signal(wake_signal());
}

bool VcpuThread::make() {
    auto made = owner_.make_vcpu(index_);
    if (!made) {
        failure_ = made.error();
        progress_.store(Progress::Failed);
        progress_.notify_all();
        return false;
    }
    vcpu_.emplace(std::move(*made));
    if (watched_) {
        if (auto statistics = vcpu_->statistics())
            statistics_.emplace(std::move(*statistics));
    }
    run_.store(&vcpu_->exit());
    progress_.store(Progress::Ready);
    progress_.notify_all();
    return true;
}

VcpuMetrics VcpuThread::metrics() const {
    VcpuMetrics out;
    for (const ExitKind kind : exit_kinds)
        out.exits[static_cast<std::size_t>(kind)] = exits_.of(kind);
    out.cpu_ns = thread_.cpu_ns();
    if (run_.load() != nullptr && statistics_)
        out.kvm = statistics_->read();
    return out;
}

void VcpuThread::main(bool eager) noexcept {
    let_wake_signal_through();
    // An eager vCPU's failure is wait_ready()'s answer.
    if (eager && !make())
        return;
    order_.wait(Order::Wait);
    if (stopping())
        return;
    if (!eager && !make()) {
        owner_.on_failure(index_, failure_);
        return;
    }
    if (auto allowed = owner_.before_first_run(index_); !allowed) {
        owner_.on_failure(index_, allowed.error());
        return;
    }
    run_loop();
}

void VcpuThread::run_loop() {
    while (!stopping()) {
        const int error = vcpu_->run();
        // EINTR: a signal; EAGAIN: a vCPU that waits for its start-up (KVM api.rst, KVM_RUN).
        if (error == EINTR || error == EAGAIN) {
            count(ExitKind::Interrupted);
            answer_inspection();
            continue;
        }
        if (error != 0) {
            owner_.on_failure(index_, Error{error, "KVM_RUN"});
            return;
        }
        if (!handle_exit())
            return;
    }
}

std::optional<kvm::Registers> VcpuThread::inspect() {
    kvm_run* run = run_.load();
    if (run == nullptr || order_.load() != Order::Run)
        return std::nullopt;
    std::unique_lock lock(inspection_.mutex);
    inspection_.registers.reset();
    inspection_.wanted = true;
    __atomic_store_n(&run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    thread_.signal(wake_signal());
    inspection_.answered.wait_for(lock, std::chrono::seconds(1),
                                  [this] { return !inspection_.wanted; });
    inspection_.wanted = false;
    return inspection_.registers;
}

void VcpuThread::answer_inspection() {
    // Before the order is looked at again: a stop() after this sets it anew, one before this is
    // seen.
    __atomic_store_n(&vcpu_->exit().immediate_exit, 0, __ATOMIC_SEQ_CST);
    const std::lock_guard lock(inspection_.mutex);
    if (!inspection_.wanted)
        return;
    if (auto registers = vcpu_->registers())
        inspection_.registers = *registers;
    inspection_.wanted = false;
    inspection_.answered.notify_all();
}

bool VcpuThread::handle_exit() {
    kvm_run& exit = vcpu_->exit();
    switch (exit.exit_reason) {
    case KVM_EXIT_MMIO: {
        const std::size_t length = std::min<std::size_t>(exit.mmio.len, sizeof(exit.mmio.data));
        const auto data = std::as_writable_bytes(std::span(exit.mmio.data)).first(length);
        return owner_.on_mmio(index_, *vcpu_, {exit.mmio.phys_addr, data, exit.mmio.is_write != 0});
    }
    case KVM_EXIT_INTR:
        count(ExitKind::Interrupted);
        return true;
    default:
        count(ExitKind::Other);
        owner_.on_unexpected_exit(index_, *vcpu_);
        return false;
    }
}

} // namespace vmm
