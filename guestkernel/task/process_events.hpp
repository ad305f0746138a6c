// Who hears of what processes do: the process events connector (net/netlink/connector/).
#pragma once

#include "base/atomic.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel {

class Task;
struct Credentials;

enum class ProcessEvent : u8 { Fork, Exec, Uid, Gid, Session, Traced, Untraced, Name, Core, Exit };

// `task` is whom it happened to: of Fork the new one, of Exit one whose identity is still there.
using ProcessObserver = void (*)(ProcessEvent event, Task& task);
inline constinit ProcessObserver process_observer = nullptr; // set at boot
inline constinit base::Atomic<u32> process_listeners{0};     // 0: nobody wants to hear it

// No lock held; does not sleep.
inline void tell_process_event(ProcessEvent event, Task& task) {
    if (process_listeners.load(base::Order::Relaxed) != 0) [[unlikely]]
        process_observer(event, task);
}
// Around a change of the running task's credentials: what changes, and then telling that.
struct ChangedIds {
    bool user = false, group = false;
};
ChangedIds changed_ids(const Credentials& before, const Credentials& after);
void tell_changed_ids(Task& task, ChangedIds changed);

} // namespace kernel
