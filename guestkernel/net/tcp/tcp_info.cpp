#include "guestkernel/net/tcp/tcp_info.hpp"

#include <linux/tcp.h>

#include "guestkernel/net/neighbour.hpp"
#include "guestkernel/net/tcp/listener.hpp"

namespace kernel::tcp {

namespace {
u32 micro(u64 ns) {
    return static_cast<u32>(ns / 1000);
}
u32 milli(u64 since, u64 now) {
    return since == 0 ? 0 : static_cast<u32>((now - since) / millisecond);
}
} // namespace

void TcpInfo::describe(net::SocketRecord& out) const {
    const Connection& own = connection_;
    out.state = static_cast<u8>(own.state_);
    out.congestion = algorithm_name(own.options.algorithm);
    out.receive_buffer = own.receive_limit_;
    out.send_buffer = own.send_limit_;
    out.receive_memory = own.queued_memory_.load() + own.out_of_order_.memory();
    out.retransmit_timeout = own.rtt_.timeout();
    const u32 mss = own.mss_ == 0 ? 1 : own.mss_;
    out.window = (own.congestion_.window() + mss - 1) / mss;
    if (own.state_ == State::Listen) {
        if (own.listener) {
            out.sent = own.listener->backlog;
            out.received = own.listener->pending_count();
        }
        out.threshold = static_cast<i32>(own.options.fast_open_backlog);
        return;
    }
    out.sent = own.unacknowledged();
    out.received = own.readable();
    out.send_memory = own.send_memory();
    out.shutdown =
        static_cast<u8>((own.read_shut_ || own.fin_received_ ? 1 : 0) | (own.fin_queued_ ? 2 : 0));
    out.ack_timeout = own.ack_timeout_;
    out.quick = u32{own.quick_acks_} << 1 | (own.interactive_ ? 1 : 0);
    if (own.congestion_.threshold() != Congestion::unlimited)
        out.threshold = static_cast<i32>((own.congestion_.threshold() + mss - 1) / mss);
    out.retransmits = own.retransmissions_;
    out.probes = own.probes_;
    Deadline which{};
    const u64 due = own.next_deadline(which);
    if (due == no_deadline || which == Deadline::DelayedAck)
        return;
    out.timer = which == Deadline::Persist                               ? 4
                : which == Deadline::Keepalive || which == Deadline::End ? 2
                                                                         : 1;
    const u64 now = own.tcp_.now();
    out.timer_left_ns = due > now ? due - now : 0;
}

void TcpInfo::fill(struct ::tcp_info& out) const {
    const Connection& own = connection_;
    const u64 now = own.tcp_.now();
    const u32 mss = own.mss_ == 0 ? 1 : own.mss_;
    const auto segments = [&](u32 bytes) { return (bytes + mss - 1) / mss; };
    out.tcpi_state = static_cast<u8>(own.state_);
    if (own.state_ == State::Listen) { // tcp(7) has no names for these two
        if (own.listener) {
            out.tcpi_unacked = own.listener->pending_count();
            out.tcpi_sacked = own.listener->backlog;
        }
        return;
    }
    out.tcpi_ca_state = static_cast<u8>(own.recovery_ == Recovery::Open && own.sent_.any_sacked()
                                            ? Recovery::Disorder
                                            : own.recovery_);
    out.tcpi_retransmits = static_cast<u8>(own.retransmissions_);
    out.tcpi_probes = static_cast<u8>(own.probes_);
    out.tcpi_backoff = static_cast<u8>(own.rtt_.backoff());
    out.tcpi_options = static_cast<u8>((own.negotiated_.timestamps ? TCPI_OPT_TIMESTAMPS : 0) |
                                       (own.negotiated_.sack ? TCPI_OPT_SACK : 0) |
                                       (own.negotiated_.scaling ? TCPI_OPT_WSCALE : 0) |
                                       (own.fast_open_data_ ? TCPI_OPT_SYN_DATA : 0));
    out.tcpi_snd_wscale = own.negotiated_.send_scale & 15;
    out.tcpi_rcv_wscale = own.negotiated_.receive_scale & 15;
    out.tcpi_rto = micro(own.rtt_.timeout());
    out.tcpi_ato = micro(own.ack_timeout_);
    out.tcpi_snd_mss = own.mss_;
    out.tcpi_rcv_mss = own.receive_mss_;
    out.tcpi_unacked = segments(own.sent_.total());
    out.tcpi_sacked = segments(own.sent_.sacked());
    out.tcpi_lost = segments(own.sent_.lost());
    out.tcpi_retrans = segments(own.sent_.retransmitted());
    out.tcpi_last_data_sent = milli(own.last_sent_, now);
    out.tcpi_last_data_recv = milli(own.last_received_, now);
    out.tcpi_last_ack_recv = milli(own.last_progress_, now);
    out.tcpi_pmtu = own.flow.path.mtu;
    out.tcpi_rcv_ssthresh = own.receive_limit_ / 2;
    out.tcpi_rtt = micro(own.rtt_.smoothed());
    out.tcpi_rttvar = micro(own.rtt_.variance());
    out.tcpi_snd_ssthresh = own.congestion_.threshold() == Congestion::unlimited
                                ? 0x7fff'ffffu
                                : segments(own.congestion_.threshold());
    out.tcpi_snd_cwnd = segments(own.congestion_.window());
    out.tcpi_advmss = own.announced_mss_ - (own.negotiated_.timestamps ? 12u : 0u);
    out.tcpi_reordering = 3;
    out.tcpi_rcv_rtt = micro(own.receive_rtt_);
    out.tcpi_rcv_space = own.measured_;
    const Connection::Statistics& counts = own.statistics_;
    out.tcpi_total_retrans = counts.retransmits;
    out.tcpi_pacing_rate = ~u64{0};
    out.tcpi_max_pacing_rate = ~u64{0};
    out.tcpi_bytes_acked = counts.bytes_acked;
    out.tcpi_bytes_received = counts.bytes_received;
    out.tcpi_segs_out = counts.segments_out;
    out.tcpi_segs_in = counts.segments_in;
    out.tcpi_notsent_bytes = own.unsent();
    out.tcpi_min_rtt = own.rtt_.least() == no_deadline ? ~u32{0} : micro(own.rtt_.least());
    out.tcpi_data_segs_in = counts.data_in;
    out.tcpi_data_segs_out = counts.data_out;
    out.tcpi_delivered = segments(static_cast<u32>(counts.bytes_acked));
    out.tcpi_bytes_sent = counts.bytes_sent;
    out.tcpi_bytes_retrans = counts.bytes_retransmitted;
    out.tcpi_dsack_dups = counts.duplicate_sacks;
    out.tcpi_reord_seen = counts.reorders;
    out.tcpi_snd_wnd = own.send_window_;
}

} // namespace kernel::tcp
