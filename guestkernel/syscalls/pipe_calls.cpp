// pipe(2), pipe2(2).
#include <linux/errno.h>
#include <linux/fcntl.h>

#include "guestkernel/ipc/pipe.hpp"
#include "guestkernel/syscalls/ipc_calls.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

Result<long> sys_pipe2(Task& task, UserPtr<DescriptorPair> out, int flags) {
    if ((flags & ~(O_CLOEXEC | O_NONBLOCK)) != 0)
        return fail(EINVAL);
    TRY(PipeEnds ends, make_pipe(static_cast<u32>(flags & O_NONBLOCK)));
    FileTable& files = *task.files;
    TRY(const int reader, files.reserve());
    const auto writer = files.reserve();
    if (!writer) {
        files.unreserve(reader);
        return fail(writer.error().code);
    }
    // Before they are filled: from then on another thread can use or close the descriptors.
    if (auto done = out.copy_out({reader, *writer}); !done) {
        files.unreserve(reader);
        files.unreserve(*writer);
        return fail(done.error().code);
    }
    files.fill(reader, std::move(ends.reader), (flags & O_CLOEXEC) != 0);
    files.fill(*writer, std::move(ends.writer), (flags & O_CLOEXEC) != 0);
    return 0;
}

Result<long> sys_pipe(Task& task, UserPtr<DescriptorPair> out) {
    return sys_pipe2(task, out, 0);
}

} // namespace kernel
