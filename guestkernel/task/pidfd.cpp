#include "guestkernel/task/pidfd.hpp"

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/poll.h>

#include "guestkernel/fs/fdinfo.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/namespaces/pid_namespace.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

PidFile::PidFile(Ref<Process> process, Ref<Inode> inode, u32 flags)
    : File(Path(), std::move(inode), flags), process_(process.leak()) {}

PidFile::~PidFile() {
    process_->release();
}

u32 PidFile::poll(PollTable* table) {
    if (table != nullptr)
        table->watch(process_->exit_events);
    SpinGuard guard(process_tree_lock());
    return process_->state == ProcessState::Alive ? 0u : u32{POLLIN | POLLRDNORM};
}

bool PidFile::describe(String& out) {
    return static_cast<bool>(out.append("anon_inode:[pidfd]"));
}

// -1: it has ended; 0: the reader's namespace does not show it.
Result<void> PidFile::describe_state(String& out) {
    bool ended = false;
    {
        SpinGuard guard(process_tree_lock());
        ended = process_->state == ProcessState::Reaped;
    }
    if (ended)
        return out.append("Pid:\t-1\nNSpid:\t-1\n");
    TRY(append_line(out, "Pid:\t{}\nNSpid:", visible_pid(process_->pid)));
    Vector<i32> numbers;
    TRY(numbers_below(current_pid_namespace(), process_->pid, numbers));
    for (const i32 number : numbers)
        TRY(append_line(out, "\t{}", number));
    return out.append("\n");
}

Result<Ref<File>> make_pidfd(Ref<Process> process, u32 flags) {
    TRY(Ref<Inode> inode, make_anonymous_inode(0600));
    TRY(Ref<PidFile> file,
        make_ref<PidFile>(std::move(process), std::move(inode), u32{O_RDWR} | flags));
    return Ref<File>(std::move(file));
}

Result<Ref<Process>> process_of_pidfd(int fd) {
    TRY(Ref<File> file, current_task().files->get(fd));
    PidFile* pidfd = file_as<PidFile>(*file);
    if (pidfd == nullptr)
        return fail(EBADF);
    return Ref<Process>::share(&pidfd->process());
}

} // namespace kernel
