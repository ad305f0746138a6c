// The machine as unit tests see it: RAM is a host buffer, a CPU is a thread, user memory is either
// a registered host range or whatever an address space's page tables show.
#pragma once

#include <functional>

#include "guestkernel/core/types.hpp"

namespace kernel {
class AddressSpace;
class Task;
} // namespace kernel

namespace kernel::hosted {

// Fresh RAM of this size, all zeros, and kernel allocators that know nothing else. Pages are the
// host's only when touched. Addresses below `first_frame` are not handed out.
void reset(u64 ram_bytes, bool ram_is_zeroed = true, u64 first_frame = u64{1} << 20);

// The running thread's CPU number and task.
void set_cpu(unsigned cpu);
void set_cpu_count(unsigned count);
void set_current(Task* task);

// User copies reach [start, start + bytes) of the test's own memory.
void register_user_range(const void* start, usize bytes);
// User copies go through the page tables of `space`, faults are served by it. Null: back to the
// registered range.
void use_address_space(AddressSpace* space);

// What a CPU does at an access to user memory: walks the tables, faults, tries again. Returns the
// byte's place in RAM, or null with `signal_code` set as arch::handle_user_fault() does.
u8* access(AddressSpace& space, u64 address, u64 access_bits, u32& signal_code);
// The entry of a leaf table for an address, 0 if there is none.
u64 leaf_entry(AddressSpace& space, u64 address);

struct Counters {
    u64 table_loads = 0;
    u64 flushes = 0;       // calls that flushed something
    u64 flushed_pages = 0; // as asked for
    u64 faults = 0;        // served in access()
    u64 kicks = 0;
};
Counters& counters();

// What other CPUs do meanwhile: called, once each, where another CPU is told of a flush, and before
// more than a byte is copied from user memory.
struct Meanwhile {
    std::function<void()> flush, copy;
};
Meanwhile& meanwhile();

} // namespace kernel::hosted
