// Namespaces: opening, joining, and the clone that makes new ones.
#pragma once

#include <string>
#include <vector>

#include <sys/types.h>

#include "agent/os/error.hpp"
#include "agent/os/unique_fd.hpp"
#include "agent/spec/spec.hpp"

namespace container {

struct OpenNamespace {
    int flag = 0; // CLONE_NEW*
    os::UniqueFd fd;
};

// Those of process `pid` that differ from this process's own. Requires: `pid` is a child that has
// not been reaped, so that the number is still its own.
os::Result<std::vector<OpenNamespace>> open_namespaces_of(pid_t pid);
// Those that the configuration names by path; each is checked to be of its kind.
os::Result<std::vector<OpenNamespace>> open_named(const spec::Linux& part);
// Whether this process is in it.
bool is_own(const OpenNamespace& entry);
os::Result<void> join(const OpenNamespace& entry);

// Joins what can be left again, and leaves it in the destructor: new processes are born with it.
class TemporaryStay {
public:
    TemporaryStay() = default;
    ~TemporaryStay();
    TemporaryStay(const TemporaryStay&) = delete;
    TemporaryStay& operator=(const TemporaryStay&) = delete;
    os::Result<void> enter(const OpenNamespace& entry);
    // Before this one is changed in another way (unshare).
    os::Result<void> remember(int flag);

private:
    std::vector<OpenNamespace> back_;
};

// A sibling: its parent is this process's own parent, so that whoever manages containers may wait
// for it. Returns twice, like fork().
os::Result<pid_t> clone_sibling(int namespaces);

} // namespace container
