// Kernel heap: slabs for small sizes, whole frames for large ones. operator new and delete use it.
#pragma once

#include "guestkernel/core/types.hpp"

namespace kernel {

// At least `bytes`, aligned to 16 (to 64 from 64 bytes on, to the page from 4096 on). Null when
// memory is exhausted.
void* kmalloc(usize bytes);
void kfree(void* pointer);
void* kzalloc(usize bytes);

// The slabs of one size, by number from 0 on; false: there are no more sizes. What CPUs keep for
// themselves counts as in use.
struct SlabUsage {
    u32 object_bytes, objects_per_slab, pages_per_slab;
    u64 objects, slabs;
};
bool slab_usage(unsigned number, SlabUsage& out);

// Kernel stacks, cached: arch::kernel_stack_size bytes, aligned to that.
void* alloc_kernel_stack(); // may sleep
void free_kernel_stack(void* stack);

} // namespace kernel
