// log: a line in the kernel log, or (with a group) a message to whoever listens to the group, which
// nobody can here.
#include <linux/errno.h>
#include <linux/netfilter/nf_tables.h>

#include "guestkernel/net/filter/expressions/makers.hpp"
#include "guestkernel/net/filter/log_packet.hpp"
#include "guestkernel/net/filter/ruleset.hpp"

namespace kernel::net::filter {

namespace {

constexpr u32 log_mask = 0x2f; // NF_LOG_MASK
constexpr usize most_prefix = 127;
constexpr u32 level_audit = 8;

class Log final : public Expression {
public:
    String prefix;
    bool to_group = false;
    u16 group = 0, threshold = 0;
    u32 snap = 0, level = 4, flags = 0;
    bool has_snap = false;
    std::string_view name() const override { return "log"; }
    void evaluate(Evaluation& at) override {
        if (!to_group && level < level_audit)
            log_packet(at, prefix.view(), level, flags);
    }
    void dump(MessageWriter& out) const override {
        if (!prefix.empty())
            out.text(NFTA_LOG_PREFIX, prefix.view());
        if (to_group) {
            put_be16(out, NFTA_LOG_GROUP, group);
            if (has_snap)
                put_be32(out, NFTA_LOG_SNAPLEN, snap);
            if (threshold != 0)
                put_be16(out, NFTA_LOG_QTHRESHOLD, threshold);
            return;
        }
        put_be32(out, NFTA_LOG_LEVEL, level);
        if (flags != 0)
            put_be32(out, NFTA_LOG_FLAGS, flags);
    }
};

} // namespace

MadeExpression make_log(ParseContext& context, RawAttributes attributes) {
    (void)context;
    Attributes<NFTA_LOG_MAX + 1> parts;
    TRY(parts.parse(attributes));
    TRY(Owned<Log> out, make_owned<Log>());
    out->to_group = parts[NFTA_LOG_GROUP] != nullptr;
    if (out->to_group && (parts[NFTA_LOG_LEVEL] != nullptr || parts[NFTA_LOG_FLAGS] != nullptr))
        return fail(EINVAL);
    if (parts.text(NFTA_LOG_PREFIX).size() > most_prefix)
        return fail(ERANGE);
    TRY(out->prefix.append(parts.text(NFTA_LOG_PREFIX)));
    if (out->to_group) {
        out->group = parts[NFTA_LOG_GROUP]->as<Be16>().get();
        out->has_snap = parts[NFTA_LOG_SNAPLEN] != nullptr;
        out->snap = parts.number(NFTA_LOG_SNAPLEN);
        if (parts[NFTA_LOG_QTHRESHOLD] != nullptr)
            out->threshold = parts[NFTA_LOG_QTHRESHOLD]->as<Be16>().get();
        return made<Log>(std::move(out));
    }
    out->level = parts.number(NFTA_LOG_LEVEL, 4);
    if (out->level > level_audit)
        return fail(EINVAL);
    out->flags = parts.number(NFTA_LOG_FLAGS);
    if ((out->flags & ~log_mask) != 0)
        return fail(EINVAL);
    return made<Log>(std::move(out));
}

} // namespace kernel::net::filter
