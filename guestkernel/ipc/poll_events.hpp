// POLL* bits, which are EPOLL* bits too (poll(2), epoll_ctl(2)). asm-generic/poll.h does not stand
// beside the C library's header.
#pragma once

#include "guestkernel/core/types.hpp"

namespace kernel {

inline constexpr u32 poll_in = 0x1, poll_pri = 0x2, poll_out = 0x4, poll_err = 0x8, poll_hup = 0x10,
                     poll_nval = 0x20, poll_rdnorm = 0x40, poll_rdband = 0x80, poll_wrnorm = 0x100,
                     poll_wrband = 0x200, poll_msg = 0x400, poll_rdhup = 0x2000;

} // namespace kernel
