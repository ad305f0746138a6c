// The cgroup.* files.
#include <linux/errno.h>

#include "guestkernel/cgroup/cgroup_file.hpp"
#include "guestkernel/cgroup/controllers.hpp"
#include "guestkernel/fs/procfs/table_fs.hpp"
#include "guestkernel/namespaces/pid_namespace.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

std::string_view strip(std::string_view text) {
    const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\0'; };
    while (!text.empty() && blank(text.front()))
        text.remove_prefix(1);
    while (!text.empty() && blank(text.back()))
        text.remove_suffix(1);
    return text;
}

std::string_view next_word(std::string_view& text) {
    text = strip(text);
    usize end = 0;
    while (end < text.size() && text[end] != ' ' && text[end] != '\t' && text[end] != '\n')
        end++;
    const std::string_view word = text.substr(0, end);
    text.remove_prefix(end);
    return word;
}

Result<u64> parse_limit(std::string_view text) {
    if (strip(text) == "max")
        return no_limit;
    TRY(const i64 value, parse_number(text));
    if (value < 0)
        return fail(EINVAL);
    return static_cast<u64>(value);
}

void show_limit(TextBuilder& out, u64 value) {
    if (value == no_limit)
        out.append("max");
    else
        out.number(value);
    out.append("\n");
}

namespace {

using List = Result<void>;

void show_controllers(TextBuilder& out, u32 set) {
    bool first = true;
    for (unsigned i = 0; i < controller_count; i++)
        if ((set >> i & 1) != 0) {
            out.append(first ? "" : " ");
            out.append(controller_names[i]);
            first = false;
        }
    out.append("\n");
}

List show_available(TextBuilder& out, Cgroup& group) {
    show_controllers(out, group.threaded ? group.controllers() & threaded_controllers
                                         : group.controllers());
    return {};
}

List show_subtree(TextBuilder& out, Cgroup& group) {
    show_controllers(out, group.subtree_control);
    return {};
}

List store_subtree(Cgroup& group, std::string_view text) {
    u32 enable = 0;
    u32 disable = 0;
    while (true) {
        const std::string_view word = next_word(text);
        if (word.empty())
            break;
        u32 bit = 0;
        for (unsigned i = 0; i < controller_count; i++)
            if (word.substr(1) == controller_names[i])
                bit = 1u << i;
        if (bit == 0 || (word[0] != '+' && word[0] != '-'))
            return fail(EINVAL);
        (word[0] == '+' ? enable : disable) |= bit;
        (word[0] == '+' ? disable : enable) &= ~bit;
    }
    return set_subtree_control(group, enable, disable);
}

List show_type(TextBuilder& out, Cgroup& group) {
    out.append(group.threaded            ? "threaded\n"
               : !is_valid_domain(group) ? "domain invalid\n"
               : is_thread_root(group)   ? "domain threaded\n"
                                         : "domain\n");
    return {};
}

List store_type(Cgroup& group, std::string_view text) {
    return text == "threaded" ? make_threaded(group) : List(fail(EINVAL));
}

// --- members -------------------------------------------------------------------------------------

Cgroup& object_of_locked(Task& task) {
    return task.cgroup ? *task.cgroup : root_cgroup();
}

// By rising numbers. Nothing is allocated under the lock.
List show_procs(TextBuilder& out, Cgroup& group) {
    if (group.threaded || !is_valid_domain(group))
        return fail(EOPNOTSUPP);
    for (i32 pid = next_pid(0); pid != 0; pid = next_pid(pid)) {
        bool member = false;
        {
            SpinGuard tree(process_tree_lock());
            if (Process* process = find_process_locked(pid))
                for (Task& task : process->tasks)
                    member = member || &object_of_locked(task).domain() == &group;
        }
        if (member) // 0: it has no number in the reader's pid namespace
            out.print("{}\n", visible_pid(pid));
    }
    return {};
}

List show_threads(TextBuilder& out, Cgroup& group) {
    for (i32 pid = next_pid(0); pid != 0; pid = next_pid(pid)) {
        const Ref<Process> process = find_process(pid);
        if (!process)
            continue;
        for (i32 tid = next_tid(*process, 0); tid != 0; tid = next_tid(*process, tid)) {
            bool member = false;
            {
                SpinGuard tree(process_tree_lock());
                if (Task* task = find_task_locked(tid))
                    member = &object_of_locked(*task) == &group;
            }
            if (member)
                out.print("{}\n", visible_pid(tid));
        }
    }
    return {};
}

Result<Ref<Task>> named_task(std::string_view text) {
    TRY(const i64 number, parse_number(text));
    if (number < 0 || number > 0x7fff'ffff)
        return fail(EINVAL);
    if (number == 0)
        return Ref<Task>::share(&current_task());
    Ref<Task> task = find_task(global_pid(static_cast<i32>(number)));
    if (!task || task->process == nullptr)
        return fail(ESRCH);
    return task;
}

List move_procs(Cgroup& group, std::string_view text, const Credentials* opener) {
    TRY(const Ref<Task> task, named_task(text));
    const Ref<Cgroup> from = cgroup_of(*task);
    TRY(check_migration(*from, group, opener));
    if (group.threaded) {
        // A process goes to a threaded group only within its domain.
        if (&from->domain() != &group.domain())
            return fail(EOPNOTSUPP);
    }
    TRY(check_destination(group));
    return move_process(*task->process, group);
}

List move_threads(Cgroup& group, std::string_view text, const Credentials* opener) {
    TRY(const Ref<Task> task, named_task(text));
    const Ref<Cgroup> from = cgroup_of(*task);
    TRY(check_migration(*from, group, opener));
    TRY(check_destination(group));
    if (&from->domain() != &group.domain())
        return fail(EOPNOTSUPP);
    return move_thread(*task, group);
}

// --- state ---------------------------------------------------------------------------------------

List show_events(TextBuilder& out, Cgroup& group) {
    bool populated = false;
    {
        SpinGuard tree(process_tree_lock());
        populated = group.populated();
    }
    out.print("populated {}\nfrozen {}\n", populated ? 1 : 0, group.frozen_told ? 1 : 0);
    return {};
}

List show_freeze(TextBuilder& out, Cgroup& group) {
    out.append(group.freeze_wanted ? "1\n" : "0\n");
    return {};
}

List store_freeze(Cgroup& group, std::string_view text) {
    TRY(const i64 value, parse_number(text));
    if (value != 0 && value != 1)
        return fail(ERANGE);
    group.freeze_wanted = value == 1;
    set_frozen_below(group);
    return {};
}

List store_kill(Cgroup& group, std::string_view text) {
    TRY(const i64 value, parse_number(text));
    if (value != 1)
        return fail(ERANGE);
    if (group.threaded)
        return fail(EOPNOTSUPP);
    kill_members(group, KillMembers::All);
    return {};
}

template <u64 Cgroup::*Member>
List show_bound(TextBuilder& out, Cgroup& group) {
    show_limit(out, group.*Member);
    return {};
}

template <u64 Cgroup::*Member>
List store_bound(Cgroup& group, std::string_view text) {
    if (text == "max") {
        group.*Member = no_limit;
        return {};
    }
    TRY(const i64 value, parse_number(text));
    if (value < 0 || value > 0x7fff'ffff)
        return fail(ERANGE);
    group.*Member = static_cast<u64>(value);
    return {};
}

List show_cgroup_stat(TextBuilder& out, Cgroup& group) {
    out.print("nr_descendants {}\nnr_dying_descendants 0\n", group.descendants);
    return {};
}

constexpr auto not_in_root = CgroupFileType::NotInRoot;

constexpr CgroupFileType control_table[] = {
    {.name = "cgroup.controllers", .mode = 0444, .show = show_available},
    {.name = "cgroup.events",
     .mode = 0444,
     .show = show_events,
     .event = CgroupEvent::Events,
     .where = not_in_root},
    {.name = "cgroup.freeze",
     .mode = 0644,
     .show = show_freeze,
     .store = store_freeze,
     .where = not_in_root},
    {.name = "cgroup.kill", .mode = 0200, .store = store_kill, .where = not_in_root},
    {.name = "cgroup.max.depth",
     .mode = 0644,
     .show = show_bound<&Cgroup::max_depth>,
     .store = store_bound<&Cgroup::max_depth>},
    {.name = "cgroup.max.descendants",
     .mode = 0644,
     .show = show_bound<&Cgroup::max_descendants>,
     .store = store_bound<&Cgroup::max_descendants>},
    {.name = "cgroup.procs", .mode = 0644, .show = show_procs, .move = move_procs},
    {.name = "cgroup.stat", .mode = 0444, .show = show_cgroup_stat},
    {.name = "cgroup.subtree_control", .mode = 0644, .show = show_subtree, .store = store_subtree},
    {.name = "cgroup.threads", .mode = 0644, .show = show_threads, .move = move_threads},
    {.name = "cgroup.type",
     .mode = 0644,
     .show = show_type,
     .store = store_type,
     .where = not_in_root},
};

// --- pids ----------------------------------------------------------------------------------------

List show_pids_current(TextBuilder& out, Cgroup& group) {
    out.print("{}\n", group.pids.load());
    return {};
}
List show_pids_peak(TextBuilder& out, Cgroup& group) {
    out.print("{}\n", group.pids_peak.load());
    return {};
}
List show_pids_max(TextBuilder& out, Cgroup& group) {
    show_limit(out, group.pids_max.load());
    return {};
}
List store_pids_max(Cgroup& group, std::string_view text) {
    TRY(const u64 value, parse_limit(text));
    if (value != no_limit && value > 4'194'304)
        return fail(EINVAL);
    group.pids_max.store(value);
    return {};
}
List show_pids_events(TextBuilder& out, Cgroup& group) {
    out.print("max {}\n", group.pids_refused.load());
    return {};
}
List show_pids_events_local(TextBuilder& out, Cgroup& group) {
    out.print("max {}\n", group.pids_refused_local.load());
    return {};
}

constexpr u32 pids_bit = controller_bit(Controller::Pids);
constexpr CgroupFileType pids_table[] = {
    {.name = "pids.current",
     .mode = 0444,
     .controller = pids_bit,
     .show = show_pids_current,
     .where = not_in_root},
    {.name = "pids.events",
     .mode = 0444,
     .controller = pids_bit,
     .show = show_pids_events,
     .event = CgroupEvent::PidsEvents,
     .where = not_in_root},
    {.name = "pids.events.local",
     .mode = 0444,
     .controller = pids_bit,
     .show = show_pids_events_local,
     .where = not_in_root},
    {.name = "pids.max",
     .mode = 0644,
     .controller = pids_bit,
     .show = show_pids_max,
     .store = store_pids_max,
     .where = not_in_root},
    {.name = "pids.peak",
     .mode = 0444,
     .controller = pids_bit,
     .show = show_pids_peak,
     .where = not_in_root},
};

} // namespace

std::span<const CgroupFileType> control_files() {
    return control_table;
}
std::span<const CgroupFileType> pids_files() {
    return pids_table;
}

} // namespace kernel
