#include "guestkernel/net/counters.hpp"

#include <new>

#include "guestkernel/core/ref.hpp"

namespace kernel::net {

CounterSet::~CounterSet() {
    delete[] values_;
    delete[] types_;
}

Result<void> CounterSet::init() {
    cpus_ = arch::cpu_count();
    values_ = new (std::nothrow) u64[cpus_ * per_cpu]();
    types_ = new (std::nothrow) IcmpTypes[2];
    return values_ != nullptr && types_ != nullptr ? Result<void>() : Result<void>(fail(enomem));
}

u64 CounterSet::sum(Counter which) const {
    u64 total = 0;
    for (usize cpu = 0; cpu < cpus_; cpu++)
        total +=
            __atomic_load_n(&values_[cpu * per_cpu + static_cast<usize>(which)], __ATOMIC_RELAXED);
    return total;
}

} // namespace kernel::net
