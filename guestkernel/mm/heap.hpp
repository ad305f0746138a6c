// Kernel heap: slabs for small sizes, whole frames for large ones. operator new and delete use it.
#pragma once

#include "guestkernel/core/types.hpp"

namespace kernel {

// At least `bytes`, aligned to 16 (to 64 from 64 bytes on, to the page from 4096 on). Null when
// memory is exhausted.
void* kmalloc(usize bytes);
void kfree(void* pointer);
void* kzalloc(usize bytes);

// Kernel stacks, cached: arch::kernel_stack_size bytes, aligned to that.
void* alloc_kernel_stack(); // may sleep
void free_kernel_stack(void* stack);

} // namespace kernel
