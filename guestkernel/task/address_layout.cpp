#include "guestkernel/task/address_layout.hpp"

#include <linux/personality.h>

#include "base/atomic.hpp"
#include "guestkernel/core/random.hpp"
#include "guestkernel/mm/address_space.hpp"

namespace kernel {

namespace {

// Two thirds up the address space.
constexpr u64 program_base = 0x5555'5555'4000;
// vm.mmap_rnd_bits of Linux, for programs and for mappings.
constexpr u64 mapping_random_pages = u64{1} << 28;
constexpr u64 stack_random_pages = u64{1} << 22;
constexpr u64 break_random_pages = u64{1} << 18;
constexpr u64 stack_shift_bytes = 8192;

constinit base::Atomic<i32> randomization{2};

} // namespace

i32 address_randomization() {
    return randomization.load(base::Order::Relaxed);
}
void set_address_randomization(i32 value) {
    randomization.store(value, base::Order::Relaxed);
}

AddressLayout choose_address_layout(u64 stack_limit, u32 personality) {
    AddressLayout layout{program_base, 0, user_max, 0,
                         AddressSpace::mappings_top_above(stack_limit)};
    const i32 wanted = address_randomization();
    if (wanted == 0 || (personality & ADDR_NO_RANDOMIZE) != 0)
        return layout;
    u64 numbers[5];
    random_bytes(numbers, sizeof numbers);
    layout.program += numbers[0] % mapping_random_pages * page_size;
    layout.stack_top -= numbers[1] % stack_random_pages * page_size;
    layout.stack_shift = numbers[2] % (stack_shift_bytes / 16) * 16;
    const u64 most = stack_random_pages * page_size;
    const u64 room = stack_limit < user_max - most ? stack_limit + most : user_max;
    layout.mappings_top =
        AddressSpace::mappings_top_above(room) - numbers[3] % mapping_random_pages * page_size;
    if (wanted != 1)
        layout.break_distance = numbers[4] % break_random_pages * page_size;
    return layout;
}

} // namespace kernel
