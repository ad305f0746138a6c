// From the numbers of a node to the process, thread or descriptor that it is about.
#pragma once

#include "guestkernel/fs/procfs/table_fs.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel::procfs {

// The thread of a node: by its tid, else any thread of the process, the first one preferably.
// ESRCH.
Result<Ref<Task>> subject_task(const TableContext& of);
Result<Ref<Process>> subject_process(const TableContext& of);
// ... whose memory may be looked at. EACCES; null when it has none (kernel tasks, zombies).
Result<Ref<AddressSpace>> subject_memory(const TableContext& of);
Result<Ref<File>> subject_file(const TableContext& of);

// The process whose directory (/proc/PID) is open: EBADF for anything else, ESRCH.
Result<Ref<Process>> process_of_directory(File& file);

bool process_exists(const TableContext& of);
bool thread_exists(const TableContext& of);
bool descriptor_exists(const TableContext& of);
i32 next_process(const TableContext& of, i32 after);
i32 next_thread(const TableContext& of, i32 after);
i32 next_descriptor(const TableContext& of, i32 after);
// Of the directories that everybody may look into; of the rest, which is root's while the process
// is not dumpable.
void subject_directory_owner(const TableContext& of, u32& uid, u32& gid);
void subject_owner(const TableContext& of, u32& uid, u32& gid);
bool is_callers_process(const TableContext& of);

// --- generators, by file
#define PROC_FILE(name) Result<void> name(TextBuilder& out, const TableContext& of);
// process_files.cpp
PROC_FILE(show_stat)
PROC_FILE(show_status)
PROC_FILE(show_comm)
PROC_FILE(show_limits)
PROC_FILE(show_schedstat)
PROC_FILE(show_stack)
PROC_FILE(show_timers)
PROC_FILE(show_oom_score)
PROC_FILE(show_oom_score_adj)
PROC_FILE(show_personality)
PROC_FILE(show_fdinfo)
PROC_FILE(link_fd)
PROC_FILE(link_exe)
PROC_FILE(link_cwd)
PROC_FILE(link_root)
// memory_files.cpp
PROC_FILE(show_statm)
PROC_FILE(show_cmdline)
PROC_FILE(link_mapping)
// page_files.cpp
PROC_FILE(show_core_filter)
// mount_files.cpp
PROC_FILE(show_mounts)
PROC_FILE(show_mountinfo)
PROC_FILE(show_mountstats)
PROC_FILE(show_filesystems)
// system_files.cpp
PROC_FILE(show_meminfo)
PROC_FILE(show_system_stat)
PROC_FILE(show_loadavg)
PROC_FILE(show_uptime)
PROC_FILE(show_version)
PROC_FILE(show_vmstat)
PROC_FILE(show_interrupts)
PROC_FILE(link_self)
PROC_FILE(link_thread_self)
// activity_files.cpp
PROC_FILE(show_io)
PROC_FILE(show_sched)
PROC_FILE(show_syscall)
PROC_FILE(show_children)
PROC_FILE(show_timer_slack)
PROC_FILE(show_oom_adj)
// lock_files.cpp
PROC_FILE(show_locks)
// ipc_files.cpp
PROC_FILE(show_keys)
PROC_FILE(show_key_users)
// machine_files.cpp
PROC_FILE(show_zoneinfo)
PROC_FILE(show_buddyinfo)
PROC_FILE(show_slabinfo)
PROC_FILE(show_softirqs)
PROC_FILE(show_net_unix)
// cgroup_files.cpp
PROC_FILE(show_cgroup)
PROC_FILE(show_cgroups)
PROC_FILE(show_cpuset)
// cpuinfo.cpp
PROC_FILE(show_cpuinfo)
// sysctl.cpp
PROC_FILE(show_hostname)
PROC_FILE(show_domainname)
PROC_FILE(show_pid_max)
PROC_FILE(show_threads_max)
PROC_FILE(show_boot_id)
PROC_FILE(show_uuid)
// namespace_files.cpp
PROC_FILE(show_uid_map)
PROC_FILE(show_gid_map)
PROC_FILE(show_setgroups)
PROC_FILE(show_timens_offsets)
#undef PROC_FILE

// What of them is held by a file, or through it by a table.
void show_locks_of(TextBuilder& out, const TableContext& of, const File& file,
                   const FileTable* table);

Result<void> store_clear_refs(std::string_view text, const TableContext& of);
Result<void> store_core_filter(std::string_view text, const TableContext& of);
// /proc/PID/pagemap.
Result<Ref<File>> open_page_map(const Path& path, Ref<Inode> inode, u32 flags,
                                const TableContext& of);
Result<void> store_comm(std::string_view text, const TableContext& of);
Result<void> store_oom_score_adj(std::string_view text, const TableContext& of);
Result<void> store_sysrq(std::string_view text, const TableContext& of);
Result<void> store_timer_slack(std::string_view text, const TableContext& of);
Result<void> store_oom_adj(std::string_view text, const TableContext& of);
Result<void> store_hostname(std::string_view text, const TableContext& of);
Result<void> store_domainname(std::string_view text, const TableContext& of);
u32 poll_mounts(PollTable* table, const TableContext& of, u64& seen, Ref<RefCounted>& source);
Result<void> store_setgroups(std::string_view text, const TableContext& of);
Result<void> store_timens_offsets(std::string_view text, const TableContext& of);
// /proc/PID/uid_map and gid_map: what may be written depends on who opened them.
Result<Ref<File>> open_id_map(const Path& path, Ref<Inode> inode, u32 flags,
                              const TableContext& of);
Result<Path> follow_fd(const TableContext& of);
Result<Path> follow_exe(const TableContext& of);
Result<Path> follow_cwd(const TableContext& of);
Result<Path> follow_root(const TableContext& of);
u32 fd_link_mode(const TableContext& of);
// What a link to an open file shows.
Result<void> describe_file(TextBuilder& out, File& file);
// /proc/PID/map_files: the mappings of files, by their ranges.
Result<bool> next_mapping(const TableContext& of, u64 from, TableContext& child);
Result<void> find_mapping(const TableContext& of);
Result<Path> follow_mapping(const TableContext& of);
u32 mapping_link_mode(const TableContext& of);
Result<Ref<File>> open_memory(const Path& path, Ref<Inode> inode, u32 flags,
                              const TableContext& of); // /proc/PID/mem
// Texts about the memory that the process had when the file was opened. EACCES.
Result<Ref<RefCounted>> bind_memory(TableContext& of);
Result<void> show_environ(TextBuilder& out, const TableContext& of);
Result<void> show_auxv(TextBuilder& out, const TableContext& of);
Result<void> show_maps(TextBuilder& out, const TableContext& of);
Result<void> show_smaps(TextBuilder& out, const TableContext& of);
Result<void> show_smaps_rollup(TextBuilder& out, const TableContext& of);
Result<void> show_numa_maps(TextBuilder& out, const TableContext& of);

extern const TableEntry sysctl_entries[5];   // /proc/sys
extern const TableEntry sysvipc_entries[3];  // /proc/sysvipc
extern const TableEntry pressure_entries[3]; // /proc/pressure

inline constexpr u64 clock_ticks = 100; // USER_HZ

} // namespace kernel::procfs
