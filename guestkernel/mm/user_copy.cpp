#include "guestkernel/mm/user_copy.hpp"

#include <asm/errno.h>

namespace kernel {

Result<String> copy_in_string(u64 address, usize limit) {
    char part[256];
    String out;
    for (usize done = 0; done < limit;) {
        if (address + done < address || address + done >= user_max)
            return fail(EFAULT);
        const u64 readable = user_max - (address + done);
        usize room = limit - done < sizeof part ? limit - done : sizeof part;
        if (room > readable)
            room = readable;
        const i64 length = arch::copy_string_from_user(part, address + done, room);
        if (length < 0)
            return fail(EFAULT);
        TRY(out.append(std::string_view(part, static_cast<usize>(length))));
        if (static_cast<usize>(length) < room)
            return out;
        done += room;
    }
    return fail(ENAMETOOLONG);
}

} // namespace kernel
