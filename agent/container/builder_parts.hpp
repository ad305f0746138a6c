// What the builders of containers and of processes in them have in common.
#pragma once

#include <functional>

#include "agent/container/plan.hpp"

namespace container {

// First thing in a builder: no signal handling of the agent's, no descriptor but the plan's.
void begin_builder(const ProcessPlan& plan, std::vector<int> keep);
// A new session keyring for this process and what is born of it: whoever has one holds the keys in
// it, and no namespace divides them. Here, not inside, where the keys of a mapped user are counted.
os::Result<void> leave_session_keyring();
// Talks to the process that was born: answers, forwards, applies what needs the builder's rights.
// Ends when it is ready. `run_hooks` is called when it asks for them.
os::Result<void> accompany(const ProcessPlan& plan, pid_t pid, int sync,
                           const std::function<os::Result<void>()>& run_hooks);
os::Result<void> apply_oom_score(const spec::Process& process, pid_t pid);

// Each of the two keeps its own channel to the agent only, so that its end is seen there at once:
// the builder as soon as the other is born, and that one first of all.
void keep_report_only(const ProcessPlan& plan);
void keep_start_only(const ProcessPlan& plan);

// In the process that was born: tells `where` of the failure and ends.
[[noreturn]] void give_up(int where, const os::Error& error);
// Waits for the builder's word.
os::Result<void> wait_for_go(int sync);

} // namespace container
