// What groups of processes are charged for memory, page by page: the memory controller's core. The
// files of it are in cgroup/memory_files.cpp.
//
// A frame remembers the number of the group that pays for it. Groups are charged in batches through
// a stock per CPU; a task without a group pays nothing, and for it the cost is one test. Groups are
// never given back to the heap, only used again when nothing is charged to them any more: whoever
// reads a number that has just gone out of use charges a group that nobody looks at, or another
// one's successor, and the charge is given back to the same number.
#pragma once

#include "guestkernel/core/lock.hpp"
#include "guestkernel/core/ref.hpp"
#include "guestkernel/core/result.hpp"
#include "guestkernel/mm/frame.hpp"

namespace kernel {

class Cgroup;
class Task;

inline constexpr unsigned frame_kinds = 6;
inline constexpr u64 no_page_limit = ~u64{0} >> page_shift;

struct MemoryEvents {
    u64 low = 0, high = 0, max = 0, oom = 0, oom_kill = 0, oom_group_kill = 0;
};

// Guarded by the charge lock; plain reads of single figures are fine anywhere.
struct MemoryGroup {
    u16 number = 0; // never 0 in use
    bool online = false;
    bool oom_group = false;
    MemoryGroup* parent = nullptr; // null: below the root
    Cgroup* cgroup = nullptr;      // while it is online
    u32 children = 0;              // those with charges of their own after their end included
    u64 usage = 0, peak = 0;       // pages, with those of the groups below
    u64 late_peak = 0;             // since memory.peak was last written to
    u64 min = 0, low = 0, high = no_page_limit, max = no_page_limit;
    i64 kinds[frame_kinds] = {};
    MemoryEvents events, local_events;

    // Pages beyond a bound. One look at the usage: it may fall below the bound at any moment.
    u64 beyond(u64 bound) const {
        const u64 now = __atomic_load_n(&usage, __ATOMIC_RELAXED);
        return now > bound ? now - bound : 0;
    }
    bool is_below(const MemoryGroup& other) const {
        const MemoryGroup* at = this;
        while (at != nullptr && at != &other)
            at = at->parent;
        return at != nullptr;
    }
};

bool memory_groups_exist();
Result<MemoryGroup*> make_memory_group(MemoryGroup* parent, Cgroup& owner);
void retire_memory_group(MemoryGroup& group);
MemoryGroup* memory_group_by_number(u16 number); // null: none
Ref<Cgroup> cgroup_of(MemoryGroup& group);       // null: it is not online any more
// Pages by use, with those of the groups below.
u64 memory_group_kind(const MemoryGroup& group, FrameKind kind);

enum MemoryEvent : u8 { EventLow, EventHigh, EventMax, EventOom, EventOomKill, EventOomGroupKill };
void note_memory_event(MemoryGroup& group, MemoryEvent event);
// `late_peak` starts from the usage, which is returned.
u64 restart_peak(MemoryGroup& group);

// Gives up page cache that the group pays for; returns how many pages. May sleep.
usize reclaim_memory_group(MemoryGroup& group, usize wanted);
// The OOM killer, in task/: ends the process of the group (null: of all) that holds most memory,
// unless one is about to end. False: there is none.
bool kill_for_memory(MemoryGroup* within);
// Between two attempts to get memory where there is none (`attempt` counts them from 0): sees to it
// that somebody gives some up, and lets others run, for a while that grows. False: it is of no use
// to go on. Sleeps.
bool wait_for_memory(MemoryGroup* within, unsigned attempt);
u64 killed_for_memory(); // how often, since the start
// A new limit: brings the group below it, by force if need be.
void enforce_memory_limit(MemoryGroup& group);
// The usage is beyond memory.high: whoever allocates gives up cache, and time. On the way to user
// mode.
void slow_down_for_memory(Task& task);

// For the allocator. `charge_frames` answers whether the frames may be had; `may_wait`: reclaims
// and kills for it.
enum class Charge : u8 { Try, Force, None };
bool charge_frames(u16 number, u64 pages, bool may_wait, Charge how);
void uncharge_frames(u16 number, u64 pages, FrameKind kind);
void give_back_charge(u16 number, u64 pages); // of frames that were not to be had after all
void note_frame_kind(u16 number, FrameKind kind, i64 by);

// Whether reclaim should spare the page: what pays for it is below its protection.
bool memory_protected(u16 number, bool also_low);

} // namespace kernel
