// A descriptor that stands for a process.
#pragma once

#include "guestkernel/fs/file.hpp"

namespace kernel {

class Process;

class PidFile : public File {
public:
    static constexpr char file_type[] = "pidfd";
    PidFile(Ref<Process> process, Ref<Inode> inode, u32 flags);
    ~PidFile() override;
    u32 poll(PollTable* table) override;
    bool is_stream() const override { return true; }
    bool describe(String& out) override;
    Result<void> describe_state(String& out) override;
    const char* type_name() const override { return file_type; }
    Process& process() const { return *process_; }

private:
    Process* process_; // holds a reference
};

// `flags`: O_NONBLOCK (PIDFD_NONBLOCK) or 0.
Result<Ref<File>> make_pidfd(Ref<Process> process, u32 flags);
// The process behind a descriptor: EBADF.
Result<Ref<Process>> process_of_pidfd(int fd);

} // namespace kernel
