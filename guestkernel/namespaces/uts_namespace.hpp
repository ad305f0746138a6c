// The names of the machine that uname(2) shows (uts_namespaces(7)).
#pragma once

#include "guestkernel/core/lock.hpp"
#include "guestkernel/core/uts.hpp"
#include "guestkernel/namespaces/namespace.hpp"

namespace kernel {

struct UtsName {
    char text[uts_length + 1] = {};
    usize length = 0;
    bool set = false;
};

struct UtsNamespace : Namespace {
    UtsNamespace(Ref<UserNamespace> owner, bool counted);
    SpinLock lock{LockRank::Leaf};
    UtsName host, domain;
};

// As `from`, to begin with.
Result<Ref<UtsNamespace>> copy_uts_namespace(UtsNamespace& from, Ref<UserNamespace> owner);
UtsNamespace* current_uts_namespace();

} // namespace kernel
