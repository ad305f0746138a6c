// The extended attribute "security.capability": the capabilities that execve(2) takes from a
// program's file. At the edge, what a program gives and gets is in terms of its own user namespace
// (capabilities(7), "Namespaced file capabilities").
#pragma once

#include "guestkernel/fs/inode.hpp"
#include "guestkernel/lib/string.hpp"
#include "guestkernel/lib/vector.hpp"

namespace kernel {

// What is kept of a value that the running task gives: EINVAL. Unless the task has power over the
// whole file system, the capabilities are for its user namespace only.
Result<void> keep_capabilities(const Inode& inode, Vector<char>& value);
// What it gets of a value that was kept: EINVAL; EOVERFLOW, they are another namespace's.
Result<String> show_capabilities(const Inode& inode, String kept);

struct FileCapabilities {
    bool present = false;
    bool effective = false;
    u64 permitted = 0, inheritable = 0;
};
// Those that count for the running task's user namespace. EINVAL.
Result<FileCapabilities> program_capabilities(Inode& inode);

} // namespace kernel
