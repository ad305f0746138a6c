// One TCP connection: RFC 9293's state machine with window scaling and timestamps (7323), SACK
// (2018, 2883, 6675), RACK and tail loss probes (8985), and the rest of the folder's README.
//
// Locks: `lock` (rank Socket) guards every member unless a comment says otherwise. Nothing sleeps
// under it; packets may be sent under it, which never leads back into input(). Whoever lets go of
// it after something may have been sent calls net::run_backlog().
//
// The readers' side: packets in order go to `arrived_`; a reader, alone by the socket's mutex,
// moves them to a list of its own and copies from there without the lock.
#pragma once

#include "guestkernel/net/tcp/congestion.hpp"
#include "guestkernel/net/tcp/rack.hpp"
#include "guestkernel/net/tcp/receive_queue.hpp"
#include "guestkernel/net/tcp/send_buffer.hpp"
#include "guestkernel/net/tcp/tcp_stack.hpp"
#include "guestkernel/sched/wait_queue.hpp"

namespace kernel {
class File;
}

namespace kernel::tcp {

class Listener;

// Values of Linux's include/net/tcp_states.h, which TCP_INFO and sock_diag show.
enum class State : u8 {
    Established = 1,
    SynSent,
    SynReceived,
    FinWait1,
    FinWait2,
    TimeWait,
    Closed,
    CloseWait,
    LastAck,
    Listen,
    Closing,
};

// What both SYNs agreed on.
struct Negotiated {
    u16 peer_mss = 536; // RFC 9293, 3.7.1
    bool scaling = false, timestamps = false, sack = false;
    u8 send_scale = 0, receive_scale = 0;
};

enum class Deadline : u8 { Retransmit, LossProbe, Reorder, Persist, DelayedAck, Keepalive, End };
inline constexpr usize deadline_kinds = 7;

// Recovery's states, values of Linux's tcp_ca_state.
enum class Recovery : u8 { Open = 0, Disorder = 1, Recovery = 3, Loss = 4 };

// A flow's IP options are somewhere else: in the socket that made the flow, which a connection
// outlives. This keeps them beside it.
class KeptFlowOptions {
public:
    void keep(net::Flow& flow) {
        const usize length =
            flow.options.size() < sizeof bytes_ ? flow.options.size() : sizeof bytes_;
        if (length != 0)
            __builtin_memmove(bytes_, flow.options.data(), length);
        flow.options = {bytes_, length};
    }

private:
    u8 bytes_[40] = {};
};

// What a SYN says of the segments that we take: as large as the route's packets, whose MTU may be
// lower than the interface's, since the way back is often the same.
u16 mss_to_announce(const net::Flow& flow, const ConnectionOptions& options);

class Connection final : public Entry, public net::PortOwner {
public:
    explicit Connection(net::Stack& of);
    ~Connection() override;
    bool try_hold() override { return try_add_ref(); }

    // --- for any holder, without the lock
    WaitQueue readers, writers;
    TcpStack& tcp() const { return tcp_; }
    State state() const { return state_; }
    u32 poll_events();

    SpinLock lock{LockRank::Socket};
    ConnectionOptions options;
    net::Flow flow; // pair's addresses and how to get there
    void set_flow(net::Flow given) {
        flow = std::move(given);
        flow_options_.keep(flow);
    }
    int error = 0; // for SO_ERROR and the next call; positive
    int soft_error = 0;

    // --- what the program asks for (RFC 9293, 3.9.1); with the lock
    // Sends a SYN. `pair` and `flow` are set, the port is bound, the pair is in the table.
    Result<void> open(bool fast_open);
    // It takes the place of one in TIME-WAIT: to be called before open().
    void take_over(const TimeWait& old);
    // Data that was appended to the buffer, `bytes` of it.
    SendBuffer& buffer() { return buffer_; }
    void appended(u32 bytes, bool more, bool push);
    void appended_urgent();
    u32 send_space() const;
    bool writable() const; // as poll(2) has it
    bool can_send() const { return state_ == State::Established || state_ == State::CloseWait; }
    void push_output(bool ignore_nagle = false);
    void shut_write();
    // No program has it any more: closes in good order, or resets where data would be lost.
    void orphan(bool reset);
    void abort(int reason); // sends a reset if there is a peer; `reason` for the waiting
    void become_listener(Ref<Listener> made);
    Ref<Listener> stop_listening();
    void reset_for_reuse();  // Closed and as new
    void disconnect();       // the same by the program: connect(2) with AF_UNSPEC
    void forget_fast_open(); // a SYN that waited for its data is not going to be sent

    // --- reading; with the lock, by the one reader
    void take_arrived(net::PacketList& out) { out.append(std::move(arrived_)); }
    void consumed(u32 bytes, u32 memory); // copied to the program, `memory` of packets freed
    Sequence copied() const { return copied_; }
    u32 readable() const { return receive_next_.since(copied_) - (fin_received_ ? 1 : 0); }
    // What FIONREAD says: up to the urgent byte, if that is not read like any other.
    u32 readable_to_mark() const {
        const bool stops = urgent_.pending && !options.inline_urgent && urgent_.at >= copied_ &&
                           urgent_.at < receive_next_;
        return stops ? urgent_.at.since(copied_) : readable();
    }
    bool read_shut() const { return read_shut_; }
    bool write_shut() const { return fin_queued_; }
    bool peer_finished() const { return fin_received_; }
    void shut_read();
    struct Urgent {
        bool pending = false; // there is a mark at or after what was read
        bool valid = false;   // its byte is here, and out of line
        bool taken = false;   // by MSG_OOB
        u8 byte = 0;
        Sequence at; // of the byte
    };
    Urgent& urgent() { return urgent_; }
    void acknowledge_now();

    // --- input, from the demultiplexer; locks by itself
    void input(net::PacketPtr packet, const Header& header, const net::IpInfo& info);
    void icmp_error(const net::IcmpNotice& notice, Sequence sequence);
    // The start of a connection that a listener made of a request; with the lock, then the segment
    // that completed the handshake goes through input().
    struct Birth {
        Pair pair;
        Negotiated negotiated;
        Sequence send_initial, receive_initial;
        u32 window = 0; // the peer's, as its SYN said
        u32 recent_timestamp = 0, timestamp_offset = 0;
        u64 sent_at = 0; // our SYN-ACK; 0: it was sent more than once
        u32 receive_window = 0;
        u16 announced_mss = 536;
        bool established = true; // false: with fast open, before the handshake ends
        bool timed_out = false;
    };
    void start(const Birth& birth);
    void accept_fast_open(net::PacketPtr packet, const Header& header);

    // --- options that need more than a word
    void set_keepalive(bool on);
    void keepalive_changed();
    void set_quick_ack(bool on);
    bool quick_ack() const { return !interactive_; }
    void set_algorithm(Algorithm algorithm) { congestion_.set_algorithm(algorithm); }
    void no_delay_changed() { push_output(true); }
    void buffers_changed();
    void set_low_water(u32 bytes); // SO_RCVLOWAT
    u32 send_limit() const { return send_limit_; }
    u32 receive_limit() const { return receive_limit_; }
    u32 current_mss() const { return mss_; }

    u32 send_memory() const; // what is in the buffer, and keeping track of it, costs
    u32 unacknowledged() const { return buffer_.bytes() + (fin_sent_ ? 1 : 0); }
    u32 unsent() const { return write_end_.since(send_next_unsent()); }
    u64 next_deadline(Deadline& which) const;
    // In Listen: what serves the port. Of a connection whose SYN's data were served at once: who
    // made it, until it is accepted.
    Ref<Listener> listener;
    Connection* accept_next = nullptr;
    Vector<u8> saved_syn; // TCP_SAVE_SYN: the headers that the peer's SYN came with
    bool accepted = true; // a program has it or had it
    bool orphaned = false;
    bool fast_open_used = false;
    bool fast_open_waiting = false; // TCP_FASTOPEN_CONNECT: the SYN waits for the first data
    bool port_kept = false;         // bound by bind(2): freed by close(2) only
    bool receives_errors_ = false;  // IP_RECVERR
    // IP_MINTTL, IPV6_MINHOPCOUNT: what comes with less is no peer's; a word that input() reads.
    volatile u8 least_hop_limit4 = 0, least_hop_limit6 = 0;
    bool too_few_hops(const net::IpInfo& info) const {
        return info.hop_limit < (info.v6() ? least_hop_limit6 : least_hop_limit4);
    }
    u64 inode_number = 0;
    File* file = nullptr; // of the program, whose owner gets SIGURG

    struct Statistics {
        u64 bytes_acked = 0, bytes_received = 0, bytes_sent = 0, bytes_retransmitted = 0;
        u32 segments_in = 0, segments_out = 0, data_in = 0, data_out = 0;
        u32 retransmits = 0, duplicate_sacks = 0, reorders = 0;
        u64 busy_since = 0;
    };
    const Statistics& statistics() const { return statistics_; }

protected:
    void last_reference() override;

private:
    friend class TcpInfo;
    // --- input.cpp
    void input_locked(net::PacketPtr packet, const Header& header);
    void input_syn_sent(net::PacketPtr packet, const Header& header);
    bool acceptable(const Header& header);
    bool check_timestamp(const Header& header);
    void note_timestamp(const Header& header);
    void input_reset(const Header& header);
    bool syn_received_ack(const Header& header);
    void update_initial_window(const Header& header, bool scaled);
    void learn_syn(const Header& header);
    void learn_fast_open(const Header& header);
    void become_established();
    bool advance_state();
    void input_fin();
    void wake_everybody(u32 events);
    void enter_time_wait();
    // --- data_input.cpp
    bool input_data(net::PacketPtr packet, const Header& header);
    bool queue_in_order(net::PacketPtr packet, SequenceRange range);
    void queue_out_of_order(net::PacketPtr packet, SequenceRange range);
    bool make_receive_room();
    void collapse_arrived();
    void note_data_arrival(u32 bytes, const net::Packet& packet);
    void grow_receive_buffer();
    void decide_acknowledgement();
    void wake_readers(u32 events);
    void update_window_after_read(bool read);
    void input_urgent(const Header& header, const net::Packet& packet);
    void take_urgent_byte(const Header& header, const net::Packet& packet);
    // --- acknowledge.cpp
    bool input_ack(const Header& header);
    void update_send_window(const Header& header, Sequence ack);
    void process_sacks(const Header& header, Delivery& delivery, bool& duplicate_sack);
    void sample_rtt(const Header& header, const Delivery& delivery, u64 time);
    void count_duplicate_report(const SequenceRange& block, bool below);
    void freed_send_space();
    // --- loss_recovery.cpp
    void recover(const Header& header, const Delivery& delivery, u32 acked, u32 flight,
                 bool duplicate, bool duplicate_sack);
    void enter_recovery();
    void leave_recovery();
    bool try_undo(const Header& header);
    void detect_losses();
    void reduce_proportionally(u32 delivered, bool progress);
    void retransmit_lost();
    bool retransmit_range(SentRange& range, u32 room);
    void on_retransmit_timeout();
    void count_failure();
    void on_loss_probe();
    void arm_retransmit(bool restart);
    u64 loss_probe_delay() const;
    u32 pipe() const;
    // --- output.cpp
    void sync_mss();
    u32 segment_size() const;
    u32 choose_window();
    u16 window_to_send();
    u32 choose_window_for_syn();
    u8 scale_for_buffers() const;
    void fill_options(Options& out) const;
    Result<void> emit(net::PacketPtr packet, u8 flags, Sequence sequence, const Options* extra);
    void acknowledgement_sent();
    void send_control(u8 flags, Sequence sequence);
    void send_duplicate_ack(SequenceRange duplicate);
    void send_syn(bool with_ack);
    Result<u32> transmit(Sequence start, u32 length, u8 flags);
    u32 sendable(u32 mss, bool ignore_nagle);
    bool may_send_small(bool ignore_nagle) const;
    bool send_one(u32 length, u32 mss);
    // --- timers.cpp
    static void timer_expired(net::NetTimer& timer, void* self);
    void run_deadlines(u64 time);
    void set_deadline(Deadline which, u64 when);
    void clear_deadline(Deadline which) { deadlines_[static_cast<usize>(which)] = no_deadline; }
    bool has_deadline(Deadline which) const {
        return deadlines_[static_cast<usize>(which)] != no_deadline;
    }
    void on_deadline(Deadline which);
    bool given_up(u64 since, unsigned tries, unsigned limit) const;
    unsigned orphan_retries() const;
    void time_out();
    void on_syn_timeout();
    u64 persist_delay() const;
    void on_persist();
    bool can_keep_alive() const;
    void on_keepalive();
    u64 fin_wait() const;
    // --- connection.cpp
    void finish(int reason); // to Closed, everything let go
    void leave_table();
    void set_state(State state);
    u32 timestamp_now() const;
    Sequence send_next_unsent() const { return earlier(send_next_, write_end_); }
    bool rate_limited();
    void challenge();
    void send_reset();
    u64 now() const { return tcp_.now(); }

    TcpStack& tcp_;
    const Ref<net::Stack> stack_ref_;
    KeptFlowOptions flow_options_;
    volatile State state_ = State::Closed;
    Negotiated negotiated_;

    // --- sending. Sequence space: SYN at send_initial_, data from buffer_base_ on (what the buffer
    // holds), FIN at write_end_.
    Sequence send_initial_, una_, send_next_, write_end_, buffer_base_;
    Sequence window_update_sequence_, window_update_ack_; // SND.WL1, SND.WL2
    u32 send_window_ = 0, max_send_window_ = 0;
    Sequence urgent_end_; // SND.UP
    bool urgent_sending_ = false;
    bool fin_queued_ = false, fin_sent_ = false;
    bool more_coming_ = false; // MSG_MORE
    SendBuffer buffer_;
    SentQueue sent_;
    Congestion congestion_;
    RoundTrip rtt_;
    Rack rack_;
    u32 mss_ = 536;      // of data, options taken off (without SACK blocks)
    u32 known_mtu_ = 0;  // that mss_ is for
    u32 send_limit_ = 0; // SO_SNDBUF in effect
    Sequence small_end_; // end of the last segment below the MSS (Minshall's Nagle)
    u64 last_sent_ = 0;  // data
    bool fast_open_data_ = false;
    FastOpenCookie cookie_;
    u16 cookie_mss_ = 0;
    bool first_sequence_set_ = false;
    u64 open_started_ = 0, syn_sent_at_ = 0;
    u32 initial_window_ = 0; // that our SYN announced

    // --- loss recovery
    Recovery recovery_ = Recovery::Open;
    Sequence recovery_end_;
    u32 duplicate_acks_ = 0;
    u32 delivered_in_recovery_ = 0, sent_in_recovery_ = 0, flight_at_loss_ = 0;
    u32 undo_retransmissions_ = 0; // that no DSACK has spoken of yet
    bool undo_possible_ = false, retransmitted_once_ = false;
    Sequence recovery_start_;
    u64 first_retransmission_ = 0; // of this recovery
    bool probe_outstanding_ = false, probe_was_retransmission_ = false;
    Sequence probe_end_;
    unsigned retransmissions_ = 0; // timeouts in a row
    u64 stalled_since_ = 0;        // the first unanswered transmission
    unsigned probes_ = 0;          // keepalive or zero-window probes in a row, unanswered
    unsigned closed_probes_ = 0;   // of a window that has been closed all the time, answered or not

    // --- receiving
    Sequence receive_initial_, receive_next_, copied_;
    Sequence window_right_;     // the right edge that was announced
    Sequence acknowledged_;     // the last ACK number sent
    bool fin_received_ = false; // and everything before it
    bool fin_known_ = false;
    Sequence fin_at_;
    bool read_shut_ = false;
    net::PacketList arrived_;
    OutOfOrderQueue out_of_order_;
    base::Atomic<u32> queued_memory_{0}; // of packets in order, those with the reader included
    u32 receive_limit_ = 0;              // SO_RCVBUF in effect
    u32 receive_mss_ = 536;              // what the peer seems to use
    u16 announced_mss_ = 536;
    Urgent urgent_;
    u32 recent_timestamp_ = 0;
    u64 recent_timestamp_at_ = 0;
    u32 timestamp_offset_ = 0;
    // Acknowledging.
    bool ack_pending_ = false;
    bool has_urgent_ack_ = false; // one that must not wait
    u8 pushed_ = 0;               // small segments since the last one
    bool interactive_ = false;    // data goes both ways: acknowledgements ride on answers
    u8 quick_acks_ = 0;
    u64 ack_timeout_ = 0;
    u64 last_received_ = 0;
    SequenceRange duplicate_; // to be reported once
    u64 last_invalid_answer_ = 0;
    bool announced_zero_ = false; // the last window
    // Growing the buffer to what one round trip brings.
    u64 measure_start_ = 0;
    Sequence measure_copied_;
    u32 measured_ = 0;
    u64 receive_rtt_ = 0;
    Sequence receive_rtt_end_;
    u64 receive_rtt_start_ = 0;

    u64 deadlines_[deadline_kinds];
    net::NetTimer timer_;
    Statistics statistics_;
    u64 last_progress_ = 0; // anything valid from the peer: keepalive
};

} // namespace kernel::tcp
