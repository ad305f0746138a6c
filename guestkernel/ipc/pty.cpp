// Pseudo terminals (pty(7), pts(4)): a Terminal whose device is the master's file.
#include "guestkernel/ipc/pty.hpp"

#include <asm/ioctls.h>
#include <asm/termbits.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/signal.h>

#include "guestkernel/core/log.hpp"
#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/mm/heap.hpp"
#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/namespaces/pid_namespace.hpp"
#include "guestkernel/syscalls/syscall.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

constexpr u8 packet_data = 0;

constinit base::Atomic<u64> next_serial{1};
} // namespace

Pty::Pty(Ref<Devpts> instance, u32 number, u32 uid, u32 gid, u32 bits)
    : Terminal(make_device(pts_major, number)), home(std::move(instance)), index(number),
      serial(next_serial.fetch_add(1)), owner(uid), group(gid), mode(bits),
      created(current_time()) {}

usize Pty::read_output(IoBuffer& out, bool& fault) {
    usize total = 0;
    fault = false;
    for (;;) {
        u8 piece[512];
        usize count = 0;
        {
            SpinGuard guard(ring_lock_);
            while (count < sizeof piece && count < out.remaining() && taken_ != written_) {
                piece[count++] = ring_[taken_ % output_capacity];
                taken_ = taken_ + 1;
            }
        }
        if (count == 0)
            break;
        const usize copied = out.copy_out(piece, count);
        total += copied;
        if (copied < count) {
            fault = total == 0;
            break;
        }
    }
    if (total > 0)
        output_waiters.wake_all(poll_out | poll_wrnorm);
    return total;
}

Result<usize> Pty::put(const u8* data, usize bytes, bool non_blocking) {
    for (;;) {
        if (hung_up())
            return fail(EIO);
        if (const usize count = store(data, bytes); count > 0) {
            master_waiters.wake_all(poll_in | poll_rdnorm);
            return count;
        }
        if (non_blocking)
            return fail(EAGAIN);
        if (wait_until(output_waiters, [&] { return can_put() || hung_up(); }) ==
            WaitOutcome::Interrupted)
            return fail(restart_syscall);
    }
}

void Pty::line_changed(u32 events) {
    if (!packet_mode || events == 0)
        return;
    // The later of a pair is what holds.
    const u32 opposite = (events & (TIOCPKT_STOP | TIOCPKT_NOSTOP)) << 1 |
                         (events & (TIOCPKT_START | TIOCPKT_DOSTOP)) >> 1;
    packet_events.fetch_and(~opposite);
    packet_events.fetch_or(events);
    master_waiters.wake_all(poll_in | poll_rdnorm | poll_pri);
}

usize Pty::store(const u8* data, usize bytes) {
    SpinGuard guard(ring_lock_);
    if (ring_ == nullptr)
        ring_ = static_cast<u8*>(kmalloc(output_capacity));
    if (ring_ == nullptr)
        return bytes; // out of memory: lost, as on a line nobody reads
    usize count = 0;
    while (count < bytes && written_ - taken_ < output_capacity) {
        ring_[written_ % output_capacity] = data[count++];
        written_ = written_ + 1;
    }
    return count;
}

namespace {

bool is_pty(const Terminal& terminal) {
    return device_major(terminal.device_number()) == pts_major;
}
Pty& as_pty(Terminal& terminal) {
    return static_cast<Pty&>(terminal);
}

Result<Ref<File>> open_slave(const Path& path, Ref<Inode> inode, u32 flags, Ref<Pty> pty) {
    if (!pty)
        return fail(EIO);
    if (pty->locked)
        return fail(EIO);
    TRY(pty->opened(flags));
    TRY(Ref<TerminalFile> file,
        make_ref<TerminalFile>(path, std::move(inode), flags, Ref<Terminal>(pty)));
    return Ref<File>(std::move(file));
}

class MasterFile final : public File {
public:
    MasterFile(const Path& path, Ref<Inode> inode, u32 flags, Ref<Pty> pty, Path slaves)
        : File(path, std::move(inode), flags), pty_(std::move(pty)), slaves_(std::move(slaves)) {}
    ~MasterFile() override {
        pty_->home->remove(*pty_);
        pty_->hang_up();
        pty_->output_waiters.wake_all();
    }
    static constexpr char file_type[] = "pty master";
    const char* type_name() const override { return file_type; }
    bool is_stream() const override { return true; }
    bool signals_readiness() const override { return true; }

    Result<usize> read(IoBuffer& out, u64) override {
        const bool packets = pty_->packet_mode;
        bool marked = false; // as a packet of data
        for (;;) {
            if (packets && !marked && out.remaining() > 0) {
                const u32 events = pty_->packet_events.exchange(0);
                const u8 control = static_cast<u8>(events);
                if (events != 0)
                    return out.copy_out(&control, 1) == 1 ? Result<usize>(usize{1}) : fail(EFAULT);
            }
            if (pty_->output_pending() > 0 && out.remaining() > 0) {
                if (packets && !marked && out.copy_out(&packet_data, 1) != 1)
                    return fail(EFAULT);
                marked = packets;
                bool fault = false;
                const usize count = pty_->read_output(out, fault);
                if (fault)
                    return fail(EFAULT);
                if (count > 0)
                    return count + (packets ? 1 : 0);
                if (marked && out.remaining() == 0)
                    return usize{1};
                continue;
            }
            if (pty_->slave_gone())
                return fail(EIO);
            if (non_blocking())
                return fail(EAGAIN);
            const auto ready = [&] {
                return pty_->output_pending() > 0 || pty_->slave_gone() ||
                       (packets && pty_->packet_events.load() != 0);
            };
            if (wait_until(pty_->master_waiters, ready) == WaitOutcome::Interrupted)
                return fail(restart_syscall);
        }
    }
    Result<usize> write(IoBuffer& in, u64) override {
        usize total = 0;
        while (in.remaining() > 0) {
            u8 piece[256];
            const usize count =
                in.copy_in(piece, in.remaining() < sizeof piece ? in.remaining() : sizeof piece);
            if (count == 0) {
                if (total > 0)
                    return total;
                return fail(EFAULT);
            }
            for (usize sent = 0; sent < count;) {
                const usize taken = pty_->receive(piece + sent, count - sent);
                sent += taken;
                total += taken;
                if (taken > 0)
                    continue;
                if (non_blocking()) {
                    if (total > 0)
                        return total;
                    return fail(EAGAIN);
                }
                if (pty_->hung_up()) {
                    if (total > 0)
                        return total;
                    return fail(EIO);
                }
                // A slave in raw mode that does not read: wait until it has, or until one is
                // opened again that does.
                if (wait_until(pty_->master_waiters, [&] { return !pty_->input_full(); }) ==
                    WaitOutcome::Interrupted) {
                    if (total > 0)
                        return total;
                    return fail(restart_syscall);
                }
            }
        }
        return total;
    }
    u32 poll(PollTable* poll_table) override {
        if (poll_table != nullptr)
            poll_table->watch(pty_->master_waiters);
        u32 events = !pty_->input_full() ? poll_out | poll_wrnorm : 0;
        if (pty_->output_pending() > 0)
            events |= poll_in | poll_rdnorm;
        if (pty_->packet_mode && pty_->packet_events.load() != 0)
            events |= poll_in | poll_rdnorm | poll_pri;
        if (pty_->slave_gone())
            events |= poll_hup;
        return events;
    }
    Result<long> ioctl(u32 command, u64 argument) override;

private:
    Result<long> open_peer(u64 flags);
    Ref<Pty> pty_;
    volatile bool exclusive_ = false;
    const Path slaves_; // the devpts that it is of
};

// TIOCGPTPEER: without looking at names that a program could have covered.
Result<long> MasterFile::open_peer(u64 flags) {
    char name[16];
    const usize length = log::format(name, sizeof name, "{}", pty_->index);
    TRY(Ref<Dentry> dentry, DentryCache::lookup(*slaves_.dentry(), std::string_view(name, length)));
    if (dentry->is_negative())
        return fail(EIO);
    Ref<Inode> inode = Ref<Inode>::share(dentry->inode());
    const Path path(Ref<Mount>::share(slaves_.mount()), std::move(dentry));
    TRY(Ref<File> file,
        open_slave(path, std::move(inode), static_cast<u32>(flags) & ~u32{O_CLOEXEC}, pty_));
    TRY(const int fd, current_task().files->install(std::move(file), (flags & O_CLOEXEC) != 0));
    return fd;
}

Result<long> MasterFile::ioctl(u32 command, u64 argument) {
    switch (command) {
    case TIOCGPTN: {
        TRY(UserPtr<u32>(argument).copy_out(pty_->index));
        return 0;
    }
    case TIOCSPTLCK: {
        TRY(const int lock, UserPtr<const int>(argument).copy_in());
        pty_->locked = lock != 0;
        return 0;
    }
    case TIOCGPTLCK: {
        TRY(UserPtr<int>(argument).copy_out(pty_->locked ? 1 : 0));
        return 0;
    }
    case TIOCPKT: {
        TRY(const int on, UserPtr<const int>(argument).copy_in());
        if (on != 0 && !pty_->packet_mode)
            pty_->packet_events.store(0);
        pty_->packet_mode = on != 0;
        return 0;
    }
    case TIOCGPKT: {
        TRY(UserPtr<int>(argument).copy_out(pty_->packet_mode ? 1 : 0));
        return 0;
    }
    case TIOCGPTPEER:
        return open_peer(argument);
    case FIONREAD: {
        TRY(UserPtr<int>(argument).copy_out(static_cast<int>(pty_->output_pending())));
        return 0;
    }
    case TIOCSIG: {
        // What could be typed: whoever holds the master may not signal all that runs on the slave.
        if (argument != SIGINT && argument != SIGQUIT && argument != SIGTSTP)
            return fail(EINVAL);
        if (const i32 group = pty_->foreground(); group > 0)
            (void)send_signal_to_group(pty_->session(), group, static_cast<int>(argument));
        return 0;
    }
    case TIOCGPGRP: {
        TRY(UserPtr<i32>(argument).copy_out(visible_pid(pty_->foreground())));
        return 0;
    }
    case TIOCGSID: {
        if (pty_->session() == 0)
            return fail(ENOTTY);
        TRY(UserPtr<i32>(argument).copy_out(visible_pid(pty_->session())));
        return 0;
    }
    case TIOCSPGRP:
    case TIOCSCTTY:
    case TIOCNOTTY:
        return fail(ENOTTY);
    case TIOCEXCL: // of this side: nobody opens it a second time anyway
    case TIOCNXCL:
        exclusive_ = command == TIOCEXCL;
        return 0;
    case TIOCGEXCL: {
        TRY(UserPtr<int>(argument).copy_out(exclusive_ ? 1 : 0));
        return 0;
    }
    default:
        return pty_->ioctl(*this, command, argument); // modes and window size are the pair's
    }
}

Result<Ref<File>> open_ptmx(const Path& path, Ref<Inode> inode, u32 flags, u64) {
    TRY(Path slaves, Devpts::find(path));
    auto& home = static_cast<Devpts&>(slaves.mount()->superblock());
    TRY(Ref<Pty> pty, home.add());
    auto file = make_ref<MasterFile>(path, std::move(inode), flags, pty, std::move(slaves));
    if (!file) {
        home.remove(*pty);
        return fail(ENOMEM);
    }
    return Ref<File>(std::move(*file));
}

// A node with such a number that is not in devpts leads nowhere.
Result<Ref<File>> open_pts(const Path& path, Ref<Inode> inode, u32 flags, u64) {
    Ref<Pty> pty = pty_of(*inode);
    return open_slave(path, std::move(inode), flags, std::move(pty));
}

} // namespace

void pty_slave_opened(Terminal& slave) {
    if (!is_pty(slave))
        return;
    as_pty(slave).slave_files.fetch_add(1);
    as_pty(slave).slave_opened = true;
}

void pty_slave_closed(Terminal& slave) {
    if (is_pty(slave) && as_pty(slave).slave_files.fetch_sub(1) == 1)
        as_pty(slave).master_waiters.wake_all();
}

void register_ptys() {
    register_char_device(ptmx_major, ptmx_minor, 1, open_ptmx);
    register_char_device(pts_major, 0, Devpts::most, open_pts);
}

} // namespace kernel
