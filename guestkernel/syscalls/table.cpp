#include "guestkernel/syscalls/table.hpp"

#include <array>

#include <linux/errno.h>

#include "guestkernel/core/speculation.hpp"
#include "guestkernel/syscalls/handlers.hpp"

namespace kernel {

namespace {

template <typename... A>
constexpr u8 count_arguments(Result<long> (*)(Task&, A...)) {
    return sizeof...(A);
}

constexpr std::array<SyscallEntry, syscall_limit> make_table() {
    std::array<SyscallEntry, syscall_limit> table{};
#define SYSCALL(number, call, level, note)                                                         \
    table[number] = {decode<&sys_##call>,          #call, Support::level,                          \
                     count_arguments(&sys_##call), 0,     note};
#define REFUSED(number, call, error, why)                                                          \
    table[number] = {nullptr, #call, Support::Refused, 6, error, why};
#define MISSING(number, call) table[number] = {nullptr, #call, Support::Missing, 6, ENOSYS};
#include "guestkernel/syscalls/syscalls.def"
#undef SYSCALL
#undef REFUSED
#undef MISSING
    return table;
}

constinit const std::array<SyscallEntry, syscall_limit> table = make_table();

} // namespace

const SyscallEntry* find_syscall(u64 number) {
    if (number >= syscall_limit)
        return nullptr;
    const SyscallEntry& entry = table[speculation::bounded_index(number, syscall_limit)];
    return entry.name != nullptr ? &entry : nullptr;
}

} // namespace kernel
