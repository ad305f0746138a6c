// What the two parts of fanotify share: groups with their queues, and marks.
#pragma once

#include "guestkernel/ipc/fanotify.hpp"
#include "guestkernel/sched/mutex.hpp"

namespace kernel {

// Guards all marks and the list of groups.
extern Mutex fanotify_mutex;

// /proc/sys/fs/fanotify: for each user.
struct FanotifyLimits {
    base::Atomic<u32> groups{128}, marks{8192}, events{16384};
};
extern FanotifyLimits fanotify_limits;

// A new group. EMFILE: the user has too many.
Result<void> list_fanotify_group(FanotifyFile& group, bool unlimited);
// Ends its marks. From then on nothing is queued.
void end_fanotify_group(FanotifyFile& group);

} // namespace kernel
