#include "guestkernel/syscalls/namespace_calls.hpp"

#include "guestkernel/namespaces/namespaces.hpp"

namespace kernel {

Result<long> sys_unshare(Task&, u64 flags) {
    constexpr int einval = 22;
    if (flags >> 32 != 0)
        return fail(einval);
    TRY(unshare(static_cast<u32>(flags)));
    return 0;
}

Result<long> sys_setns(Task&, int fd, u32 flags) {
    TRY(enter_namespaces(fd, flags));
    return 0;
}

} // namespace kernel
