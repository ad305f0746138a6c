// AF_UNIX: two endpoints in one kernel. unix(7).
//
// A UnixSocketFile is the open file, a UnixEndpoint what its peers know of it: a connection that
// waits to be accepted has no file yet, and a peer may outlive its file.
//
// Locks: unix_lock() guards connections (states, peers, backlogs, names in the abstract table);
// UnixEndpoint::lock, inside of it, one endpoint's queue and flags, never two at once. Readers of
// one endpoint take turns by read_mutex, outside of both, and hold it across copies to user memory.
#pragma once

#include "base/intrusive_list.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/ipc/socket.hpp"
#include "guestkernel/namespaces/namespace.hpp"

namespace kernel {

class Process;
class UnixEndpoint;

// Who made a connection, or began to listen, as it was then.
struct UnixIdentity : RefCounted {
    UnixIdentity();
    ~UnixIdentity() override;
    SocketCredentials ids;
    Ref<const Credentials> credentials; // null with the next: the kernel
    Ref<Process> process;
};

// Bytes on their way: a piece of a stream, or one datagram. The data follow the header.
struct UnixSegment {
    UnixSegment* next = nullptr;
    u32 start = 0, end = 0, capacity = 0;
    u32 charge = 0;    // against the sender's buffer
    u64 timestamp = 0; // when a message was sent, if its receiver asked for that by then
    SocketCredentials credentials;
    Ref<UnixEndpoint> sender; // of datagrams; a stream's sender is the peer
    Ref<Process> process;     // who sent it, if its receiver asked for that by then
    bool peeked = false;      // an empty one, by SO_PEEK_OFF
    FileRights* rights = nullptr;

    u8* data();
    u32 size() const { return end - start; }
};

struct UnixName : RefCounted {
    u32 length = 0; // of sun_path as bound: with the NUL of a path, from the NUL of an abstract one
    u8 bytes[108] = {};
    bool abstract() const { return bytes[0] == 0; }
    std::string_view view() const;
};

enum class UnixState : u8 { Unconnected, Listening, Connected, Closed };

class UnixEndpoint : public RefCounted {
public:
    explicit UnixEndpoint(int socket_type);
    ~UnixEndpoint() override;

    bool connection_based() const { return type != socket_datagram; }
    bool writable() const { // unix_writable() of Linux: a quarter of the buffer
        return state != UnixState::Listening && sent.load(base::Order::Relaxed) * 4 <= send_buffer;
    }
    bool queue_full() const;
    u32 poll(PollTable* table);
    // The file is gone, or the listener of a connection that nobody accepted (`unaccepted`).
    void close(bool unaccepted);
    // SIGURG is for its owner; null: no file (any more).
    void set_file(File* opened);
    void shut(u32 how);
    Ref<UnixEndpoint> peer_ref();
    Ref<UnixName> name_ref();

    // The queue's ends. push: EPIPE when nobody will read it, of datagrams also ECONNREFUSED (the
    // endpoint is closed), EPERM (it talks to somebody else only), EAGAIN (its queue is full); the
    // segment stays the caller's then. pop_head: the reader's, with read_mutex held.
    Result<void> push(UnixSegment& segment, const UnixEndpoint& from, bool is_urgent = false);
    void pop_head();
    // --- MSG_OOB: of a stream's queue, with read_mutex held.
    // False: there is none. What was taken stays in the queue, empty, as the mark.
    bool take_urgent(bool peek, u8& byte);
    // Where a read goes on that came to `segment`. Null in front of the urgent byte or behind its
    // mark once something was read: a read stops there.
    UnixSegment* pass_mark(UnixSegment& segment, bool peek, bool read_some, bool inline_urgent);
    bool at_mark();
    // What a peek would see.
    bool has_unread(bool inline_urgent);
    void free_segment(UnixSegment* segment);
    void purge();

    const int type;
    const Ref<NetNamespace> net; // where its abstract names count; null: unit tests
    u64 inode_number = 0;        // of its file, once it has one
    base::ListNode all_node;
    u64 serial = 0;    // in the order they were made
    u32 uid = ~u32{0}; // of the maker
    volatile UnixState state = UnixState::Unconnected;
    volatile u32 shutdown = 0; // shut_*
    volatile bool dead = false;
    volatile bool timestamps = false;      // SO_TIMESTAMP or SO_TIMESTAMPNS
    volatile bool fine_timestamps = false; // the latter
    base::Atomic<int> error{0};
    u32 send_buffer = default_socket_buffer;
    base::Atomic<u64> sent{0};          // charge of what it has in others' queues
    volatile bool wants_pidfds = false; // SO_PASSPIDFD

    SpinLock lock{LockRank::Pipe};
    UnixSegment* volatile head = nullptr;
    UnixSegment* tail = nullptr;
    volatile u32 queued = 0;                // segments
    volatile u64 queued_bytes = 0;          // not yet read
    volatile u64 pushed = 0;                // segments, ever
    UnixSegment* volatile urgent = nullptr; // the last byte sent with MSG_OOB, unless taken
    UnixSegment* mark = nullptr;            // the last one that was taken
    File* file = nullptr;
    base::Atomic<UnixSegment*> spare{nullptr}; // keeps a conversation from allocating

    // Under unix_lock(); a connected stream's peer does not change until close().
    Ref<UnixEndpoint> peer;
    Ref<UnixName> name;
    Ref<UnixIdentity> peer_identity; // of a listener, what those who connect get
    UnixEndpoint* abstract_next = nullptr;
    Path bound_place;       // keeps the name's dentry, and with it the inode and its file system
    Ref<Inode> bound_inode; // whose SocketBinding leads here; goes before the place
    UnixEndpoint* first_pending = nullptr; // connections to accept; each with a reference
    UnixEndpoint* last_pending = nullptr;
    UnixEndpoint* next_pending = nullptr;
    volatile u32 pending = 0;
    volatile u32 backlog = 0;
    base::ListNode connector_node; // in the list of the datagram peer
    base::IntrusiveList<UnixEndpoint, &UnixEndpoint::connector_node> connectors;

    Mutex read_mutex;
    Mutex bind_mutex;
    WaitQueue read_waiters, write_waiters;
    WaitQueue room_waiters; // senders and connectors that found this one's queue full
};

SpinLock& unix_lock();
// Every endpoint, for /proc/net/unix. `visit` runs under locks and must not sleep.
void for_each_unix_endpoint(void (*visit)(const UnixEndpoint& endpoint, void* context),
                            void* context);

// Holds up to `capacity` that were made after `after`, which moves on.
usize hold_unix_endpoints(u64& after, Ref<UnixEndpoint>* out, usize capacity);

class UnixSocketFile final : public SocketFile {
public:
    UnixSocketFile(Ref<Inode> inode, u32 flags, int type, Ref<UnixEndpoint> endpoint);
    ~UnixSocketFile() override;

    Result<void> bind(const SocketAddress& address) override;
    Result<void> connect(const SocketAddress& address) override;
    Result<void> listen(int backlog) override;
    Result<Ref<SocketFile>> accept(u32 file_flags, bool non_blocking) override;
    Result<void> shutdown(u32 how) override;
    Result<void> local_address(SocketAddress& out) override;
    Result<void> peer_address(SocketAddress& out) override;
    Result<usize> send(IoBuffer& in, SendRequest& request) override;
    Result<usize> receive(IoBuffer& out, ReceiveRequest& request) override;
    Result<long> ioctl(u32 command, u64 argument) override;
    Result<void> set_option(int level, int name, std::span<const u8> value) override;
    Result<usize> get_option(int level, int name, std::span<u8> out) override;
    u32 poll(PollTable* table) override;
    bool listening() const override { return endpoint_->state == UnixState::Listening; }
    int take_error() override { return endpoint_->error.exchange(0); }
    SocketCredentials peer_credentials() override;
    Result<Ref<const Credentials>> peer_identity() override;
    Result<Ref<File>> peer_pidfd() override;
    void buffers_changed() override;
    void memory_use(SocketMemory& out) const override;
    const NetNamespace* home() const override { return endpoint_->net.get(); }
    UnixEndpoint& endpoint() { return *endpoint_; }

    // For the collector (socket_rights.cpp): references that messages in queues hold, and its
    // marks. Under its lock.
    u32 in_flight = 0;
    u32 unexplained = 0;
    bool suspected = false;
    base::ListNode in_flight_node;
    UnixSocketFile* next_to_scan = nullptr;

private:
    Ref<UnixIdentity> identity_of_peer();
    Result<void> autobind_for_credentials();
    Result<void> connect_stream(const SocketAddress& address);
    Result<void> connect_datagram(const SocketAddress& address);
    Result<usize> send_stream(IoBuffer& in, SendRequest& request);
    Result<usize> send_datagram(IoBuffer& in, SendRequest& request);
    Result<UnixSegment*> load_segment(IoBuffer& in, usize bytes, SendRequest& request,
                                      UnixEndpoint* to);
    Result<void> deliver_datagram(UnixSegment& segment, Ref<UnixEndpoint> to, SendRequest& request);
    void forget_dead_peer(UnixEndpoint& gone);
    Result<void> send_piece(UnixEndpoint& to, UnixSegment& segment, bool is_urgent);
    Result<void> wait_for_space(u32 msg_flags, u64 deadline);
    Result<usize> receive_stream(IoBuffer& out, ReceiveRequest& request);
    Result<usize> receive_urgent(IoBuffer& out, ReceiveRequest& request);
    Result<usize> receive_message(IoBuffer& out, ReceiveRequest& request);
    static constexpr u64 nothing_seen = ~u64{0};
    // More than what was there after `seen` pushes.
    Result<void> wait_for_data(u32 msg_flags, u64 deadline, u64 seen = nothing_seen);
    UnixSegment* next_to_receive(bool peek, usize& skip);
    void move_peek_offset(i64 by);
    Result<void> receive_sender(const UnixSegment& segment, ReceiveRequest& request);

    Ref<UnixEndpoint> endpoint_;
    i32 peek_offset_ = -1; // SO_PEEK_OFF, negative: off; under the endpoint's read_mutex
};

// --- names (unix_names.cpp)
// EINVAL unless it is a struct sockaddr_un with a name, or only a family where `may_be_empty`.
Result<void> check_unix_address(const SocketAddress& address, bool may_be_empty);
Result<void> bind_unix(UnixEndpoint& endpoint, const SocketAddress& address);
Result<void> autobind_unix(UnixEndpoint& endpoint);
void unbind_unix(UnixEndpoint& endpoint); // Requires: unix_lock() is not held
// The endpoint that is bound there: ENOENT, EACCES, ECONNREFUSED, EPROTOTYPE.
Result<Ref<UnixEndpoint>> find_unix(const SocketAddress& address, int type);
void unix_address(const UnixName* name, SocketAddress& out);

// Waiting that ended: how the call ends.
Result<void> waited(WaitOutcome outcome, u64 deadline);

// A closed cycle of sockets in each other's queues is taken apart when a socket closes.
void collect_unix_cycles();

} // namespace kernel
