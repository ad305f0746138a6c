#include "guestkernel/trace/core_notes.hpp"

#include <linux/elf.h>
#include <linux/errno.h>

#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/mm/heap.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/trace/registers.hpp"

namespace kernel {

namespace {

constexpr usize longest_file_note = 4 << 20; // as Linux

// struct elf_prstatus and elf_prpsinfo of sys/procfs.h.
struct TimeValue {
    i64 seconds, microseconds;
};
struct ThreadStatus {
    i32 signo, code, error;
    i16 current_signal;
    i16 padding;
    u64 pending, held;
    i32 tid, parent, group, session;
    TimeValue user_time, system_time, children_user_time, children_system_time;
    UserRegisters registers;
    i32 fpu_valid;
    i32 padding2;
};
static_assert(sizeof(ThreadStatus) == 336);
struct ProcessInfo {
    char state, state_letter, zombie;
    i8 nice;
    u32 padding;
    u64 flags;
    u32 uid, gid;
    i32 pid, parent, group, session;
    char name[16];
    char arguments[80];
};
static_assert(sizeof(ProcessInfo) == 136);

TimeValue time_value(u64 ns) {
    return {static_cast<i64>(ns / 1'000'000'000), static_cast<i64>(ns / 1000 % 1'000'000)};
}

constexpr usize padded(usize bytes) {
    return (bytes + 3) & ~usize{3};
}
constexpr char core_name[8] = "CORE";
constexpr char linux_name[8] = "LINUX";
// The header, the name with its NUL, the content.
constexpr usize note_size(usize content, bool is_linux) {
    return sizeof(Elf64_Nhdr) + padded(is_linux ? sizeof "LINUX" : sizeof "CORE") + padded(content);
}

usize thread_notes_size() {
    return note_size(sizeof(ThreadStatus), false) + note_size(fxsave_bytes, false) +
           note_size(arch::fpu_state_size(), true);
}

usize auxv_size(const AddressSpace& space) {
    return space.layout.auxv_words * sizeof(u64);
}

bool is_shown(const Task& task) {
    return !task.exiting || &task == arch::current();
}

} // namespace

Result<void> FileNote::add(const MappingInfo& mapping) {
    auto path = path_name(mapping.file->path());
    const std::string_view name = path ? path->view() : std::string_view("?");
    if (size() + name.size() > longest_file_note)
        return {}; // gdb then knows fewer files
    for (const u64 word : {mapping.start.raw(), mapping.end.raw(), mapping.offset / page_size})
        TRY(ranges.push_back(word));
    for (const char c : name)
        TRY(names.push_back(c));
    return names.push_back('\0');
}

usize FileNote::size() const {
    return 2 * sizeof(u64) + ranges.size() * sizeof(u64) + names.size();
}

usize CoreNotes::size() const {
    usize threads = 0;
    for (const Task& task : process_.tasks)
        threads += is_shown(task) ? 1 : 0;
    const AddressSpace& space = *current_task().address_space;
    return threads * thread_notes_size() + note_size(sizeof(ProcessInfo), false) +
           note_size(sizeof(SignalInfo), false) + note_size(auxv_size(space), false) +
           note_size(files_.size(), false);
}

namespace {

class Writer {
public:
    using Put = bool (*)(void*, const void*, usize);
    Writer(Put put, void* context) : put_(put), context_(context) {}
    bool bytes(const void* data, usize count) { return put_(context_, data, count); }
    bool pad(usize written) {
        const u32 zero = 0;
        return bytes(&zero, padded(written) - written);
    }
    bool begin(u32 type, usize content, bool is_linux) {
        const usize name_bytes = is_linux ? sizeof "LINUX" : sizeof "CORE";
        const Elf64_Nhdr header = {static_cast<u32>(name_bytes), static_cast<u32>(content), type};
        return bytes(&header, sizeof header) &&
               bytes(is_linux ? linux_name : core_name, padded(name_bytes));
    }
    bool note(u32 type, const void* data, usize count, bool is_linux = false) {
        return begin(type, count, is_linux) && bytes(data, count) && pad(count);
    }

private:
    Put put_;
    void* context_;
};

bool put_status(Writer& out, Process& process, Task& task, const SignalInfo& info) {
    ThreadStatus status = {};
    status.signo = info.signo;
    status.code = info.code;
    status.error = info.error;
    status.current_signal = static_cast<i16>(info.signo);
    Process::Usage usage;
    {
        SpinGuard tree(process_tree_lock());
        status.parent = process.parent != nullptr ? process.parent->pid : 0;
        status.group = process.group_id();
        status.session = process.session_id();
        usage = task_usage(task);
        status.children_user_time = time_value(process.waited_children.user_ns);
        status.children_system_time = time_value(process.waited_children.system_ns);
    }
    status.pending = task.signals->pending.set();
    status.held = task.signals->blocked;
    status.tid = task.tid;
    status.user_time = time_value(usage.user_ns);
    status.system_time = time_value(usage.system_ns);
    status.registers = read_registers(task);
    status.fpu_valid = 1;
    return out.note(NT_PRSTATUS, &status, sizeof status);
}

bool put_fpu(Writer& out, Task& task) {
    u8 legacy[fxsave_bytes];
    read_fxsave(task, legacy);
    if (!out.note(NT_PRFPREG, legacy, sizeof legacy))
        return false;
    const usize size = arch::fpu_state_size();
    auto* area = static_cast<u8*>(kmalloc(size));
    if (area == nullptr)
        return false;
    read_xstate(task, {area, size});
    const bool done = out.note(NT_X86_XSTATE, area, size, true);
    kfree(area);
    return done;
}

bool put_process(Writer& out, Process& process) {
    const Task& task = current_task();
    AddressSpace& space = *task.address_space;
    ProcessInfo info = {};
    info.state_letter = 'R';
    info.nice = static_cast<i8>(task.nice);
    info.uid = task.credentials->uid;
    info.gid = task.credentials->gid;
    info.pid = process.pid;
    {
        SpinGuard tree(process_tree_lock());
        info.parent = process.parent != nullptr ? process.parent->pid : 0;
        info.group = process.group_id();
        info.session = process.session_id();
    }
    __builtin_memcpy(info.name, task.name, sizeof info.name);
    const u64 length = space.layout.args_end - space.layout.args_start;
    constexpr usize room = sizeof info.arguments - 1;
    const usize got = space.read_foreign(VirtAddr(space.layout.args_start), info.arguments,
                                         length < room ? length : room);
    for (usize i = 0; i < got; i++)
        if (info.arguments[i] == '\0')
            info.arguments[i] = ' ';
    return out.note(NT_PRPSINFO, &info, sizeof info);
}

bool put_files(Writer& out, const FileNote& files) {
    const u64 head[2] = {files.ranges.size() / 3, page_size};
    return out.begin(NT_FILE, files.size(), false) && out.bytes(head, sizeof head) &&
           out.bytes(files.ranges.data(), files.ranges.size() * sizeof(u64)) &&
           out.bytes(files.names.data(), files.names.size()) && out.pad(files.size());
}

} // namespace

bool CoreNotes::write_to(Put put, void* context) const {
    Writer out(put, context);
    Task& self = current_task();
    const AddressSpace& space = *self.address_space;
    if (!put_status(out, process_, self, info_) || !put_process(out, process_) ||
        !out.note(NT_SIGINFO, &info_, sizeof info_) ||
        !out.note(NT_AUXV, space.layout.auxv, auxv_size(space)) || !put_files(out, files_) ||
        !put_fpu(out, self))
        return false;
    for (Task& task : process_.tasks)
        if (&task != &self && is_shown(task) &&
            (!put_status(out, process_, task, info_) || !put_fpu(out, task)))
            return false;
    return true;
}

} // namespace kernel
