// File: an open file description, whatever is behind it; and the poll protocol.
#pragma once

#include <string_view>

#include "guestkernel/core/ref.hpp"
#include "guestkernel/fs/io_buffer.hpp"
#include "guestkernel/fs/path.hpp"
#include "guestkernel/lib/string.hpp"
#include "guestkernel/mm/page_cache.hpp"
#include "guestkernel/sched/mutex.hpp"
#include "guestkernel/sched/wait_queue.hpp"

namespace kernel {

class Inode;
class Task;

// Collects the wait queues that would tell of a change. Null pointers mean: only ask.
class PollTable {
public:
    virtual ~PollTable() = default;
    // The queue must live as long as the file does.
    virtual void watch(WaitQueue& queue) = 0;
};

// Receives directory entries; returns false when there is no room for this one.
class DirectorySink {
public:
    virtual ~DirectorySink() = default;
    // `next_offset`: the position from which to go on after this entry. `type`: DT_*.
    virtual bool add(std::string_view name, u64 inode, u32 type, u64 next_offset) = 0;
};

class File : public RefCounted {
public:
    // `flags`: O_ACCMODE, O_APPEND, O_NONBLOCK, ... as open(2) got them, without the creation
    // flags.
    File(Path path, Ref<Inode> inode, u32 flags);
    ~File() override;

    // As an offset for write(): wherever the file ends (RWF_APPEND).
    static constexpr u64 at_end = ~u64{0};
    // Data. `offset` is the position to use (ignored by streams); the caller holds no lock and
    // advances the position itself. Zero = end of file. EAGAIN when non-blocking; EINTR handled by
    // the caller (restart).
    virtual Result<usize> read(IoBuffer& out, u64 offset);
    virtual Result<usize> write(IoBuffer& in, u64 offset);
    virtual Result<u64> seek(i64 offset, int whence); // updates position()
    // Emits from position `offset` on; returns the new position. No lock of the inode is held.
    virtual Result<u64> read_directory(DirectorySink& sink, u64 offset);
    virtual Result<long> ioctl(u32 command, u64 argument); // ENOTTY
    // Ready POLL* bits now; with a table also registers every queue that may change them.
    virtual u32 poll(PollTable* table);
    // Whether there is anything to wait for, as epoll(7) asks. By default not for what is on disk;
    // generated files of its type may know better.
    virtual bool can_wait() const;
    virtual Result<void> flush(); // each close(2) of a descriptor
    virtual Result<void> sync(bool data_only);
    virtual Result<void> allocate(int mode, u64 offset, u64 length);
    virtual Result<void> truncate(u64 size);
    // What mmap(2) maps in its place, and from where, when that is another file (a ring's memory).
    virtual Result<Ref<File>> mapped_file(u64& offset, u64 length);
    // The pages to map for mmap(2); ENODEV where mapping makes no sense.
    virtual Result<Ref<PageCache>> mapping(u32 protection, u32 map_flags);
    virtual bool is_stream() const {
        return false;
    } // no position: pipes, sockets, terminals (lseek: ESPIPE)
    // Whether O_ASYNC works: pipes, sockets, terminals and few others.
    virtual bool signals_readiness() const { return false; }
    // F_SETFL: which of O_APPEND, O_NONBLOCK, O_DIRECT, O_NOATIME, O_ASYNC changed.
    virtual Result<void> set_status_flags(u32 flags);
    // What /proc/PID/fd shows for files without a path ("pipe:[12]", "anon_inode:[eventpoll]",
    // ...). False: use the path.
    virtual bool describe(String& out);
    // The lines of its own in /proc/PID/fdinfo.
    virtual Result<void> describe_state(String& out);
    virtual const char* type_name() const { return "file"; } // identifies subclasses: as<T>()

    u32 flags() const { return flags_; }
    bool readable() const;
    bool writable() const;
    bool non_blocking() const;
    Inode* inode() const { return inode_.get(); }
    const Path& path() const { return path_; }
    u64 position() const { return position_; }
    void set_position(u64 position) { position_ = position; }
    Mutex& position_mutex() { return position_mutex_; }

    // The items of epoll files that watch this one (ipc/epoll.cpp).
    struct EpollItem* epoll_items = nullptr;
    // F_SETOWN, F_SETSIG, O_ASYNC (ipc/file_owner.hpp); made on demand.
    class FileOwner* owner = nullptr;
    // Where the last O_APPEND write ended, set by write(): the caller's new position.
    u64 append_end = 0;
    // What open() claimed and the destructor gives back (fs/open.cpp).
    enum class Claim : u8 { None, Read, Write, DenyWrite };
    Claim claim = Claim::None;
    // Nobody hears of what is done with it: fanotify's own files.
    bool silent = false;

protected:
    void
    last_reference() override; // ends what epoll files know of it while the object is still whole
    u32 flags_;
    Path path_;
    Ref<Inode> inode_;
    u64 position_ = 0;
    Mutex position_mutex_; // read(2), write(2), lseek(2) and getdents(2) hold it around position_
                           // of seekable files
};

void forget_epoll_items(File& file); // ipc/epoll.cpp
void forget_file_owner(File& file);  // ipc/file_owner.cpp

// A checked downcast: T::file_type is an array of its own, by whose address T::type_name() tells.
template <typename T>
T* file_as(File& file) {
    return file.type_name() == T::file_type ? static_cast<T*>(&file) : nullptr;
}

// The inode of an anonymous file (pipe, eventfd, socket, ...): mode has the S_IF* bits; a fresh
// number.
Result<Ref<Inode>> make_anonymous_inode(u32 mode);
// A socket's, which tells the name of its protocol, kept as long as the kernel runs, as an extended
// attribute.
Result<Ref<Inode>> make_socket_inode(const char* protocol);

} // namespace kernel
