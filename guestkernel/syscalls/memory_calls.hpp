// Memory: mappings, locking, NUMA policy of a machine with one node, memfd_create, membarrier,
// protection keys.
#pragma once

#include "guestkernel/syscalls/syscall.hpp"

namespace kernel {

// memory.cpp
Result<long> sys_mmap(Task& task, u64 address, u64 length, u32 protection, u32 flags, int fd,
                      u64 offset);
Result<long> sys_munmap(Task& task, u64 address, u64 length);
Result<long> sys_mprotect(Task& task, u64 address, u64 length, u32 protection);
Result<long> sys_mremap(Task& task, u64 address, u64 old_length, u64 new_length, u32 flags,
                        u64 new_address);
Result<long> sys_madvise(Task& task, u64 address, u64 length, int advice);
Result<long> sys_brk(Task& task, u64 address);
Result<long> sys_msync(Task& task, u64 address, u64 length, int flags);
Result<long> sys_mincore(Task& task, u64 address, u64 length, u64 vector);
Result<long> sys_mlock(Task& task, u64 address, u64 length);
Result<long> sys_mlock2(Task& task, u64 address, u64 length, u32 flags);
Result<long> sys_munlock(Task& task, u64 address, u64 length);
Result<long> sys_mlockall(Task& task, u32 flags);
Result<long> sys_munlockall(Task& task);
Result<long> sys_remap_file_pages(Task& task, u64 address, u64 length, u64 protection,
                                  u64 page_offset, u32 flags);
Result<long> sys_pkey_mprotect(Task& task, u64 address, u64 length, u32 protection, int key);
Result<long> sys_pkey_alloc(Task& task, u32 flags, u64 rights);
Result<long> sys_pkey_free(Task& task, int key);
// userfault_calls.cpp
Result<long> sys_userfaultfd(Task& task, u32 flags);
Result<long> sys_process_mrelease(Task& task, int pidfd, u32 flags);

Result<long> sys_memfd_create(Task& task, u64 name, u32 flags);
Result<long> sys_memfd_secret(Task& task, u32 flags);
Result<long> sys_membarrier(Task& task, int command, u32 flags, int cpu);

// foreign_memory.cpp
Result<long> sys_process_vm_readv(Task& task, i32 pid, u64 local, u64 local_count, u64 remote,
                                  u64 remote_count, u64 flags);
Result<long> sys_process_vm_writev(Task& task, i32 pid, u64 local, u64 local_count, u64 remote,
                                   u64 remote_count, u64 flags);
Result<long> sys_process_madvise(Task& task, int pidfd, u64 vector, u64 count, int advice,
                                 u32 flags);

// memory_policy.cpp
Result<long> sys_mbind(Task& task, u64 address, u64 length, u64 mode, u64 nodes, u64 max_node,
                       u32 flags);
Result<long> sys_set_mempolicy(Task& task, int mode, u64 nodes, u64 max_node);
Result<long> sys_get_mempolicy(Task& task, UserPtr<int> mode, u64 nodes, u64 max_node, u64 address,
                               u64 flags);
Result<long> sys_migrate_pages(Task& task, int pid, u64 max_node, u64 old_nodes, u64 new_nodes);
Result<long> sys_move_pages(Task& task, int pid, u64 count, UserPtr<const u64> pages,
                            UserPtr<const int> nodes, UserPtr<int> status, int flags);
Result<long> sys_set_mempolicy_home_node(Task& task, u64 address, u64 length, u64 node, u64 flags);

} // namespace kernel
