// reject: drop, and say so to the sender.
#include <linux/errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>

#include "guestkernel/net/filter/expressions/makers.hpp"
#include "guestkernel/net/filter/reject_packet.hpp"
#include "guestkernel/net/filter/ruleset.hpp"

namespace kernel::net::filter {

namespace {

// Codes for both versions (NFT_REJECT_ICMPX_*).
u8 code_of(u32 abstract, bool v6) {
    constexpr u8 codes4[] = {0, 3, 1, 13}, codes6[] = {0, 4, 3, 1};
    return v6 ? codes6[abstract] : codes4[abstract];
}

class Reject final : public Expression {
public:
    u32 type = 0;
    u8 code = 0;
    std::string_view name() const override { return "reject"; }
    void evaluate(Evaluation& at) override {
        if (type == NFT_REJECT_TCP_RST)
            send_reset(at);
        else
            send_unreachable(at,
                             type == NFT_REJECT_ICMPX_UNREACH ? code_of(code, at.hook.v6) : code);
        at.verdict = Verdict::Drop;
    }
    void dump(MessageWriter& out) const override {
        put_be32(out, NFTA_REJECT_TYPE, type);
        if (type != NFT_REJECT_TCP_RST)
            out.number8(NFTA_REJECT_ICMP_CODE, code);
    }
    Result<void> validate(const Chain& from, u8 family) const override {
        (void)family;
        if (from.point == HookPoint::PostRouting)
            return fail(EOPNOTSUPP);
        return {};
    }
};

} // namespace

MadeExpression make_reject(ParseContext& context, RawAttributes attributes) {
    Attributes<NFTA_REJECT_MAX + 1> parts;
    TRY(parts.parse(attributes));
    if (parts[NFTA_REJECT_TYPE] == nullptr)
        return fail(EINVAL);
    TRY(Owned<Reject> out, make_owned<Reject>());
    out->type = parts.number(NFTA_REJECT_TYPE);
    if (out->type > NFT_REJECT_ICMPX_UNREACH)
        return fail(EINVAL);
    if (out->type != NFT_REJECT_TCP_RST) {
        if (parts[NFTA_REJECT_ICMP_CODE] == nullptr)
            return fail(EINVAL);
        out->code = parts[NFTA_REJECT_ICMP_CODE]->as<u8>();
    }
    if (out->type == NFT_REJECT_ICMPX_UNREACH &&
        (out->code > NFT_REJECT_ICMPX_MAX || context.family != NFPROTO_INET))
        return fail(EINVAL);
    return made<Reject>(std::move(out));
}

} // namespace kernel::net::filter
