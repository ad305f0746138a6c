// What TCP keeps for a network namespace: settings, counters, TIME-WAIT, limits.
#pragma once

#include "guestkernel/net/stack.hpp"
#include "guestkernel/net/tcp/settings.hpp"
#include "guestkernel/net/tcp/time_wait.hpp"

namespace kernel::tcp {

// In the order of /proc/net/snmp and /proc/net/netstat, as far as they are there.
struct Counters {
    base::Atomic<u64> active_opens{0}, passive_opens{0}, attempt_fails{0}, established_resets{0};
    base::Atomic<u64> in_segments{0}, out_segments{0}, retransmitted{0}, in_errors{0};
    base::Atomic<u64> out_resets{0}, in_checksum_errors{0};
    base::Atomic<u64> syn_cookies_sent{0}, syn_cookies_received{0}, syn_cookies_failed{0};
    base::Atomic<u64> listen_overflows{0}, listen_drops{0};
    base::Atomic<u64> time_waits{0}, time_wait_overflows{0}, delayed_acks{0}, paws_rejected{0};
    base::Atomic<u64> timeouts{0}, loss_probes{0}, fast_retransmits{0}, spurious{0};
    base::Atomic<u64> duplicate_sacks_received{0}, duplicate_sacks_sent{0}, challenge_acks{0};
    base::Atomic<u64> out_of_order{0}, pruned{0}, receive_drops{0};
    base::Atomic<u64> abort_on_data{0}, abort_on_close{0}, abort_on_memory{0}, abort_on_timeout{0},
        abort_on_linger{0};
    base::Atomic<u64> keepalives{0}, fast_open_active{0}, fast_open_passive{0}, fast_open_failed{0};
    base::Atomic<u64> embryonic_resets{0}, prune_calls{0}, prune_failures{0}, collapsed{0};
    base::Atomic<u64> out_of_window_icmps{0}, time_waits_reused{0}, paws_active_rejected{0};
    base::Atomic<u64> delayed_acks_lost{0}, pure_acks{0};
    base::Atomic<u64> reno_recoveries{0}, sack_recoveries{0}, sack_reneges{0}, sack_reorders{0},
        reno_reorders{0};
    base::Atomic<u64> full_undos{0}, partial_undos{0}, duplicate_undos{0}, loss_undos{0};
    base::Atomic<u64> reno_failures{0}, sack_failures{0}, loss_failures{0},
        reno_recovery_failures{0}, sack_recovery_failures{0};
    base::Atomic<u64> slow_start_retransmits{0}, loss_probe_recoveries{0}, retransmit_failures{0};
    base::Atomic<u64> duplicate_sacks_sent_ahead{0}, duplicate_sacks_received_ahead{0},
        duplicate_segments_reported{0}, sacks_discarded{0}, duplicate_sacks_old{0},
        duplicate_sacks_no_undo{0};
    base::Atomic<u64> hop_limit_drops{0}, defer_accept_drops{0};
    base::Atomic<u64> request_queue_cookies{0}, request_queue_drops{0};
    base::Atomic<u64> received_coalesced{0}, out_of_order_drops{0}, out_of_order_merges{0};
    base::Atomic<u64> syn_challenges{0};
    base::Atomic<u64> fast_open_passive_failed{0}, fast_open_overflows{0},
        fast_open_cookies_asked{0};
    base::Atomic<u64> window_opened{0}, window_closed{0}, window_wanted_closed{0};
    base::Atomic<u64> syn_retransmits{0}, original_data_sent{0}, delivered{0};
    base::Atomic<u64> answers_skipped_request{0}, answers_skipped_paws{0},
        answers_skipped_sequence{0}, answers_skipped_time_wait{0}, answers_skipped_challenge{0};
    base::Atomic<u64> window_probes{0}, zero_window_drops{0};
    static void count(base::Atomic<u64>& counter, u64 by = 1) {
        counter.fetch_add(by, base::Order::Relaxed);
    }
};

class TcpStack final : public net::StackPart {
public:
    explicit TcpStack(net::Stack& stack);
    ~TcpStack() override;
    void shutdown() override;
    static TcpStack& of(net::Stack& stack);

    net::Stack& stack() const { return stack_; }
    u64 now() const { return stack_.now(); }
    Settings settings;
    Counters counters;
    base::Atomic<u32> established{0}; // connections in Established or CloseWait: CurrEstab
    base::Atomic<u32> orphans{0};
    base::Atomic<u32> sockets{0};
    // Whether there is room for one more orphan or half-dead connection.
    bool too_many_orphans() const { return orphans.load() > settings.max_orphans; }

    // --- TIME-WAIT, by age
    // Waits from now on. Takes a reference.
    void add_time_wait(TimeWait& entry);
    void restart_time_wait(TimeWait& entry);
    // Ends it before its time: the table and the list let go.
    void end_time_wait(TimeWait& entry);
    u32 time_wait_count() const { return time_wait_count_.load(base::Order::Relaxed); }

    // Lets go of a reference that may be the last one where that must not destroy the object: in a
    // callback of its own timer.
    void release_later(Entry& entry);

    // --- fast open as a client: what servers gave (RFC 7413, 4.1.3)
    bool fast_open_cookie(const net::IpAddress& server, FastOpenCookie& cookie, u16& mss);
    void keep_fast_open_cookie(const net::IpAddress& server, const FastOpenCookie& cookie, u16 mss);

    // One of the challenge ACKs that all connections share (RFC 5961, 7).
    bool may_challenge();

private:
    static void time_wait_due(net::NetTimer& timer, void* self);
    static void release_due(net::NetTimer& timer, void* self);

    struct CachedCookie {
        net::IpAddress server;
        FastOpenCookie cookie;
        u16 mss = 0;
        bool valid = false;
    };
    static constexpr usize cookie_slots = 64;

    net::Stack& stack_;
    SpinLock lock_{LockRank::NetTable}; // of all that follows; no bucket's lock inside of it
    base::IntrusiveList<TimeWait, &TimeWait::age_node> time_waits_;
    base::Atomic<u32> time_wait_count_{0};
    Entry* doomed_ = nullptr;
    CachedCookie cookies_[cookie_slots];
    u64 challenge_second_ = 0;
    u32 challenges_ = 0, challenge_budget_ = 0;
    net::NetTimer time_wait_timer_, release_timer_;
};

} // namespace kernel::tcp
