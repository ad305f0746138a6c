// The whole path from Vm::create() to the end of the guest, on the real /dev/kvm, with the test
// kernel.
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <dirent.h>
#include <fcntl.h>
#include <mutex>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

#include <sys/wait.h>

#include <catch2/catch.hpp>

#include "vmm/machine/vm.hpp"

using vmm::EndReason;

namespace {

class LineCollector {
public:
    void add(std::string_view line) {
        const std::lock_guard lock(mutex_);
        lines_.emplace_back(line);
    }
    std::vector<std::string> lines() {
        const std::lock_guard lock(mutex_);
        return lines_;
    }

private:
    std::mutex mutex_;
    std::vector<std::string> lines_;
};

std::string kernel_path() {
    const char* path = std::getenv("JOEY_TEST_KERNEL");
    return path != nullptr ? path : "";
}

void require_kvm() {
    INFO("these tests need read and write access to /dev/kvm");
    REQUIRE(access("/dev/kvm", R_OK | W_OK) == 0);
    INFO("JOEY_TEST_KERNEL must name the test kernel; meson test sets it");
    REQUIRE_FALSE(kernel_path().empty());
}

vmm::VmConfig config_for(const char* test) {
    require_kvm();
    vmm::VmConfig config;
    config.kernel_path = kernel_path();
    config.memory_bytes = 64u << 20;
    config.guest.args = {test};
    return config;
}

EndReason run(vmm::VmConfig config, vmm::VmHooks hooks = {}) {
    auto vm = vmm::Vm::create(std::move(config), std::move(hooks));
    INFO((vm ? "" : vmm::describe(vm.error())));
    REQUIRE(vm.has_value());
    return (*vm)->run();
}

bool contains(const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
}

std::size_t open_descriptors() {
    std::size_t count = 0;
    DIR* folder = opendir("/proc/self/fd");
    while (readdir(folder) != nullptr)
        ++count;
    closedir(folder);
    return count;
}

// Reads a number and answers its double; queue 0 by eventfd, queue 1 on the vCPU's thread.
class Doubler final : public virtio::Device {
public:
    Doubler()
        : Device(virtio::DeviceInfo{
              .id = 0x1234,
              .queues = {{4, virtio::NotifyStyle::Eventfd}, {4, virtio::NotifyStyle::Inline}}}) {}
    std::thread::id served_by(std::uint32_t queue) const { return served_by_.at(queue); }

protected:
    virtio::Checked<void> on_notify(std::uint32_t index) override {
        served_by_.at(index) = std::this_thread::get_id();
        virtio::Queue& requests = *queue(index);
        for (;;) {
            TRY(virtio::Chain chain, requests.pop());
            if (!chain)
                return {};
            virtio::ChainReader reader(chain);
            virtio::ChainWriter writer(chain);
            const std::uint32_t number = reader.read_object<std::uint32_t>().value_or(0);
            const bool fits = writer.write_object(2 * number);
            requests.complete(std::move(chain), fits ? 4 : 0);
        }
    }

private:
    std::array<std::thread::id, 2> served_by_;
};

} // namespace

TEST_CASE("a log record reaches the host, then the program's status") {
    LineCollector log;
    vmm::VmHooks hooks;
    hooks.log = [&](boot::LogLevel, std::string_view line) { log.add(line); };
    const EndReason end = run(config_for("log"), std::move(hooks));
    CHECK(end.report.empty());
    CHECK(end.kind == EndReason::Kind::ProgramExited);
    CHECK(log.lines() == std::vector<std::string>{"hello from the guest"});
}

TEST_CASE("the exit status is the guest's") {
    const EndReason end = run(config_for("exit-7"));
    CHECK(end.kind == EndReason::Kind::ProgramExited);
    CHECK(WEXITSTATUS(end.wait_status) == 7);
}

TEST_CASE("boot block, clock, RAM and XCR0 are as promised") {
    LineCollector log;
    vmm::VmHooks hooks;
    hooks.log = [&](boot::LogLevel, std::string_view line) { log.add(line); };
    vmm::VmConfig config = config_for("boot-block");
    SECTION("with low RAM only") {}
    SECTION("with RAM above 4 GiB") {
        config.memory_bytes = 4ull << 30;
    }
    SECTION("with the least memory and many CPUs") {
        config.memory_bytes = vmm::min_memory_bytes;
        config.cpus = 64;
    }
    const EndReason end = run(std::move(config), std::move(hooks));
    CHECK(log.lines().empty());
    CHECK(end.kind == EndReason::Kind::ProgramExited);
    CHECK(end.wait_status == 0);
}

TEST_CASE("a program that could not be started has its own end") {
    const EndReason end = run(config_for("not-found"));
    CHECK(end.kind == EndReason::Kind::ExecFailed);
    CHECK(end.exec_errno == ENOENT);
}

TEST_CASE("a panic is reported with registers, backtrace and code") {
    const EndReason end = run(config_for("panic"));
    CHECK(end.kind == EndReason::Kind::GuestPanic);
    INFO(end.report);
    CHECK(contains(end.report, "guest kernel panic: deliberate"));
    CHECK(contains(end.report, "panic_deep(bool)"));
    CHECK(contains(end.report, "panic_caller(bool)"));
    CHECK(contains(end.report, "kernel_main+"));
    CHECK(contains(end.report, "exception 14 (page fault)"));
    CHECK(contains(end.report, "cr2 000000000000dead"));
    CHECK(contains(end.report, "->"));
}

TEST_CASE("a panic without registers is reported from where the vCPU stands") {
    const EndReason end = run(config_for("panic-bare"));
    CHECK(end.kind == EndReason::Kind::GuestPanic);
    INFO(end.report);
    CHECK(contains(end.report, "panic_caller(bool)"));
    CHECK(contains(end.report, "code:\n"));
}

TEST_CASE("a triple fault names the faulting function and its instruction") {
    const EndReason end = run(config_for("triple-fault"));
    CHECK(end.kind == EndReason::Kind::GuestFault);
    INFO(end.report);
    CHECK(contains(end.report, "triple fault"));
    // AMD's hardware virtualization does not keep the registers.
    const bool lost = contains(end.report, "its registers are lost");
    CHECK((lost || contains(end.report, "kernel_main+")));
    CHECK((lost || contains(end.report, "ud2")));
}

TEST_CASE("a guest that breaks the rules is ended with a report") {
    const char* test = GENERATE("bad-record", "bad-size", "wild-write");
    const EndReason end = run(config_for(test));
    CHECK(end.kind == EndReason::Kind::GuestViolation);
    INFO(end.report);
    CHECK(contains(end.report, "broke the rules"));
    CHECK(contains(end.report, "kernel_main+"));
}

TEST_CASE("the kernel cannot write its own code") {
    const EndReason end = run(config_for("write-text"));
    CHECK(end.kind == EndReason::Kind::GuestFault);
}

TEST_CASE("the guest starts its other CPUs, each once") {
    vmm::VmConfig config = config_for("start-cpus");
    config.cpus = 4;
    std::atomic<int> threads{0};
    vmm::VmHooks hooks;
    hooks.on_thread_start = [&](vmm::ThreadClass) -> vmm::Result<void> {
        threads.fetch_add(1);
        return {};
    };
    const EndReason end = run(std::move(config), std::move(hooks));
    INFO(end.report);
    CHECK(end.kind == EndReason::Kind::ProgramExited);
    CHECK(threads.load() == 4);

    vmm::VmConfig twice = config_for("start-twice");
    twice.cpus = 2;
    CHECK(run(std::move(twice)).kind == EndReason::Kind::GuestViolation);
}

TEST_CASE("a device is served by doorbell and inline, and interrupts") {
    Doubler device;
    LineCollector log;
    vmm::VmHooks hooks;
    hooks.log = [&](boot::LogLevel, std::string_view line) { log.add(line); };
    auto vm = vmm::Vm::create(config_for("device"), std::move(hooks));
    REQUIRE(vm.has_value());
    const auto number = (*vm)->add_device(device);
    REQUIRE(number.has_value());
    CHECK(*number == 0);
    const EndReason end = (*vm)->run();
    INFO(end.report);
    CHECK(log.lines().empty());
    CHECK(end.kind == EndReason::Kind::ProgramExited);
    CHECK(end.wait_status == 0);
    CHECK(device.served_by(0) == std::this_thread::get_id());
    CHECK(device.served_by(1) != std::this_thread::get_id());
}

TEST_CASE("stop ends a guest that spins on all CPUs") {
    vmm::VmConfig config = config_for("spin");
    config.cpus = 2;
    vmm::Vm* running = nullptr;
    vmm::VmHooks hooks;
    hooks.log = [&](boot::LogLevel, std::string_view) { running->stop(); };
    auto vm = vmm::Vm::create(std::move(config), std::move(hooks));
    REQUIRE(vm.has_value());
    running = vm->get();
    CHECK((*vm)->run().kind == EndReason::Kind::Stopped);
}

TEST_CASE("a running guest's CPUs can be looked at, and go on") {
    vmm::VmConfig config = config_for("spin");
    config.cpus = 2;
    vmm::Vm* running = nullptr;
    std::string text;
    vmm::VmHooks hooks;
    hooks.log = [&](boot::LogLevel, std::string_view) {
        running->event_loop().post([&] {
            text = running->describe_cpus() + running->describe_cpus();
            running->stop();
        });
    };
    auto vm = vmm::Vm::create(std::move(config), std::move(hooks));
    REQUIRE(vm.has_value());
    running = vm->get();
    CHECK((*vm)->run().kind == EndReason::Kind::Stopped);
    INFO(text);
    CHECK(contains(text, "vCPU 0 at kernel_main+"));
    CHECK(contains(text, "vCPU 1 at kernel_main+"));
    CHECK_FALSE(contains(text, "not running"));
}

TEST_CASE("an error before the guest starts ends the machine, and nothing is left behind") {
    const std::size_t before = open_descriptors();
    vmm::VmHooks hooks;
    hooks.before_guest = []() -> vmm::Result<void> { return vmm::fail(EPERM, "sandbox"); };
    const EndReason end = run(config_for("log"), std::move(hooks));
    CHECK(end.kind == EndReason::Kind::HostFailure);
    CHECK(end.report == "sandbox: Operation not permitted");
    CHECK(open_descriptors() == before);
}

TEST_CASE("a machine that is never run goes away") {
    const std::size_t before = open_descriptors();
    {
        auto vm = vmm::Vm::create(config_for("log"), {});
        REQUIRE(vm.has_value());
    }
    CHECK(open_descriptors() == before);
}

TEST_CASE("bad configurations are refused with a sentence") {
    vmm::VmConfig config = config_for("log");
    SECTION("no CPU") {
        config.cpus = 0;
    }
    SECTION("too many CPUs") {
        config.cpus = 9999;
    }
    SECTION("too little memory") {
        config.memory_bytes = 1u << 20;
    }
    SECTION("no kernel") {
        config.kernel_path = "/nonexistent/joey-kernel";
    }
    SECTION("not a kernel") {
        config.kernel_path = "/proc/self/exe";
    }
    const auto vm = vmm::Vm::create(std::move(config), {});
    REQUIRE_FALSE(vm.has_value());
    const std::string text = vmm::describe(vm.error());
    CHECK_FALSE(text.empty());
    CHECK_FALSE(contains(text, "\n"));
}
