// Who the running task is once it has executed a program: the ids and the capabilities that the
// program's file gives (execve(2), capabilities(7)).
#pragma once

#include "guestkernel/fs/file.hpp"
#include "guestkernel/task/credentials.hpp"

namespace kernel {

struct ProgramIdentity {
    Ref<Credentials> credentials;
    bool secure = false;             // AT_SECURE
    bool gains = false;              // other ids, or capabilities that it did not have
    bool guarded = false;            // not dumpable for its rights' sake
    bool unreadable = false;         // the program, for who executes it
    u32 lost_personality = 0;        // flags that weaken a program of another's rights
    Ref<UserNamespace> memory_space; // of Process
    // What the rights take into account: that it is traced, or shares its places with another
    // process.
    bool was_traced = false, shared_places = false;
};

// EPERM: a file whose capabilities are to be effective at once does not get all of them; EINVAL,
// what it has for capabilities makes no sense.
Result<ProgramIdentity> identity_by(File& program);

} // namespace kernel
