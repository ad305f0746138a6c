#include "agent/os/rtnetlink.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include <sys/socket.h>

namespace os {

namespace {

constexpr std::size_t aligned(std::size_t size) {
    return NLMSG_ALIGN(size);
}

} // namespace

void NetlinkRequest::append(const void* data, std::size_t size) {
    const std::size_t at = bytes_.size();
    bytes_.resize(at + aligned(size));
    std::memcpy(bytes_.data() + at, data, size);
}

void NetlinkRequest::add(std::uint16_t attribute, const void* data, std::size_t size) {
    const rtattr header{static_cast<unsigned short>(RTA_LENGTH(size)), attribute};
    append(&header, sizeof header);
    append(data, size);
}

void NetlinkRequest::add_text(std::uint16_t attribute, std::string_view text) {
    const std::string whole(text);
    add(attribute, whole.c_str(), whole.size() + 1);
}

std::size_t NetlinkRequest::open(std::uint16_t attribute) {
    const std::size_t at = bytes_.size();
    const rtattr header{0, attribute};
    append(&header, sizeof header);
    return at;
}

void NetlinkRequest::close(std::size_t opened) {
    const auto length = static_cast<unsigned short>(bytes_.size() - opened);
    std::memcpy(bytes_.data() + opened, &length, sizeof length); // rtattr::rta_len is its first
}

void NetlinkAnswer::copy_to(void* out, std::size_t size, std::span<const std::byte> from) {
    std::memcpy(out, from.data(), std::min(size, from.size()));
}

std::span<const std::byte> NetlinkAnswer::attribute(std::size_t fixed_size,
                                                    std::uint16_t number) const {
    std::span<const std::byte> found;
    auto left = bytes_.subspan(std::min(aligned(fixed_size), bytes_.size()));
    rtattr header{};
    while (left.size() >= sizeof header) {
        std::memcpy(&header, left.data(), sizeof header);
        if (header.rta_len < sizeof header || header.rta_len > left.size())
            break;
        if ((header.rta_type & NLA_TYPE_MASK) == number)
            found = left.subspan(sizeof header, header.rta_len - sizeof header);
        left = left.subspan(std::min(aligned(header.rta_len), left.size()));
    }
    return found;
}

Result<Rtnetlink> Rtnetlink::open() {
    UniqueFd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
    if (!socket)
        return fail_errno(errno, "make a netlink socket");
    return Rtnetlink(std::move(socket));
}

Result<void> Rtnetlink::send(const NetlinkRequest& request, std::uint16_t flags) {
    nlmsghdr header{};
    header.nlmsg_len = static_cast<std::uint32_t>(NLMSG_HDRLEN + request.bytes_.size());
    header.nlmsg_type = request.type_;
    header.nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | request.flags_ | flags);
    header.nlmsg_seq = ++sequence_;
    std::array<iovec, 2> parts = {
        iovec{&header, sizeof header},
        iovec{const_cast<std::byte*>(request.bytes_.data()), request.bytes_.size()}};
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = parts.size();
    if (::sendmsg(socket_.get(), &message, 0) < 0)
        return fail_errno(errno, "ask the kernel");
    return {};
}

Result<bool> Rtnetlink::take(std::span<const std::byte> bytes,
                             const std::function<void(const NetlinkAnswer&)>& each) const {
    nlmsghdr header{};
    while (bytes.size() >= sizeof header) {
        std::memcpy(&header, bytes.data(), sizeof header);
        if (header.nlmsg_len < sizeof header || header.nlmsg_len > bytes.size())
            break;
        const auto body = bytes.subspan(NLMSG_HDRLEN, header.nlmsg_len - NLMSG_HDRLEN);
        bytes = bytes.subspan(std::min(aligned(header.nlmsg_len), bytes.size()));
        if (header.nlmsg_seq != sequence_)
            continue; // of an earlier request that was given up
        if (header.nlmsg_type == NLMSG_DONE)
            return true;
        if (header.nlmsg_type != NLMSG_ERROR) {
            each(NetlinkAnswer(body));
            continue;
        }
        const auto error = NetlinkAnswer(body).fixed<nlmsgerr>().error;
        if (error != 0)
            return fail_errno(-error, "the kernel refuses");
        return true;
    }
    return false;
}

Result<void> Rtnetlink::receive(const std::function<void(const NetlinkAnswer&)>& each) {
    std::vector<std::byte> buffer(64u << 10); // netlink(7): the largest of a dump's pieces
    for (;;) {
        const ssize_t got = ::recv(socket_.get(), buffer.data(), buffer.size(), 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return fail_errno(errno, "the kernel's answer");
        TRY(const bool complete,
            take(std::span(buffer).first(static_cast<std::size_t>(got)), each));
        if (complete)
            return {};
    }
}

Result<void> Rtnetlink::ask(const NetlinkRequest& request) {
    TRY(send(request, NLM_F_ACK));
    return receive([](const NetlinkAnswer&) {});
}

Result<void> Rtnetlink::dump(const NetlinkRequest& request,
                             const std::function<void(const NetlinkAnswer&)>& each) {
    TRY(send(request, NLM_F_DUMP));
    return receive(each);
}

} // namespace os
