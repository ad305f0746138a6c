// By which numbers a network namespace knows others: RTM_{NEW,GET}NSID, IFLA_LINK_NETNSID.
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/net_namespace.h>
#include <linux/rtnetlink.h>

#include "guestkernel/fs/file.hpp"
#include "guestkernel/fs/file_table.hpp"
#include "guestkernel/namespaces/namespace_file.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/namespaces/pid_namespace.hpp"
#include "guestkernel/net/netlink/endpoint.hpp"
#include "guestkernel/net/netlink/route/family.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel::net::netlink {

namespace {

// A stack does not keep those that it has numbers for: one that has gone is forgotten when its
// place in memory turns up again with another key.
struct Known {
    const Stack* stack = nullptr;
    u64 key = 0; // Stack::secret(), which no two have alike
    i32 number = -1;
};

class NamespaceNumbers final : public StackPart {
public:
    SpinLock lock{LockRank::Leaf};
    Vector<Known> known;
};

constinit SpinLock making{LockRank::NetTable};

NamespaceNumbers* numbers_of(Stack& stack, bool make) {
    SpinGuard guard(making);
    if (!stack.namespace_numbers && make) {
        auto fresh = make_owned<NamespaceNumbers>();
        if (fresh)
            stack.namespace_numbers = std::move(*fresh);
    }
    return static_cast<NamespaceNumbers*>(stack.namespace_numbers.get());
}

i32 find_locked(const NamespaceNumbers& numbers, const Stack& other) {
    for (const Known& known : numbers.known)
        if (known.stack == &other && known.key == other.secret())
            return known.number;
    return -1;
}

// EEXIST: it has a number, or the number is another's.
Result<i32> give_number(Stack& from, const Stack& other, i32 wanted) {
    NamespaceNumbers* numbers = numbers_of(from, true);
    if (numbers == nullptr)
        return fail(enomem);
    SpinGuard guard(numbers->lock);
    if (find_locked(*numbers, other) >= 0)
        return fail(EEXIST);
    constexpr usize most = 4096;
    if (numbers->known.size() >= most)
        return fail(ENOSPC);
    const auto taken = [&](i32 number) {
        for (const Known& known : numbers->known)
            if (known.number == number)
                return true;
        return false;
    };
    if (wanted >= 0 && taken(wanted))
        return fail(EEXIST);
    if (wanted < 0)
        for (wanted = 0; taken(wanted);)
            wanted++;
    TRY(numbers->known.push_back({&other, other.secret(), wanted}));
    return wanted;
}

bool fill(MessageWriter& out, i32 number, const Heading& heading) {
    heading.begin(out);
    const u8 family[4] = {};
    out.put(family);
    out.value(NETNSA_NSID, number);
    return out.end();
}

Result<Ref<Stack>> read_target(const AttributeTable<NETNSA_MAX + 1>& attributes) {
    if (const Attribute* pid = attributes[NETNSA_PID])
        return stack_of_pid(pid->number());
    if (const Attribute* fd = attributes[NETNSA_FD])
        return stack_of_fd(fd->number());
    return fail(EINVAL);
}

Result<bool> dump_numbers(Dump& dump, MessageWriter& out) {
    NamespaceNumbers* numbers = numbers_of(*dump.stack, false);
    for (; numbers != nullptr; dump.words[0]++) {
        i32 number = 0;
        {
            SpinGuard guard(numbers->lock);
            if (dump.words[0] >= numbers->known.size())
                break;
            number = numbers->known[dump.words[0]].number;
        }
        if (!fill(out, number, Heading::of_dump(dump, RTM_NEWNSID)))
            return false;
    }
    return true;
}

} // namespace

i32 known_namespace_number(Stack& from, Stack& other) {
    NamespaceNumbers* numbers = numbers_of(from, false);
    if (numbers == nullptr)
        return -1;
    SpinGuard guard(numbers->lock);
    return find_locked(*numbers, other);
}

i32 namespace_number(Stack& from, Stack& other) {
    const i32 known = known_namespace_number(from, other);
    if (known >= 0)
        return known;
    auto made = give_number(from, other, -1);
    return made ? *made : known_namespace_number(from, other);
}

Result<Ref<Stack>> stack_of_pid(u32 pid) {
    const i32 global = global_pid(static_cast<i32>(pid));
    const Ref<Task> task = find_task(global);
    if (!task)
        return fail(ESRCH);
    const Ref<Namespace> space = namespace_of_task(*task, NamespaceKind::Net, false);
    if (!space)
        return fail(ESRCH);
    return Ref<Stack>::share(static_cast<NetNamespace&>(*space).stack.get());
}

Result<Ref<Stack>> stack_of_fd(u32 fd) {
    TRY(const Ref<File> file, current_task().files->get(static_cast<int>(fd)));
    Namespace* space = namespace_of_file(*file);
    if (space == nullptr || space->kind() != NamespaceKind::Net)
        return fail(EINVAL);
    return Ref<Stack>::share(static_cast<NetNamespace*>(space)->stack.get());
}

Result<void> get_namespace_number(Request& request) {
    if (request.is_dump())
        return request.start_dump(dump_numbers, {}, false);
    AttributeTable<NETNSA_MAX + 1> attributes;
    if (request.payload().size() > 4)
        TRY(attributes.parse(request.payload().subspan(4), {}, request.strict(), request.ack));
    TRY(const Ref<Stack> other, read_target(attributes));
    MessageWriter out;
    if (!fill(out, known_namespace_number(request.stack(), *other),
              Heading::of_reply(request, RTM_NEWNSID)))
        return fail(ENOBUFS);
    return request.reply(out);
}

Result<void> new_namespace_number(Request& request) {
    AttributeTable<NETNSA_MAX + 1> attributes;
    if (request.payload().size() > 4)
        TRY(attributes.parse(request.payload().subspan(4), {}, request.strict(), request.ack));
    if (attributes[NETNSA_NSID] == nullptr)
        return request.refuse(EINVAL, "nsid is missing");
    const i32 wanted = attributes[NETNSA_NSID]->as<i32>();
    auto other = read_target(attributes);
    if (!other)
        return request.refuse(other.error().code, "Peer netns reference is missing");
    auto given = give_number(request.stack(), **other, wanted);
    if (!given)
        return request.refuse(given.error().code, "The specified nsid is already used");
    MessageWriter out;
    if (fill(out, *given, {RTM_NEWNSID, 0, request.sequence(), 0}))
        broadcast(request.stack(), protocol_route, RTNLGRP_NSID, out.bytes());
    return {};
}

} // namespace kernel::net::netlink
