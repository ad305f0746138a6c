// One machine's memory for all tests of TCP: packets and tables keep some of it from test to test.
#pragma once

#include <utility>

#include "guestkernel/net/testing/virtual_link.hpp"

namespace kernel::tcp::test {

inline void memory() {
    static bool made = false;
    if (!std::exchange(made, true))
        net::testing::reset_network(u64{1} << 30);
}

} // namespace kernel::tcp::test
