// The descriptor of userfaultfd(2): notices are read, requests are ioctls. What it does is in
// mm/userfault.hpp.
#pragma once

#include "guestkernel/ipc/event_files.hpp"
#include "guestkernel/mm/userfault.hpp"

namespace kernel {

class UserfaultFile final : public AnonymousFile {
public:
    UserfaultFile(Ref<Inode> inode, u32 flags, Ref<UserfaultContext> context)
        : AnonymousFile(std::move(inode), flags), context_(std::move(context)) {}
    ~UserfaultFile() override { context_->close(); }
    static constexpr char file_type[] = "userfaultfd";
    const char* type_name() const override { return file_type; }
    Result<usize> read(IoBuffer& out, u64) override;
    u32 poll(PollTable* table) override;
    Result<long> ioctl(u32 command, u64 argument) override;

private:
    Result<void> read_one(IoBuffer& out, UserfaultNotice& notice);
    Result<long> negotiate(u64 argument);
    Result<long> enter(u64 argument);
    Result<long> leave(u64 argument);
    Result<long> wake(u64 argument);
    Result<long> fill(u32 command, u64 argument);
    Result<long> guard(u64 argument);

    Ref<UserfaultContext> context_;
};

// `flags`: O_CLOEXEC, O_NONBLOCK and UFFD_USER_MODE_ONLY, checked. The new descriptor, for the
// running task's memory.
Result<int> install_userfault_file(u32 flags);

} // namespace kernel
