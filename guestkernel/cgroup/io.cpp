#include "guestkernel/cgroup/io.hpp"

#include <linux/errno.h>

#include "guestkernel/cgroup/cgroup_file.hpp"
#include "guestkernel/cgroup/pressure.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/procfs/table_fs.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

constexpr unsigned most_devices = 16;
// How far a group may be ahead of its rate without waiting.
constexpr u64 slack_ns = 100'000'000;

enum Limit : u8 { ReadBytes, WriteBytes, ReadRequests, WriteRequests };
constexpr std::string_view limit_names[4] = {"rbps", "wbps", "riops", "wiops"};

struct Device {
    u64 number = 0; // 0: free
    u64 bytes[2] = {}, requests[2] = {};
    u64 limits[4] = {no_limit, no_limit, no_limit, no_limit};
    u64 busy_until_ns[4] = {}; // what was moved takes so long at the limit's rate
};

} // namespace

struct IoGroup {
    SpinLock lock{LockRank::Leaf};
    Device devices[most_devices];

    // Requires: the lock. Null: too many.
    Device* find(u64 number, bool make) {
        Device* free = nullptr;
        for (Device& device : devices) {
            if (device.number == number)
                return &device;
            if (free == nullptr && device.number == 0)
                free = &device;
        }
        if (make && free != nullptr)
            free->number = number;
        return make ? free : nullptr;
    }
};

namespace {
constinit IoGroup the_machine;
} // namespace

Result<IoGroup*> make_io_group() {
    auto* group = new (std::nothrow) IoGroup();
    if (group == nullptr)
        return fail(ENOMEM);
    return group;
}

void free_io_group(IoGroup* group) {
    delete group;
}

void reset_io_group(IoGroup& group) {
    SpinGuard guard(group.lock);
    for (Device& device : group.devices)
        for (u64& limit : device.limits)
            limit = no_limit;
}

namespace {

// Counts, and says until when the task has to wait.
u64 count(IoGroup& group, u64 number, bool write, u64 bytes, u64 now) {
    SpinGuard guard(group.lock);
    Device* device = group.find(number, true);
    if (device == nullptr)
        return 0;
    device->bytes[write ? 1 : 0] += bytes;
    device->requests[write ? 1 : 0]++;
    u64 until = 0;
    for (const bool by_bytes : {true, false}) {
        const unsigned which = (by_bytes ? 0u : 2u) + (write ? 1u : 0u);
        const u64 limit = device->limits[which];
        if (limit == no_limit)
            continue;
        u64& busy = device->busy_until_ns[which];
        if (busy + slack_ns < now || busy == 0)
            busy = now > slack_ns ? now - slack_ns : 0;
        // A request is 1 MiB at most: the product fits.
        const u64 amount = by_bytes ? bytes : 1;
        busy += amount * nanoseconds_per_second / limit;
        until = busy > until ? busy : until;
    }
    return until;
}

} // namespace

void charge_io(u64 number, bool write, u64 bytes) {
    Task& task = current_task();
    const u64 now = monotonic_ns();
    (void)count(the_machine, number, write, bytes, now);
    if (!task.cgroup) [[likely]]
        return;
    const Ref<Cgroup> group = cgroup_of(task);
    u64 until = 0;
    for (Cgroup* at = group.get(); at->parent; at = at->parent.get()) {
        if (at->io == nullptr)
            continue;
        const u64 wait = count(*at->io, number, write, bytes, now);
        until = wait > until ? wait : until;
    }
    if (until <= now)
        return;
    PressureStall stall(PressureKind::Io);
    WaitQueue nobody;
    (void)wait_until(
        nobody, [] { return false; }, until, TaskState::Killable);
}

// --- io.stat, io.max -----------------------------------------------------------------------------

namespace {

void show_device(TextBuilder& out, const Device& device) {
    out.print("{}:{}", device_major(device.number), device_minor(device.number));
}

Result<void> show_io_stat(TextBuilder& out, Cgroup& group) {
    if (group.io == nullptr && !group.is_root())
        return {};
    for (const Device& device : (group.is_root() ? the_machine : *group.io).devices) {
        if (device.number == 0 || device.requests[0] + device.requests[1] == 0)
            continue;
        show_device(out, device);
        out.print(" rbytes={} wbytes={} rios={} wios={} dbytes=0 dios=0\n", device.bytes[0],
                  device.bytes[1], device.requests[0], device.requests[1]);
    }
    return {};
}

Result<void> show_io_max(TextBuilder& out, Cgroup& group) {
    if (group.io == nullptr)
        return {};
    for (const Device& device : group.io->devices) {
        bool limited = false;
        for (const u64 limit : device.limits)
            limited = limited || limit != no_limit;
        if (device.number == 0 || !limited)
            continue;
        show_device(out, device);
        for (unsigned i = 0; i < 4; i++) {
            out.append(" ");
            out.append(limit_names[i]);
            out.append("=");
            if (device.limits[i] == no_limit)
                out.append("max");
            else
                out.number(device.limits[i]);
        }
        out.append("\n");
    }
    return {};
}

Result<u64> parse_device(std::string_view text) {
    const usize colon = text.find(':');
    if (colon == std::string_view::npos)
        return fail(EINVAL);
    TRY(const i64 major, parse_number(text.substr(0, colon)));
    TRY(const i64 minor, parse_number(text.substr(colon + 1)));
    if (major < 0 || minor < 0 || major > 0xfff || minor > 0xfffff)
        return fail(EINVAL);
    const u64 number = make_device(static_cast<u32>(major), static_cast<u32>(minor));
    // Known is what anybody has ever used.
    SpinGuard guard(the_machine.lock);
    if (number == 0 || the_machine.find(number, false) == nullptr)
        return fail(ENODEV);
    return number;
}

Result<void> store_io_max(Cgroup& group, std::string_view text) {
    TRY(const u64 number, parse_device(next_word(text)));
    u64 limits[4];
    bool given[4] = {};
    for (std::string_view word = next_word(text); !word.empty(); word = next_word(text)) {
        const usize equals = word.find('=');
        if (equals == std::string_view::npos)
            return fail(EINVAL);
        unsigned which = 0;
        while (which < 4 && word.substr(0, equals) != limit_names[which])
            which++;
        if (which == 4)
            return fail(EINVAL);
        TRY(limits[which], parse_limit(word.substr(equals + 1)));
        if (limits[which] == 0)
            return fail(ERANGE);
        given[which] = true;
    }
    SpinGuard guard(group.io->lock);
    Device* device = group.io->find(number, true);
    if (device == nullptr)
        return fail(ENOSPC);
    for (unsigned i = 0; i < 4; i++)
        if (given[i]) {
            device->limits[i] = limits[i];
            device->busy_until_ns[i] = 0;
        }
    return {};
}

constexpr u32 io_bit = controller_bit(Controller::Io);
constexpr CgroupFileType io_table[] = {
    {.name = "io.max",
     .mode = 0644,
     .controller = io_bit,
     .show = show_io_max,
     .store = store_io_max,
     .where = CgroupFileType::NotInRoot},
    {.name = "io.stat", .mode = 0444, .controller = io_bit, .show = show_io_stat},
};

} // namespace

std::span<const CgroupFileType> io_files() {
    return io_table;
}

} // namespace kernel
