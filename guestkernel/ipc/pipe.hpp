// Pipes and FIFOs: a ring of bytes with two kinds of ends. pipe(7), fifo(7).
#pragma once

#include "guestkernel/fs/file.hpp"
#include "guestkernel/lib/vector.hpp"
#include "guestkernel/mm/frame.hpp"

namespace kernel {

class Pipe : public RefCounted {
public:
    static constexpr usize default_capacity = 64 * 1024;
    static constexpr usize max_capacity = 1024 * 1024; // /proc/sys/fs/pipe-max-size
    static constexpr usize atomic_limit = 4096;        // PIPE_BUF

    Pipe() = default;
    ~Pipe() override;

    // Blocking follows `non_blocking`; see File::read and File::write for errors. A write without
    // readers is EPIPE; the signal is the file's to send.
    Result<usize> read(IoBuffer& out, bool non_blocking);
    Result<usize> write(IoBuffer& in, bool non_blocking);
    // For splice(2) and tee(2): copies what is there, from `skip` bytes on, without taking it;
    // takes without copying. Neither sleeps for data. Whoever looks first and takes later holds
    // taking() meanwhile: no reader comes in between.
    Mutex& taking() { return taking_; }
    Result<usize> peek(IoBuffer& out, usize skip);
    void discard(usize bytes);
    // POLLIN, POLLHUP: the latter not before a writer came after the first `writers_known`.
    u32 poll_read(u32 writers_known) const;
    u32 poll_write() const; // POLLOUT, POLLERR
    usize available() const { return static_cast<usize>(written_ - taken_); }
    usize capacity() const { return capacity_; }
    // EBUSY when more is in it than would fit; EPERM past the limit without CAP_SYS_RESOURCE is the
    // caller's check.
    Result<usize> set_capacity(usize bytes);

    void add_end(bool reader, bool writer);
    void drop_end(bool reader, bool writer);
    u32 readers() const { return readers_.load(); }
    u32 writers() const { return writers_.load(); }
    // How many ends were ever opened: what a blocking open of a FIFO waits to change.
    u32 reader_opens() const { return reader_opens_.load(); }
    u32 writer_opens() const { return writer_opens_.load(); }
    WaitQueue read_waiters, write_waiters;

private:
    Result<u8*> page_at(u64 position);
    Result<usize> fill(IoBuffer& in, usize bytes);
    Result<usize> drain(IoBuffer& out, usize bytes);
    bool can_write(usize bytes) const;

    Mutex taking_; // of who takes bytes out; outside of the next one, of any pipe
    Mutex mutex_;  // the contents; held across user copies
    Vector<Frame*> pages_;
    usize capacity_ = default_capacity;
    volatile u64 written_ = 0,
                 taken_ = 0; // bytes ever; both go back to zero when the pipe runs empty
    base::Atomic<u32> readers_{0}, writers_{0}, reader_opens_{0}, writer_opens_{0};
};

class PipeFile final : public File {
public:
    PipeFile(Path path, Ref<Inode> inode, u32 flags, Ref<Pipe> pipe);
    ~PipeFile() override;
    static constexpr char file_type[] = "pipe";
    const char* type_name() const override { return file_type; }
    bool is_stream() const override { return true; }
    bool signals_readiness() const override { return true; }
    Result<usize> read(IoBuffer& out, u64) override;
    Result<usize> write(IoBuffer& in, u64) override;
    u32 poll(PollTable* table) override;
    Result<long> ioctl(u32 command, u64 argument) override;
    bool describe(String& out) override;
    Pipe& pipe() { return *pipe_; }

private:
    Ref<Pipe> pipe_;
    u32 writers_known_ = 0;
};

// What an inode knows of its pipe; under Inode::attributes_lock().
struct FifoState {
    Ref<Pipe> pipe;         // while somebody has it open
    u32 files = 0;          // how many do
    bool anonymous = false; // pipe(2)'s; never changes
};

struct PipeEnds {
    Ref<File> reader, writer;
};
Result<PipeEnds> make_pipe(u32 flags); // O_NONBLOCK

} // namespace kernel
