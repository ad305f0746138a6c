// Requests of rings and O_NONBLOCK.
#pragma once

#include "guestkernel/ipc/event_files.hpp"
#include "guestkernel/ipc/pipe.hpp"
#include "guestkernel/ipc/socket.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

// For as long as a ring's request uses a file: O_NONBLOCK of sockets, pipes and eventfds is for
// their system calls, and requests wait all the same. For other files it gives EAGAIN here too, as
// on Linux.
class IgnoreNonblock {
public:
    IgnoreNonblock(Task& task, File& file) : task_(task) {
        task_.ignores_nonblock = waits_always(file);
    }
    IgnoreNonblock(const IgnoreNonblock&) = delete;
    IgnoreNonblock& operator=(const IgnoreNonblock&) = delete;
    ~IgnoreNonblock() { task_.ignores_nonblock = false; }

private:
    static bool waits_always(File& file) {
        return file_as<SocketFile>(file) != nullptr || file_as<PipeFile>(file) != nullptr ||
               file_as<EventFile>(file) != nullptr;
    }
    Task& task_;
};

} // namespace kernel
