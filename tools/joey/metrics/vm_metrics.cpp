#include "tools/joey/metrics/vm_metrics.hpp"

#include <algorithm>
#include <set>

#include <linux/fuse.h>

#include "tools/joey/metrics/exposition.hpp"
#include "vmm/sandbox/sandbox.hpp"

namespace joey {

namespace {

constexpr auto counter = MetricKind::Counter;
constexpr auto gauge = MetricKind::Gauge;

double seconds(std::uint64_t nanoseconds) {
    return static_cast<double>(nanoseconds) / 1e9;
}

const char* name_of_request(std::size_t operation) {
    switch (operation) {
    case FUSE_LOOKUP:
        return "lookup";
    case FUSE_GETATTR:
        return "getattr";
    case FUSE_OPEN:
        return "open";
    case FUSE_CREATE:
        return "create";
    case FUSE_READ:
        return "read";
    case FUSE_WRITE:
        return "write";
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
        return "readdir";
    case FUSE_READLINK:
        return "readlink";
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
        return "forget";
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
        return "release";
    case FUSE_FSYNC:
    case FUSE_FSYNCDIR:
    case FUSE_SYNCFS:
        return "fsync";
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR:
    case FUSE_SETXATTR:
    case FUSE_REMOVEXATTR:
        return "xattr";
    case FUSE_SETATTR:
        return "setattr";
    case FUSE_MKNOD:
    case FUSE_MKDIR:
    case FUSE_SYMLINK:
    case FUSE_LINK:
    case FUSE_UNLINK:
    case FUSE_RMDIR:
    case FUSE_RENAME:
    case FUSE_RENAME2:
    case FUSE_TMPFILE:
        return "change_name";
    default:
        return "other";
    }
}

void write_vcpus(Exposition& out, const vmm::MachineMetrics& machine) {
    out.family("joey_vcpu_cpu_seconds_total", counter,
               "CPU time of the vCPU's thread, in the guest and for it.");
    for (std::size_t i = 0; i < machine.cpus.size(); ++i)
        out.sample({{"vcpu", std::to_string(i)}}, seconds(machine.cpus[i].cpu_ns));
    out.family("joey_vcpu_exits_total", counter,
               "Exits that the vCPU's thread served, by reason; KVM's own are joey_kvm_*.");
    for (std::size_t i = 0; i < machine.cpus.size(); ++i) {
        for (const vmm::ExitKind kind : vmm::exit_kinds)
            out.sample({{"vcpu", std::to_string(i)}, {"reason", vmm::name_of(kind)}},
                       machine.cpus[i].exits[static_cast<std::size_t>(kind)]);
    }
    // All have the same fields, in the same order; one that is not started has none.
    std::set<std::string> names;
    for (const vmm::VcpuMetrics& cpu : machine.cpus) {
        for (const auto& field : cpu.kvm)
            names.insert(field.name + (field.cumulative ? "_total" : ""));
    }
    for (std::size_t i = 0; i < machine.cpus.size(); ++i) {
        for (const auto& field : machine.cpus[i].kvm) {
            out.family("joey_kvm_" + field.name + (field.cumulative ? "_total" : ""),
                       field.cumulative ? counter : gauge, "KVM's own statistic of this name.");
            out.sample({{"vcpu", std::to_string(i)}}, field.value);
        }
    }
}

void write_guest(Exposition& out, const vmm::MachineMetrics& machine) {
    std::vector<std::uint64_t> calls(boot::syscall_slots);
    std::uint64_t minor = 0;
    std::uint64_t major = 0;
    std::uint64_t unknown = 0;
    for (const vmm::VcpuMetrics& cpu : machine.cpus) {
        minor += cpu.guest.minor_faults;
        major += cpu.guest.major_faults;
        unknown += cpu.guest.other_syscalls;
        for (std::uint32_t slot = 0; slot < boot::syscall_slots; ++slot)
            calls[slot] += cpu.guest.syscalls[slot];
    }
    out.family("joey_guest_syscalls_total", counter,
               "System calls that the guest's kernel took, by name, as it counts them.");
    for (std::uint32_t slot = 0; slot < boot::syscall_slots; ++slot) {
        if (calls[slot] == 0)
            continue;
        const std::uint32_t number = boot::syscall_number(slot);
        const char* name = vmm::syscall_name(number);
        out.sample({{"call", name[0] != '\0' ? std::string(name) : std::to_string(number)}},
                   calls[slot]);
    }
    out.sample({{"call", "unknown"}}, unknown);
    out.family("joey_guest_page_faults_total", counter,
               "Page faults of programs in the guest, as its kernel counts them.");
    out.sample({{"kind", "minor"}}, minor);
    out.sample({{"kind", "major"}}, major);
}

void write_queues(Exposition& out, const std::vector<WatchedDevice>& devices) {
    struct Column {
        const char* name;
        const char* help;
        base::Atomic<std::uint64_t> virtio::QueueTraffic::*value;
    };
    constexpr Column columns[] = {
        {"joey_device_requests_total", "Requests of the guest that a device's queue has done.",
         &virtio::QueueTraffic::chains},
        {"joey_device_from_guest_bytes_total", "Bytes that the guest gave to a device's queue.",
         &virtio::QueueTraffic::from_driver},
        {"joey_device_to_guest_bytes_total", "Bytes that a device's queue gave to the guest.",
         &virtio::QueueTraffic::to_driver},
    };
    for (const Column& column : columns) {
        out.family(column.name, counter, column.help);
        for (std::size_t i = 0; i < devices.size(); ++i) {
            const auto traffic = devices[i].device->traffic();
            for (std::size_t queue = 0; queue < traffic.size(); ++queue)
                out.sample({{"device", std::to_string(i)},
                            {"kind", devices[i].kind},
                            {"name", devices[i].name},
                            {"queue", std::to_string(queue)}},
                           (traffic[queue].*column.value).load(base::Order::Relaxed));
        }
    }
}

void write_devices(Exposition& out, const vmm::MachineMetrics& machine,
                   const std::vector<WatchedDevice>& devices) {
    const std::size_t count = std::min(devices.size(), machine.devices.size());
    const auto each = [&](auto value) {
        for (std::size_t i = 0; i < count; ++i)
            out.sample({{"device", std::to_string(i)},
                        {"kind", devices[i].kind},
                        {"name", devices[i].name}},
                       value(machine.devices[i]));
    };
    out.family("joey_device_notifications_total", counter, "Notifications of the guest's driver.");
    each([](const vmm::DeviceMetrics& one) { return one.notifications; });
    out.family("joey_device_interrupts_total", counter, "Interrupts that the device has raised.");
    each([](const vmm::DeviceMetrics& one) { return one.interrupts; });
    out.family("joey_fs_requests_total", counter, "Requests to a share of the host's files.");
    for (const WatchedDevice& one : devices) {
        if (one.fs == nullptr)
            continue;
        std::map<std::string, std::uint64_t> by_name;
        const auto requests = one.fs->server().requests();
        for (std::size_t i = 0; i < requests.size(); ++i)
            by_name[name_of_request(i)] += requests[i];
        for (const auto& [name, value] : by_name)
            out.sample({{"name", one.name}, {"request", name}}, value);
    }
}

void write_network(Exposition& out, const std::vector<WatchedDevice>& devices) {
    for (const WatchedDevice& one : devices) {
        if (one.net == nullptr)
            continue;
        const virtio::NetCounters counts = one.net->counters();
        out.family("joey_net_packets_total", counter,
                   "Packets of the guest's network interface, by direction as the guest sees it.");
        out.sample({{"direction", "receive"}}, counts.received);
        out.sample({{"direction", "transmit"}}, counts.sent);
        out.family("joey_net_dropped_total", counter,
                   "Packets that were dropped: no room in the guest, or malformed.");
        out.sample({{"direction", "receive"}}, counts.received_dropped);
        out.sample({{"direction", "transmit"}}, counts.sent_dropped);
    }
}

void write_start(Exposition& out, std::vector<vmm::TimingMark> marks, std::uint64_t start_tsc,
                 std::uint64_t tsc_khz) {
    if (tsc_khz == 0)
        return;
    std::stable_sort(marks.begin(), marks.end(),
                     [](const auto& a, const auto& b) { return a.tsc < b.tsc; });
    out.family("joey_start_phase_seconds", gauge,
               "When a phase of the start was reached, since the process began.");
    std::set<std::string_view> seen; // a guest may mark what it likes, as often as it likes
    for (const vmm::TimingMark& mark : marks) {
        if (!seen.insert(mark.name).second)
            continue;
        const std::uint64_t since = mark.tsc > start_tsc ? mark.tsc - start_tsc : 0;
        out.sample({{"phase", mark.name}, {"by", mark.from_guest ? "guest" : "host"}},
                   static_cast<double>(since) / static_cast<double>(tsc_khz) / 1e3);
    }
}

} // namespace

std::string vm_metrics(const vmm::Vm& vm, const std::vector<WatchedDevice>& devices,
                       std::vector<vmm::TimingMark> marks, std::uint64_t start_tsc) {
    const vmm::MachineMetrics machine = vm.metrics();
    Exposition out;
    out.family("joey_info", gauge, "What this is.");
    out.sample({{"version", JOEY_VERSION},
                {"privilege", vm.privilege() == boot::Privilege::Ring0 ? "ring0" : "ring3"}},
               std::uint64_t{1});
    out.only("joey_uptime_seconds", gauge, "Since the VM's process began.",
             seconds(machine.since_start_ns));
    out.only("joey_process_cpu_seconds_total", counter,
             "CPU time of the VM's process, vCPUs included.", seconds(machine.process_cpu_ns));
    out.only("joey_memory_bytes", gauge, "Memory that the guest has.", machine.ram_bytes);
    out.only("joey_memory_backed_bytes", gauge,
             "Of the guest's memory, what was touched so that the host had to give it.",
             machine.ram_backed_bytes);
    out.only("joey_vcpus", gauge, "Virtual CPUs.", static_cast<std::uint64_t>(machine.cpus.size()));
    write_vcpus(out, machine);
    write_guest(out, machine);
    write_devices(out, machine, devices);
    write_queues(out, devices);
    write_network(out, devices);
    write_start(out, std::move(marks), start_tsc, vm.tsc_khz());
    return out.text();
}

} // namespace joey
