// What the short-lived processes that build a container, or a process in one, are told; and what
// they tell back.
//
//   agent --fork--> builder --clone3, CLONE_PARENT--> first process of the container
//
// The builder works outside of the new namespaces (control group, id mappings, hooks of the
// runtime), the first process inside. Both are children of the agent, which waits for neither: it
// reads messages.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "agent/container/cgroup.hpp"
#include "agent/container/hooks.hpp"
#include "agent/container/namespaces.hpp"
#include "agent/container/seccomp_filter.hpp"
#include "agent/os/files.hpp"
#include "agent/spec/spec.hpp"

namespace container {

// Kinds of os::Message.
namespace message {
constexpr char failed = 'e';   // builder -> agent, first process -> builder, -> agent: an error
constexpr char born = 'p';     // builder -> agent: the pid
constexpr char terminal = 't'; // first process -> builder -> agent: the terminal's master side
constexpr char hooks = 'h';    // first process -> builder: the runtime's hooks may run
constexpr char limits = 'l';   // first process -> builder: it would like its limits raised
constexpr char go = 'g';       // builder -> first process
constexpr char ready = 'r';    // first process -> builder -> agent: it waits for its start
constexpr char start = 's';    // agent -> first process
} // namespace message

std::string encode(const os::Error& error);
os::Error decode_error(const std::string& text);

// What both kinds of building need.
struct ProcessPlan {
    const spec::Process* process = nullptr;
    const spec::Seccomp* seccomp = nullptr; // may be null
    std::array<int, 3> stdio{-1, -1, -1};   // the process's ends; unused with a terminal
    std::vector<int> preserved; // its descriptors 3 and up; all numbers here are above theirs
    int report = -1;            // channel to the agent, the builder's end
    int start = -1;             // channel to the agent, the first process's end
};

struct ContainerPlan {
    ProcessPlan common;
    const spec::Spec* spec = nullptr;
    HookState state;
    const Cgroup* cgroup = nullptr;
};

struct ExecPlan {
    ProcessPlan common;
    const std::vector<OpenNamespace>* namespaces = nullptr;
    const Cgroup* cgroup = nullptr;
    pid_t first = -1; // the container's first process
    std::optional<std::uint64_t> personality;
};

// Each is called in a process that was forked for it.
[[noreturn]] void build_container(const ContainerPlan& plan);
[[noreturn]] void build_process(const ExecPlan& plan);

} // namespace container
