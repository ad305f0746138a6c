// One maker per kind of expression.
#pragma once

#include "guestkernel/net/filter/expression.hpp"

namespace kernel::net::filter {

using MadeExpression = Result<Owned<Expression>>;
using RawAttributes = std::span<const u8>;

// The time on the clock of the stack that the rule is for.
u64 current_time(const ParseContext& context);

MadeExpression make_bitwise(ParseContext& context, RawAttributes attributes);
MadeExpression make_byteorder(ParseContext& context, RawAttributes attributes);
MadeExpression make_cmp(ParseContext& context, RawAttributes attributes);
MadeExpression make_counter(ParseContext& context, RawAttributes attributes);
MadeExpression make_ct(ParseContext& context, RawAttributes attributes);
MadeExpression make_dynset(ParseContext& context, RawAttributes attributes);
MadeExpression make_fib(ParseContext& context, RawAttributes attributes);
MadeExpression make_immediate(ParseContext& context, RawAttributes attributes);
MadeExpression make_limit(ParseContext& context, RawAttributes attributes);
MadeExpression make_log(ParseContext& context, RawAttributes attributes);
MadeExpression make_lookup(ParseContext& context, RawAttributes attributes);
MadeExpression make_masq(ParseContext& context, RawAttributes attributes);
MadeExpression make_match(ParseContext& context, RawAttributes attributes);
MadeExpression make_meta(ParseContext& context, RawAttributes attributes);
MadeExpression make_nat(ParseContext& context, RawAttributes attributes);
MadeExpression make_notrack(ParseContext& context, RawAttributes attributes);
MadeExpression make_numgen(ParseContext& context, RawAttributes attributes);
MadeExpression make_objref(ParseContext& context, RawAttributes attributes);
MadeExpression make_payload(ParseContext& context, RawAttributes attributes);
MadeExpression make_quota(ParseContext& context, RawAttributes attributes);
MadeExpression make_range(ParseContext& context, RawAttributes attributes);
MadeExpression make_redir(ParseContext& context, RawAttributes attributes);
MadeExpression make_reject(ParseContext& context, RawAttributes attributes);
MadeExpression make_target(ParseContext& context, RawAttributes attributes);

// A finished expression as the makers return it.
template <typename T>
MadeExpression made(Result<Owned<T>> expression) {
    if (!expression)
        return fail(expression.error().code);
    return Owned<Expression>(std::move(*expression));
}

} // namespace kernel::net::filter
