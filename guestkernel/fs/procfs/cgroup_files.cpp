// What /proc says of control groups: /proc/PID/cgroup, /proc/cgroups, /proc/pressure.
#include <linux/errno.h>
#include <linux/poll.h>

#include "guestkernel/cgroup/cgroup.hpp"
#include "guestkernel/cgroup/cgroup_file.hpp"
#include "guestkernel/cgroup/pressure.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/procfs/subject.hpp"

namespace kernel::procfs {

Result<void> show_cgroup(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<Process> process, subject_process(of));
    auto task = subject_task(of);
    Ref<Cgroup> group;
    {
        SpinGuard tree(process_tree_lock());
        group = task ? (*task)->cgroup : process->zombie_group;
    }
    String path;
    TRY(append_visible_path(path, group ? *group : root_cgroup()));
    out.append("0::");
    out.append(path.view());
    out.append(group && group->dead ? " (deleted)\n" : "\n");
    return {};
}

// Controllers of version 2 hierarchies are said to be in hierarchy 0.
Result<void> show_cgroups(TextBuilder& out, const TableContext&) {
    u64 groups = 0;
    {
        MutexGuard guard(hierarchy_mutex());
        groups = root_cgroup().descendants + 1;
    }
    out.append("#subsys_name\thierarchy\tnum_cgroups\tenabled\n");
    for (const std::string_view name : controller_names) {
        out.append(name == "io" ? "blkio" : name);
        out.print("\t0\t{}\t1\n", groups);
    }
    return {};
}

// --- /proc/pressure ------------------------------------------------------------------------------

namespace {

class PressureFile final : public File {
public:
    PressureFile(Path path, Ref<Inode> inode, u32 flags, PressureKind kind)
        : File(std::move(path), std::move(inode), flags), kind_(kind) {}
    ~PressureFile() override {
        if (trigger_ != nullptr)
            free_pressure_trigger(trigger_);
    }
    const char* type_name() const override { return "pressure"; }
    Result<usize> read(IoBuffer& out, u64 offset) override {
        TextBuilder text;
        show_pressure(text, nullptr, kind_);
        if (text.failed())
            return fail(ENOMEM);
        return text.read(out, offset);
    }
    Result<usize> write(IoBuffer& in, u64) override {
        char text[64];
        const usize length = in.remaining();
        if (length >= sizeof text)
            return fail(EINVAL);
        if (in.copy_in(text, length) != length)
            return fail(EFAULT);
        MutexGuard guard(mutex_);
        if (trigger_ != nullptr)
            return fail(EBUSY);
        TRY(trigger_, make_pressure_trigger(nullptr, kind_, strip({text, length})));
        return length;
    }
    Result<void> truncate(u64) override { return {}; }
    bool can_wait() const override { return true; }
    u32 poll(PollTable* table) override {
        return POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM | poll_pressure_trigger(trigger_, table);
    }

private:
    const PressureKind kind_;
    Mutex mutex_;
    PressureTrigger* trigger_ = nullptr; // set once
};

template <PressureKind Kind>
Result<Ref<File>> open_pressure(const Path& path, Ref<Inode> inode, u32 flags,
                                const TableContext&) {
    TRY(auto file, make_ref<PressureFile>(path, std::move(inode), flags, Kind));
    return Ref<File>(std::move(file));
}

constexpr u32 writable = mode_regular | 0644;

} // namespace

constinit const TableEntry pressure_entries[3] = {
    {.name = "cpu", .mode = writable, .open = open_pressure<PressureKind::Cpu>},
    {.name = "io", .mode = writable, .open = open_pressure<PressureKind::Io>},
    {.name = "memory", .mode = writable, .open = open_pressure<PressureKind::Memory>},
};

} // namespace kernel::procfs
