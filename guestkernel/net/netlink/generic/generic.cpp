#include "guestkernel/net/netlink/generic/generic.hpp"

#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/genetlink.h>
#include <linux/netlink.h>

#include "guestkernel/core/panic.hpp"

namespace kernel::net::netlink {

static_assert(sizeof(GenericHeader) == GENL_HDRLEN && protocol_generic == NETLINK_GENERIC);

namespace {

constexpr usize most_families = 16;
constexpr u32 controller_group = GENL_ID_CTRL; // its group has the family's number
constinit GenericFamily* families[most_families] = {};
constinit u32 next_group = controller_group + 1;

GenericFamily* find_family(u16 id) {
    for (GenericFamily* family : families)
        if (family != nullptr && family->id == id)
            return family;
    return nullptr;
}

GenericFamily* find_family(std::string_view name) {
    for (GenericFamily* family : families)
        if (family != nullptr && family->name == name)
            return family;
    return nullptr;
}

// One operation is described once, though it may be there in two forms.
bool described_before(const GenericFamily& family, usize index) {
    for (usize i = 0; i < index; i++)
        if (family.operations[i].command == family.operations[index].command)
            return true;
    return false;
}

u32 flags_of(const GenericFamily& family, u8 command) {
    u32 flags = GENL_CMD_CAP_HASPOL;
    for (const GenericOperation& operation : family.operations)
        if (operation.command == command)
            flags |= (operation.dumps ? u32{GENL_CMD_CAP_DUMP} : u32{GENL_CMD_CAP_DO}) |
                     (operation.administrator ? u32{GENL_ADMIN_PERM} : 0);
    return flags;
}

bool put_family(MessageWriter& out, const GenericFamily& family) {
    out.put(GenericHeader{CTRL_CMD_NEWFAMILY, 2, 0});
    out.text(CTRL_ATTR_FAMILY_NAME, family.name);
    out.number16(CTRL_ATTR_FAMILY_ID, family.id);
    out.number32(CTRL_ATTR_VERSION, family.version);
    out.number32(CTRL_ATTR_HDRSIZE, family.header_bytes);
    out.number32(CTRL_ATTR_MAXATTR, family.most_attributes);
    u16 count = 0;
    const usize operations = out.open(CTRL_ATTR_OPS);
    for (usize i = 0; i < family.operations.size(); i++) {
        if (described_before(family, i))
            continue;
        const u8 command = family.operations[i].command;
        const usize one = out.open(++count);
        out.number32(CTRL_ATTR_OP_ID, command);
        out.number32(CTRL_ATTR_OP_FLAGS, flags_of(family, command));
        out.close(one);
    }
    out.close_or_drop(operations);
    const usize groups = out.open(CTRL_ATTR_MCAST_GROUPS);
    for (usize i = 0; i < family.groups.size(); i++) {
        const usize one = out.open(static_cast<u16>(i + 1));
        out.number32(CTRL_ATTR_MCAST_GRP_ID, family.first_group + static_cast<u32>(i));
        out.text(CTRL_ATTR_MCAST_GRP_NAME, family.groups[i]);
        out.close(one);
    }
    out.close_or_drop(groups);
    return out.end();
}

Result<void> get_family(Request& request) {
    AttributeTable<CTRL_ATTR_MAX + 1> attributes;
    constexpr AttributePolicy policy[] = {
        {},
        {AttributeKind::Number16, 0},
        {AttributeKind::Text, GENL_NAMSIZ - 1},
    };
    TRY(attributes.parse(request.attributes_after<GenericHeader>(), policy, request.strict(),
                         request.ack));
    if (attributes[CTRL_ATTR_FAMILY_ID] == nullptr && attributes[CTRL_ATTR_FAMILY_NAME] == nullptr)
        return fail(EINVAL);
    const GenericFamily* found = nullptr;
    if (const Attribute* id = attributes[CTRL_ATTR_FAMILY_ID])
        found = find_family(id->as<u16>());
    if (attributes[CTRL_ATTR_FAMILY_NAME] != nullptr)
        found = find_family(attributes.text(CTRL_ATTR_FAMILY_NAME));
    if (found == nullptr)
        return fail(ENOENT);
    MessageWriter out;
    request.begin(out, GENL_ID_CTRL);
    if (!put_family(out, *found))
        return fail(ENOBUFS);
    return request.reply(out);
}

// words: how many places were gone through.
Result<bool> family_step(Dump& dump, MessageWriter& out) {
    for (; dump.words[0] < most_families; dump.words[0]++) {
        const GenericFamily* family = families[dump.words[0]];
        if (family == nullptr)
            continue;
        dump.begin(out, GENL_ID_CTRL);
        if (!put_family(out, *family))
            return false;
    }
    return true;
}

Result<void> dump_families(Request& request) {
    return request.start_dump(family_step, {}, false);
}

constexpr GenericOperation controller_operations[] = {
    {CTRL_CMD_GETFAMILY, false, false, get_family},
    {CTRL_CMD_GETFAMILY, true, false, dump_families},
};
constexpr std::string_view controller_groups[] = {"notify"};
constinit GenericFamily controller = {.name = "nlctrl",
                                      .version = 2,
                                      .operations = controller_operations,
                                      .groups = controller_groups,
                                      .id = GENL_ID_CTRL,
                                      .first_group = controller_group};

Result<void> receive(Request& request) {
    const GenericFamily* family = find_family(request.type());
    if (family == nullptr)
        return fail(ENOENT);
    if (request.payload().size() < sizeof(GenericHeader) + family->header_bytes)
        return fail(EINVAL);
    TRY(const GenericHeader header, request.payload_header<GenericHeader>());
    for (const GenericOperation& operation : family->operations) {
        if (operation.command != header.command || operation.dumps != request.is_dump())
            continue;
        if (operation.administrator && !request.capable(CAP_NET_ADMIN))
            return fail(EPERM);
        return operation.handle(request);
    }
    return fail(EOPNOTSUPP);
}

void released(Endpoint& endpoint) {
    for (const GenericFamily* family : families)
        if (family != nullptr && family->released != nullptr)
            family->released(endpoint);
}

constexpr Protocol generic_protocol = {
    .number = protocol_generic,
    .groups = 128,
    .anybody_joins = true,
    .receive = receive,
    // A group that no family has.
    .join = [](Endpoint&, u32 group) -> Result<void> {
        return group >= controller_group && group < next_group ? Result<void>() : fail(ENOENT);
    },
    .released = released,
};

} // namespace

void register_generic_family(GenericFamily& family) {
    u16 id = GENL_START_ALLOC;
    for (GenericFamily*& place : families) {
        if (place != nullptr) {
            id = place->id >= id ? static_cast<u16>(place->id + 1) : id;
            continue;
        }
        if (family.id == 0)
            family.id = id;
        if (family.first_group == 0 && !family.groups.empty()) {
            family.first_group = next_group;
            next_group += static_cast<u32>(family.groups.size());
        }
        place = &family;
        return;
    }
    PANIC("too many families of generic netlink");
}

void start_generic_protocol() {
    register_protocol(generic_protocol);
    if (find_family(controller.id) == nullptr) // a test begins anew
        register_generic_family(controller);
}

} // namespace kernel::net::netlink
