// /dev/kmsg: one record of the kernel's log with each read(2). Linux,
// Documentation/ABI/testing/dev-kmsg.
#include <linux/errno.h>
#include <linux/fs.h>

#include "guestkernel/core/log.hpp"
#include "guestkernel/core/log_buffer.hpp"
#include "guestkernel/fs/devices.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/fs/procfs/text.hpp"
#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/syscalls/syscall.hpp"

namespace kernel {

namespace {

constexpr usize longest_write = 992; // LOG_LINE_MAX
constexpr u32 user_facility = 8, level_mask = 7, default_level = 4;

class LogDevice final : public File {
public:
    using File::File;
    const char* type_name() const override { return "kmsg"; }
    Result<usize> read(IoBuffer& out, u64) override;
    Result<usize> write(IoBuffer& in, u64) override;
    Result<u64> seek(i64 offset, int whence) override;
    u32 poll(PollTable* table) override;
    bool is_stream() const override { return false; }

private:
    Mutex mutex_;
    volatile u64 next_ = log::first_record();
};

// "6,17,12345,-;the text\n", unprintable bytes as \x1b.
void print_record(TextBuilder& out, const log::Record& record) {
    out.print("{},{},{},-;", record.priority, record.sequence, record.time_ns / 1000);
    for (u32 i = 0; i < record.length; i++) {
        const auto byte = static_cast<u8>(record.text[i]);
        if (byte < 0x20 || byte >= 0x7f || byte == '\\') {
            out.append("\\x");
            out.hex(byte, 2);
        } else {
            out.append({&record.text[i], 1});
        }
    }
    out.append("\n");
}

Result<usize> LogDevice::read(IoBuffer& out, u64) {
    MutexGuard guard(mutex_);
    while (next_ >= log::next_record()) {
        if (non_blocking())
            return fail(EAGAIN);
        const u64 seen = next_;
        if (wait_until(log::record_waiters(), [&] { return seen < log::next_record(); }) ==
            WaitOutcome::Interrupted)
            return fail(restart_syscall);
    }
    log::Record record;
    if (!log::read_record(next_, record)) {
        next_ = log::first_record(); // the next read goes on with what is there
        return fail(EPIPE);
    }
    TextBuilder text;
    print_record(text, record);
    if (text.failed())
        return fail(ENOMEM);
    if (text.size() > out.remaining())
        return fail(EINVAL);
    if (out.copy_out(text.view().data(), text.size()) != text.size())
        return fail(EFAULT);
    next_ = next_ + 1;
    return text.size();
}

// "<level>text": without one it is a warning; nobody but the kernel writes as the kernel.
Result<usize> LogDevice::write(IoBuffer& in, u64) {
    const usize asked = in.remaining();
    if (asked > longest_write)
        return fail(EINVAL);
    char buffer[longest_write];
    if (in.copy_in(buffer, asked) != asked)
        return fail(EFAULT);
    std::string_view line(buffer, asked);
    u32 priority = default_level;
    if (line.starts_with('<')) {
        usize at = 1;
        u32 value = 0;
        while (at < line.size() && line[at] >= '0' && line[at] <= '9' && value < 0x10000)
            value = value * 10 + static_cast<u32>(line[at++] - '0');
        if (at > 1 && at < line.size() && line[at] == '>') {
            priority = value;
            line.remove_prefix(at + 1);
        }
    }
    if (priority < user_facility)
        priority |= user_facility;
    while (!line.empty() && line.back() == '\n')
        line.remove_suffix(1);
    log::append_record(priority, line);
    log::record_waiters().wake_all(poll_in | poll_rdnorm);
    const auto level = (priority & level_mask) <= 3   ? boot::LogLevel::Error
                       : (priority & level_mask) <= 4 ? boot::LogLevel::Warning
                                                      : boot::LogLevel::Info;
    // A program's own words do not go to the host as the kernel's warnings do.
    if (log::enabled(boot::LogLevel::Info))
        log::write_line(level, line);
    return asked;
}

Result<u64> LogDevice::seek(i64 offset, int whence) {
    if (offset != 0)
        return fail(ESPIPE);
    switch (whence) {
    case SEEK_SET:
        next_ = log::first_record();
        return u64{0};
    case SEEK_DATA:
        next_ =
            log::cleared_up_to() > log::first_record() ? log::cleared_up_to() : log::first_record();
        return u64{0};
    case SEEK_END:
        next_ = log::next_record();
        return u64{0};
    default:
        return fail(EINVAL);
    }
}

u32 LogDevice::poll(PollTable* table) {
    if (table != nullptr)
        table->watch(log::record_waiters());
    const u64 next = next_;
    if (next >= log::next_record())
        return 0;
    return poll_in | poll_rdnorm | (next < log::first_record() ? poll_err | poll_pri : 0);
}

} // namespace

Result<Ref<File>> make_log_device(const Path& path, Ref<Inode> inode, u32 flags) {
    TRY(Ref<LogDevice> file, make_ref<LogDevice>(path, std::move(inode), flags));
    return Ref<File>(std::move(file));
}

} // namespace kernel
