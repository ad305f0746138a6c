// Controlling terminals of sessions.
#include <linux/errno.h>

#include "guestkernel/ipc/terminal.hpp"
#include "guestkernel/task/job_control.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

Ref<Terminal> controlling_terminal() {
    SpinGuard tree(process_tree_lock());
    const Process* process = current_task().process;
    Session* session = process != nullptr ? session_of(*process) : nullptr;
    return session != nullptr ? Ref<Terminal>::share(session->terminal) : Ref<Terminal>();
}

Result<void> set_controlling_terminal(Ref<Terminal> terminal) {
    SpinGuard tree(process_tree_lock());
    Process& process = current_process();
    Session* session = session_of(process);
    if (session == nullptr || session->id != process.pid)
        return fail(EPERM);
    if (session->terminal == terminal.get())
        return {};
    if (session->terminal != nullptr)
        return fail(EPERM);
    session->terminal = terminal.leak();
    return {};
}

void clear_controlling_terminal(Terminal& terminal) {
    for (;;) {
        Ref<Terminal> held; // dropped without the lock
        SpinGuard tree(process_tree_lock());
        Session* session = find_session_of_terminal_locked(terminal);
        if (session == nullptr)
            return;
        held = Ref<Terminal>::adopt(std::exchange(session->terminal, nullptr));
        tree.unlock();
    }
}

void leave_session(Process& process) {
    Ref<Terminal> terminal;
    i32 session = 0;
    {
        SpinGuard tree(process_tree_lock());
        Session* own = session_of(process);
        if (own == nullptr || own->id != process.pid)
            return;
        session = own->id;
        terminal = Ref<Terminal>::adopt(std::exchange(own->terminal, nullptr));
    }
    if (terminal)
        session_leader_ended(*terminal, session);
}

} // namespace kernel
