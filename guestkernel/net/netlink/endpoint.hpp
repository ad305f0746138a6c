// Endpoint: a netlink socket as others know it: its port, its groups, what waits to be read, the
// dump that is going on. The open file (socket.hpp) has one.
//
// Locks: the table of endpoints (rank NetTable) guards ports and groups; inside of it an endpoint's
// own lock (rank Leaf) its queue. `dump_mutex` lets one task at a time go on with the dump; a
// protocol's step runs under it.
#pragma once

#include "base/intrusive_list.hpp"
#include "guestkernel/ipc/socket.hpp"
#include "guestkernel/namespaces/namespace.hpp"
#include "guestkernel/net/netlink/protocol.hpp"
#include "guestkernel/sched/mutex.hpp"
#include "guestkernel/task/credentials.hpp"

namespace kernel::net::netlink {

struct QueuedMessage {
    QueuedMessage* next = nullptr;
    u32 bytes = 0;
    u32 port = 0;  // of the sender; 0: the kernel
    u32 group = 0; // it was sent to
    SocketCredentials credentials;
    u8* data();
    u32 charge() const { return bytes + 512; } // with what keeping it costs
};
void destroy_message(QueuedMessage* message);

class Endpoint final : public RefCounted {
public:
    static constexpr u32 most_groups = 256;
    Endpoint(Ref<Stack> stack, const Protocol& protocol);
    ~Endpoint() override;

    Stack& stack() const { return *stack_; }
    const Protocol& protocol() const { return protocol_; }

    // --- port and groups
    Result<void> bind_port(u32 port);  // EADDRINUSE, EINVAL (it has another one)
    Result<void> autobind(u32 wanted); // that one or any free one
    u32 port() const { return port_.load(base::Order::Acquire); }
    bool bound() const { return bound_.load(base::Order::Acquire); }
    Result<void> join(u32 group);
    void leave(u32 group);
    bool member_of(u32 group) const;
    u32 first_groups() const; // the first 32 as bits
    void close();

    // --- the queue
    enum class Push : u8 { Done, Full, Closed };
    // Takes the message over when Done.
    Push push(QueuedMessage* message);
    // Somebody had something for it that found no room.
    void overrun();
    QueuedMessage* take();
    // Copies the first one for a peek: at most `bytes` of its data; null: nothing is there.
    QueuedMessage* peek(usize bytes);
    bool has_data() const { return head_ != nullptr; }
    u64 queued_bytes() const { return queued_bytes_; }
    // What push() goes by: whoever waits for less would try again at once, and for ever.
    bool has_room() const { return queued_bytes_ <= receive_buffer && !congested_; }
    u32 next_length();
    void set_error(int error);

    // --- requests
    // What a program sent to the kernel: every message in it is worked off.
    void submit(std::span<const u8> bytes);
    Result<void> start_dump(Dump dump);
    // Goes on with the dump when there is room; what goes wrong becomes the socket's error.
    void continue_dump();
    bool dumping() const { return dumping_.load(base::Order::Acquire); }

    // Who opened it: null in unit tests, which may do anything.
    Ref<const Credentials> opener;
    u64 inode_number = 0;
    int socket_type = socket_raw;
    volatile u32 send_buffer = default_socket_buffer;
    volatile bool joined_once = false; // it has had groups
    base::Atomic<int> error{0};
    base::Atomic<u32> drops{0};
    volatile u32 receive_buffer = default_socket_buffer;
    volatile u32 longest_read = 0; // the largest buffer a reader came with
    // Options, written by the owner.
    volatile bool strict = false, extended_ack = false, short_ack = false;
    volatile bool no_enobufs = false, packet_info = false, broadcast_error = false;
    volatile bool all_namespaces = false;
    volatile u32 peer_port = 0, peer_group = 0; // connect(2)
    u64 private_word = 0;                       // the protocol's own
    WaitQueue read_waiters, room_waiters;

private:
    friend class EndpointTable;
    Result<bool> dump_once();
    void put_done(MessageWriter& out, int result);
    const Ref<Stack> stack_;
    const Protocol& protocol_;
    base::Atomic<u32> port_{0};
    base::Atomic<bool> bound_{false}, dumping_{false};
    // Under the table's lock.
    base::ListNode node_;
    u64 serial_ = 0;
    base::Atomic<u64> groups_[most_groups / 64];
    bool listed_ = false;
    // Under lock_.
    SpinLock lock_{LockRank::Leaf};
    QueuedMessage* volatile head_ = nullptr;
    QueuedMessage* tail_ = nullptr;
    volatile u64 queued_bytes_ = 0;
    bool closed_ = false;
    volatile bool congested_ = false; // since an overrun, until the queue is empty
    Mutex dump_mutex_;
    Dump dump_;
};

QueuedMessage* make_message(std::span<const u8> bytes, u32 port, u32 group,
                            SocketCredentials credentials = {0, 0, 0});
// One that is bound, held; null: none has the port.
Ref<Endpoint> find_endpoint(Stack& stack, int protocol, u32 port);
// To a group, from a program or the kernel.
void broadcast_from(Stack& stack, int protocol, u32 group, std::span<const u8> messages,
                    u32 from_port, u32 except, SocketCredentials credentials);
// Visits all endpoints of a stack that have a port, in the order they were made, beginning behind
// `after` (a serial number): null, none.
Ref<Endpoint> next_endpoint(Stack& stack, u64& after);

} // namespace kernel::net::netlink
