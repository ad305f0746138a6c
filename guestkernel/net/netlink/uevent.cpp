#include "guestkernel/net/netlink/uevent.hpp"

#include <linux/errno.h>
#include <linux/netlink.h>

#include "guestkernel/core/log.hpp"
#include "guestkernel/net/netlink/protocol.hpp"
#include "guestkernel/net/netlink/route/operational.hpp"

namespace kernel::net::netlink {

namespace {

constexpr u32 kernel_group = 1; // 2 is udev's own
constinit base::Atomic<u64> last_number{0};

constexpr Protocol uevent_protocol = {
    .number = NETLINK_KOBJECT_UEVENT, .groups = 32, .anybody_joins = true};

// "ACTION@PATH", then lines "NAME=VALUE", each with its NUL.
class Message {
public:
    template <typename... A>
    void line(std::string_view format, const A&... arguments) {
        char text[160];
        const usize length = log::format(text, sizeof text, format, arguments...);
        if (length_ + length + 1 > sizeof bytes_)
            return;
        __builtin_memcpy(bytes_ + length_, text, length);
        length_ += length;
        bytes_[length_++] = 0;
    }
    std::span<const u8> bytes() const { return {bytes_, length_}; }

private:
    u8 bytes_[1024];
    usize length_ = 0;
};

struct Event {
    std::string_view action, name, queue, former_name;
    u32 index = 0;
    bool synthetic = false;
};

void tell(Stack& stack, const Event& event) {
    // Numbered even if nobody listens: who begins to listen sees what was missed.
    const u64 number = last_number.fetch_add(1) + 1;
    if (!anybody_listens(stack, NETLINK_KOBJECT_UEVENT, kernel_group))
        return;
    Message out;
    const bool queue = !event.queue.empty();
    const std::string_view between = queue ? "/queues/" : "";
    out.line("{}@/devices/virtual/net/{}{}{}", event.action, event.name, between, event.queue);
    out.line("ACTION={}", event.action);
    out.line("DEVPATH=/devices/virtual/net/{}{}{}", event.name, between, event.queue);
    out.line("SUBSYSTEM={}", queue ? "queues" : "net");
    if (event.synthetic)
        out.line("SYNTH_UUID=0");
    if (!event.former_name.empty())
        out.line("DEVPATH_OLD=/devices/virtual/net/{}", event.former_name);
    if (!queue) {
        out.line("INTERFACE={}", event.name);
        out.line("IFINDEX={}", event.index);
    }
    out.line("SEQNUM={}", number);
    broadcast(stack, NETLINK_KOBJECT_UEVENT, kernel_group, out.bytes());
}

void tell_queues(Stack& stack, const Interface& interface, std::string_view action) {
    for (const std::string_view direction : {"rx", "tx"})
        for (unsigned queue = 0; queue < shown_queues(interface); queue++) {
            char name[16];
            const usize length = log::format(name, sizeof name, "{}-{}", direction, queue);
            tell(stack, {action, interface.name(), {name, length}, {}, 0, false});
        }
}

} // namespace

void tell_uevent(Stack& stack, const Change& change) {
    const Interface* interface = change.interface;
    switch (change.kind) {
    case ChangeKind::InterfaceAdded:
        tell(stack, {"add", interface->name(), {}, {}, interface->index(), false});
        tell_queues(stack, *interface, "add");
        break;
    case ChangeKind::InterfaceRemoved:
        tell_queues(stack, *interface, "remove");
        tell(stack, {"remove", interface->name(), {}, {}, interface->index(), false});
        break;
    case ChangeKind::InterfaceChanged:
        if (!change.former_name.empty())
            tell(stack,
                 {"move", interface->name(), {}, change.former_name, interface->index(), false});
        break;
    default:
        break;
    }
}

Result<void> make_uevent(Stack& stack, Interface& interface, std::string_view text) {
    while (!text.empty() && (text.back() == '\n' || text.back() == '\0'))
        text.remove_suffix(1);
    for (const std::string_view action :
         {"add", "remove", "change", "move", "online", "offline", "bind", "unbind"})
        if (text == action) {
            tell(stack, {action, interface.name(), {}, {}, interface.index(), true});
            return {};
        }
    return fail(EINVAL);
}

u64 last_uevent() {
    return last_number.load();
}

void start_uevents() {
    register_protocol(uevent_protocol);
}

} // namespace kernel::net::netlink
