// Pseudo terminals (pty(7), pts(4)): a Terminal whose device is the master's file; and devpts,
// where slaves have their names.
#include <asm/ioctls.h>
#include <asm/termbits.h>
#include <linux/errno.h>
#include <linux/fcntl.h>

#include "guestkernel/core/log.hpp"
#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/ipc/terminal.hpp"
#include "guestkernel/mm/heap.hpp"
#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/syscalls/syscall.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

constexpr u32 pts_major = 136, ptmx_major = 5, ptmx_minor = 2;
constexpr unsigned max_ptys = 4096;
constexpr usize output_capacity = 16 * 1024;
constexpr u8 packet_data = 0;

class Pty;
struct Table {
    Vector<Pty*> ptys; // by number; null: free
};
constinit Guarded<Table, LockRank::Device>* table = nullptr;
alignas(Guarded<Table, LockRank::Device>) u8
    table_storage[sizeof(Guarded<Table, LockRank::Device>)];
constinit Superblock* instance = nullptr; // the one devpts, held for good

// The slave side. Its device is a ring of bytes that the master reads.
class Pty final : public Terminal {
public:
    Pty(u32 number, u32 uid, u32 gid)
        : Terminal(u64{pts_major} << 8 | number), index(number), owner(uid), group(gid),
          created(current_time()) {}
    ~Pty() override { kfree(ring_); }

    usize read_output(IoBuffer& out, bool& fault) {
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
    usize output_pending() override { return static_cast<usize>(written_ - taken_); }
    bool slave_gone() const { return slave_opened && slave_files.load() == 0; }

    const u32 index;
    u32 owner, group, mode = 0620;
    TimeSpec created;
    WaitQueue master_waiters; // the master: output is there, the slave is gone, input has room
    WaitQueue output_waiters; // writers of the slave
    base::Atomic<u32> slave_files{0};
    volatile bool slave_opened = false;
    volatile bool locked = true; // until unlockpt(3)
    volatile bool packet_mode = false;
    base::Atomic<u32> packet_events{0}; // TIOCPKT_*, for the next read of a master in packet mode

protected:
    Result<usize> put(const u8* data, usize bytes, bool non_blocking) override {
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
    void echo(const u8* data, usize bytes) override {
        store(data, bytes);
        master_waiters.wake_all(poll_in | poll_rdnorm);
    }
    bool can_put() override { return written_ - taken_ < output_capacity; }
    void watch_output(PollTable& poll_table) override { poll_table.watch(output_waiters); }
    void input_consumed() override { master_waiters.wake_all(poll_out | poll_wrnorm); }
    void line_changed(u32 events) override {
        if (!packet_mode || events == 0)
            return;
        // The later of a pair is what holds.
        const u32 opposite = (events & (TIOCPKT_STOP | TIOCPKT_NOSTOP)) << 1 |
                             (events & (TIOCPKT_START | TIOCPKT_DOSTOP)) >> 1;
        packet_events.fetch_and(~opposite);
        packet_events.fetch_or(events);
        master_waiters.wake_all(poll_in | poll_rdnorm | poll_pri);
    }
    void flush_output() override {
        SpinGuard guard(ring_lock_);
        taken_ = written_;
    }

private:
    usize store(const u8* data, usize bytes) {
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
    SpinLock ring_lock_{LockRank::Leaf};
    u8* ring_ = nullptr;
    volatile u64 written_ = 0, taken_ = 0;
};

bool is_pty(const Terminal& terminal) {
    return terminal.device_number() >> 8 == pts_major;
}
Pty& as_pty(Terminal& terminal) {
    return static_cast<Pty&>(terminal);
}

Ref<Pty> find_pty(u32 number) {
    auto access = table->lock();
    if (number >= access->ptys.size() || access->ptys[number] == nullptr)
        return {};
    return Ref<Pty>::share(access->ptys[number]);
}

Result<Ref<Pty>> create_pty() {
    const Task& task = current_task();
    u32 number = 0;
    {
        // Grown without the lock held: allocation may reclaim. The table only ever grows.
        auto access = table->lock();
        while (number < access->ptys.size() && access->ptys[number] != nullptr)
            number++;
        if (number >= max_ptys)
            return fail(ENOSPC);
        if (number == access->ptys.size())
            TRY(access->ptys.push_back(nullptr));
    }
    TRY(Ref<Pty> pty, make_ref<Pty>(number, task.credentials->fsuid, task.credentials->fsgid));
    auto access = table->lock();
    if (access->ptys[number] != nullptr)
        return fail(EAGAIN);          // taken meanwhile
    access->ptys[number] = pty.get(); // weak: the master removes it
    return pty;
}

Result<Ref<File>> open_slave(const Path& path, Ref<Inode> inode, u32 flags, u32 number) {
    Ref<Pty> pty = find_pty(number);
    if (!pty)
        return fail(ENXIO);
    if (pty->locked)
        return fail(EIO);
    pty->opened(flags);
    TRY(Ref<TerminalFile> file,
        make_ref<TerminalFile>(path, std::move(inode), flags, Ref<Terminal>(pty)));
    return Ref<File>(std::move(file));
}

class MasterFile final : public File {
public:
    MasterFile(const Path& path, Ref<Inode> inode, u32 flags, Ref<Pty> pty)
        : File(path, std::move(inode), flags), pty_(std::move(pty)) {}
    ~MasterFile() override {
        table->lock()->ptys[pty_->index] = nullptr;
        pty_->hang_up();
        pty_->output_waiters.wake_all();
    }
    static constexpr char file_type[] = "pty master";
    const char* type_name() const override { return file_type; }
    bool is_stream() const override { return true; }

    Result<usize> read(IoBuffer& out, u64) override {
        const bool packets = pty_->packet_mode;
        bool marked = false; // as a packet of data
        for (;;) {
            if (packets && !marked && out.remaining() > 0) {
                const u32 events = pty_->packet_events.exchange(0);
                const u8 control = static_cast<u8>(events);
                if (events != 0)
                    return out.copy_out(&control, 1) == 1 ? Result<usize>(1) : fail(EFAULT);
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
                // A slave in raw mode that does not read: wait until it has.
                const u32 pending = pty_->slave_files.load();
                if (wait_until(pty_->master_waiters, [&] {
                        return !pty_->input_full() || pending == 0;
                    }) == WaitOutcome::Interrupted) {
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
    Ref<Pty> pty_;
};

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
    case TIOCGPTPEER: {
        char name[24];
        const usize length = log::format(name, sizeof name, "/dev/pts/{}", pty_->index);
        TRY(Path path, lookup_path(at_fdcwd, std::string_view(name, length), lookup_follow));
        TRY(Ref<File> file, open_slave(path, Ref<Inode>::share(path.dentry()->inode()),
                                       static_cast<u32>(argument) & ~u32{O_CLOEXEC}, pty_->index));
        TRY(const int fd,
            current_task().files->install(std::move(file), (argument & O_CLOEXEC) != 0));
        return fd;
    }
    case FIONREAD: {
        TRY(UserPtr<int>(argument).copy_out(static_cast<int>(pty_->output_pending())));
        return 0;
    }
    case TIOCSIG: {
        if (argument < 1 || argument > 64)
            return fail(EINVAL);
        if (const i32 group = pty_->foreground(); group > 0)
            (void)send_signal_to_group(group, static_cast<int>(argument));
        return 0;
    }
    case TIOCGPGRP: {
        TRY(UserPtr<i32>(argument).copy_out(pty_->foreground()));
        return 0;
    }
    case TIOCGSID: {
        TRY(UserPtr<i32>(argument).copy_out(pty_->session()));
        return 0;
    }
    case TIOCSPGRP:
    case TIOCSCTTY:
    case TIOCNOTTY:
        return fail(ENOTTY);
    default:
        return pty_->ioctl(*this, command, argument); // modes and window size are the pair's
    }
}

// --- devpts
// --------------------------------------------------------------------------------------------

// Inode numbers: 1 the root, 2 ptmx, 3 + N the slave N, as in Linux.
class SlaveInode final : public Inode {
public:
    SlaveInode(Superblock* superblock, Pty& pty)
        : Inode(superblock, 3 + pty.index, mode_char | pty.mode), index_(pty.index) {
        uid_ = pty.owner;
        gid_ = pty.group;
    }
    Result<Attributes> attributes() override {
        Attributes out;
        out.inode = number();
        out.mode = mode_;
        out.uid = uid_;
        out.gid = gid_;
        out.device_number = make_device(pts_major, index_);
        out.block_size = 1024;
        if (Ref<Pty> pty = find_pty(index_))
            out.access_time = out.modify_time = out.change_time = pty->created;
        return out;
    }
    Result<void> set_attributes(const Attributes& wanted, u32 mask) override {
        if ((mask & set_mode) != 0)
            mode_ = mode_char | (wanted.mode & mode_permissions);
        if ((mask & set_uid) != 0)
            uid_ = wanted.uid;
        if ((mask & set_gid) != 0)
            gid_ = wanted.gid;
        if (Ref<Pty> pty = find_pty(index_)) {
            pty->mode = mode_ & mode_permissions;
            pty->owner = uid_;
            pty->group = gid_;
        }
        return {};
    }

private:
    u32 index_;
};

class PtmxInode final : public Inode {
public:
    explicit PtmxInode(Superblock* superblock) : Inode(superblock, 2, mode_char | 0666) {}
    Result<Attributes> attributes() override {
        Attributes out;
        out.inode = number();
        out.mode = mode_;
        out.device_number = make_device(ptmx_major, ptmx_minor);
        out.block_size = 1024;
        return out;
    }
};

class DirectoryFile final : public File {
public:
    using File::File;
    Result<u64> read_directory(DirectorySink& sink, u64 offset) override {
        if (!add_dot_entries(*this, sink, offset))
            return offset;
        if (offset == 2) {
            if (!sink.add("ptmx", 2, mode_char >> 12, 3))
                return offset;
            offset = 3;
        }
        for (;; offset++) {
            const u32 number = static_cast<u32>(offset - 3);
            {
                auto access = table->lock();
                if (number >= access->ptys.size())
                    return offset;
                if (access->ptys[number] == nullptr)
                    continue;
            }
            char name[16];
            const usize length = log::format(name, sizeof name, "{}", number);
            if (!sink.add(std::string_view(name, length), 3 + number, mode_char >> 12, offset + 1))
                return offset;
        }
    }
    Result<u64> seek(i64 offset, int whence) override {
        if (whence != 0 || offset < 0)
            return fail(EINVAL);
        set_position(static_cast<u64>(offset));
        return static_cast<u64>(offset);
    }
};

class RootInode final : public Inode {
public:
    explicit RootInode(Superblock* superblock) : Inode(superblock, 1, mode_directory | 0755) {}
    Result<Attributes> attributes() override {
        Attributes out;
        out.inode = 1;
        out.mode = mode_;
        out.links = 2;
        out.block_size = 1024;
        return out;
    }
    Result<Ref<Inode>> lookup(std::string_view name) override {
        if (name == "ptmx") {
            TRY(Ref<PtmxInode> inode, make_ref<PtmxInode>(superblock()));
            return Ref<Inode>(std::move(inode));
        }
        u32 number = 0;
        if (name.empty() || name.size() > 5)
            return fail(ENOENT);
        for (const char c : name) {
            if (c < '0' || c > '9' || (name.size() > 1 && name[0] == '0'))
                return fail(ENOENT);
            number = number * 10 + static_cast<u32>(c - '0');
        }
        Ref<Pty> pty = find_pty(number);
        if (!pty)
            return fail(ENOENT);
        TRY(Ref<SlaveInode> inode, make_ref<SlaveInode>(superblock(), *pty));
        return Ref<Inode>(std::move(inode));
    }
    Result<Ref<File>> open(const Path& path, u32 flags) override {
        TRY(Ref<DirectoryFile> file, make_ref<DirectoryFile>(path, Ref<Inode>::share(this), flags));
        return Ref<File>(std::move(file));
    }
};

class Devpts final : public Superblock {
public:
    Result<void> init() {
        TRY(Ref<RootInode> inode, make_ref<RootInode>(this));
        root_ = std::move(inode);
        return {};
    }
    Ref<Inode> root() override { return root_; }
    Result<FileSystemStats> stats() override {
        FileSystemStats out{};
        out.type = 0x1cd1; // DEVPTS_SUPER_MAGIC
        out.block_size = 4096;
        out.name_max = 255;
        return out;
    }
    const char* type() const override { return "devpts"; }
    // Slaves come and go without their directory changing.
    bool dentry_valid(Inode&, std::string_view, Inode* inode, u64) override {
        return inode != nullptr &&
               (inode->number() == 2 || find_pty(static_cast<u32>(inode->number() - 3)));
    }

private:
    Ref<Inode> root_;
};

Result<Ref<File>> open_ptmx(const Path& path, Ref<Inode> inode, u32 flags, u64) {
    TRY(Ref<Pty> pty, create_pty());
    auto file = make_ref<MasterFile>(path, std::move(inode), flags, pty);
    if (!file) {
        table->lock()->ptys[pty->index] = nullptr;
        return fail(ENOMEM);
    }
    return Ref<File>(std::move(*file));
}

Result<Ref<File>> open_pts(const Path& path, Ref<Inode> inode, u32 flags, u64 device_number) {
    return open_slave(path, std::move(inode), flags, device_minor(device_number));
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
    table = ::new (static_cast<void*>(table_storage)) Guarded<Table, LockRank::Device>();
    register_char_device(ptmx_major, ptmx_minor, 1, open_ptmx);
    register_char_device(pts_major, 0, max_ptys, open_pts);
}

Result<Ref<Superblock>> make_devpts() {
    if (instance == nullptr) {
        TRY(Ref<Devpts> fresh, make_ref<Devpts>());
        TRY(fresh->init());
        instance = fresh.leak();
    }
    return Ref<Superblock>::share(instance);
}

} // namespace kernel
