// NETLINK_NETFILTER: batches of changes, and single requests, of nf_tables, its compatibility part
// and connection tracking.
#include "guestkernel/net/filter/protocol.hpp"

#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>

#include "guestkernel/net/filter/compat/compat.hpp"
#include "guestkernel/net/filter/conntrack_messages.hpp"
#include "guestkernel/net/filter/requests.hpp"

namespace kernel::net::filter {

namespace {

using netlink::acknowledge;
using netlink::Endpoint;
using netlink::MessageHeader;

u8 subsystem_of(u16 type) {
    return static_cast<u8>(type >> 8);
}

constexpr int error_restart = 85; // ERESTART: the generation is another one by now

// One thing that its sender is told when the batch is through.
struct Outcome {
    std::span<const u8> message;
    int error = 0;
    ExtendedAck ack;
};

enum class BatchEnd : u8 { Complete, Broken };

class Batch {
public:
    Batch(Endpoint& sender, std::span<const u8> bytes) : sender_(sender), bytes_(bytes) {}
    // Works it all off. Returns false where it is to be done again, checking rules one by one.
    bool run(Filter& filter, bool check_at_once);
    void tell() {
        for (const Outcome& one : outcomes_)
            acknowledge(sender_, one.message, one.error, one.ack);
    }

private:
    void note(std::span<const u8> message, int error, const ExtendedAck& ack) {
        failed_ = failed_ || error != 0;
        if (!outcomes_.push_back({message, error, ack}))
            failed_ = true;
    }
    BatchEnd go_through(Transaction& transaction);
    void one_message(Transaction& transaction, std::span<const u8> message,
                     const MessageHeader& header);

    Endpoint& sender_;
    const std::span<const u8> bytes_; // from the batch's first message
    Vector<Outcome> outcomes_;
    bool failed_ = false;
};

// The next message, and what follows it. False: there is none that is whole.
bool split(std::span<const u8>& left, std::span<const u8>& message, MessageHeader& header) {
    if (left.size() < sizeof header)
        return false;
    __builtin_memcpy(&header, left.data(), sizeof header);
    if (header.length < sizeof header || header.length > left.size())
        return false;
    message = left.first(header.length);
    const usize step = netlink::aligned(header.length);
    left = left.subspan(step < left.size() ? step : left.size());
    return true;
}

void Batch::one_message(Transaction& transaction, std::span<const u8> message,
                        const MessageHeader& header) {
    Request request(sender_, message, header);
    const auto run_one = [&]() -> Result<void> {
        if ((header.flags & netlink::flag_request) == 0 ||
            header.type < netlink::first_family_message ||
            subsystem_of(header.type) != NFNL_SUBSYS_NFTABLES)
            return fail(EINVAL);
        const Change change = find_change(message_of(request));
        if (change == nullptr || request.payload().size() < sizeof(FamilyHeader))
            return fail(EINVAL);
        return change(transaction, request);
    };
    auto done = run_one();
    if (!done || (header.flags & netlink::flag_ack) != 0)
        note(message, done ? 0 : done.error().code, request.ack);
}

BatchEnd Batch::go_through(Transaction& transaction) {
    std::span<const u8> left = bytes_, message;
    MessageHeader header;
    bool first = true;
    while (split(left, message, header)) {
        if (std::exchange(first, false)) { // NFNL_MSG_BATCH_BEGIN
            if ((header.flags & netlink::flag_ack) != 0)
                note(message, 0, {});
            continue;
        }
        if (header.type == NFNL_MSG_BATCH_BEGIN)
            return BatchEnd::Broken;
        if (header.type == NFNL_MSG_BATCH_END) {
            if ((header.flags & netlink::flag_ack) != 0)
                note(message, 0, {});
            return BatchEnd::Complete;
        }
        one_message(transaction, message, header);
    }
    return BatchEnd::Broken;
}

bool Batch::run(Filter& filter, bool check_at_once) {
    outcomes_.clear();
    failed_ = false;
    Transaction transaction(filter);
    transaction.check_at_once = check_at_once;
    std::span<const u8> left = bytes_, begin;
    MessageHeader header;
    (void)split(left, begin, header);
    if (!transaction.start()) {
        note(begin, ENOMEM, {});
        return true;
    }
    const BatchEnd end = go_through(transaction);
    if (end == BatchEnd::Broken || failed_)
        return true; // undone with the transaction
    auto done = transaction.commit(sender_.port());
    if (done)
        return true;
    // A rule that may not stand where it is: which one shows when they are checked one by one.
    if (!check_at_once && done.error().code != ENOMEM)
        return false;
    note(begin, done.error().code, {});
    return true;
}

Result<void> receive_batch(Endpoint& sender, std::span<const u8> bytes) {
    std::span<const u8> left = bytes, begin;
    MessageHeader header;
    if (!split(left, begin, header))
        return {};
    const auto refuse = [&](int error) {
        acknowledge(sender, begin, error, {});
        return Result<void>();
    };
    FamilyHeader family;
    if (begin.size() < sizeof header + sizeof family)
        return {};
    __builtin_memcpy(&family, begin.data() + sizeof header, sizeof family);
    if (family.resource.get() != NFNL_SUBSYS_NFTABLES)
        return refuse(EOPNOTSUPP);
    auto filter = Filter::of(sender.stack());
    if (!filter)
        return refuse(ENOMEM);
    MutexGuard guard((*filter)->mutex);
    Attributes<NFNL_BATCH_MAX + 1> parts;
    (void)parts.parse(begin.subspan(sizeof header + sizeof family));
    if (parts[NFNL_BATCH_GENID] != nullptr &&
        parts.number(NFNL_BATCH_GENID) != (*filter)->generation)
        return refuse(error_restart);
    Batch batch(sender, bytes);
    if (!batch.run(**filter, false))
        (void)batch.run(**filter, true);
    guard.unlock();
    batch.tell();
    return {};
}

Result<void> receive_one(Request& request) {
    if (request.payload().size() < sizeof(FamilyHeader))
        return fail(EINVAL);
    switch (subsystem_of(request.type())) {
    case NFNL_SUBSYS_NFTABLES: {
        const u16 message = message_of(request);
        if (find_change(message) != nullptr)
            return fail(EINVAL); // in batches only
        TRY(Filter * filter, Filter::of(request.stack()));
        return answer(*filter, request, message);
    }
    case NFNL_SUBSYS_NFT_COMPAT:
        return answer_compat(request);
    case NFNL_SUBSYS_CTNETLINK:
        return receive_conntrack(request);
    default:
        return fail(EINVAL);
    }
}

Result<void> receive_all(Endpoint& sender, std::span<const u8> bytes) {
    std::span<const u8> left = bytes, first;
    MessageHeader header;
    if (!split(left, first, header))
        return {};
    Request request(sender, first, header);
    if (!request.capable(CAP_NET_ADMIN)) {
        acknowledge(sender, first, EPERM, {});
        return {};
    }
    if (header.type == NFNL_MSG_BATCH_BEGIN)
        return receive_batch(sender, bytes);
    netlink::process_messages(sender, bytes, receive_one);
    return {};
}

// Tables that a socket owns go with it.
void released(Endpoint& endpoint) {
    Filter* filter = Filter::existing(endpoint.stack());
    if (filter == nullptr || endpoint.port() == 0)
        return;
    MutexGuard guard(filter->mutex);
    bool any = false;
    for (const Ref<Table>& table : filter->tables)
        any = any || table->owner == endpoint.port();
    if (!any)
        return;
    Transaction transaction(*filter);
    if (!transaction.start())
        return;
    Vector<Ref<Table>> all;
    if (!transaction.list_tables(all))
        return;
    for (const Ref<Table>& table : all)
        if (table->owner == endpoint.port())
            (void)transaction.remove_table(*table);
    (void)transaction.commit(endpoint.port());
}

constexpr netlink::Protocol netfilter_protocol = {.number = NETLINK_NETFILTER,
                                                  .groups = 9, // NFNLGRP_NFTRACE
                                                  .receive_all = receive_all,
                                                  .released = released};

} // namespace

Change find_change(u16 message) {
    switch (message) {
    case NFT_MSG_NEWTABLE:
        return new_table;
    case NFT_MSG_DELTABLE:
    case message_destroy_table:
        return delete_table;
    case NFT_MSG_NEWCHAIN:
        return new_chain;
    case NFT_MSG_DELCHAIN:
    case message_destroy_chain:
        return delete_chain;
    case NFT_MSG_NEWRULE:
        return new_rule;
    case NFT_MSG_DELRULE:
    case message_destroy_rule:
        return delete_rule;
    case NFT_MSG_NEWSET:
        return new_set;
    case NFT_MSG_DELSET:
    case message_destroy_set:
        return delete_set;
    case NFT_MSG_NEWSETELEM:
        return new_elements;
    case NFT_MSG_DELSETELEM:
    case message_destroy_element:
        return delete_elements;
    case NFT_MSG_NEWOBJ:
        return new_object;
    case NFT_MSG_DELOBJ:
    case message_destroy_object:
        return delete_object;
    case NFT_MSG_NEWFLOWTABLE:
    case NFT_MSG_DELFLOWTABLE:
        return [](Transaction&, Request&) -> Result<void> { return fail(EOPNOTSUPP); };
    default:
        return nullptr;
    }
}

void start_filter() {
    netlink::register_protocol(netfilter_protocol);
}

} // namespace kernel::net::filter
