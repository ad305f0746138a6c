// /proc/net: what was counted: snmp, netstat, snmp6, softnet_stat.
#include "guestkernel/fs/procfs/net_files.hpp"
#include "guestkernel/net/backlog.hpp"
#include "guestkernel/net/tcp/tcp_stack.hpp"

namespace kernel::procfs {

using net::Counter;
using net::Stack;

namespace {

void row(TextBuilder& out, std::string_view group, std::string_view names,
         std::span<const u64> values) {
    out.append(group);
    out.append(names);
    out.append("\n");
    out.append(group);
    for (const u64 value : values)
        out.print(" {}", value);
    out.append("\n");
}

void show_snmp_ip(TextBuilder& out, const Stack& stack) {
    const auto of = [&](Counter which) { return stack.counters.sum(which); };
    const u64 values[] = {stack.settings.forwarding4 ? u64{1} : u64{2},
                          stack.settings.default_ttl,
                          of(Counter::IpInReceives),
                          of(Counter::IpInHeaderErrors),
                          of(Counter::IpInAddressErrors),
                          of(Counter::IpForwarded),
                          of(Counter::IpInUnknownProtocols),
                          of(Counter::IpInDiscards),
                          of(Counter::IpInDelivers),
                          of(Counter::IpOutRequests),
                          of(Counter::IpOutDiscards),
                          of(Counter::IpOutNoRoutes),
                          of(Counter::IpReassemblyTimeouts),
                          of(Counter::IpReassemblyRequired),
                          of(Counter::IpReassembled),
                          of(Counter::IpReassemblyFailed),
                          of(Counter::IpFragmented),
                          of(Counter::IpFragmentFailed),
                          of(Counter::IpFragmentsMade)};
    row(out, "Ip:",
        " Forwarding DefaultTTL InReceives InHdrErrors InAddrErrors ForwDatagrams InUnknownProtos "
        "InDiscards InDelivers OutRequests OutDiscards OutNoRoutes ReasmTimeout ReasmReqds "
        "ReasmOKs ReasmFails FragOKs FragFails FragCreates",
        values);
}

struct NamedType {
    std::string_view name;
    u8 type;
};

void show_snmp_icmp(TextBuilder& out, const Stack& stack) {
    // In the order of Linux's icmpmibmap.
    constexpr NamedType types[] = {{"DestUnreachs", 3}, {"TimeExcds", 11},   {"ParmProbs", 12},
                                   {"SrcQuenchs", 4},   {"Redirects", 5},    {"Echos", 8},
                                   {"EchoReps", 0},     {"Timestamps", 13},  {"TimestampReps", 14},
                                   {"AddrMasks", 17},   {"AddrMaskReps", 18}};
    const net::CounterSet& counters = stack.counters;
    const net::CounterSet::IcmpTypes& seen = counters.icmp_types(false);
    out.append("Icmp: InMsgs InErrors InCsumErrors");
    for (const NamedType& one : types)
        out.print(" In{}", one.name);
    out.append(" OutMsgs OutErrors");
    for (const NamedType& one : types)
        out.print(" Out{}", one.name);
    out.print("\nIcmp: {} {} {}", counters.sum(Counter::IcmpInMessages),
              counters.sum(Counter::IcmpInErrors), counters.sum(Counter::IcmpInChecksumErrors));
    for (const NamedType& one : types)
        out.print(" {}", seen.in[one.type].load());
    out.print(" {} {}", counters.sum(Counter::IcmpOutMessages),
              counters.sum(Counter::IcmpOutErrors));
    for (const NamedType& one : types)
        out.print(" {}", seen.out[one.type].load());
    out.append("\n");
}

// Calls function(word, type, count) for all types that were seen.
template <typename F>
void for_seen_types(const net::CounterSet::IcmpTypes& seen, F&& function) {
    for (u32 type = 0; type < 256; type++)
        if (const u64 count = seen.in[type].load(); count != 0)
            function(std::string_view("InType"), type, count);
    for (u32 type = 0; type < 256; type++)
        if (const u64 count = seen.out[type].load(); count != 0)
            function(std::string_view("OutType"), type, count);
}

void show_snmp_icmp_types(TextBuilder& out, const Stack& stack) {
    const net::CounterSet::IcmpTypes& seen = stack.counters.icmp_types(false);
    bool any = false;
    for_seen_types(seen, [&](std::string_view word, u32 type, u64) {
        out.append(any ? " " : "IcmpMsg: ");
        out.print("{}{}", word, type);
        any = true;
    });
    if (!any)
        return;
    out.append("\nIcmpMsg:");
    for_seen_types(seen, [&](std::string_view, u32, u64 count) { out.print(" {}", count); });
    out.append("\n");
}

} // namespace

Result<void> show_net_snmp(TextBuilder& out, const TableContext& of_subject) {
    TRY(const Ref<Stack> stack, subject_stack(of_subject));
    show_snmp_ip(out, *stack);
    show_snmp_icmp(out, *stack);
    show_snmp_icmp_types(out, *stack);
    const tcp::TcpStack& tcp = tcp::TcpStack::of(*stack);
    const tcp::Counters& c = tcp.counters;
    out.append("Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails "
               "EstabResets CurrEstab InSegs OutSegs RetransSegs InErrs OutRsts InCsumErrors\n");
    out.print("Tcp: 1 200 120000 -1 {} {} {} {} {} {} {} {} {} {} {}\n", c.active_opens.load(),
              c.passive_opens.load(), c.attempt_fails.load(), c.established_resets.load(),
              tcp.established.load(), c.in_segments.load(), c.out_segments.load(),
              c.retransmitted.load(), c.in_errors.load(), c.out_resets.load(),
              c.in_checksum_errors.load());
    const auto of = [&](Counter which) { return stack->counters.sum(which); };
    const u64 udp[] = {of(Counter::UdpInDatagrams),
                       of(Counter::UdpNoPorts),
                       of(Counter::UdpInErrors),
                       of(Counter::UdpOutDatagrams),
                       of(Counter::UdpReceiveBufferErrors),
                       of(Counter::UdpSendBufferErrors),
                       of(Counter::UdpInChecksumErrors),
                       of(Counter::UdpIgnoredMulticast),
                       0};
    row(out, "Udp:",
        " InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors "
        "IgnoredMulti MemErrors",
        udp);
    return {};
}

namespace {

struct ExtendedCounter {
    std::string_view name;
    base::Atomic<u64> tcp::Counters::*tcp = nullptr;
    Counter ip = Counter::Count;
};

// In Linux's order (net/ipv4/proc.c). Those that nothing counts are of what does not happen here.
constexpr ExtendedCounter tcp_extended[] = {
    {"SyncookiesSent", &tcp::Counters::syn_cookies_sent},
    {"SyncookiesRecv", &tcp::Counters::syn_cookies_received},
    {"SyncookiesFailed", &tcp::Counters::syn_cookies_failed},
    {"EmbryonicRsts", &tcp::Counters::embryonic_resets},
    {"PruneCalled", &tcp::Counters::prune_calls},
    {"RcvPruned", &tcp::Counters::prune_failures},
    {"OfoPruned", &tcp::Counters::pruned},
    {"OutOfWindowIcmps", &tcp::Counters::out_of_window_icmps},
    {"LockDroppedIcmps"},
    {"ArpFilter"},
    {"TW", &tcp::Counters::time_waits},
    {"TWRecycled", &tcp::Counters::time_waits_reused},
    {"TWKilled"},
    {"PAWSActive", &tcp::Counters::paws_active_rejected},
    {"PAWSEstab", &tcp::Counters::paws_rejected},
    {"DelayedACKs", &tcp::Counters::delayed_acks},
    {"DelayedACKLocked"},
    {"DelayedACKLost", &tcp::Counters::delayed_acks_lost},
    {"ListenOverflows", &tcp::Counters::listen_overflows},
    {"ListenDrops", &tcp::Counters::listen_drops},
    {"TCPHPHits"},
    {"TCPPureAcks", &tcp::Counters::pure_acks},
    {"TCPHPAcks"},
    {"TCPRenoRecovery", &tcp::Counters::reno_recoveries},
    {"TCPSackRecovery", &tcp::Counters::sack_recoveries},
    {"TCPSACKReneging", &tcp::Counters::sack_reneges},
    {"TCPSACKReorder", &tcp::Counters::sack_reorders},
    {"TCPRenoReorder", &tcp::Counters::reno_reorders},
    {"TCPTSReorder"},
    {"TCPFullUndo", &tcp::Counters::full_undos},
    {"TCPPartialUndo", &tcp::Counters::partial_undos},
    {"TCPDSACKUndo", &tcp::Counters::duplicate_undos},
    {"TCPLossUndo", &tcp::Counters::loss_undos},
    {"TCPLostRetransmit"},
    {"TCPRenoFailures", &tcp::Counters::reno_failures},
    {"TCPSackFailures", &tcp::Counters::sack_failures},
    {"TCPLossFailures", &tcp::Counters::loss_failures},
    {"TCPFastRetrans", &tcp::Counters::fast_retransmits},
    {"TCPSlowStartRetrans", &tcp::Counters::slow_start_retransmits},
    {"TCPTimeouts", &tcp::Counters::timeouts},
    {"TCPLossProbes", &tcp::Counters::loss_probes},
    {"TCPLossProbeRecovery", &tcp::Counters::loss_probe_recoveries},
    {"TCPRenoRecoveryFail", &tcp::Counters::reno_recovery_failures},
    {"TCPSackRecoveryFail", &tcp::Counters::sack_recovery_failures},
    {"TCPRcvCollapsed", &tcp::Counters::collapsed},
    {"TCPBacklogCoalesce"},
    {"TCPDSACKOldSent", &tcp::Counters::duplicate_sacks_sent},
    {"TCPDSACKOfoSent", &tcp::Counters::duplicate_sacks_sent_ahead},
    {"TCPDSACKRecv", &tcp::Counters::duplicate_sacks_received},
    {"TCPDSACKOfoRecv", &tcp::Counters::duplicate_sacks_received_ahead},
    {"TCPAbortOnData", &tcp::Counters::abort_on_data},
    {"TCPAbortOnClose", &tcp::Counters::abort_on_close},
    {"TCPAbortOnMemory", &tcp::Counters::abort_on_memory},
    {"TCPAbortOnTimeout", &tcp::Counters::abort_on_timeout},
    {"TCPAbortOnLinger", &tcp::Counters::abort_on_linger},
    {"TCPAbortFailed"},
    {"TCPMemoryPressures"},
    {"TCPMemoryPressuresChrono"},
    {"TCPSACKDiscard", &tcp::Counters::sacks_discarded},
    {"TCPDSACKIgnoredOld", &tcp::Counters::duplicate_sacks_old},
    {"TCPDSACKIgnoredNoUndo", &tcp::Counters::duplicate_sacks_no_undo},
    {"TCPSpuriousRTOs", &tcp::Counters::spurious},
    {"TCPMD5NotFound"},
    {"TCPMD5Unexpected"},
    {"TCPMD5Failure"},
    {"TCPSackShifted"},
    {"TCPSackMerged"},
    {"TCPSackShiftFallback"},
    {"TCPBacklogDrop"},
    {"PFMemallocDrop"},
    {"TCPMinTTLDrop", &tcp::Counters::hop_limit_drops},
    {"TCPDeferAcceptDrop", &tcp::Counters::defer_accept_drops},
    {"IPReversePathFilter", nullptr, Counter::IpReversePathFilter},
    {"TCPTimeWaitOverflow", &tcp::Counters::time_wait_overflows},
    {"TCPReqQFullDoCookies", &tcp::Counters::request_queue_cookies},
    {"TCPReqQFullDrop", &tcp::Counters::request_queue_drops},
    {"TCPRetransFail", &tcp::Counters::retransmit_failures},
    {"TCPRcvCoalesce", &tcp::Counters::received_coalesced},
    {"TCPOFOQueue", &tcp::Counters::out_of_order},
    {"TCPOFODrop", &tcp::Counters::out_of_order_drops},
    {"TCPOFOMerge", &tcp::Counters::out_of_order_merges},
    {"TCPChallengeACK", &tcp::Counters::challenge_acks},
    {"TCPSYNChallenge", &tcp::Counters::syn_challenges},
    {"TCPFastOpenActive", &tcp::Counters::fast_open_active},
    {"TCPFastOpenActiveFail", &tcp::Counters::fast_open_failed},
    {"TCPFastOpenPassive", &tcp::Counters::fast_open_passive},
    {"TCPFastOpenPassiveFail", &tcp::Counters::fast_open_passive_failed},
    {"TCPFastOpenListenOverflow", &tcp::Counters::fast_open_overflows},
    {"TCPFastOpenCookieReqd", &tcp::Counters::fast_open_cookies_asked},
    {"TCPFastOpenBlackhole"},
    {"TCPSpuriousRtxHostQueues"},
    {"BusyPollRxPackets"},
    {"TCPAutoCorking"},
    {"TCPFromZeroWindowAdv", &tcp::Counters::window_opened},
    {"TCPToZeroWindowAdv", &tcp::Counters::window_closed},
    {"TCPWantZeroWindowAdv", &tcp::Counters::window_wanted_closed},
    {"TCPSynRetrans", &tcp::Counters::syn_retransmits},
    {"TCPOrigDataSent", &tcp::Counters::original_data_sent},
    {"TCPHystartTrainDetect"},
    {"TCPHystartTrainCwnd"},
    {"TCPHystartDelayDetect"},
    {"TCPHystartDelayCwnd"},
    {"TCPACKSkippedSynRecv", &tcp::Counters::answers_skipped_request},
    {"TCPACKSkippedPAWS", &tcp::Counters::answers_skipped_paws},
    {"TCPACKSkippedSeq", &tcp::Counters::answers_skipped_sequence},
    {"TCPACKSkippedFinWait2"},
    {"TCPACKSkippedTimeWait", &tcp::Counters::answers_skipped_time_wait},
    {"TCPACKSkippedChallenge", &tcp::Counters::answers_skipped_challenge},
    {"TCPWinProbe", &tcp::Counters::window_probes},
    {"TCPKeepAlive", &tcp::Counters::keepalives},
    {"TCPMTUPFail"},
    {"TCPMTUPSuccess"},
    {"TCPDelivered", &tcp::Counters::delivered},
    {"TCPDeliveredCE"},
    {"TCPAckCompressed"},
    {"TCPZeroWindowDrop", &tcp::Counters::zero_window_drops},
    {"TCPRcvQDrop", &tcp::Counters::receive_drops},
    {"TCPWqueueTooBig"},
    {"TCPFastOpenPassiveAltKey"},
    {"TcpTimeoutRehash"},
    {"TcpDuplicateDataRehash"},
    {"TCPDSACKRecvSegs", &tcp::Counters::duplicate_segments_reported},
    {"TCPDSACKIgnoredDubious"},
    {"TCPMigrateReqSuccess"},
    {"TCPMigrateReqFailure"},
};

constexpr ExtendedCounter ip_extended[] = {
    {"InNoRoutes", nullptr, Counter::IpInNoRoutes},
    {"InTruncatedPkts", nullptr, Counter::IpInTruncated},
    {"InMcastPkts", nullptr, Counter::IpInMulticast},
    {"OutMcastPkts", nullptr, Counter::IpOutMulticast},
    {"InBcastPkts", nullptr, Counter::IpInBroadcast},
    {"OutBcastPkts", nullptr, Counter::IpOutBroadcast},
    {"InOctets", nullptr, Counter::IpInBytes},
    {"OutOctets", nullptr, Counter::IpOutBytes},
    {"InMcastOctets", nullptr, Counter::IpInMulticastBytes},
    {"OutMcastOctets", nullptr, Counter::IpOutMulticastBytes},
    {"InBcastOctets", nullptr, Counter::IpInBroadcastBytes},
    {"OutBcastOctets", nullptr, Counter::IpOutBroadcastBytes},
    {"InCsumErrors", nullptr, Counter::IpInChecksumErrors},
    {"InNoECTPkts", nullptr, Counter::IpInEcn},
    {"InECT1Pkts", nullptr, Counter::IpInEcn1},
    {"InECT0Pkts", nullptr, Counter::IpInEcn2},
    {"InCEPkts", nullptr, Counter::IpInEcn3},
    {"ReasmOverlaps"},
};

void show_extended(TextBuilder& out, Stack& stack, std::string_view group,
                   std::span<const ExtendedCounter> counters) {
    const tcp::Counters& tcp = tcp::TcpStack::of(stack).counters;
    out.append(group);
    for (const ExtendedCounter& counter : counters)
        out.print(" {}", counter.name);
    out.append("\n");
    out.append(group);
    for (const ExtendedCounter& counter : counters)
        out.print(" {}", counter.tcp != nullptr         ? (tcp.*counter.tcp).load()
                         : counter.ip != Counter::Count ? stack.counters.sum(counter.ip)
                                                        : u64{0});
    out.append("\n");
}

} // namespace

Result<void> show_net_netstat(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<Stack> stack, subject_stack(of));
    show_extended(out, *stack, "TcpExt:", tcp_extended);
    show_extended(out, *stack, "IpExt:", ip_extended);
    return {};
}

namespace {

void snmp6_line(TextBuilder& out, std::string_view name, u64 value) {
    out.text(name, 32);
    out.print("\t{}\n", value);
}

// Those that have names, which are always shown, and all that were seen, by number.
void show_icmp6_types(TextBuilder& out, const Stack& stack) {
    constexpr NamedType types[] = {{"DestUnreachs", 1},
                                   {"PktTooBigs", 2},
                                   {"TimeExcds", 3},
                                   {"ParmProblems", 4},
                                   {"Echos", 128},
                                   {"EchoReplies", 129},
                                   {"GroupMembQueries", 130},
                                   {"GroupMembResponses", 131},
                                   {"GroupMembReductions", 132},
                                   {"RouterSolicits", 133},
                                   {"RouterAdvertisements", 134},
                                   {"NeighborSolicits", 135},
                                   {"NeighborAdvertisements", 136},
                                   {"Redirects", 137},
                                   {"MLDv2Reports", 143}};
    const net::CounterSet::IcmpTypes& seen = stack.counters.icmp_types(true);
    char text[40];
    for (const bool sent : {false, true})
        for (const NamedType& one : types) {
            const std::string_view way = sent ? "Out" : "In";
            const usize length = log::format(text, sizeof text, "Icmp6{}{}", way, one.name);
            snmp6_line(out, {text, length}, (sent ? seen.out : seen.in)[one.type].load());
        }
    for_seen_types(seen, [&](std::string_view word, u32 type, u64 count) {
        const usize length = log::format(text, sizeof text, "Icmp6{}{}", word, type);
        snmp6_line(out, {text, length}, count);
    });
}

} // namespace

Result<void> show_net_snmp6(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<Stack> stack, subject_stack(of));
    constexpr struct {
        std::string_view name;
        Counter counter;
    } counters[] = {{"Ip6InReceives", Counter::Ip6InReceives},
                    {"Ip6InHdrErrors", Counter::Ip6InHeaderErrors},
                    {"Ip6InTooBigErrors", Counter::Ip6InTooBig},
                    {"Ip6InNoRoutes", Counter::Ip6InNoRoutes},
                    {"Ip6InAddrErrors", Counter::Ip6InAddressErrors},
                    {"Ip6InUnknownProtos", Counter::Ip6InUnknownProtocols},
                    {"Ip6InTruncatedPkts", Counter::Ip6InTruncated},
                    {"Ip6InDiscards", Counter::Ip6InDiscards},
                    {"Ip6InDelivers", Counter::Ip6InDelivers},
                    {"Ip6OutForwDatagrams", Counter::Ip6OutForwarded},
                    {"Ip6OutRequests", Counter::Ip6OutRequests},
                    {"Ip6OutDiscards", Counter::Ip6OutDiscards},
                    {"Ip6OutNoRoutes", Counter::Ip6OutNoRoutes},
                    {"Ip6ReasmTimeout", Counter::Ip6ReassemblyTimeouts},
                    {"Ip6ReasmReqds", Counter::Ip6ReassemblyRequired},
                    {"Ip6ReasmOKs", Counter::Ip6Reassembled},
                    {"Ip6ReasmFails", Counter::Ip6ReassemblyFailed},
                    {"Ip6FragOKs", Counter::Ip6Fragmented},
                    {"Ip6FragFails", Counter::Ip6FragmentFailed},
                    {"Ip6FragCreates", Counter::Ip6FragmentsMade},
                    {"Ip6InMcastPkts", Counter::Ip6InMulticast},
                    {"Ip6OutMcastPkts", Counter::Ip6OutMulticast},
                    {"Ip6InOctets", Counter::Ip6InBytes},
                    {"Ip6OutOctets", Counter::Ip6OutBytes},
                    {"Ip6InMcastOctets", Counter::Ip6InMulticastBytes},
                    {"Ip6OutMcastOctets", Counter::Ip6OutMulticastBytes},
                    {"Ip6InBcastOctets", Counter::Count},
                    {"Ip6OutBcastOctets", Counter::Count},
                    {"Ip6InNoECTPkts", Counter::Ip6InEcn},
                    {"Ip6InECT1Pkts", Counter::Ip6InEcn1},
                    {"Ip6InECT0Pkts", Counter::Ip6InEcn2},
                    {"Ip6InCEPkts", Counter::Ip6InEcn3},
                    {"Icmp6InMsgs", Counter::Icmp6InMessages},
                    {"Icmp6InErrors", Counter::Icmp6InErrors},
                    {"Icmp6OutMsgs", Counter::Icmp6OutMessages},
                    {"Icmp6OutErrors", Counter::Icmp6OutErrors},
                    {"Icmp6InCsumErrors", Counter::Icmp6InChecksumErrors},
                    {"Icmp6OutRateLimitHost", Counter::Icmp6OutRateLimited},
                    {"Udp6InDatagrams", Counter::Udp6InDatagrams},
                    {"Udp6NoPorts", Counter::Udp6NoPorts},
                    {"Udp6InErrors", Counter::Udp6InErrors},
                    {"Udp6OutDatagrams", Counter::Udp6OutDatagrams},
                    {"Udp6RcvbufErrors", Counter::Udp6ReceiveBufferErrors},
                    {"Udp6SndbufErrors", Counter::Udp6SendBufferErrors},
                    {"Udp6InCsumErrors", Counter::Udp6InChecksumErrors},
                    {"Udp6IgnoredMulti", Counter::Udp6IgnoredMulticast}};
    bool types_shown = false;
    for (const auto& counter : counters) {
        if (!types_shown && counter.counter == Counter::Udp6InDatagrams) {
            show_icmp6_types(out, *stack);
            types_shown = true;
        }
        const u64 value = counter.counter == Counter::Count // there are no broadcasts
                              ? 0
                              : stack->counters.sum(counter.counter);
        snmp6_line(out, counter.name, value);
    }
    return {};
}

// One line for each CPU.
Result<void> show_net_softnet_stat(TextBuilder& out, const TableContext&) {
    for (u32 cpu = 0; cpu < arch::cpu_count(); cpu++) {
        const net::ReceiveCounts counts = net::receive_counts(cpu);
        // Linux's columns: those that are zero are of what it has no more, and of steering.
        const u32 words[] = {counts.received,
                             counts.dropped,
                             counts.squeezed,
                             0,
                             0,
                             0,
                             0,
                             0,
                             0,
                             0,
                             0,
                             counts.waiting,
                             cpu};
        bool first = true;
        for (const u32 word : words) {
            if (!std::exchange(first, false))
                out.append(" ");
            out.hex(word, 8);
        }
        out.append("\n");
    }
    return {};
}

} // namespace kernel::procfs
