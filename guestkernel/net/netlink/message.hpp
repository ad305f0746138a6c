// Messages of netlink(7) as bytes: putting them together, and taking apart what programs sent.
// Whatever is taken apart is hostile: lengths are checked here, once, and nothing reads beyond the
// span that it was given.
#pragma once

#include <span>
#include <string_view>

#include "guestkernel/lib/vector.hpp"
#include "guestkernel/net/ip_address.hpp"

namespace kernel::net::netlink {

struct MessageHeader { // struct nlmsghdr
    u32 length;
    u16 type, flags;
    u32 sequence, port;
};
struct AttributeHeader { // struct nlattr
    u16 length, type;
};
// NLM_F_* of requests and answers, NLMSG_*: the UAPI header does not stand in a kernel header.
inline constexpr u16 flag_request = 1, flag_multi = 2, flag_ack = 4, flag_echo = 8,
                     flag_dump_interrupted = 0x10, flag_dump_filtered = 0x20;
inline constexpr u16 flag_dump = 0x300, flag_replace = 0x100, flag_exclusive = 0x200,
                     flag_create = 0x400, flag_append = 0x800;
inline constexpr u16 message_error = 2, message_done = 3, first_family_message = 0x10;
inline constexpr u16 attribute_nested = 0x8000, attribute_type_mask = 0x3fff;

constexpr usize aligned(usize bytes) {
    return (bytes + 3) & ~usize{3};
}

// Puts messages one behind the other into a buffer. What goes wrong (no memory, no room left) is
// noted and told by end(), so that the builders read like a list of attributes.
class MessageWriter {
public:
    static constexpr usize unlimited = 1 << 20;
    explicit MessageWriter(usize limit = unlimited) : limit_(limit) {}

    void begin(u16 type, u16 flags, u32 sequence, u32 port);
    // Completes the message. False: it did not fit, and is gone again.
    bool end();
    void cancel();

    template <typename T>
    void put(const T& value) {
        append(&value, sizeof value);
    }
    void attribute(u16 type, const void* data, usize bytes);
    template <typename T>
    requires std::is_trivially_copyable_v<T>
    void value(u16 type, const T& what) { attribute(type, &what, sizeof what); }
    void number8(u16 type, u8 what) { value(type, what); }
    void number16(u16 type, u16 what) { value(type, what); }
    void number32(u16 type, u32 what) { value(type, what); }
    void text(u16 type, std::string_view what); // with its NUL
    void flag(u16 type) { attribute(type, nullptr, 0); }
    void address(u16 type, const IpAddress& what) {
        attribute(type, what.wire(), what.wire_bytes());
    }
    // A nested attribute: what comes between the two calls.
    usize open(u16 type, bool marked = false);
    void close(usize opened);
    // Takes back a nested attribute that stayed empty, or all from a place on.
    void close_or_drop(usize opened);
    usize position() const { return bytes_.size(); }

    bool empty() const { return bytes_.empty(); }
    bool out_of_memory() const { return no_memory_; }
    bool full() const { return failed_; } // the message that is being written cannot be completed
    std::span<u8> bytes() { return bytes_.span(); }
    std::span<const u8> bytes() const { return bytes_.span(); }
    void clear();
    void append_raw(std::span<const u8> bytes) { append(bytes.data(), bytes.size()); }
    // How much of the limit is left for one more message.
    usize room() const { return limit_ - bytes_.size(); }

private:
    void append(const void* data, usize bytes);
    Vector<u8> bytes_;
    const usize limit_;
    usize message_at_ = 0;
    bool failed_ = false, no_memory_ = false;
};

struct Attribute {
    u16 type = 0; // without its flags
    bool marked_nested = false;
    std::span<const u8> data;

    template <typename T>
    T as() const { // what is missing is zero
        T out{};
        __builtin_memcpy(&out, data.data(), data.size() < sizeof out ? data.size() : sizeof out);
        return out;
    }
    u32 number() const { return as<u32>(); }
    std::string_view text() const; // up to its NUL
};

// Goes through attributes one behind the other.
class AttributeReader {
public:
    explicit AttributeReader(std::span<const u8> bytes) : left_(bytes) {}
    bool next(Attribute& out);
    std::span<const u8> rest() const { return left_; }

private:
    std::span<const u8> left_;
};

// What a request's sender is told besides a number (NETLINK_EXT_ACK).
struct ExtendedAck {
    const char* message = nullptr;
    const u8* bad_attribute = nullptr; // within the request
    u32 missing_type = 0;
    bool missing = false;
};

enum class AttributeKind : u8 { Any, Number8, Number16, Number32, Number64, Text, Nested, Flag };
struct AttributePolicy {
    AttributeKind kind = AttributeKind::Any;
    u16 length = 0; // at least, of Any; at most, of Text, without the NUL
};

// The attributes of a message by their types; of several of one type the last counts, as on Linux.
// Types that the policy does not reach are ignored, or refused in strict parsing.
template <usize N>
class AttributeTable {
public:
    Result<void> parse(std::span<const u8> bytes, std::span<const AttributePolicy> policy,
                       bool strict, ExtendedAck& ack);
    const Attribute* operator[](usize type) const { return present_[type] ? &at_[type] : nullptr; }
    // The value of one that may be missing.
    u32 number(usize type, u32 otherwise = 0) const {
        return present_[type] ? at_[type].number() : otherwise;
    }
    std::string_view text(usize type) const {
        return present_[type] ? at_[type].text() : std::string_view();
    }

private:
    Attribute at_[N];
    bool present_[N] = {};
};

// Whether an attribute is what its policy says: ERANGE, EINVAL, and why in `ack`.
Result<void> check_attribute(const Attribute& attribute, const AttributePolicy& policy,
                             ExtendedAck& ack);
Result<void> unknown_attribute(const Attribute& attribute, ExtendedAck& ack);
Result<void> bytes_left_over(ExtendedAck& ack);

template <usize N>
Result<void> AttributeTable<N>::parse(std::span<const u8> bytes,
                                      std::span<const AttributePolicy> policy, bool strict,
                                      ExtendedAck& ack) {
    AttributeReader reader(bytes);
    Attribute attribute;
    while (reader.next(attribute)) {
        if (attribute.type == 0 || attribute.type >= N) {
            if (strict)
                return unknown_attribute(attribute, ack);
            continue;
        }
        if (attribute.type < policy.size())
            TRY(check_attribute(attribute, policy[attribute.type], ack));
        at_[attribute.type] = attribute;
        present_[attribute.type] = true;
    }
    if (strict && !reader.rest().empty())
        return bytes_left_over(ack);
    return {};
}

// An IP address of the family: EINVAL when the length is another one.
Result<IpAddress> address_of(const Attribute& attribute, bool v6);

} // namespace kernel::net::netlink
