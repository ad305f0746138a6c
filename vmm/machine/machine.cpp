#include "vmm/machine/machine.hpp"

#include <algorithm>
#include <cstring>
#include <ctime>
#include <x86intrin.h>

#include <fmt/format.h>

#include "boot/elf/symbols.hpp"
#include "boot/fdt/device_tree.hpp"
#include "boot/handover/boot_area.hpp"
#include "boot/handover/cpu_state.hpp"
#include "boot/protocol/layout.hpp"
#include "vmm/machine/exits.hpp"

namespace vmm {
namespace {

using boot::page_size;

Result<void> check(const VmConfig& config) {
    if (config.cpus < 1 || config.cpus > boot::max_cpus)
        return fail(0, "the number of CPUs must be between 1 and 64");
    if (config.memory_bytes < min_memory_bytes)
        return fail(0, "the machine needs at least 32 MiB of memory");
    if (config.memory_bytes > max_memory_bytes)
        return fail(0, "the machine can have at most 1 TiB of memory");
    return {};
}

// KVM's shadow page tables are capped at 2 % of the guest's pages and recycled beyond, at a high
// price; many processes in a small guest need more. Without shadow paging this changes nothing.
std::uint64_t shadow_pages(std::uint64_t memory_bytes) {
    constexpr std::uint64_t least = 32768;
    return std::max(least, memory_bytes / page_size / 16);
}

Result<kvm::Cpuid> find_cpuid(const kvm::VmHandle& vm) {
    TRY(kvm::Cpuid cpuid, vm.supported_cpuid());
    if (!kvm::host_has_vmx() && !kvm::host_has_svm())
        cpuid.add_native_instructions(kvm::host_cpuid);
    if (const char* missing = cpuid.missing())
        return fail(0, missing);
    return cpuid;
}

std::uint64_t wall_clock_now() {
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
           static_cast<std::uint64_t>(now.tv_nsec);
}

} // namespace

// The control page as one vCPU uses it.
class Machine::Control final : public ControlSink {
public:
    Control(Machine& machine, unsigned index, kvm::Vcpu& vcpu)
        : machine_(machine), index_(index), vcpu_(vcpu) {}

    void on_log(boot::LogLevel level, std::string_view text) override {
        if (machine_.hooks_.log)
            machine_.hooks_.log(level, text);
    }
    void on_exit(std::uint32_t wait_status) override {
        EndReason reason;
        reason.kind = EndReason::Kind::ProgramExited;
        reason.wait_status = static_cast<int>(wait_status);
        reason.exec_errno = machine_.exec_errno_.load();
        if (reason.exec_errno != 0)
            reason.kind = EndReason::Kind::ExecFailed;
        machine_.end(std::move(reason));
        ended_ = true;
    }
    void on_panic(const boot::PanicRecord& record) override {
        crash::Crash crash = describe_panic(record, index_, vcpu_);
        EndReason reason;
        reason.kind = EndReason::Kind::GuestPanic;
        machine_.end(std::move(reason), std::move(crash));
        ended_ = true;
    }
    void on_mark(boot::Mark mark) override { machine_.mark(name_of(mark), true); }
    base::Result<void, Violation> on_start_cpu(std::uint32_t cpu) override {
        if (cpu >= machine_.vcpus_.size())
            return base::Failure(Violation{"a start of a CPU that the machine does not have"});
        if (!machine_.vcpus_[cpu]->start())
            return base::Failure(Violation{"a start of a CPU that was started before"});
        return {};
    }
    void on_exec_failed(std::uint32_t error_number) override {
        // At least 1, so that it is an error in any case.
        machine_.exec_errno_.store(std::clamp(static_cast<int>(error_number), 1, 4095));
    }

    bool ended() const { return ended_; }

private:
    Machine& machine_;
    const unsigned index_;
    kvm::Vcpu& vcpu_;
    bool ended_ = false;
};

Result<std::unique_ptr<Vm>> Vm::create(VmConfig config, VmHooks hooks) {
    TRY(std::unique_ptr<Machine> machine, Machine::create(std::move(config), std::move(hooks)));
    return std::unique_ptr<Vm>(std::move(machine));
}

Result<std::unique_ptr<Machine>> Machine::create(VmConfig config, VmHooks hooks) {
    if (config.process_start_tsc == 0)
        config.process_start_tsc = __rdtsc();
    TRY(check(config));
    config.memory_bytes -= config.memory_bytes % page_size;
    TRY(const boot::Privilege privilege, kvm::choose_privilege(config.privilege));
    if (config.kernel_path.empty()) {
        TRY(config.kernel_path, find_kernel());
    }
    TRY(std::unique_ptr<EventLoop> loop, EventLoop::create());
    TRY(kvm::VmHandle vm, kvm::VmHandle::create());
    const std::uint64_t kvm_created = __rdtsc();
    TRY(MachineMemory memory, MachineMemory::create(config.memory_bytes, config.kernel_path));
    const std::uint64_t kernel_loaded = __rdtsc();
    std::unique_ptr<Machine> machine(new Machine(std::move(config), std::move(hooks), privilege,
                                                 std::move(loop), std::move(vm),
                                                 std::move(memory)));
    machine->timing_.with([&](std::vector<TimingMark>& marks) {
        marks.reserve(32);
        marks.push_back({"process start", machine->config_.process_start_tsc, false});
        marks.push_back({"KVM machine created", kvm_created, false});
        marks.push_back({"kernel image loaded", kernel_loaded, false});
    });
    TRY(machine->set_up());
    return machine;
}

Machine::Machine(VmConfig config, VmHooks hooks, boot::Privilege privilege,
                 std::unique_ptr<EventLoop> loop, kvm::VmHandle vm, MachineMemory memory)
    : config_(std::move(config)), hooks_(std::move(hooks)), privilege_(privilege),
      loop_(std::move(loop)), memory_(std::move(memory)), vm_(std::move(vm)) {}

Machine::~Machine() {
    order_rest(RestOrder::Never);
    for (const auto& vcpu : vcpus_)
        vcpu->stop();
    stop_side_loops();
}

Result<void> Machine::set_up() {
    TRY(VcpuThread::install_signal());
    for (unsigned i = 0; i < config_.cpus; ++i)
        vcpus_.push_back(std::make_unique<VcpuThread>(i, *this, config_.watched));
    // The first makes its vCPU now, beside what follows and the caller's own set-up; the others
    // when the guest starts them.
    for (unsigned i = 0; i < config_.cpus; ++i)
        TRY(vcpus_[i]->launch(i == 0));
    TRY(memory_thread_.start("memory", [this] { provide_memory(); }));
    TRY(vm_.set_mmu_pages(shadow_pages(config_.memory_bytes)));
    TRY(memory_.attach_first(vm_));
    mark("first memory attached");
    return {};
}

Result<unsigned> Machine::add_device(virtio::Device& device) {
    const auto number = static_cast<unsigned>(devices_.size());
    if (number >= boot::max_virtio_devices)
        return fail(0, "the machine has room for 64 devices and no more (volumes are devices)");
    TRY(std::unique_ptr<DeviceSlot> slot,
        DeviceSlot::create(number, device, memory_.guest(), memory_.device_page(number)));
    devices_.push_back(std::move(slot));
    return number;
}

Result<virtio::EventLoop*> Machine::add_event_loop(ThreadClass thread_class,
                                                   const char* thread_name) {
    TRY(std::unique_ptr<EventLoop> loop, EventLoop::create());
    side_loops_.emplace_back(new SideLoop{thread_class, thread_name, std::move(loop), {}});
    return side_loops_.back()->loop.get();
}

Result<void> Machine::start_side_loops() {
    for (const auto& side : side_loops_) {
        TRY(side->thread.start(side->name, [this, &side = *side] {
            const auto body = [&]() -> Result<void> {
                if (hooks_.on_thread_start)
                    TRY(hooks_.on_thread_start(side.thread_class));
                return side.loop->run();
            };
            if (auto done = body(); !done)
                on_failure(0, done.error());
        }));
    }
    return {};
}

void Machine::stop_side_loops() {
    for (const auto& side : side_loops_)
        side->loop->stop();
    for (const auto& side : side_loops_)
        side->thread.join();
}

Result<kvm::Vcpu> Machine::make_vcpu(unsigned index) {
    TRY(kvm::Vcpu vcpu, vm_.create_vcpu(index));
    // Asked for once (0.4 ms); the other vCPUs are made after the first has run.
    if (index == 0) {
        TRY(cpuid_, find_cpuid(vm_));
    }
    TRY(vcpu.set_cpuid(cpuid_->for_cpu(index, config_.cpus)));
    // A KVM without this attribute (before Linux 5.16) begins the guest's TSC at zero; only the
    // clock of --timing suffers.
    [[maybe_unused]] const auto aligned = vcpu.align_tsc();
    TRY(vcpu.set_state(
        boot::initial_cpu_state(index, privilege_, memory_.kernel().entry, cpuid_->features()),
        cpuid_->xcr0()));
    return vcpu;
}

Result<void> Machine::before_first_run(unsigned) {
    return hooks_.on_thread_start ? hooks_.on_thread_start(ThreadClass::Vcpu) : Result<void>();
}

Result<void> Machine::write_boot_area() {
    auto tree = boot::build_device_tree(config_.guest, static_cast<unsigned>(devices_.size()));
    if (!tree)
        return fail(0, tree.error().reason);
    boot::BootParameters parameters{};
    parameters.privilege = privilege_;
    parameters.cpus = config_.cpus;
    parameters.low_ram_end = memory_.low_ram_end();
    parameters.high_ram_end = memory_.high_ram_end();
    parameters.tsc_khz = tsc_khz_;
    // By the guest's own TSC, which need not be the host's: the guest's clock would be wrong by
    // what lies between the two, for as long as it lives.
    const auto guest_tsc = vcpus_[0]->vcpu().tsc();
    parameters.wall_clock_ns = wall_clock_now();
    parameters.wall_clock_tsc = guest_tsc ? *guest_tsc : __rdtsc();
    parameters.process_start_tsc = config_.process_start_tsc;
    auto written = boot::write_boot_area(memory_.low_ram(), parameters, memory_.kernel(), *tree);
    if (!written)
        return fail(0, written.error().reason);
    return {};
}

Result<void> Machine::run_guest() {
    std::vector<std::uint8_t> vectors;
    for (unsigned i = 0; i < devices_.size(); ++i)
        vectors.push_back(boot::device_vector(i));
    if (!devices_.empty())
        TRY(vm_.set_msi_routes(vectors));
    for (const auto& device : devices_)
        TRY(device->connect(vm_, *loop_));
    mark("devices connected");
    // After the doorbells: they wait for the same lock in KVM.
    order_rest(RestOrder::Attach);
    TRY(vcpus_[0]->wait_ready());
    TRY(tsc_khz_, vcpus_[0]->vcpu().tsc_khz());
    mark("vCPU ready");
    TRY(write_boot_area());
    mark("boot area written");
    TRY(start_side_loops());
    if (hooks_.before_guest)
        TRY(hooks_.before_guest());
    mark("guest started");
    vcpus_[0]->start();
    return loop_->run();
}

EndReason Machine::run() {
    if (auto ran = run_guest(); !ran)
        on_failure(0, ran.error());
    for (const auto& vcpu : vcpus_)
        vcpu->stop();
    for (const auto& vcpu : vcpus_)
        vcpu->join();
    stop_side_loops();
    deliver_last_output();
    order_rest(RestOrder::Never);
    memory_thread_.join();
    for (const auto& device : devices_) {
        device->disconnect(*loop_);
        device->transport().stop();
    }
    mark("guest ended");
    return conclude();
}

void Machine::deliver_last_output() {
    if (!hooks_.last_output)
        return;
    const auto delivered = std::make_shared<bool>(false);
    hooks_.last_output([delivered] { *delivered = true; });
    // A reader that takes nothing cannot keep us here; neither can a failing wait.
    constexpr int patience_ms = 2000;
    [[maybe_unused]] const auto waited =
        loop_->run_until([&delivered] { return *delivered; }, patience_ms);
}

EndReason Machine::conclude() {
    std::optional<End> end =
        end_.with([](std::optional<End>& first) { return std::exchange(first, std::nullopt); });
    if (!end)
        return {};
    if (end->crash) {
        const boot::SymbolTable symbols(memory_.kernel_file());
        end->reason.report = crash::write_report(*end->crash, memory_.guest(), symbols);
    }
    return std::move(end->reason);
}

std::string Machine::describe_cpus() {
    const boot::SymbolTable symbols(memory_.kernel_file());
    std::string text;
    for (unsigned i = 0; i < vcpus_.size(); ++i) {
        if (i != 0)
            text += '\n';
        if (const auto registers = vcpus_[i]->inspect())
            text += crash::write_report(describe_crash("on request:", i, *registers),
                                        memory_.guest(), symbols);
        else
            text += fmt::format("vCPU {} is not running the guest", i);
    }
    return text;
}

void Machine::stop() {
    loop_->stop();
}

void Machine::end(EndReason reason, std::optional<crash::Crash> crash) {
    end_.with([&](std::optional<End>& first) {
        if (!first)
            first = End{std::move(reason), std::move(crash)};
    });
    loop_->stop();
}

void Machine::mark(std::string_view name, bool from_guest) {
    // A guest may write marks for ever.
    constexpr std::size_t max_marks = 1000;
    timing_.with([&](std::vector<TimingMark>& marks) {
        if (marks.size() < max_marks)
            marks.push_back({name, __rdtsc(), from_guest});
    });
}

std::vector<TimingMark> Machine::timing() const {
    return timing_.with([](const std::vector<TimingMark>& marks) { return marks; });
}

MachineMetrics Machine::metrics() const {
    MachineMetrics out;
    for (unsigned i = 0; i < vcpus_.size(); ++i) {
        VcpuMetrics cpu = vcpus_[i]->metrics();
        const virtio::GuestAddr at(boot::cpu_areas_phys + i * boot::cpu_area_size +
                                   boot::cpu_area_counters);
        if (const auto counters = memory_.guest().read_object<boot::CpuCounters>(at))
            cpu.guest = *counters;
        out.cpus.push_back(std::move(cpu));
    }
    for (const auto& device : devices_)
        out.devices.push_back(device->metrics());
    out.ram_bytes = config_.memory_bytes;
    out.ram_backed_bytes = memory_.backed_bytes();
    timespec used{};
    if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used) == 0)
        out.process_cpu_ns = static_cast<std::uint64_t>(used.tv_sec) * 1'000'000'000 +
                             static_cast<std::uint64_t>(used.tv_nsec);
    if (tsc_khz_ != 0) {
        constexpr std::uint64_t per_millisecond = 1'000'000;
        const std::uint64_t cycles = __rdtsc() - config_.process_start_tsc;
        out.since_start_ns =
            cycles / tsc_khz_ * per_millisecond + cycles % tsc_khz_ * per_millisecond / tsc_khz_;
    }
    return out;
}

void Machine::provide_memory() {
    memory_.populate();
    rest_may_attach_.wait(RestOrder::Wait);
    if (rest_may_attach_.load() == RestOrder::Never)
        return;
    if (auto attached = memory_.attach_rest(vm_); !attached)
        on_failure(0, attached.error());
    mark("all memory attached");
    all_memory_attached_.store(true);
    all_memory_attached_.notify_all();
}

void Machine::order_rest(RestOrder order) {
    RestOrder none = RestOrder::Wait;
    rest_may_attach_.compare_exchange_strong(none, order);
    rest_may_attach_.notify_all();
}

// The guest was quicker than provide_memory(): waits for it, and does the one access by hand.
bool Machine::access_ram(const MmioAccess& access) {
    const auto ram = memory_.guest().slice(virtio::GuestAddr(access.address), access.data.size());
    if (!ram)
        return false;
    all_memory_attached_.wait(false);
    if (access.is_write)
        ram->copy_from(0, access.data);
    else
        ram->copy_to(0, access.data);
    return true;
}

bool Machine::write_device(const MmioAccess& access) {
    const std::uint64_t offset = access.address - boot::virtio_mmio_base;
    const std::uint64_t number = offset / boot::virtio_mmio_stride;
    if (access.address < boot::virtio_mmio_base || number >= devices_.size())
        return false;
    std::uint64_t value = 0;
    std::memcpy(&value, access.data.data(), access.data.size());
    devices_[number]->write(static_cast<std::uint32_t>(offset % boot::virtio_mmio_stride),
                            static_cast<std::uint32_t>(access.data.size()), value);
    return true;
}

bool Machine::on_mmio(unsigned index, kvm::Vcpu& vcpu, const MmioAccess& access) {
    const bool is_control =
        access.address >= boot::control_page && access.address - boot::control_page < page_size;
    VcpuThread& thread = *vcpus_[index];
    if (access_ram(access)) {
        thread.count(ExitKind::Memory);
        return true;
    }
    thread.count(is_control ? ExitKind::Control : ExitKind::Device);
    if (!access.is_write) {
        std::ranges::fill(access.data, std::byte{0});
        if (is_control)
            return true;
        violation(index, vcpu,
                  fmt::format("a read of physical {:#x}, where nothing is", access.address));
        return false;
    }
    if (is_control) {
        Control control(*this, index, vcpu);
        auto done = write_control(memory_.guest(), access.address - boot::control_page, access.data,
                                  control);
        if (!done) {
            violation(index, vcpu, done.error().what);
            return false;
        }
        return !control.ended();
    }
    if (write_device(access))
        return true;
    violation(index, vcpu,
              fmt::format("a write to physical {:#x}, where nothing is", access.address));
    return false;
}

void Machine::violation(unsigned index, kvm::Vcpu& vcpu, const std::string& what) {
    EndReason reason;
    reason.kind = EndReason::Kind::GuestViolation;
    end(std::move(reason),
        describe_crash("the guest kernel broke the rules: " + what, index, vcpu));
}

void Machine::on_unexpected_exit(unsigned index, kvm::Vcpu& vcpu) {
    EndReason reason;
    reason.kind = EndReason::Kind::GuestFault;
    end(std::move(reason), describe_crash(describe_exit(vcpu.exit()), index, vcpu));
}

void Machine::on_failure(unsigned index, const Error& error) {
    EndReason reason;
    reason.kind = EndReason::Kind::HostFailure;
    reason.report = describe(error);
    if (index != 0)
        reason.report += fmt::format(" (vCPU {})", index);
    end(std::move(reason));
}

} // namespace vmm
