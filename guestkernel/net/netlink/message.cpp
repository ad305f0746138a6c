#include "guestkernel/net/netlink/message.hpp"

#include <linux/errno.h>

namespace kernel::net::netlink {

void MessageWriter::append(const void* data, usize bytes) {
    if (failed_ || bytes == 0)
        return;
    const usize padded = aligned(bytes);
    if (padded > limit_ - bytes_.size()) {
        failed_ = true;
        return;
    }
    static constexpr u8 zeros[4] = {};
    const auto* from = static_cast<const u8*>(data);
    if (!bytes_.append({from, bytes}) || !bytes_.append({zeros, padded - bytes}))
        failed_ = no_memory_ = true;
}

void MessageWriter::begin(u16 type, u16 flags, u32 sequence, u32 port) {
    message_at_ = bytes_.size();
    put(MessageHeader{0, type, flags, sequence, port});
}

bool MessageWriter::end() {
    if (failed_) {
        cancel();
        return false;
    }
    const u32 length = static_cast<u32>(bytes_.size() - message_at_);
    __builtin_memcpy(bytes_.data() + message_at_, &length, sizeof length);
    message_at_ = bytes_.size();
    return true;
}

void MessageWriter::cancel() {
    while (bytes_.size() > message_at_)
        bytes_.pop_back();
    failed_ = false;
}

void MessageWriter::clear() {
    bytes_.clear();
    message_at_ = 0;
    failed_ = no_memory_ = false;
}

void MessageWriter::attribute(u16 type, const void* data, usize bytes) {
    if (bytes > 0xffff - sizeof(AttributeHeader)) {
        failed_ = true;
        return;
    }
    put(AttributeHeader{static_cast<u16>(sizeof(AttributeHeader) + bytes), type});
    append(data, bytes);
}

void MessageWriter::text(u16 type, std::string_view what) {
    char whole[512];
    const usize bytes = what.size() < sizeof whole - 1 ? what.size() : sizeof whole - 1;
    __builtin_memcpy(whole, what.data(), bytes);
    whole[bytes] = 0;
    attribute(type, whole, bytes + 1);
}

usize MessageWriter::open(u16 type, bool marked) {
    const usize at = bytes_.size();
    put(AttributeHeader{0, static_cast<u16>(type | (marked ? attribute_nested : 0))});
    return at;
}

void MessageWriter::close(usize opened) {
    if (failed_)
        return;
    const usize bytes = bytes_.size() - opened;
    if (bytes > 0xffff) {
        failed_ = true;
        return;
    }
    const u16 length = static_cast<u16>(bytes);
    __builtin_memcpy(bytes_.data() + opened, &length, sizeof length);
}

void MessageWriter::close_or_drop(usize opened) {
    if (failed_)
        return;
    if (bytes_.size() == opened + sizeof(AttributeHeader))
        while (bytes_.size() > opened)
            bytes_.pop_back();
    else
        close(opened);
}

std::string_view Attribute::text() const {
    usize bytes = 0;
    while (bytes < data.size() && data[bytes] != 0)
        bytes++;
    return {static_cast<const char*>(static_cast<const void*>(data.data())), bytes};
}

bool AttributeReader::next(Attribute& out) {
    AttributeHeader header;
    if (left_.size() < sizeof header)
        return false;
    __builtin_memcpy(&header, left_.data(), sizeof header);
    if (header.length < sizeof header || header.length > left_.size())
        return false;
    out.type = header.type & attribute_type_mask;
    out.marked_nested = (header.type & attribute_nested) != 0;
    out.data = left_.subspan(sizeof header, header.length - sizeof header);
    const usize step = aligned(header.length);
    left_ = left_.subspan(step < left_.size() ? step : left_.size());
    return true;
}

namespace {

Result<void> refuse(int error, const Attribute* attribute, const char* message, ExtendedAck& ack) {
    ack.message = message;
    if (attribute != nullptr)
        ack.bad_attribute = attribute->data.data() - sizeof(AttributeHeader);
    return fail(error);
}

usize least_bytes(const AttributePolicy& policy) {
    switch (policy.kind) {
    case AttributeKind::Number8:
        return 1;
    case AttributeKind::Number16:
        return 2;
    case AttributeKind::Number32:
        return 4;
    case AttributeKind::Number64:
        return 8;
    case AttributeKind::Any:
        return policy.length;
    default:
        return 0;
    }
}

} // namespace

Result<void> check_attribute(const Attribute& attribute, const AttributePolicy& policy,
                             ExtendedAck& ack) {
    constexpr const char* wrong = "Attribute failed policy validation";
    if (attribute.data.size() < least_bytes(policy))
        return refuse(ERANGE, &attribute, wrong, ack);
    switch (policy.kind) {
    case AttributeKind::Text:
        if (policy.length != 0 && attribute.text().size() > policy.length)
            return refuse(ERANGE, &attribute, wrong, ack);
        return {};
    case AttributeKind::Flag:
        if (!attribute.data.empty())
            return refuse(ERANGE, &attribute, wrong, ack);
        return {};
    case AttributeKind::Nested:
        // Empty ones are nested all the same.
        if (!attribute.data.empty() && attribute.data.size() < sizeof(AttributeHeader))
            return refuse(ERANGE, &attribute, wrong, ack);
        return {};
    default:
        return {};
    }
}

Result<void> unknown_attribute(const Attribute& attribute, ExtendedAck& ack) {
    return refuse(EINVAL, &attribute, "Unknown attribute type", ack);
}

Result<void> bytes_left_over(ExtendedAck& ack) {
    return refuse(EINVAL, nullptr, "bytes leftover after parsing attributes", ack);
}

Result<IpAddress> address_of(const Attribute& attribute, bool v6) {
    if (attribute.data.size() < (v6 ? 16u : 4u))
        return fail(EINVAL);
    return IpAddress::from_wire(v6, attribute.data.data());
}

} // namespace kernel::net::netlink
