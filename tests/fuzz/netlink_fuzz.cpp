// Netlink with any messages at all: what a program can send. Headers are put right in part of them,
// so that the input gets past the first checks; whatever comes, every request is answered or
// dropped, dumps end, and what is kept for the sender stays within its buffer.
#include <cstdlib>
#include <cstring>
#include <vector>

#include "guestkernel/arch/hosted/hosted.hpp"
#include "guestkernel/fs/file_table.hpp"
#include "guestkernel/net/link/links.hpp"
#include "guestkernel/net/netlink/endpoint.hpp"
#include "guestkernel/net/netlink/socket.hpp"
#include "guestkernel/net/testing/virtual_link.hpp"
#include "guestkernel/task/task.hpp"
#include "tests/fuzz/guest_bytes.hpp"
#include "tests/fuzz/netlink_drain.hpp"

using namespace kernel::net::netlink;
namespace testing = kernel::net::testing;
using Reader = kernel::net::netlink::Endpoint;

namespace {

constexpr int protocols[] = {0, 4, 15, 16}; // ROUTE, SOCK_DIAG, KOBJECT_UEVENT, GENERIC
constexpr std::uint64_t ram = std::uint64_t{64} << 20;

// A kind of request that the protocol knows, more often than chance would have it.
std::uint16_t likely_type(int protocol, std::uint8_t chance) {
    switch (protocol) {
    case 4:
        return static_cast<std::uint16_t>(18 + chance % 4);
    case 16:
        return 16;
    default:
        return static_cast<std::uint16_t>(16 + chance % 88);
    }
}

std::vector<std::uint8_t> make_message(fuzz::GuestBytes& bytes, int protocol) {
    const auto kind = bytes.take<std::uint8_t>();
    const auto content = bytes.take_bytes(bytes.take<std::uint16_t>() % 600);
    std::vector<std::uint8_t> out(sizeof(MessageHeader) + content.size());
    std::memcpy(out.data() + sizeof(MessageHeader), content.data(), content.size());
    MessageHeader header{};
    header.length = static_cast<std::uint32_t>(out.size());
    if ((kind & 3) == 0)
        header.length = bytes.take<std::uint32_t>() % 2000;
    header.type = (kind & 4) != 0 ? bytes.take<std::uint16_t>()
                                  : likely_type(protocol, bytes.take<std::uint8_t>());
    header.flags = static_cast<std::uint16_t>(
        flag_request | ((kind & 8) != 0 ? flag_dump : 0) | ((kind & 16) != 0 ? flag_ack : 0) |
        ((kind & 32) != 0 ? flag_create : 0) | ((kind & 64) != 0 ? flag_replace : 0));
    header.sequence = 7;
    std::memcpy(out.data(), &header, sizeof header);
    // Attributes whose lengths are believable: each four bytes become the head of one.
    if ((kind & 128) != 0)
        for (std::size_t at = sizeof header + 16; at + 8 <= out.size(); at += 8) {
            const std::uint16_t length = static_cast<std::uint16_t>(4 + out[at] % 5);
            std::memcpy(out.data() + at, &length, sizeof length);
            out[at + 3] &= 0x80; // types are small
        }
    while (out.size() % 4 != 0)
        out.push_back(0);
    return out;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    testing::reset_network(ram);
    register_netlink_protocols();
    {
        kernel::Task task;
        auto files = kernel::make_ref<kernel::FileTable>(); // some attributes name descriptors
        if (!files)
            std::abort();
        task.files = std::move(*files);
        kernel::hosted::set_current(&task);
        testing::Pair net;
        fuzz::GuestBytes bytes(data, size);
        auto made = kernel::make_ref<Reader>(
            net.stacks[0], *find_protocol(protocols[bytes.take<std::uint8_t>() % 4]));
        if (!made)
            std::abort();
        Reader& endpoint = **made;
        if (!endpoint.bind_port(1))
            std::abort();
        endpoint.strict = (bytes.take<std::uint8_t>() & 1) != 0;
        endpoint.extended_ack = true;
        for (std::uint32_t group = 1; group <= endpoint.protocol().groups && group < 36; group++)
            (void)endpoint.join(group);
        for (int messages = 0; !bytes.empty() && messages < 32; messages++) {
            std::vector<std::uint8_t> message = make_message(bytes, endpoint.protocol().number);
            endpoint.submit(message);
            if (endpoint.queued_bytes() > endpoint.receive_buffer + 65536)
                std::abort();
            fuzz::drain(endpoint);
        }
        endpoint.close();
        (*made) = {};
    }
    kernel::hosted::set_current(nullptr);
    kernel::net::set_change_listener(nullptr);
    return 0;
}
