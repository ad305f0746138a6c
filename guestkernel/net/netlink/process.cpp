// Requests: taking a datagram apart, acknowledgements, dumps.
#include <linux/errno.h>
#include <linux/netlink.h>

#include "guestkernel/namespaces/user_namespace.hpp"
#include "guestkernel/net/netlink/endpoint.hpp"
#include "guestkernel/task/credentials.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel::net::netlink {

static_assert(sizeof(MessageHeader) == sizeof(nlmsghdr) && flag_dump == NLM_F_DUMP &&
              flag_dump_interrupted == NLM_F_DUMP_INTR && message_done == NLMSG_DONE &&
              attribute_nested == NLA_F_NESTED);

Request::Request(Endpoint& from, std::span<const u8> whole, const MessageHeader& header)
    : sender_(from), message_(whole), header_(header) {}

Stack& Request::stack() const {
    return sender_.stack();
}

bool Request::strict() const {
    return sender_.strict;
}

bool Request::capable_at(const Stack& there, unsigned capability) const {
    UserNamespace* owner = there.owner();
    // Both: an open socket that was given away gives its new owner no rights, and a program that
    // may do it all does not do it for whoever made the socket.
    return !sender_.opener ||
           (capable_in(*sender_.opener, owner, capability) && capable_over(owner, capability));
}

base::Failure<Errno> Request::refuse(int error, const char* message) {
    ack.message = message;
    return fail(error);
}

base::Failure<Errno> Request::refuse(int error, const Attribute* attribute, const char* message) {
    if (attribute != nullptr)
        ack.bad_attribute = attribute->data.data() - sizeof(AttributeHeader);
    ack.message = message;
    return fail(error);
}

base::Failure<Errno> Request::missing(u32 attribute_type, const char* message) {
    ack.missing = true;
    ack.missing_type = attribute_type;
    ack.message = message;
    return fail(EINVAL);
}

base::Failure<Errno> Request::bad_header() {
    return refuse(EINVAL, "Invalid header for request");
}

void Request::begin(MessageWriter& out, u16 type, u16 flags) const {
    out.begin(type, flags, header_.sequence, sender_.port());
}

Result<void> Request::reply(MessageWriter& out) {
    if (out.out_of_memory())
        return fail(ENOBUFS);
    return unicast(stack(), sender_.protocol().number, sender_.port(), out.bytes());
}

Result<void> Request::start_dump(Dump::Step step, Owned<DumpContext> context, bool follow_changes,
                                 bool filtered) {
    Dump dump;
    if (filtered)
        dump.message_flags |= flag_dump_filtered;
    dump.step = step;
    dump.context = std::move(context);
    TRY(dump.payload.append(payload()));
    dump.strict = strict();
    dump.sequence = header_.sequence;
    dump.port = sender_.port();
    dump.request_type = header_.type;
    dump.stack = Ref<Stack>::share(&stack());
    dump.seen_changes = follow_changes ? stack().change_sequence.load() : 0;
    TRY(sender_.start_dump(std::move(dump)));
    dump_started_ = true;
    return {};
}

Result<void> Request::refuse_dump(int error) {
    Dump dump;
    dump.step = [](Dump& failed, MessageWriter&) -> Result<bool> {
        return fail(static_cast<int>(failed.words[0]));
    };
    dump.words[0] = static_cast<u64>(error);
    dump.problem = ack.message;
    dump.sequence = header_.sequence;
    dump.port = sender_.port();
    dump.stack = Ref<Stack>::share(&stack());
    TRY(sender_.start_dump(std::move(dump)));
    dump_started_ = true;
    return {};
}

// --- acknowledgements

void acknowledge(Endpoint& to, std::span<const u8> message, int error, const ExtendedAck& ack) {
    MessageHeader request{};
    __builtin_memcpy(&request, message.data(), sizeof request);
    const bool short_form = to.short_ack || error == 0;
    const bool details =
        to.extended_ack && (ack.message != nullptr || ack.missing || ack.bad_attribute != nullptr);
    const u16 flags =
        static_cast<u16>((short_form ? NLM_F_CAPPED : 0) | (details ? NLM_F_ACK_TLVS : 0));
    MessageWriter out;
    out.begin(message_error, flags, request.sequence, to.port());
    out.put(i32{-error});
    const usize quoted = short_form ? sizeof request : message.size();
    // The header as it came, then the rest.
    out.put(request);
    if (quoted > sizeof request)
        out.append_raw(message.subspan(sizeof request, quoted - sizeof request));
    if (details) {
        if (ack.message != nullptr)
            out.text(NLMSGERR_ATTR_MSG, ack.message);
        if (ack.bad_attribute != nullptr && ack.bad_attribute >= message.data() &&
            ack.bad_attribute < message.data() + message.size())
            out.number32(NLMSGERR_ATTR_OFFS, static_cast<u32>(ack.bad_attribute - message.data()));
        if (ack.missing)
            out.number32(NLMSGERR_ATTR_MISS_TYPE, ack.missing_type);
    }
    if (!out.end()) {
        to.set_error(ENOBUFS);
        return;
    }
    QueuedMessage* answer = make_message(out.bytes(), 0, 0);
    const auto pushed = answer == nullptr ? Endpoint::Push::Full : to.push(answer);
    if (pushed == Endpoint::Push::Done)
        return;
    if (answer != nullptr)
        destroy_message(answer);
    if (pushed == Endpoint::Push::Full)
        to.overrun();
}

void process_messages(Endpoint& sender, std::span<const u8> bytes,
                      Result<void> (*receive)(Request& request)) {
    while (bytes.size() >= sizeof(MessageHeader)) {
        MessageHeader header;
        __builtin_memcpy(&header, bytes.data(), sizeof header);
        if (header.length < sizeof header || header.length > bytes.size())
            return;
        const std::span<const u8> message = bytes.first(header.length);
        const usize step = aligned(header.length);
        bytes = bytes.subspan(step < bytes.size() ? step : bytes.size());
        int error = 0;
        ExtendedAck ack;
        // Anything else than a request of a protocol is only acknowledged.
        if ((header.flags & flag_request) != 0 && header.type >= first_family_message) {
            Request request(sender, message, header);
            if (auto done = receive(request); !done)
                error = done.error().code;
            if (request.dump_started())
                continue; // its end is its acknowledgement
            ack = request.ack;
        }
        if (error != 0 || (header.flags & flag_ack) != 0)
            acknowledge(sender, message, error, ack);
    }
}

void Endpoint::submit(std::span<const u8> bytes) {
    if (protocol_.receive_all != nullptr)
        (void)protocol_.receive_all(*this, bytes);
    else if (protocol_.receive != nullptr)
        process_messages(*this, bytes, protocol_.receive);
}

// --- dumps

Result<void> Endpoint::start_dump(Dump dump) {
    {
        MutexGuard guard(dump_mutex_);
        if (dumping_.load())
            return fail(EBUSY);
        dump_ = std::move(dump);
        dumping_.store(true, base::Order::Release);
    }
    continue_dump();
    return {};
}

void Endpoint::put_done(MessageWriter& out, int result) {
    const bool details = result != 0 && extended_ack && dump_.problem != nullptr;
    if (details)
        dump_.message_flags |= NLM_F_ACK_TLVS;
    dump_.begin(out, message_done);
    out.put(i32{-result});
    if (details)
        out.text(NLMSGERR_ATTR_MSG, dump_.problem);
}

// One message for the reader. True: there is more.
Result<bool> Endpoint::dump_once() {
    // What a small message needs with its header; what programs offer at most is used.
    constexpr usize least = 3776, most = 32768 - 512;
    usize size = longest_read;
    size = size < least ? least : size > most ? most : size;
    MessageWriter out(size);
    if (dump_.seen_changes != 0 && dump_.stack->change_sequence.load() != dump_.seen_changes)
        dump_.consistent = false;
    dump_.reader = this;
    auto stepped = dump_.step(dump_, out);
    dump_.reader = nullptr;
    if (out.out_of_memory())
        return fail(ENOBUFS);
    const bool finished = !stepped || *stepped;
    bool more = !finished;
    if (finished) {
        put_done(out, stepped ? 0 : stepped.error().code);
        if (!out.end())
            more = true; // it comes in a message of its own
    }
    if (out.empty() && more)
        return fail(EMSGSIZE); // one message alone does not fit
    if (finished && more)
        dump_.step = [](Dump&, MessageWriter&) -> Result<bool> { return true; };
    QueuedMessage* message = make_message(out.bytes(), 0, 0);
    if (message == nullptr)
        return fail(ENOBUFS);
    if (push(message) != Push::Done) {
        destroy_message(message);
        return fail(ENOBUFS);
    }
    return more;
}

void Endpoint::continue_dump() {
    if (!dumping())
        return;
    MutexGuard guard(dump_mutex_);
    if (!dumping() || queued_bytes_ > receive_buffer / 2)
        return;
    auto more = dump_once();
    if (more && *more)
        return;
    dump_ = Dump();
    dumping_.store(false, base::Order::Release);
    guard.unlock();
    if (!more)
        set_error(more.error().code);
}

} // namespace kernel::net::netlink
