// What a protocol of AF_NETLINK (NETLINK_ROUTE, NETLINK_GENERIC, ...) and the socket core want of
// each other. A protocol registers at boot and gets requests one by one, in the sender's task, with
// no locks held: it may sleep. Notifications go out by broadcast() from anywhere.
#pragma once

#include "guestkernel/net/netlink/message.hpp"
#include "guestkernel/net/stack.hpp"

namespace kernel::net::netlink {

class Endpoint;
class Request;

// What goes on over several calls of recvmsg(2). State that is more than these words is kept in
// `context`.
class DumpContext {
public:
    virtual ~DumpContext() = default;
};
struct Dump {
    // Writes messages until all are there (true) or the writer is full (false: called again with a
    // fresh one). Each message has flag_multi and what begin() below gives it.
    using Step = Result<bool> (*)(Dump& dump, MessageWriter& out);
    Step step = nullptr;
    u64 words[6] = {}; // zero at first: where it stands
    u16 message_flags = flag_multi;
    Owned<DumpContext> context;
    // The request without its header, for what it filters by.
    Vector<u8> payload;
    bool strict = false;
    u32 sequence = 0, port = 0;
    u16 request_type = 0;
    // What the tables' state was when it began (Stack::change_sequence); zero: it does not matter.
    // Once they have changed, messages say so (NLM_F_DUMP_INTR).
    u32 seen_changes = 0;
    bool consistent = true;
    Ref<Stack> stack;
    const char* problem = nullptr; // what NETLINK_EXT_ACK tells of the error that ends it
    Endpoint* reader = nullptr;    // whose dump it is, while `step` runs

    void begin(MessageWriter& out, u16 type) {
        out.begin(type, static_cast<u16>(message_flags | (consistent ? 0 : flag_dump_interrupted)),
                  sequence, port);
    }
};

// One message from a program.
class Request {
public:
    Request(Endpoint& from, std::span<const u8> whole, const MessageHeader& header);
    Stack& stack() const;
    Endpoint& sender() const { return sender_; }
    u16 type() const { return header_.type; }
    u16 flags() const { return header_.flags; }
    u32 sequence() const { return header_.sequence; }
    bool wants(u16 flag) const { return (header_.flags & flag) != 0; }
    bool is_dump() const { return (header_.flags & flag_dump) == flag_dump; }
    std::span<const u8> message() const { return message_; }
    std::span<const u8> payload() const { return message_.subspan(sizeof(MessageHeader)); }
    const MessageHeader& header() const { return header_; }
    bool strict() const; // NETLINK_GET_STRICT_CHK
    // Whether the running task, and whoever opened the socket, have it over the network namespace.
    bool capable(unsigned capability) const { return capable_at(stack(), capability); }
    // ... over another one, that the request names.
    bool capable_at(const Stack& there, unsigned capability) const;

    // The protocol's own header at the beginning of the payload, and the attributes behind it.
    template <typename T>
    Result<T> payload_header() {
        T out;
        if (payload().size() < sizeof out)
            return bad_header();
        __builtin_memcpy(&out, payload().data(), sizeof out);
        return out;
    }
    template <typename T>
    std::span<const u8> attributes_after() const {
        const usize at = aligned(sizeof(T));
        return at < payload().size() ? payload().subspan(at) : std::span<const u8>();
    }

    // An error with a sentence for NETLINK_EXT_ACK.
    base::Failure<Errno> refuse(int error, const char* message);
    base::Failure<Errno> refuse(int error, const Attribute* attribute, const char* message);
    base::Failure<Errno> missing(u32 attribute_type, const char* message);
    // Answers the sender. The messages were begun with begin().
    void begin(MessageWriter& out, u16 type, u16 flags = 0) const;
    Result<void> reply(MessageWriter& out);
    // Only from within the protocol's receive(). EBUSY: one is going on already.
    Result<void> start_dump(Dump::Step step, Owned<DumpContext> context = {},
                            bool follow_changes = true, bool filtered = false);
    // What was asked for cannot be dumped: told by the dump's end, as Linux does where it finds out
    // only when it has begun.
    Result<void> refuse_dump(int error);
    bool dump_started() const { return dump_started_; }

    ExtendedAck ack;

private:
    base::Failure<Errno> bad_header();
    Endpoint& sender_;
    const std::span<const u8> message_;
    const MessageHeader header_;
    bool dump_started_ = false;
};

struct Protocol {
    int number = 0;                      // NETLINK_*
    u32 groups = 0;                      // the highest one; at most Endpoint::most_groups
    bool anybody_joins = false;          // groups without CAP_NET_ADMIN
    bool anybody_sends = false;          // to other programs and groups, likewise
    bool initial_namespace_only = false; // elsewhere nobody in the kernel hears what is sent
    // One request. What it returns is told to the sender, success if that was asked for.
    Result<void> (*receive)(Request& request) = nullptr;
    // Instead of it: all that one sendmsg(2) brought, for protocols that group messages.
    Result<void> (*receive_all)(Endpoint& sender, std::span<const u8> bytes) = nullptr;
    // Whether the endpoint may join the group: ENOENT, EPERM. May be null.
    Result<void> (*join)(Endpoint& endpoint, u32 group) = nullptr;
    // The endpoint closes, or leaves its port. May be null; may sleep.
    void (*released)(Endpoint& endpoint) = nullptr;
};
// At boot; the object stays the caller's.
void register_protocol(const Protocol& protocol);
const Protocol* find_protocol(int number);

// --- sending to programs; none of these sleeps
// To all that joined the group in the stack's namespace, but for the port `except` of which no echo
// is wanted (0: none). Whoever has no room learns of it by ENOBUFS.
void broadcast(Stack& stack, int protocol, u32 group, std::span<const u8> messages, u32 except = 0);
// ... to those of them that `wants` names, from the kernel.
void broadcast_if(Stack& stack, int protocol, u32 group, std::span<const u8> messages,
                  bool (*wants)(const Endpoint& endpoint, const void* context),
                  const void* context);
// Whether anybody would get it: to save the work of putting a message together.
bool anybody_listens(Stack& stack, int protocol, u32 group);
// To one port: ECONNREFUSED (nobody has it), EAGAIN (no room).
Result<void> unicast(Stack& stack, int protocol, u32 port, std::span<const u8> messages);

// Goes through the messages of a datagram as netlink(7) has it: each request to `receive`, and the
// acknowledgement to the sender. What receive_all() may use for its parts.
void process_messages(Endpoint& sender, std::span<const u8> bytes,
                      Result<void> (*receive)(Request& request));
// The acknowledgement of one message (NLMSG_ERROR); `error` 0 for success.
void acknowledge(Endpoint& to, std::span<const u8> message, int error, const ExtendedAck& ack);

} // namespace kernel::net::netlink
