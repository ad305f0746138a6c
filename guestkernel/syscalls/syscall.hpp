// How a handler looks and how registers become its arguments. A handler is `Result<long>
// sys_<name>(Task&, A...)` with up to six arguments that construct from a u64 (integers, UserPtr);
// it is declared in syscalls/handlers.hpp.
#pragma once

#include <type_traits>
#include <utility>

#include "guestkernel/core/result.hpp"
#include "guestkernel/mm/user_copy.hpp"

namespace kernel {

class Task;

struct SyscallArgs {
    u64 values[6];
    u64 operator[](usize index) const { return values[index]; }
};
using SyscallHandler = Result<long> (*)(Task&, const SyscallArgs&);

// Results that are not errors of the call but orders to the signal code, negative like error
// numbers and never seen by programs (the numbers are Linux's own). Fail with them as with an
// errno.
inline constexpr int restart_syscall =
    512; // ERESTARTSYS: again if the handler has SA_RESTART, else EINTR
inline constexpr int restart_no_interrupt = 513; // ERESTARTNOINTR: always again
inline constexpr int restart_no_handler = 514;   // ERESTARTNOHAND: again only if no handler ran
inline constexpr int restart_with_block = 516; // ERESTART_RESTARTBLOCK: through restart_syscall(2)

template <typename A>
constexpr A from_register(u64 value) {
    if constexpr (std::is_integral_v<A>)
        return static_cast<A>(value);
    else
        return A(value);
}

template <auto Handler, typename... A, std::size_t... I>
Result<long> decode_impl(Task& task, const SyscallArgs& args, Result<long> (*)(Task&, A...),
                         std::index_sequence<I...>) {
    return Handler(task, from_register<A>(args[I])...);
}
template <typename>
struct HandlerArity;
template <typename... A>
struct HandlerArity<Result<long> (*)(Task&, A...)> {
    using Indices = std::make_index_sequence<sizeof...(A)>;
};
// Registers become typed arguments here and nowhere else.
template <auto Handler>
Result<long> decode(Task& task, [[maybe_unused]] const SyscallArgs& args) {
    return decode_impl<Handler>(task, args, Handler,
                                typename HandlerArity<decltype(Handler)>::Indices{});
}

} // namespace kernel
