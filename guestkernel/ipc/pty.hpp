// Pseudo terminals: the pair's state, and devpts, where slaves have their names. Inside of ipc/.
#pragma once

#include "guestkernel/fs/inode.hpp"
#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/ipc/terminal.hpp"
#include "guestkernel/lib/vector.hpp"
#include "guestkernel/mm/heap.hpp"

namespace kernel {

class Pty;

inline constexpr u32 pts_major = 136, ptmx_major = 5, ptmx_minor = 2;

// One mount of devpts is one set of terminals, numbered from 0.
class Devpts final : public Superblock {
public:
    struct Options {
        bool has_uid = false, has_gid = false;
        u32 uid = 0, gid = 0, mode = 0600, ptmx_mode = 0;
        u32 max = most;
    };
    static constexpr u32 most = 1u << 20;
    static constexpr char type_name[] = "devpts";
    static Result<Ref<Devpts>> create(std::string_view options);
    // The instance that an open /dev/ptmx belongs to, as a place: its own file system, else what is
    // mounted on "pts" beside it. ENODEV.
    static Result<Path> find(const Path& ptmx);

    Ref<Inode> root() override { return root_; }
    Result<FileSystemStats> stats() override;
    const char* type() const override { return type_name; }
    // Slaves come and go without their directory changing.
    bool dentry_valid(Inode&, std::string_view, Inode* inode, u64) override;
    Result<void> describe_options(String& out) override;
    Result<void> reconfigure(std::string_view options) override;

    // A new pair, with the lowest free number. ENOSPC.
    Result<Ref<Pty>> add();
    void remove(Pty& pty);
    Ref<Pty> pty(u32 number);
    // The first number from `number` on that is taken; false: none.
    bool next(u32& number);
    Ref<Inode> ptmx() { return ptmx_; }

private:
    Result<void> apply(const Options& options);
    SpinLock lock_{LockRank::Device};
    Vector<Pty*> ptys_; // by number; null: free
    Options options_;
    Ref<Inode> root_, ptmx_;
};

// The pair that a name in devpts leads to; null once its master is gone, or for other inodes.
Ref<Pty> pty_of(Inode& inode);

// The slave side. Its device is a ring of bytes that the master reads.
class Pty final : public Terminal {
public:
    static constexpr usize output_capacity = 16 * 1024;

    Pty(Ref<Devpts> instance, u32 number, u32 uid, u32 gid, u32 bits);
    ~Pty() override { kfree(ring_); }

    usize read_output(IoBuffer& out, bool& fault);
    usize output_pending() override { return static_cast<usize>(written_ - taken_); }
    bool slave_gone() const { return slave_opened && slave_files.load() == 0; }

    const Ref<Devpts> home;
    const u32 index;
    const u64 serial; // no two pairs have the same
    u32 owner, group, mode;
    TimeSpec created;
    WaitQueue master_waiters; // the master: output is there, the slave is gone, input has room
    WaitQueue output_waiters; // writers of the slave
    base::Atomic<u32> slave_files{0};
    volatile bool slave_opened = false;
    volatile bool locked = true; // until unlockpt(3)
    volatile bool packet_mode = false;
    base::Atomic<u32> packet_events{0}; // TIOCPKT_*, for the next read of a master in packet mode

protected:
    Result<usize> put(const u8* data, usize bytes, bool non_blocking) override;
    void echo(const u8* data, usize bytes) override {
        store(data, bytes);
        master_waiters.wake_all(poll_in | poll_rdnorm);
    }
    bool can_put() override { return written_ - taken_ < output_capacity; }
    void watch_output(PollTable& poll_table) override { poll_table.watch(output_waiters); }
    void input_consumed() override { master_waiters.wake_all(poll_out | poll_wrnorm); }
    void line_changed(u32 events) override;
    void flush_output() override {
        SpinGuard guard(ring_lock_);
        taken_ = written_;
    }

private:
    usize store(const u8* data, usize bytes);
    SpinLock ring_lock_{LockRank::Leaf};
    u8* ring_ = nullptr;
    volatile u64 written_ = 0, taken_ = 0;
};

} // namespace kernel
