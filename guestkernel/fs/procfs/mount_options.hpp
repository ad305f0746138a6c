// How a /proc is mounted: hidepid=, gid=, subset=; proc(5).
#pragma once

#include "base/atomic.hpp"
#include "guestkernel/fs/procfs/table_fs.hpp"

namespace kernel {

class UserNamespace;

namespace procfs {

// What is hidden of the processes that the caller may not trace. By its number in options.
enum class Hidden : u8 { Nothing = 0, Content = 1, Existence = 2, AllTheMore = 4 };

struct alignas(8) MountOptions {
    u32 gid = 0; // Hidden::Content and Existence do not concern its members
    Hidden hidden = Hidden::Nothing;
    bool only_processes = false; // subset=pid
    u16 unused = 0;
};

// Of one mounted file system. Read without a lock wherever a process is met.
struct CurrentOptions : base::Atomic<MountOptions> {};

// Changes in `out` what the list of options says, with numbers of groups as in `space`. EINVAL, and
// what is wrong.
Result<void> parse_mount_options(std::string_view options, const UserNamespace* space,
                                 MountOptions& out, String& complaint);
// For /proc/mounts, in the numbers of the caller.
Result<void> describe_mount_options(const MountOptions& options, String& out);

// Whether what `from` hides at the least is hidden of the process or thread.
bool is_hidden(const TableContext& of, Hidden from);

} // namespace procfs

// "name=value" or "name", of a mounted /proc. EINVAL, and says what is wrong with it.
Result<void> check_proc_option(std::string_view option, String& complaint);

} // namespace kernel
