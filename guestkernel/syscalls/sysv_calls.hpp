// Handlers: System V semaphores, message queues, shared memory. They are in ipc/sysv_*.cpp, beside
// their objects.
#pragma once

#include "guestkernel/syscalls/syscall.hpp"

namespace kernel {

Result<long> sys_semget(Task& task, int key, int count, u32 flags);
Result<long> sys_semop(Task& task, int id, u64 operations, u32 count);
Result<long> sys_semtimedop(Task& task, int id, u64 operations, u32 count, u64 timeout);
Result<long> sys_semctl(Task& task, int id, int number, int command, u64 argument);

Result<long> sys_msgget(Task& task, int key, u32 flags);
Result<long> sys_msgsnd(Task& task, int id, u64 text, u64 bytes, u32 flags);
Result<long> sys_msgrcv(Task& task, int id, u64 text, u64 bytes, i64 type, u32 flags);
Result<long> sys_msgctl(Task& task, int id, int command, u64 argument);

Result<long> sys_shmget(Task& task, int key, u64 size, u32 flags);
Result<long> sys_shmat(Task& task, int id, u64 address, u32 flags);
Result<long> sys_shmdt(Task& task, u64 address);
Result<long> sys_shmctl(Task& task, int id, int command, u64 argument);

} // namespace kernel
