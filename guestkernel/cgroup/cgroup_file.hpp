// The files of a group's directory: a table of what they show and take, and the inodes for it.
#pragma once

#include <span>

#include "guestkernel/cgroup/cgroup.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/fs/procfs/text.hpp"

namespace kernel {

struct CgroupFileType {
    std::string_view name;
    u32 mode;
    u32 controller = 0; // bit: present where that controller is; 0: everywhere
    Result<void> (*show)(TextBuilder& out, Cgroup& group) = nullptr;
    Result<void> (*store)(Cgroup& group, std::string_view text) = nullptr;
    // Instead of `store`, of the files that move members: who opened the file has to be allowed to,
    // whoever writes, for a program with more privilege may be made to write to it.
    Result<void> (*move)(Cgroup& group, std::string_view text, const Credentials* opener) = nullptr;
    CgroupEvent event = CgroupEvent::None;
    enum Where : u8 { Everywhere, NotInRoot, RootOnly } where = Everywhere;
    // A write sets a trigger on the open file instead (*.pressure).
    u8 pressure = 0; // 1 + PressureKind
    // A figure that grows: a write starts it anew for this open file. In pages.
    u64 (*restart)(Cgroup& group) = nullptr;
    u64 (*since_restart)(Cgroup& group) = nullptr; // by whichever file it was
};

usize cgroup_file_count();
const CgroupFileType& cgroup_file_type(usize index);
i32 find_cgroup_file(std::string_view name); // -1
bool cgroup_file_present(Cgroup& group, const CgroupFileType& type);

// The inode of a group's file, made on first use. ENOENT where the file is not.
Result<Ref<Inode>> cgroup_file_inode(Cgroup& group, std::string_view name);
// Forgets the inodes of controllers' files (all bits: of every file).
void drop_cgroup_files(Cgroup& group, u32 controllers);
void drop_pressure_files(Cgroup& group);
// cgroup.pressure: whether its *.pressure files are there.
bool pressure_shown(Cgroup& group);
// Whoever polls or watches the file of this event hears of it.
void tell_cgroup_file(Cgroup& group, CgroupEvent event);
// The group of a directory's inode; null: it is something else.
Cgroup* cgroup_of_inode(Inode& inode);

// The parts of the table: control_files.cpp, cpu_files.cpp, ...
std::span<const CgroupFileType> control_files();
std::span<const CgroupFileType> cpu_files();
std::span<const CgroupFileType> cpuset_files();
std::span<const CgroupFileType> memory_files();
std::span<const CgroupFileType> pids_files();
std::span<const CgroupFileType> io_files();
std::span<const CgroupFileType> pressure_files();

// "max" or a number; blanks around it are fine. EINVAL.
Result<u64> parse_limit(std::string_view text);
void show_limit(TextBuilder& out, u64 value); // with a newline
std::string_view strip(std::string_view text);
std::string_view next_word(std::string_view& text); // takes it off

} // namespace kernel
