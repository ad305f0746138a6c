// Requests and answers of netlink(7), for the tests that speak it.
#pragma once

#include <cstdint>
#include <string>
#include <unistd.h>
#include <vector>

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include "tests/guest/check.hpp"

inline sockaddr* general(sockaddr_nl& address) {
    return reinterpret_cast<sockaddr*>(&address);
}

inline int open_socket(int protocol = NETLINK_ROUTE) {
    const int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
    CHECK(fd >= 0);
    return fd;
}

inline uint32_t port_of(int fd) {
    sockaddr_nl own{};
    socklen_t length = sizeof own;
    CHECK(getsockname(fd, general(own), &length) == 0);
    CHECK(length == sizeof own && own.nl_family == AF_NETLINK);
    return own.nl_pid;
}

struct Builder {
    std::vector<char> bytes;
    explicit Builder(uint16_t type, uint16_t flags, uint32_t sequence = 1) {
        nlmsghdr header{};
        header.nlmsg_type = type;
        header.nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
        header.nlmsg_seq = sequence;
        append(&header, sizeof header);
    }
    void append(const void* data, size_t length) {
        const auto* at = static_cast<const char*>(data);
        bytes.insert(bytes.end(), at, at + length);
        while (bytes.size() % 4 != 0)
            bytes.push_back(0);
    }
    template <typename T>
    Builder& put(const T& value) {
        append(&value, sizeof value);
        return *this;
    }
    Builder& attribute(uint16_t type, const void* data, size_t length) {
        const rtattr header = {static_cast<unsigned short>(RTA_LENGTH(length)), type};
        append(&header, sizeof header);
        append(data, length);
        return *this;
    }
    Builder& number(uint16_t type, uint32_t value) { return attribute(type, &value, sizeof value); }
    Builder& text(uint16_t type, const char* value) {
        return attribute(type, value, std::strlen(value) + 1);
    }
    void send(int fd) {
        const auto length = static_cast<uint32_t>(bytes.size());
        std::memcpy(bytes.data(), &length, sizeof length);
        CHECK(::send(fd, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
    }
};

struct Message {
    nlmsghdr header{};
    std::vector<char> data; // without the header
    template <typename T>
    T as() const {
        T out{};
        CHECK(data.size() >= sizeof out);
        std::memcpy(&out, data.data(), sizeof out);
        return out;
    }
    // The data of an attribute that comes `after` bytes into the message; empty: not there.
    std::vector<char> attribute(size_t after, uint16_t type) const {
        for (size_t at = after; at + sizeof(rtattr) <= data.size();) {
            rtattr found{};
            std::memcpy(&found, data.data() + at, sizeof found);
            CHECK(found.rta_len >= sizeof found && at + found.rta_len <= data.size());
            if ((found.rta_type & NLA_TYPE_MASK) == type)
                return {data.begin() + static_cast<long>(at + sizeof found),
                        data.begin() + static_cast<long>(at + found.rta_len)};
            at += RTA_ALIGN(found.rta_len);
        }
        return {};
    }
    uint32_t number(size_t after, uint16_t type) const {
        const std::vector<char> value = attribute(after, type);
        uint32_t out = 0;
        CHECK(value.size() >= sizeof out);
        std::memcpy(&out, value.data(), sizeof out);
        return out;
    }
    std::string text(size_t after, uint16_t type) const {
        const std::vector<char> value = attribute(after, type);
        return value.empty() ? std::string() : std::string(value.data());
    }
};

inline std::vector<Message> receive(int fd, size_t room = 65536, int flags = 0) {
    std::vector<char> buffer(room);
    const ssize_t length = recv(fd, buffer.data(), buffer.size(), flags);
    CHECK(length >= 0);
    std::vector<Message> out;
    for (size_t at = 0; at + sizeof(nlmsghdr) <= static_cast<size_t>(length);) {
        Message message;
        std::memcpy(&message.header, buffer.data() + at, sizeof message.header);
        CHECK(message.header.nlmsg_len >= sizeof(nlmsghdr));
        CHECK(at + message.header.nlmsg_len <= static_cast<size_t>(length));
        message.data.assign(buffer.data() + at + sizeof(nlmsghdr),
                            buffer.data() + at + message.header.nlmsg_len);
        out.push_back(std::move(message));
        at += NLMSG_ALIGN(out.back().header.nlmsg_len);
    }
    return out;
}

// All of a dump, and in how many pieces it came.
inline std::vector<Message> dump(int fd, Builder&& request, size_t room, int& pieces) {
    request.send(fd);
    std::vector<Message> out;
    for (pieces = 0;;) {
        pieces++;
        for (Message& message : receive(fd, room)) {
            CHECK(message.header.nlmsg_flags & NLM_F_MULTI);
            if (message.header.nlmsg_type == NLMSG_DONE) {
                CHECK(message.as<int>() == 0);
                return out;
            }
            CHECK(message.header.nlmsg_type != NLMSG_ERROR);
            out.push_back(std::move(message));
        }
    }
}

// Sends and returns the error of the acknowledgement.
inline int ask(int fd, Builder&& request) {
    request.send(fd);
    const std::vector<Message> got = receive(fd);
    CHECK(got.size() == 1 && got[0].header.nlmsg_type == NLMSG_ERROR);
    return -got[0].as<nlmsgerr>().error;
}

inline void set_option(int fd, int name, int value) {
    CHECK(setsockopt(fd, SOL_NETLINK, name, &value, sizeof value) == 0);
}
