// A mount that stands in no tree: the home of inodes that no directory names (pipes and sockets,
// memory files, namespaces). Made when it is first asked for, and kept for ever.
#pragma once

#include "base/atomic.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/sched/mutex.hpp"

namespace kernel {

class InternalMount {
public:
    using MakeSuperblock = Result<Ref<Superblock>> (*)();
    // `flags`: MS_*.
    constexpr InternalMount(MakeSuperblock make, u32 flags) : make_(make), flags_(flags) {}
    // May sleep. ENOMEM; the next call tries again.
    Result<Ref<Mount>> get();

private:
    const MakeSuperblock make_;
    const u32 flags_;
    Mutex making_;
    base::Atomic<Mount*> made_{nullptr};
};

// A file system with an empty root directory and nothing to say. `type` as in /proc/filesystems,
// `magic` as statfs(2) shows it.
Result<Ref<Superblock>> make_nameless_superblock(const char* type, u64 magic);

} // namespace kernel
