// The sandbox of the joey process: what it gives up before the first guest instruction. In two
// steps, since privileges and file access are inherited by threads, while each class of threads has
// its own filter of system calls:
//
//   1. give_up_privileges(), once, when the shares are open and before the first thread is started;
//      the machine and the standard streams, which are opened later, are named to it;
//   2. confine_thread(), on each thread, as the first thing it does (the main thread: last before
//      the guest runs).
//
// README.md says what is enforced by which mechanism.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "vmm/error.hpp"
#include "vmm/machine/vm.hpp"

namespace vmm {

// A directory or file that is shared with the guest.
struct SharedPath {
    int fd; // of the share's root; O_PATH will do
    bool writable;
};

struct SandboxPolicy {
    std::span<const SharedPath> shares;
    std::string kernel_path; // empty: find_kernel()
    // User-mode networking asks the host's resolver for the guest.
    bool reads_resolver = false;
    // Whether a share's guest may make device nodes in it.
    bool device_nodes = false;
    // What the process may hold beside the guest's memory, in bytes; 0: as much as it likes. A
    // guest decides how many files and connections are remembered for it.
    std::uint64_t most_memory = 0;
    // Keep the capabilities that serving files to the guest's root needs; without effect for an
    // ordinary user, who has none.
    bool writable() const {
        for (const SharedPath& share : shares) {
            if (share.writable)
                return true;
        }
        return false;
    }
};

// Requires: one thread.
Result<void> give_up_privileges(const SandboxPolicy& policy);

// Installs the filter of `thread_class` on the calling thread. A thread started by a confined one
// has its starter's filter already and keeps it. `writable`: SandboxPolicy::writable().
Result<void> confine_thread(ThreadClass thread_class, bool writable);

// The name of a system call of x86-64; empty if it has none.
const char* syscall_name(std::size_t number);

} // namespace vmm
