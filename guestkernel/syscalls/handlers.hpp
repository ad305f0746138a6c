// The declarations of all system call handlers, by family; each family's owner has a header of its
// own.
#pragma once

#include "guestkernel/syscalls/syscall.hpp"

#if __has_include("guestkernel/syscalls/memory_calls.hpp")
#include "guestkernel/syscalls/memory_calls.hpp"
#endif
#if __has_include("guestkernel/syscalls/task_calls.hpp")
#include "guestkernel/syscalls/task_calls.hpp"
#endif
#if __has_include("guestkernel/syscalls/file_calls.hpp")
#include "guestkernel/syscalls/file_calls.hpp"
#endif
#if __has_include("guestkernel/syscalls/ipc_calls.hpp")
#include "guestkernel/syscalls/ipc_calls.hpp"
#endif
#if __has_include("guestkernel/syscalls/system_calls.hpp")
#include "guestkernel/syscalls/system_calls.hpp"
#endif
#if __has_include("guestkernel/syscalls/socket_calls.hpp")
#include "guestkernel/syscalls/socket_calls.hpp"
#endif
#if __has_include("guestkernel/syscalls/sysv_calls.hpp")
#include "guestkernel/syscalls/sysv_calls.hpp"
#endif
#if __has_include("guestkernel/syscalls/mqueue_calls.hpp")
#include "guestkernel/syscalls/mqueue_calls.hpp"
#endif
#if __has_include("guestkernel/syscalls/aio_calls.hpp")
#include "guestkernel/syscalls/aio_calls.hpp"
#endif
#if __has_include("guestkernel/syscalls/machine_calls.hpp")
#include "guestkernel/syscalls/machine_calls.hpp"
#endif
#if __has_include("guestkernel/syscalls/key_calls.hpp")
#include "guestkernel/syscalls/key_calls.hpp"
#endif
#if __has_include("guestkernel/syscalls/io_ring_calls.hpp")
#include "guestkernel/syscalls/io_ring_calls.hpp"
#endif
#if __has_include("guestkernel/syscalls/bpf_calls.hpp")
#include "guestkernel/syscalls/bpf_calls.hpp"
#endif
#if __has_include("guestkernel/syscalls/landlock_calls.hpp")
#include "guestkernel/syscalls/landlock_calls.hpp"
#endif
#if __has_include("guestkernel/syscalls/namespace_calls.hpp")
#include "guestkernel/syscalls/namespace_calls.hpp"
#endif
