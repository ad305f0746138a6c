// The expressions `match` and `target`, and the question which of them are known.
#include "guestkernel/net/filter/compat/compat.hpp"

#include <linux/errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nf_tables_compat.h>
#include <linux/netfilter/nfnetlink.h>

#include "guestkernel/net/filter/compat/kinds.hpp"
#include "guestkernel/net/filter/expressions/makers.hpp"

namespace kernel::net::filter {

namespace {

constexpr usize aligned8(usize bytes) { // XT_ALIGN
    return (bytes + 7) & ~usize{7};
}

bool for_family(u8 kind_family, u8 family) {
    return kind_family == 0 || (family == NFPROTO_IPV4 && kind_family == 4) ||
           (family == NFPROTO_IPV6 && kind_family == 6);
}

template <typename Kind>
const Kind* find_in(std::span<const Kind> kinds, std::string_view name, u32 revision, u8 family) {
    for (const Kind& kind : kinds)
        if (kind.name == name && kind.revision == revision && for_family(kind.family, family))
            return &kind;
    return nullptr;
}

const MatchKind* find_match(std::string_view name, u32 revision, u8 family) {
    const MatchKind* found = find_in(header_matches(), name, revision, family);
    return found != nullptr ? found : find_in(environment_matches(), name, revision, family);
}

const TargetKind* find_target(std::string_view name, u32 revision, u8 family) {
    const TargetKind* found = find_in(nat_targets(), name, revision, family);
    return found != nullptr ? found : find_in(other_targets(), name, revision, family);
}

Result<void> check_placement(const Placement& placement, const Chain& from) {
    if (placement.nat && from.type != ChainType::Nat)
        return fail(EINVAL);
    return (placement.points >> static_cast<u32>(from.point) & 1) != 0 ? Result<void>()
                                                                       : Result<void>(fail(EINVAL));
}

class Match final : public Expression {
public:
    const MatchKind* kind = nullptr;
    Vector<u8> info;
    MatchState state;
    std::string_view name() const override { return "match"; }
    bool tracks() const override { return kind->tracks; }
    void evaluate(Evaluation& at) override {
        if (!kind->matches(at, info.data(), state))
            at.leave();
    }
    void dump(MessageWriter& out) const override {
        out.text(NFTA_MATCH_NAME, kind->name);
        put_be32(out, NFTA_MATCH_REV, kind->revision);
        out.attribute(NFTA_MATCH_INFO, info.data(), info.size());
    }
    Result<void> validate(const Chain& from, u8 family) const override {
        (void)family;
        return check_placement(kind->placement, from);
    }
};

class Target final : public Expression {
public:
    const TargetKind* kind = nullptr;
    Vector<u8> info;
    std::string_view name() const override { return "target"; }
    bool tracks() const override { return kind->tracks; }
    void evaluate(Evaluation& at) override { at.verdict = kind->apply(at, info.data()); }
    void dump(MessageWriter& out) const override {
        out.text(NFTA_TARGET_NAME, kind->name);
        put_be32(out, NFTA_TARGET_REV, kind->revision);
        out.attribute(NFTA_TARGET_INFO, info.data(), info.size());
    }
    Result<void> validate(const Chain& from, u8 family) const override {
        (void)family;
        return check_placement(kind->placement, from);
    }
};

// The structure as it came, padded; what is the kernel's own in it is zero.
Result<void> take_info(std::span<const u8> given, usize size, usize user_size, Vector<u8>& out) {
    if (aligned8(given.size()) != aligned8(size))
        return fail(EINVAL);
    TRY(out.resize(aligned8(size)));
    __builtin_memset(out.data(), 0, out.size());
    const usize bytes = given.size() < user_size ? given.size() : user_size;
    __builtin_memcpy(out.data(), given.data(), bytes);
    return {};
}

template <typename Kind>
Result<void> check_kind(const ParseContext& context, const Kind& kind, const u8* info) {
    if (kind.check != nullptr && !kind.check(info))
        return fail(EINVAL);
    if (kind.placement.protocol != 0 &&
        (context.compat_protocol != kind.placement.protocol || context.compat_inverted))
        return fail(EINVAL);
    return {};
}

} // namespace

MadeExpression make_match(ParseContext& context, RawAttributes attributes) {
    Attributes<NFTA_MATCH_MAX + 1> parts;
    TRY(parts.parse(attributes));
    for (const u16 needed : {NFTA_MATCH_NAME, NFTA_MATCH_REV, NFTA_MATCH_INFO})
        if (parts[needed] == nullptr)
            return fail(EINVAL);
    TRY(Owned<Match> out, make_owned<Match>());
    out->kind =
        find_match(parts.text(NFTA_MATCH_NAME), parts.number(NFTA_MATCH_REV), context.family);
    if (out->kind == nullptr)
        return fail(ENOENT);
    TRY(take_info(parts.data(NFTA_MATCH_INFO), out->kind->size, out->kind->user_size, out->info));
    TRY(check_kind(context, *out->kind, out->info.data()));
    return made<Match>(std::move(out));
}

MadeExpression make_target(ParseContext& context, RawAttributes attributes) {
    Attributes<NFTA_TARGET_MAX + 1> parts;
    TRY(parts.parse(attributes));
    for (const u16 needed : {NFTA_TARGET_NAME, NFTA_TARGET_REV, NFTA_TARGET_INFO})
        if (parts[needed] == nullptr)
            return fail(EINVAL);
    TRY(Owned<Target> out, make_owned<Target>());
    out->kind =
        find_target(parts.text(NFTA_TARGET_NAME), parts.number(NFTA_TARGET_REV), context.family);
    if (out->kind == nullptr)
        return fail(ENOENT);
    TRY(take_info(parts.data(NFTA_TARGET_INFO), out->kind->size, out->kind->user_size, out->info));
    TRY(check_kind(context, *out->kind, out->info.data()));
    return made<Target>(std::move(out));
}

Result<void> answer_compat(Request& request) {
    if (message_of(request) != NFNL_MSG_COMPAT_GET)
        return fail(EINVAL);
    Attributes<NFTA_COMPAT_MAX + 1> parts;
    TRY(parts.parse(request.attributes_after<FamilyHeader>()));
    for (const u16 needed : {NFTA_COMPAT_NAME, NFTA_COMPAT_REV, NFTA_COMPAT_TYPE})
        if (parts[needed] == nullptr)
            return fail(EINVAL);
    const u8 family = family_of(request);
    const std::string_view name = parts.text(NFTA_COMPAT_NAME);
    const u32 revision = parts.number(NFTA_COMPAT_REV), target = parts.number(NFTA_COMPAT_TYPE);
    const bool known = target != 0 ? find_target(name, revision, family) != nullptr
                                   : find_match(name, revision, family) != nullptr;
    if (!known)
        return fail(ENOENT);
    MessageWriter out;
    out.begin(static_cast<u16>(NFNL_SUBSYS_NFT_COMPAT << 8 | NFNL_MSG_COMPAT_GET),
              netlink::flag_multi, request.sequence(), request.sender().port());
    FamilyHeader header;
    header.family = family;
    header.version = NFNETLINK_V0;
    header.resource.set(0);
    out.put(header);
    out.text(NFTA_COMPAT_NAME, name);
    put_be32(out, NFTA_COMPAT_REV, revision);
    put_be32(out, NFTA_COMPAT_TYPE, target);
    if (!out.end())
        return fail(ENOMEM);
    return request.reply(out);
}

} // namespace kernel::net::filter
