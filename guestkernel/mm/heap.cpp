#include "guestkernel/mm/heap.hpp"

#include <bit>
#include <new>

#include "boot/protocol/layout.hpp"
#include "guestkernel/arch/arch.hpp"
#include "guestkernel/core/lock.hpp"
#include "guestkernel/core/panic.hpp"
#include "guestkernel/mm/memory_group.hpp"
#include "guestkernel/mm/memory_internal.hpp"

namespace kernel {
namespace {

// Sizes from 64 on are multiples of 64, so that objects in a page-aligned slab are aligned as
// promised.
constexpr u32 class_sizes[] = {16, 32, 48, 64, 128, 192, 256, 320, 448, 576, 768, 1024, 1344, 2048};
constexpr unsigned class_count = sizeof class_sizes / sizeof class_sizes[0];
constexpr usize largest_small = 2048;
constexpr u32 class_shift = 24; // of the class number in Frame::flags, in every frame of a slab

constexpr unsigned slab_order(unsigned size_class) {
    return class_sizes[size_class] <= 576 ? 0 : class_sizes[size_class] <= 1344 ? 1 : 2;
}
constexpr u32 slab_bytes(unsigned size_class) {
    return u32{page_size} << slab_order(size_class);
}
constexpr u32 objects_per_slab(unsigned size_class) {
    return slab_bytes(size_class) / class_sizes[size_class];
}
// How many free objects a CPU keeps of a class.
constexpr u32 magazine_limit(unsigned size_class) {
    return class_sizes[size_class] <= 256 ? 32 : class_sizes[size_class] <= 768 ? 16 : 8;
}

struct FreeObject {
    FreeObject* next;
};

struct alignas(16) Magazine {
    FreeObject* objects = nullptr;
    u32 count = 0;
};

// A slab is a block of frames. Its first frame's descriptor keeps the state: `index` is the list of
// objects that were freed, `map_count` how many were ever cut off, and `refs` one more than are in
// use.
struct SizeClass {
    SpinLock lock{LockRank::Slab};
    base::IntrusiveList<Frame, &Frame::node> partial;
    u32 empty_slabs = 0;        // of those in `partial`
    u64 slabs = 0, objects = 0; // in all, and in use
};

constinit SizeClass classes[class_count];
// Touched by their own CPU only.
constinit Magazine magazines[boot::max_cpus][class_count];

struct StackCache {
    SpinLock lock{LockRank::Slab};
    FreeObject* stacks = nullptr;
    u32 count = 0;
};
constinit StackCache stack_cache;
constexpr u32 stack_cache_limit = 32;
constexpr unsigned stack_order = std::bit_width(arch::kernel_stack_size / page_size) - 1;
static_assert((usize{page_size} << stack_order) == arch::kernel_stack_size);

unsigned class_of(usize bytes) {
    // The class by 16-byte steps, made once at compile time.
    struct Table {
        u8 of[largest_small / 16 + 1]{};
        constexpr Table() {
            unsigned size_class = 0;
            for (usize i = 0; i <= largest_small / 16; i++) {
                if (i * 16 > class_sizes[size_class])
                    size_class++;
                of[i] = static_cast<u8>(size_class);
            }
        }
    };
    static constexpr Table table;
    return table.of[(bytes + 15) / 16];
}

u32 in_use(const Frame& slab) {
    return slab.refs.load(base::Order::Relaxed) - 1;
}

// Requires: the class's lock is held.
FreeObject* take_object(unsigned size_class, Frame& slab) {
    slab.refs.fetch_add(1, base::Order::Relaxed);
    FreeObject* object = reinterpret_cast<FreeObject*>(slab.index);
    if (object != nullptr) {
        slab.index = reinterpret_cast<u64>(object->next);
        return object;
    }
    // Objects are cut off as they are needed: a new slab is not touched before.
    const u32 number = slab.map_count.fetch_add(1, base::Order::Relaxed);
    return reinterpret_cast<FreeObject*>(static_cast<u8*>(frame_data(slab)) +
                                         usize{number} * class_sizes[size_class]);
}

Frame* new_slab(unsigned size_class) {
    const unsigned order = slab_order(size_class);
    Frame* slab = alloc_frames(order, false, Charge::None); // objects of many groups share it
    if (slab == nullptr)
        return nullptr;
    for (unsigned i = 0; i < 1u << order; i++)
        slab[i].flags.store(frame_slab | size_class << class_shift, base::Order::Relaxed);
    slab->index = 0;
    slab->map_count.store(0, base::Order::Relaxed);
    count_up(memory_counters.slab, u64{1} << order);
    return slab;
}

void free_slab(unsigned size_class, Frame& slab) {
    const unsigned order = slab_order(size_class);
    for (unsigned i = 0; i < 1u << order; i++) {
        (&slab)[i].flags.store(0, base::Order::Relaxed);
        (&slab)[i].map_count.store(0, base::Order::Relaxed);
    }
    count_down(memory_counters.slab, u64{1} << order);
    put_frame(slab);
}

bool fill_magazine(unsigned size_class, Magazine& magazine) {
    SizeClass& of = classes[size_class];
    const u32 wanted = magazine_limit(size_class) / 2;
    SpinGuard guard(of.lock);
    while (magazine.count < wanted) {
        Frame* slab = of.partial.front();
        if (slab == nullptr) {
            if (magazine.count > 0)
                break;
            slab = new_slab(size_class); // LockRank::FrameAllocator is inside of Slab
            if (slab == nullptr)
                return false;
            of.partial.push_front(*slab);
            of.empty_slabs++;
            of.slabs++;
        }
        if (in_use(*slab) == 0)
            of.empty_slabs--;
        FreeObject* object = take_object(size_class, *slab);
        of.objects++;
        if (in_use(*slab) == objects_per_slab(size_class))
            slab->node.unlink();
        object->next = magazine.objects;
        magazine.objects = object;
        magazine.count++;
    }
    return true;
}

// Requires: the class's lock is held.
void return_object(unsigned size_class, FreeObject* object) {
    SizeClass& of = classes[size_class];
    const u64 at = arch::virt_to_phys(object).raw();
    Frame& slab = *phys_to_frame(PhysAddr(at & ~u64{slab_bytes(size_class) - 1}));
    object->next = reinterpret_cast<FreeObject*>(slab.index);
    slab.index = reinterpret_cast<u64>(object);
    if (in_use(slab) == objects_per_slab(size_class))
        of.partial.push_front(slab);
    slab.refs.fetch_sub(1, base::Order::Relaxed);
    of.objects--;
    if (in_use(slab) > 0)
        return;
    if (++of.empty_slabs <= 2)
        return;
    of.empty_slabs--;
    of.slabs--;
    slab.node.unlink();
    free_slab(size_class, slab);
}

void drain_magazine(unsigned size_class, Magazine& magazine) {
    SpinGuard guard(classes[size_class].lock);
    while (magazine.count > magazine_limit(size_class) / 2) {
        FreeObject* object = magazine.objects;
        magazine.objects = object->next;
        magazine.count--;
        return_object(size_class, object);
    }
}

void* alloc_large(usize bytes) {
    const usize frames = (bytes + page_size - 1) / page_size;
    if (frames > usize{1} << 20)
        return nullptr;
    const unsigned order = static_cast<unsigned>(std::bit_width(frames - 1));
    Frame* frame = alloc_frames(order, false, Charge::Force);
    if (frame == nullptr)
        return nullptr;
    count_up(memory_counters.slab, u64{1} << order);
    return frame_data(*frame);
}

} // namespace

void* kmalloc(usize bytes) {
    if (bytes > largest_small)
        return alloc_large(bytes);
    const unsigned size_class = class_of(bytes);
    Magazine& magazine = magazines[arch::cpu_id()][size_class];
    if (magazine.count == 0 && !fill_magazine(size_class, magazine))
        return nullptr;
    FreeObject* object = magazine.objects;
    magazine.objects = object->next;
    magazine.count--;
    return object;
}

void kfree(void* pointer) {
    if (pointer == nullptr)
        return;
    Frame* frame = phys_to_frame(arch::virt_to_phys(pointer));
    ASSERT(frame != nullptr);
    const u32 flags = frame->flags.load(base::Order::Relaxed);
    if ((flags & frame_slab) == 0) {
        count_down(memory_counters.slab, u64{1} << frame->order);
        put_frame(*frame);
        return;
    }
    const unsigned size_class = flags >> class_shift;
    Magazine& magazine = magazines[arch::cpu_id()][size_class];
    FreeObject* object = static_cast<FreeObject*>(pointer);
    object->next = magazine.objects;
    magazine.objects = object;
    if (++magazine.count > magazine_limit(size_class))
        drain_magazine(size_class, magazine);
}

void* kzalloc(usize bytes) {
    void* memory = kmalloc(bytes);
    if (memory != nullptr)
        __builtin_memset(memory, 0, bytes);
    return memory;
}

bool slab_usage(unsigned number, SlabUsage& out) {
    if (number >= class_count)
        return false;
    SizeClass& of = classes[number];
    SpinGuard guard(of.lock);
    out = {class_sizes[number], objects_per_slab(number), 1u << slab_order(number), of.objects,
           of.slabs};
    return true;
}

void* alloc_kernel_stack() {
    {
        SpinGuard guard(stack_cache.lock);
        if (FreeObject* stack = stack_cache.stacks) {
            stack_cache.stacks = stack->next;
            stack_cache.count--;
            return stack;
        }
    }
    // Stacks are kept for other tasks: the task is charged, not the frames (task.cpp).
    Frame* frame = alloc_frames(stack_order, true, Charge::None);
    if (frame == nullptr)
        return nullptr;
    count_up(memory_counters.kernel_stacks, u64{1} << stack_order);
    return frame_data(*frame);
}

void free_kernel_stack(void* stack) {
    if (stack == nullptr)
        return;
    {
        SpinGuard guard(stack_cache.lock);
        if (stack_cache.count < stack_cache_limit) {
            // The upper end is the part that is warm, but the lower one is known: it holds the Task
            // pointer.
            FreeObject* object = static_cast<FreeObject*>(stack);
            object->next = stack_cache.stacks;
            stack_cache.stacks = object;
            stack_cache.count++;
            return;
        }
    }
    count_down(memory_counters.kernel_stacks, u64{1} << stack_order);
    put_frame(*phys_to_frame(arch::virt_to_phys(stack)));
}

void reset_heap_for_test() {
    for (SizeClass& size_class : classes) {
        ::new (static_cast<void*>(&size_class.partial)) decltype(size_class.partial);
        size_class.empty_slabs = 0;
        size_class.slabs = size_class.objects = 0;
    }
    for (auto& of_cpu : magazines)
        for (Magazine& magazine : of_cpu)
            magazine = Magazine{};
    stack_cache.stacks = nullptr;
    stack_cache.count = 0;
}

} // namespace kernel

#ifndef JOEY_HOSTED
namespace std {
const nothrow_t nothrow{};
} // namespace std

void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
    return kernel::kmalloc(bytes);
}
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept {
    return kernel::kmalloc(bytes);
}
// The throwing forms must not return null; kernel code uses the other ones.
void* operator new(std::size_t bytes) {
    void* memory = kernel::kmalloc(bytes);
    if (memory == nullptr)
        PANIC("out of memory in an allocation that cannot fail");
    return memory;
}
void* operator new[](std::size_t bytes) {
    return operator new(bytes);
}
void operator delete(void* pointer) noexcept {
    kernel::kfree(pointer);
}
void operator delete[](void* pointer) noexcept {
    kernel::kfree(pointer);
}
void operator delete(void* pointer, std::size_t) noexcept {
    kernel::kfree(pointer);
}
void operator delete[](void* pointer, std::size_t) noexcept {
    kernel::kfree(pointer);
}
void operator delete(void* pointer, const std::nothrow_t&) noexcept {
    kernel::kfree(pointer);
}
void operator delete[](void* pointer, const std::nothrow_t&) noexcept {
    kernel::kfree(pointer);
}
#endif
