// SECCOMP_RET_USER_NOTIF: a system call that another process decides, through a descriptor.
#pragma once

#include "base/intrusive_list.hpp"
#include "guestkernel/fs/file.hpp"
#include "guestkernel/trace/seccomp.hpp"

namespace kernel {

// A call that waits for its answer; lives on its thread's kernel stack.
struct SeccompCall {
    enum class State : u8 { New, Sent, Answered };
    base::ListNode node;
    u64 id = 0;
    Task* task = nullptr;
    SeccompData data = {};
    State state = State::New;
    bool go_on = false; // SECCOMP_USER_NOTIF_FLAG_CONTINUE
    i32 error = 0;
    i64 value = 0;
    WaitQueue answered;
};

// Between the threads that wait and the descriptor.
class SeccompListener : public RefCounted {
public:
    // The calls in order of arrival. Threads are woken under the lock: their entry is theirs again
    // as soon as it is out of the list.
    SpinLock lock{LockRank::Leaf};
    base::IntrusiveList<SeccompCall, &SeccompCall::node> calls;
    u64 next_id = 1;
    bool closed = false;  // the descriptor is gone: ENOSYS
    bool hung_up = false; // nobody runs under the filter any more
    bool wait_killable = false;
    WaitQueue arrivals;
};

// Puts the running task's call before the supervisor. True: the call is to be made after all, else
// `result` is its answer.
bool ask_supervisor(const SeccompFilter& filter, const SeccompData& data, long& result);
Result<Ref<File>> make_listener_file(Ref<SeccompListener> listener);
void hang_up(SeccompListener& listener);

} // namespace kernel
