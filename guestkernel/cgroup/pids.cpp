#include "guestkernel/cgroup/pids.hpp"

#include <linux/errno.h>

namespace kernel {

namespace {

void note_peak(Cgroup& group, u64 count) {
    u64 peak = group.pids_peak.load(base::Order::Relaxed);
    while (count > peak && !group.pids_peak.compare_exchange(peak, count))
        ;
}

} // namespace

void charge_pids(Cgroup& group) {
    for (Cgroup* at = &group; at->parent; at = at->parent.get())
        note_peak(*at, at->pids.fetch_add(1) + 1);
}

void uncharge_pids(Cgroup& group) {
    for (Cgroup* at = &group; at->parent; at = at->parent.get())
        at->pids.fetch_sub(1);
}

Result<void> try_charge_pids(Cgroup& group) {
    for (Cgroup* at = &group; at->parent; at = at->parent.get()) {
        const u64 now = at->pids.fetch_add(1) + 1;
        if (now <= at->pids_max.load(base::Order::Relaxed)) {
            note_peak(*at, now);
            continue;
        }
        for (Cgroup* undo = &group;; undo = undo->parent.get()) {
            undo->pids.fetch_sub(1);
            if (undo == at)
                break;
        }
        // Told where the limit stands and above: the local count is that group's own.
        at->pids_refused_local.fetch_add(1);
        for (Cgroup* up = at; up->parent; up = up->parent.get()) {
            up->pids_refused.fetch_add(1);
            cgroup_event(*up, CgroupEvent::PidsEvents);
        }
        return fail(EAGAIN);
    }
    return {};
}

} // namespace kernel
