// /proc/sys/net/ipv4/tcp_* of one network namespace, with Linux's defaults.
#pragma once

#include "guestkernel/net/tcp/congestion.hpp"

namespace kernel::tcp {

struct Settings {
    bool timestamps = true, sack = true, window_scaling = true, duplicate_sack = true;
    u8 syn_cookies = 1;     // 2: always
    u8 fast_open = 1;       // bits: 1 client, 2 server, 4 client without cookie, ...
    u8 reuse_time_wait = 2; // 0 never, 1 always, 2 loopback only
    bool slow_start_after_idle = true, abort_on_overflow = false, moderate_receive_buffer = true;
    bool protect_time_wait = false; // tcp_rfc1337
    u8 syn_retries = 6, syn_ack_retries = 5, orphan_retries = 0;
    u8 retries_before_doubt = 3, retries = 15;
    u8 keepalive_probes = 9;
    u32 keepalive_idle_s = 7200, keepalive_interval_s = 75;
    u32 fin_timeout_s = 60;
    u32 syn_backlog = 512, accept_backlog = 4096; // tcp_max_syn_backlog, somaxconn
    u32 max_orphans = 8192, max_time_wait = 32768;
    u32 receive_least = 4096, receive_default = 131072, receive_most = 6291456; // tcp_rmem
    u32 send_least = 4096, send_default = 16384, send_most = 4194304;           // tcp_wmem
    u32 unsent_low_water = ~u32{0};
    u32 invalid_rate_ms = 500;  // tcp_invalid_ratelimit
    u32 challenge_limit = 1000; // per second
    u32 least_sent_mss = 48;
    Algorithm algorithm = Algorithm::Cubic;
};

// What setsockopt(2) can set of a connection; one that is accepted has its listener's.
struct ConnectionOptions {
    bool no_delay = false, cork = false, inline_urgent = false;
    bool keepalive = false;
    bool receive_buffer_fixed = false, send_buffer_fixed = false; // SO_RCVBUF, SO_SNDBUF
    u8 syn_retries = 0, keepalive_probes = 0;                     // 0: the namespace's
    u8 defer_accept_retries = 0;
    u8 save_syn = 0;
    bool fast_open_connect = false, fast_open_no_cookie = false;
    bool thin_linear = false; // TCP_THIN_LINEAR_TIMEOUTS
    u32 keepalive_idle_s = 0, keepalive_interval_s = 0;
    u32 user_timeout_ms = 0;
    u32 send_delay_us = 0;    // TCP_TX_DELAY
    i32 fin_wait_s = 0;       // TCP_LINGER2: negative, no FIN-WAIT-2 at all; 0: the namespace's
    u32 unsent_low_water = 0; // 0: the namespace's
    u32 window_clamp = 0, max_segment = 0;
    u32 fast_open_backlog = 0; // of a listener
    u32 receive_low_water = 1;
    u32 send_buffer = 0, receive_buffer = 0; // 0: the namespace's default
    Algorithm algorithm = Algorithm::Cubic;
};

} // namespace kernel::tcp
