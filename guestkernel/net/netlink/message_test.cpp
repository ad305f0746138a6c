// Netlink messages as bytes: what is written can be read, and nothing hostile is believed.
#include <cerrno>
#include <vector>

#include <catch2/catch.hpp>

#include "guestkernel/net/netlink/message.hpp"

using namespace kernel;
using namespace kernel::net::netlink;

namespace {

std::span<const u8> attributes_of(const MessageWriter& writer) {
    return writer.bytes().subspan(sizeof(MessageHeader));
}

} // namespace

TEST_CASE("a message is written with its length, and attributes are padded to four bytes") {
    MessageWriter writer;
    writer.begin(16, flag_multi, 7, 9);
    writer.text(3, "lo");
    writer.number32(4, 65536);
    REQUIRE(writer.end());
    REQUIRE(writer.bytes().size() == 16 + 8 + 8);
    MessageHeader header;
    __builtin_memcpy(&header, writer.bytes().data(), sizeof header);
    CHECK(header.length == 32);
    CHECK(header.sequence == 7);
    CHECK(header.port == 9);
    AttributeTable<8> table;
    ExtendedAck ack;
    REQUIRE(table.parse(attributes_of(writer), {}, true, ack));
    CHECK(table.text(3) == "lo");
    CHECK(table.number(4) == 65536);
    CHECK(table[5] == nullptr);
    CHECK(table.number(5, 42) == 42);
}

TEST_CASE("a message that does not fit is taken back as a whole") {
    MessageWriter writer(64);
    writer.begin(1, 0, 0, 0);
    writer.number32(1, 1);
    REQUIRE(writer.end());
    const usize before = writer.bytes().size();
    writer.begin(1, 0, 0, 0);
    for (int i = 0; i < 10; i++)
        writer.number32(1, 1);
    CHECK(writer.full());
    CHECK_FALSE(writer.end());
    CHECK(writer.bytes().size() == before);
    writer.begin(1, 0, 0, 0);
    CHECK(writer.end());
}

TEST_CASE("nested attributes have the length of what is in them; empty ones can be dropped") {
    MessageWriter writer;
    writer.begin(1, 0, 0, 0);
    const usize outer = writer.open(18, true);
    writer.text(1, "veth");
    writer.close(outer);
    writer.close_or_drop(writer.open(19));
    REQUIRE(writer.end());
    AttributeReader reader(attributes_of(writer));
    Attribute attribute;
    REQUIRE(reader.next(attribute));
    CHECK(attribute.type == 18);
    CHECK(attribute.marked_nested);
    CHECK(attribute.data.size() == 12); // four of header, five of text, padded
    CHECK_FALSE(reader.next(attribute));
    CHECK(reader.rest().empty());
}

TEST_CASE("attributes that reach beyond the message are not read") {
    const auto parsed = [](std::vector<u8> bytes) {
        AttributeReader reader(bytes);
        Attribute attribute;
        int count = 0;
        while (reader.next(attribute))
            count++;
        return count;
    };
    CHECK(parsed({}) == 0);
    CHECK(parsed({4, 0, 1}) == 0);                // no whole header
    CHECK(parsed({3, 0, 1, 0}) == 0);             // shorter than its own header
    CHECK(parsed({9, 0, 1, 0, 1, 2, 3, 4}) == 0); // longer than what is there
    CHECK(parsed({5, 0, 1, 0, 1}) == 1);          // the last one needs no padding
    CHECK(parsed({4, 0, 1, 0, 4, 0, 2, 0}) == 2);
}

TEST_CASE("a policy refuses what is too short, and strict parsing what is unknown") {
    constexpr AttributePolicy policy[] = {
        {}, {AttributeKind::Number32, 0}, {AttributeKind::Text, 3}, {AttributeKind::Flag, 0}};
    const auto parse = [&](u16 type, const void* data, usize bytes, bool strict, ExtendedAck& ack) {
        MessageWriter writer;
        writer.begin(1, 0, 0, 0);
        writer.attribute(type, data, bytes);
        REQUIRE(writer.end());
        AttributeTable<4> table;
        auto result = table.parse(attributes_of(writer), policy, strict, ack);
        return result ? 0 : result.error().code;
    };
    ExtendedAck ack;
    CHECK(parse(1, "abcd", 4, true, ack) == 0);
    CHECK(ack.message == nullptr);
    CHECK(parse(1, "abc", 3, false, ack) == ERANGE);
    CHECK(ack.message != nullptr);
    CHECK(ack.bad_attribute != nullptr);
    CHECK(parse(2, "abc", 4, false, ack) == 0);
    CHECK(parse(2, "abcd", 5, false, ack) == ERANGE);
    CHECK(parse(3, "x", 1, false, ack) == ERANGE);
    CHECK(parse(9, "x", 1, false, ack) == 0);
    CHECK(parse(9, "x", 1, true, ack) == EINVAL);
}

TEST_CASE("a text without its NUL ends with the attribute") {
    MessageWriter writer;
    writer.begin(1, 0, 0, 0);
    writer.attribute(1, "abcd", 4);
    REQUIRE(writer.end());
    AttributeReader reader(attributes_of(writer));
    Attribute attribute;
    REQUIRE(reader.next(attribute));
    CHECK(attribute.text() == "abcd");
    CHECK(attribute.as<u64>() == attribute.number()); // what is missing is zero
}
