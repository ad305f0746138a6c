// A listening socket: requests that wait for the third segment of the handshake, and connections
// that wait for accept(2). Both queues are bounded; when the first is full, SYN cookies (RFC 4987,
// 3.6) keep nothing at all.
//
// Locks: `lock` (rank NetListener) guards both queues and is taken outside of connections' locks.
#pragma once

#include "guestkernel/net/tcp/connection.hpp"

namespace kernel::tcp {

class Listener;

// A SYN that was answered. What it knows stays as the SYN said it; the queue's fields are the
// listener's.
class Request final : public Entry {
public:
    Request() : Entry(EntryKind::Request) {}
    Ref<Listener> listener;
    Negotiated negotiated; // timestamps, sack, scaling: what both want
    Sequence send_initial, receive_initial;
    u32 window = 0; // the peer's
    u32 receive_window = 0;
    u32 recent_timestamp = 0, timestamp_offset = 0;
    u16 announced_mss = 0;
    Vector<u8> saved_syn; // TCP_SAVE_SYN
    // --- under the listener's lock
    base::ListNode queue_node;
    u64 sent_at = 0, deadline = 0, last_answer = 0;
    u8 retries = 0;
    bool acked = false; // the third segment came, but had to wait
};

class Listener final : public Entry {
public:
    // `owner`: the socket's own connection object, which is bound to the port, and whose queues
    // pollers wait in.
    Listener(net::Stack& of, Ref<Connection> owner);
    ~Listener() override;

    SpinLock lock{LockRank::NetListener};
    ConnectionOptions options; // for connections to come
    // Likewise: everything but addresses and path.
    void set_model(net::Flow given) {
        model_ = std::move(given);
        model_options_.keep(model_);
    }
    u32 backlog = 0;

    bool has_pending() const { return pending_count_ != 0; }
    u32 pending_count() const { return pending_count_; }
    u32 request_count() const { return request_count_; }
    // The connection that waited longest; null: none.
    Ref<Connection> take();
    // Ends everything that nobody will accept.
    void close();
    bool closed() const { return closed_; }
    Connection& owner() const { return *owner_; }

    // --- input; no lock held
    // A segment for no connection. `former`: where sequence numbers of the pair may begin, if it
    // was in TIME-WAIT; zero: anywhere.
    void input(net::PacketPtr packet, const Header& header, const net::IpInfo& info,
               u32 first_sequence);
    // A segment for a request of this listener.
    void input_request(Request& request, net::PacketPtr packet, const Header& header,
                       const net::IpInfo& info);
    void request_error(Request& request, Sequence sequence);
    // A connection of the accept queue has ended before the handshake; its lock is held.
    void lost(Connection& connection);

protected:
    void last_reference() override;

private:
    void input_syn(net::PacketPtr packet, const Header& header, const net::IpInfo& info,
                   u32 first_sequence);
    bool input_cookie(net::PacketPtr& packet, const Header& header, const net::IpInfo& info);
    Negotiated negotiate(const Options& told) const;
    bool try_fast_open(net::PacketPtr& packet, const Header& header, Request& request);
    bool send_syn_ack(Request& request, const FastOpenCookie* cookie, bool as_cookie);
    void answer(Request& request, u64 time);
    void save_syn(net::Packet& packet, const Header& header, Request& request) const;
    Ref<Connection> make_child(Request& request, bool established);
    void enqueue(Ref<Connection> connection);
    bool complete(Request& request, Ref<Connection>& child);
    void drop_request(Request& request); // from the queue; the table too
    bool accept_queue_full() const { return pending_count_ > backlog; }
    static void timer_expired(net::NetTimer& timer, void* self);
    void run_requests(u64 time);
    void set_timer(u64 when);
    net::Flow flow_to(const Pair& peers) const;
    u8 receive_scale() const;
    u32 initial_window(u32 mss) const;

    const Ref<net::Stack> stack_ref_;
    const Ref<Connection> owner_;
    TcpStack& tcp_;
    net::Flow model_;
    KeptFlowOptions model_options_;
    base::IntrusiveList<Request, &Request::queue_node> requests_;
    volatile u32 request_count_ = 0;
    Connection* first_pending_ = nullptr;
    Connection* last_pending_ = nullptr;
    volatile u32 pending_count_ = 0;
    base::Atomic<u32> fast_open_count_{0}; // not accepted, handshake not done
    u64 cookies_sent_at_ = 0;
    bool closed_ = false;
    net::NetTimer timer_;
};

// Answers a segment that belongs to nothing (RFC 9293, 3.10.7.1).
void refuse(net::Stack& stack, const Header& header, const net::IpInfo& info);
Pair pair_of(const Header& header, const net::IpInfo& info);

} // namespace kernel::tcp
