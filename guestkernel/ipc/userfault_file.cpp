#include "guestkernel/ipc/userfault_file.hpp"

#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/ioctl.h>
#include <linux/userfaultfd.h>

#include "guestkernel/fs/devices.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/mm/vma.hpp"
#include "guestkernel/syscalls/syscall.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

// Huge pages do not exist here, and what is shared cannot be write-protected (there is nowhere to
// note it for pages that are not mapped).
constexpr u64 offered_features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_EVENT_FORK |
                                 UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE |
                                 UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_MISSING_SHMEM |
                                 UFFD_FEATURE_SIGBUS | UFFD_FEATURE_THREAD_ID |
                                 UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_EXACT_ADDRESS;
constexpr u32 kept_flags = O_CLOEXEC | O_NONBLOCK;

Result<int> install(Ref<UserfaultContext> context, u32 flags) {
    TRY(Ref<Inode> inode, make_anonymous_inode(0600));
    TRY(Ref<UserfaultFile> file,
        make_ref<UserfaultFile>(std::move(inode), flags & O_NONBLOCK, context));
    return current_task().files->install(Ref<File>(std::move(file)), (flags & O_CLOEXEC) != 0);
}

} // namespace

Result<int> install_userfault_file(u32 flags) {
    TRY(Ref<UserfaultContext> context,
        make_ref<UserfaultContext>(current_task().address_space,
                                   (flags & UFFD_USER_MODE_ONLY) != 0));
    context->descriptor_flags = flags & kept_flags;
    return install(std::move(context), flags);
}

// Copies one notice out; of a fork's, the new context becomes a descriptor of the reader's first.
Result<void> UserfaultFile::read_one(IoBuffer& out, UserfaultNotice& notice) {
    uffd_msg message{};
    message.event = static_cast<u8>(notice.event);
    switch (notice.event) {
    case UFFD_EVENT_PAGEFAULT:
        message.arg.pagefault.flags = notice.words[0];
        message.arg.pagefault.address = notice.words[1];
        message.arg.pagefault.feat.ptid = static_cast<u32>(notice.words[2]);
        break;
    case UFFD_EVENT_FORK: {
        notice.child->descriptor_flags = context_->descriptor_flags;
        const Result<int> fd = install(notice.child, context_->descriptor_flags);
        if (!fd) {
            notice.child->close();
            return fail(fd.error().code);
        }
        message.arg.fork.ufd = static_cast<u32>(*fd);
        break;
    }
    case UFFD_EVENT_REMAP:
        message.arg.remap.from = notice.words[0];
        message.arg.remap.to = notice.words[1];
        message.arg.remap.len = notice.words[2];
        break;
    default:
        message.arg.remove.start = notice.words[0];
        message.arg.remove.end = notice.words[1];
    }
    if (out.copy_out(&message, sizeof message) != sizeof message)
        return fail(EFAULT);
    return {};
}

Result<usize> UserfaultFile::read(IoBuffer& out, u64) {
    if (!context_->has(UserfaultContext::ready) || out.remaining() < sizeof(uffd_msg))
        return fail(EINVAL);
    usize done = 0;
    while (out.remaining() >= sizeof(uffd_msg)) {
        UserfaultNotice notice;
        if (context_->take(notice)) {
            if (auto copied = read_one(out, notice); !copied)
                return done != 0 ? Result<usize>(done) : Result<usize>(fail(copied.error().code));
            done += sizeof(uffd_msg);
            continue;
        }
        if (done != 0)
            break;
        if (non_blocking())
            return fail(EAGAIN);
        if (wait_until(context_->readers, [&] { return context_->something_to_read(); }) ==
            WaitOutcome::Interrupted)
            return fail(restart_syscall);
    }
    return done;
}

// userfaultfd(2): poll works for non-blocking descriptors, once the API has been agreed upon.
u32 UserfaultFile::poll(PollTable* table) {
    if (table != nullptr)
        table->watch(context_->readers);
    if (!context_->has(UserfaultContext::ready) || !non_blocking())
        return poll_err;
    return context_->something_to_read() ? u32{poll_in} : 0;
}

Result<long> UserfaultFile::negotiate(u64 argument) {
    const UserPtr<uffdio_api> user(argument);
    TRY(uffdio_api api, user.copy_in());
    const u64 wanted = api.features;
    const auto refuse = [&](int error) -> Result<long> {
        TRY(user.copy_out(uffdio_api{}));
        return fail(error);
    };
    if (api.api != UFFD_API || (wanted & ~offered_features) != 0)
        return refuse(EINVAL);
    if ((wanted & UFFD_FEATURE_EVENT_FORK) != 0 && !capable(CAP_SYS_PTRACE))
        return refuse(EPERM);
    api.features = offered_features;
    api.ioctls = UFFD_API_IOCTLS;
    TRY(user.copy_out(api));
    u64 none = 0;
    if (!context_->features.compare_exchange(none, wanted | UserfaultContext::ready))
        return refuse(EINVAL);
    return 0;
}

Result<long> UserfaultFile::enter(u64 argument) {
    const UserPtr<uffdio_register> user(argument);
    TRY(uffdio_register request, user.copy_in());
    constexpr u64 known =
        UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MINOR;
    if (request.mode == 0 || (request.mode & ~known) != 0)
        return fail(EINVAL);
    const u32 modes =
        ((request.mode & UFFDIO_REGISTER_MODE_MISSING) != 0 ? u32{vma_fault_missing} : 0) |
        ((request.mode & UFFDIO_REGISTER_MODE_WP) != 0 ? u32{vma_fault_write} : 0) |
        ((request.mode & UFFDIO_REGISTER_MODE_MINOR) != 0 ? u32{vma_fault_minor} : 0);
    u64 ioctls = 0;
    TRY(register_userfault(*context_, {request.range.start, request.range.len}, modes, ioctls));
    request.ioctls = ioctls;
    TRY(user.copy_out(request));
    return 0;
}

Result<long> UserfaultFile::leave(u64 argument) {
    TRY(const uffdio_range range, UserPtr<uffdio_range>(argument).copy_in());
    TRY(unregister_userfault(*context_, {range.start, range.len}));
    return 0;
}

Result<long> UserfaultFile::wake(u64 argument) {
    TRY(const uffdio_range range, UserPtr<uffdio_range>(argument).copy_in());
    TRY(check_userfault_range({range.start, range.len}));
    context_->wake(range.start, range.len);
    return 0;
}

// UFFDIO_COPY, UFFDIO_ZEROPAGE, UFFDIO_CONTINUE: the last word of the request gets the bytes that
// were filled, or an error; what fell short is EAGAIN.
Result<long> UserfaultFile::fill(u32 command, u64 argument) {
    UserfaultRange range{};
    u64 source = 0, mode = 0, answer_at = 0, known = UFFDIO_COPY_MODE_DONTWAKE;
    UserfaultFill how = UserfaultFill::Copy;
    if (command == UFFDIO_COPY) {
        TRY(const uffdio_copy request, UserPtr<uffdio_copy>(argument).copy_in());
        range = {request.dst, request.len};
        source = request.src;
        mode = request.mode;
        answer_at = offsetof(uffdio_copy, copy);
        known |= UFFDIO_COPY_MODE_WP;
        if (source + range.length < source)
            return fail(EINVAL);
    } else {
        // The two are laid out alike.
        static_assert(offsetof(uffdio_zeropage, zeropage) == offsetof(uffdio_continue, mapped));
        static_assert(UFFDIO_ZEROPAGE_MODE_DONTWAKE == UFFDIO_COPY_MODE_DONTWAKE &&
                      UFFDIO_CONTINUE_MODE_DONTWAKE == UFFDIO_COPY_MODE_DONTWAKE);
        TRY(const uffdio_zeropage request, UserPtr<uffdio_zeropage>(argument).copy_in());
        range = {request.range.start, request.range.len};
        mode = request.mode;
        answer_at = offsetof(uffdio_zeropage, zeropage);
        how = command == UFFDIO_CONTINUE ? UserfaultFill::Continue : UserfaultFill::Zero;
    }
    const UserPtr<i64> answer(argument + answer_at);
    if (context_->changing.load() != 0) {
        TRY(answer.copy_out(-EAGAIN));
        return fail(EAGAIN);
    }
    TRY(check_userfault_range(range));
    if ((mode & ~known) != 0)
        return fail(EINVAL);
    const bool guarded = command == UFFDIO_COPY && (mode & UFFDIO_COPY_MODE_WP) != 0;
    const Result<u64> filled = fill_userfault(*context_, range, how, source, guarded);
    TRY(answer.copy_out(filled ? static_cast<i64>(*filled) : -i64{filled.error().code}));
    if (!filled)
        return fail(filled.error().code);
    if ((mode & UFFDIO_COPY_MODE_DONTWAKE) == 0)
        context_->wake(range.start, *filled);
    return *filled == range.length ? Result<long>(0) : Result<long>(fail(EAGAIN));
}

Result<long> UserfaultFile::guard(u64 argument) {
    TRY(const uffdio_writeprotect request, UserPtr<uffdio_writeprotect>(argument).copy_in());
    const bool guarded = (request.mode & UFFDIO_WRITEPROTECT_MODE_WP) != 0;
    const bool quiet = (request.mode & UFFDIO_WRITEPROTECT_MODE_DONTWAKE) != 0;
    if ((request.mode & ~u64{UFFDIO_WRITEPROTECT_MODE_WP | UFFDIO_WRITEPROTECT_MODE_DONTWAKE}) !=
            0 ||
        (guarded && quiet))
        return fail(EINVAL);
    TRY(guard_userfault(*context_, {request.range.start, request.range.len}, guarded));
    if (!guarded && !quiet)
        context_->wake(request.range.start, request.range.len);
    return 0;
}

Result<long> UserfaultFile::ioctl(u32 command, u64 argument) {
    if (command == UFFDIO_API)
        return negotiate(argument);
    if (!context_->has(UserfaultContext::ready))
        return fail(EINVAL);
    switch (command) {
    case UFFDIO_REGISTER:
        return enter(argument);
    case UFFDIO_UNREGISTER:
        return leave(argument);
    case UFFDIO_WAKE:
        return wake(argument);
    case UFFDIO_COPY:
    case UFFDIO_ZEROPAGE:
    case UFFDIO_CONTINUE:
        return fill(command, argument);
    case UFFDIO_WRITEPROTECT:
        return guard(argument);
    default:
        return fail(EINVAL);
    }
}

namespace {

// Whoever may open the device gets descriptors that serve the kernel's faults as well.
class UserfaultDevice final : public File {
public:
    UserfaultDevice(const Path& path, Ref<Inode> inode, u32 flags)
        : File(path, std::move(inode), flags) {}
    bool is_stream() const override { return true; }
    Result<long> ioctl(u32 command, u64 argument) override {
        if (command != USERFAULTFD_IOC_NEW ||
            (argument & ~u64{kept_flags | UFFD_USER_MODE_ONLY}) != 0)
            return fail(EINVAL);
        TRY(const int fd, install_userfault_file(static_cast<u32>(argument)));
        return fd;
    }
};

Result<Ref<File>> open_userfault_device(const Path& path, Ref<Inode> inode, u32 flags, u64) {
    TRY(Ref<UserfaultDevice> file, make_ref<UserfaultDevice>(path, std::move(inode), flags));
    return Ref<File>(std::move(file));
}

} // namespace

void register_userfault_device() {
    static constinit base::Atomic<u32> done{0};
    if (done.exchange(1) == 0)
        register_char_device(userfault_major, userfault_minor, 1, open_userfault_device);
}

} // namespace kernel
