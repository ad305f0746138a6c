// RTM_NEWRULE, RTM_DELRULE and RTM_GETRULE.
#include <linux/errno.h>
#include <linux/fib_rules.h>
#include <linux/rtnetlink.h>

#include "guestkernel/namespaces/user_namespace.hpp"
#include "guestkernel/net/netlink/route/family.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel::net::netlink {

namespace {

constexpr u8 inet = 2, inet6 = 10; // AF_INET, AF_INET6

constexpr AttributePolicy policy[] = {
    {},
    {},                           // FRA_DST
    {},                           // FRA_SRC
    {AttributeKind::Text, 15},    // FRA_IIFNAME
    {AttributeKind::Number32, 0}, // FRA_GOTO
    {},
    {AttributeKind::Number32, 0}, // FRA_PRIORITY
    {},
    {},
    {},
    {AttributeKind::Number32, 0}, // FRA_FWMARK
    {AttributeKind::Number32, 0}, // FRA_FLOW
    {AttributeKind::Number64, 0}, // FRA_TUN_ID
    {AttributeKind::Number32, 0}, // FRA_SUPPRESS_IFGROUP
    {AttributeKind::Number32, 0}, // FRA_SUPPRESS_PREFIXLEN
    {AttributeKind::Number32, 0}, // FRA_TABLE
    {AttributeKind::Number32, 0}, // FRA_FWMASK
    {AttributeKind::Text, 15},    // FRA_OIFNAME
    {},
    {},
    {AttributeKind::Any, sizeof(fib_rule_uid_range)}, // FRA_UID_RANGE
    {AttributeKind::Number8, 0},                      // FRA_PROTOCOL
};
using RuleAttributes = AttributeTable<FRA_MAX + 1>;

struct RuleRequest {
    fib_rule_hdr header;
    RuleAttributes attributes;
    bool v6 = false;
    RouteRule rule; // what the attributes say
};

void copy_name(char (&to)[16], std::string_view name) {
    __builtin_memset(to, 0, sizeof to);
    __builtin_memcpy(to, name.data(), name.size() < sizeof to ? name.size() : sizeof to - 1);
}

Result<void> read_prefixes(Request& request, RuleRequest& out) {
    const bool v6 = out.v6;
    const unsigned bits = v6 ? 128 : 32;
    const Attribute* source = out.attributes[FRA_SRC];
    const Attribute* destination = out.attributes[FRA_DST];
    if (out.header.src_len > bits || (out.header.src_len != 0 && source == nullptr))
        return request.refuse(EINVAL, "Invalid source address");
    if (out.header.dst_len > bits || (out.header.dst_len != 0 && destination == nullptr))
        return request.refuse(EINVAL, "Invalid dst address");
    out.rule.source = out.rule.destination = IpAddress::any(v6);
    out.rule.source_length = out.header.src_len;
    out.rule.destination_length = out.header.dst_len;
    if (out.header.src_len != 0) {
        TRY(const IpAddress address, address_of(*source, v6));
        out.rule.source = address.prefix(out.header.src_len);
    }
    if (out.header.dst_len != 0) {
        TRY(const IpAddress address, address_of(*destination, v6));
        out.rule.destination = address.prefix(out.header.dst_len);
    }
    return {};
}

Result<void> read_selectors(Request& request, RuleRequest& out) {
    const RuleAttributes& attributes = out.attributes;
    RouteRule& rule = out.rule;
    copy_name(rule.in_interface, attributes.text(FRA_IIFNAME));
    copy_name(rule.out_interface, attributes.text(FRA_OIFNAME));
    rule.tos = out.header.tos;
    rule.mark = attributes.number(FRA_FWMARK);
    rule.mark_mask = attributes.number(FRA_FWMASK, rule.mark != 0 ? ~u32{0} : 0);
    if (const Attribute* range = attributes[FRA_UID_RANGE]) {
        const auto ids = range->as<fib_rule_uid_range>();
        const UserNamespace* user =
            current_task().credentials ? current_task().credentials->user_space() : nullptr;
        rule.uid_first = to_global_id(user, false, ids.start);
        rule.uid_last = ids.end == ~u32{0} ? ids.end : to_global_id(user, false, ids.end);
        if (rule.uid_first == invalid_id || rule.uid_first > rule.uid_last)
            return request.refuse(EINVAL, "Invalid uid range");
    }
    for (const u16 unknown :
         {FRA_TUN_ID, FRA_L3MDEV, FRA_IP_PROTO, FRA_SPORT_RANGE, FRA_DPORT_RANGE, FRA_FLOW}) {
        const Attribute* given = attributes[unknown];
        if (given != nullptr && given->data.size() <= 8 && given->as<u64>() != 0)
            return request.refuse(EOPNOTSUPP, given, "Selector is not supported");
    }
    rule.invert = (out.header.flags & FIB_RULE_INVERT) != 0;
    return {};
}

Result<void> parse(Request& request, RuleRequest& out) {
    TRY(out.header, request.payload_header<fib_rule_hdr>());
    out.v6 = out.header.family == inet6;
    if (!out.v6 && out.header.family != inet)
        return request.refuse(EAFNOSUPPORT, "Rule family not supported");
    TRY(out.attributes.parse(request.attributes_after<fib_rule_hdr>(), policy, false, request.ack));
    out.rule.v6 = out.v6;
    TRY(read_prefixes(request, out));
    TRY(read_selectors(request, out));
    const RuleAttributes& attributes = out.attributes;
    out.rule.priority = attributes.number(FRA_PRIORITY);
    out.rule.table = attributes.number(FRA_TABLE, out.header.table);
    out.rule.goto_priority = attributes.number(FRA_GOTO);
    out.rule.suppress_prefix_length =
        static_cast<i32>(attributes.number(FRA_SUPPRESS_PREFIXLEN, ~u32{0}));
    if (const Attribute* origin = attributes[FRA_PROTOCOL])
        out.rule.origin = origin->as<u8>();
    else
        out.rule.origin = 0;
    return {};
}

bool equal_name(const char (&a)[16], const char (&b)[16]) {
    return __builtin_memcmp(a, b, sizeof a) == 0;
}

bool same_selectors(const RouteRule& a, const RouteRule& b) {
    return a.v6 == b.v6 && a.source_length == b.source_length &&
           a.destination_length == b.destination_length && a.source == b.source &&
           a.destination == b.destination && a.tos == b.tos && a.mark == b.mark &&
           a.mark_mask == b.mark_mask && a.invert == b.invert &&
           equal_name(a.in_interface, b.in_interface) &&
           equal_name(a.out_interface, b.out_interface) && a.uid_first == b.uid_first &&
           a.uid_last == b.uid_last;
}

void tell(Stack& stack, ChangeKind kind, const RouteRule& rule) {
    stack.routes_changed();
    Change change{kind};
    change.rule = &rule;
    notify_change(stack, change);
}

} // namespace

bool fill_rule(MessageWriter& out, const RouteRule& rule, const Heading& heading) {
    heading.begin(out);
    fib_rule_hdr header{};
    header.family = rule.v6 ? inet6 : inet;
    header.dst_len = rule.destination_length;
    header.src_len = rule.source_length;
    header.tos = rule.tos;
    const bool by_table = rule.action == RuleAction::Table;
    const u32 table = by_table ? rule.table : 0;
    header.table = table < 256 ? static_cast<u8>(table) : u8{RT_TABLE_COMPAT};
    header.action = static_cast<u8>(rule.action);
    header.flags = rule.invert ? FIB_RULE_INVERT : 0;
    if (rule.action == RuleAction::Goto && rule.goto_unresolved)
        header.flags |= FIB_RULE_UNRESOLVED;
    out.put(header);
    out.number32(FRA_TABLE, table);
    out.number32(FRA_SUPPRESS_PREFIXLEN, static_cast<u32>(rule.suppress_prefix_length));
    out.number8(FRA_PROTOCOL, rule.origin);
    if (rule.in_interface[0] != 0)
        out.text(FRA_IIFNAME, rule.in_interface);
    if (rule.out_interface[0] != 0)
        out.text(FRA_OIFNAME, rule.out_interface);
    if (rule.priority != 0)
        out.number32(FRA_PRIORITY, rule.priority);
    if (rule.mark != 0)
        out.number32(FRA_FWMARK, rule.mark);
    if (rule.mark != 0 || rule.mark_mask != 0)
        out.number32(FRA_FWMASK, rule.mark_mask);
    if (rule.goto_priority != 0)
        out.number32(FRA_GOTO, rule.goto_priority);
    if (rule.uid_first != 0 || rule.uid_last != ~u32{0})
        out.value(FRA_UID_RANGE, fib_rule_uid_range{rule.uid_first, rule.uid_last});
    if (rule.destination_length != 0)
        out.address(FRA_DST, rule.destination);
    if (rule.source_length != 0)
        out.address(FRA_SRC, rule.source);
    return out.end();
}

Result<void> get_rule(Request& request) {
    if (!request.is_dump())
        return fail(EOPNOTSUPP);
    u8 family = 0;
    if (!request.payload().empty())
        family = request.payload()[0];
    if (family != 0 && family != inet && family != inet6)
        family = 0;
    TRY(request.start_dump([](Dump& dump, MessageWriter& out) -> Result<bool> {
        const u8 wanted = dump.payload.empty() ? u8{0} : dump.payload[0];
        for (; dump.words[0] < 2; dump.words[0]++, dump.words[1] = 0) {
            const bool v6 = dump.words[0] == 1;
            if ((wanted == inet && v6) || (wanted == inet6 && !v6))
                continue;
            SpinGuard guard(dump.stack->lock);
            const std::span<const RouteRule> rules = dump.stack->routes().rules();
            for (; dump.words[1] < rules.size(); dump.words[1]++) {
                const RouteRule& rule = rules[dump.words[1]];
                if (rule.v6 == v6 && !fill_rule(out, rule, Heading::of_dump(dump, RTM_NEWRULE)))
                    return false;
            }
        }
        return true;
    }));
    return {};
}

Result<void> new_rule(Request& request) {
    RuleRequest wanted;
    TRY(parse(request, wanted));
    RouteRule& rule = wanted.rule;
    switch (wanted.header.action) {
    case FR_ACT_TO_TBL:
    case FR_ACT_GOTO:
    case FR_ACT_NOP:
    case FR_ACT_BLACKHOLE:
    case FR_ACT_UNREACHABLE:
    case FR_ACT_PROHIBIT:
        rule.action = static_cast<RuleAction>(wanted.header.action);
        break;
    default:
        return request.refuse(EOPNOTSUPP, "Action is not supported");
    }
    if (rule.action == RuleAction::Table && rule.table == 0)
        return request.refuse(EINVAL, "Table id is 0");
    if (rule.action == RuleAction::Goto && rule.goto_priority <= rule.priority &&
        wanted.attributes[FRA_PRIORITY] != nullptr)
        return request.refuse(EINVAL, "Backward goto not supported");
    Stack& stack = request.stack();
    {
        SpinGuard guard(stack.lock);
        const std::span<const RouteRule> rules = stack.routes().rules();
        if (wanted.attributes[FRA_PRIORITY] == nullptr) {
            // In front of all but the first.
            u32 seen = 0;
            for (const RouteRule& other : rules)
                if (other.v6 == wanted.v6 && ++seen == 2)
                    rule.priority = other.priority != 0 ? other.priority - 1 : 0;
        }
        bool target = false;
        for (const RouteRule& other : rules) {
            target = target || (other.v6 == wanted.v6 && other.priority == rule.goto_priority);
            if (request.wants(NLM_F_EXCL) && same_selectors(other, rule) &&
                other.priority == rule.priority && other.action == rule.action &&
                other.table == rule.table &&
                other.suppress_prefix_length == rule.suppress_prefix_length &&
                other.goto_priority == rule.goto_priority)
                return fail(EEXIST);
        }
        rule.goto_unresolved = rule.action == RuleAction::Goto && !target;
        TRY(stack.routes().add_rule(rule));
    }
    tell(stack, ChangeKind::RuleAdded, rule);
    return {};
}

Result<void> delete_rule(Request& request) {
    RuleRequest wanted;
    TRY(parse(request, wanted));
    Stack& stack = request.stack();
    RouteRule gone;
    {
        SpinGuard guard(stack.lock);
        auto removed = stack.routes().remove_rule_if(
            [](const RouteRule& rule, const void* context) {
                const auto& like = *static_cast<const RuleRequest*>(context);
                const RouteRule& given = like.rule;
                const RuleAttributes& attributes = like.attributes;
                const auto differs = [&](u16 attribute, auto own, auto theirs) {
                    return attributes[attribute] != nullptr && own != theirs;
                };
                if (rule.v6 != like.v6 ||
                    (like.header.action != 0 &&
                     static_cast<u8>(rule.action) != like.header.action) ||
                    (given.table != 0 && rule.table != given.table) ||
                    differs(FRA_PRIORITY, rule.priority, given.priority) ||
                    differs(FRA_FWMARK, rule.mark, given.mark) ||
                    differs(FRA_FWMASK, rule.mark_mask, given.mark_mask) ||
                    differs(FRA_SUPPRESS_PREFIXLEN, rule.suppress_prefix_length,
                            given.suppress_prefix_length) ||
                    (attributes[FRA_PROTOCOL] != nullptr && given.origin != 0 &&
                     rule.origin != given.origin) ||
                    (attributes[FRA_IIFNAME] != nullptr &&
                     !equal_name(rule.in_interface, given.in_interface)) ||
                    (attributes[FRA_OIFNAME] != nullptr &&
                     !equal_name(rule.out_interface, given.out_interface)) ||
                    (attributes[FRA_UID_RANGE] != nullptr &&
                     (rule.uid_first != given.uid_first || rule.uid_last != given.uid_last)) ||
                    (given.tos != 0 && rule.tos != given.tos))
                    return false;
                if (given.source_length != 0 &&
                    (rule.source_length != given.source_length || !(rule.source == given.source)))
                    return false;
                return given.destination_length == 0 ||
                       (rule.destination_length == given.destination_length &&
                        rule.destination == given.destination);
            },
            &wanted);
        if (!removed)
            return fail(ENOENT);
        gone = *removed;
    }
    tell(stack, ChangeKind::RuleRemoved, gone);
    return {};
}

} // namespace kernel::net::netlink
