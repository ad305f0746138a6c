// Rtnetlink: requests to the kernel about interfaces, in the calling thread's network
// namespace; one socket, one request at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include <linux/netlink.h>
#include <linux/rtnetlink.h>

#include "agent/os/error.hpp"
#include "agent/os/unique_fd.hpp"

namespace os {

// A request under construction: a fixed part, then attributes, which may hold others.
class NetlinkRequest {
public:
    template <typename Fixed>
    NetlinkRequest(std::uint16_t type, std::uint16_t flags, const Fixed& fixed)
        : type_(type), flags_(flags) {
        append(&fixed, sizeof fixed);
    }
    void add(std::uint16_t attribute, const void* data, std::size_t size);
    template <typename Value>
    void add(std::uint16_t attribute, const Value& value) {
        static_assert(std::is_trivially_copyable_v<Value>);
        add(attribute, &value, sizeof value);
    }
    void add_text(std::uint16_t attribute, std::string_view text); // with its NUL
    // Attributes up to the matching close() are inside this one.
    std::size_t open(std::uint16_t attribute);
    void close(std::size_t opened);

private:
    friend class Rtnetlink;
    void append(const void* data, std::size_t size);
    std::uint16_t type_;
    std::uint16_t flags_;
    std::vector<std::byte> bytes_;
};

// What is in an answer: the fixed part, and attributes by number; the last of a number counts.
class NetlinkAnswer {
public:
    explicit NetlinkAnswer(std::span<const std::byte> bytes) : bytes_(bytes) {}
    template <typename Fixed>
    Fixed fixed() const {
        Fixed out{};
        copy_to(&out, sizeof out, bytes_);
        return out;
    }
    // Empty if it is not there.
    std::span<const std::byte> attribute(std::size_t fixed_size, std::uint16_t number) const;
    template <typename Value>
    Value value(std::size_t fixed_size, std::uint16_t number, Value otherwise) const {
        const auto found = attribute(fixed_size, number);
        if (found.size() < sizeof otherwise)
            return otherwise;
        copy_to(&otherwise, sizeof otherwise, found);
        return otherwise;
    }

private:
    static void copy_to(void* out, std::size_t size, std::span<const std::byte> from);
    std::span<const std::byte> bytes_;
};

class Rtnetlink {
public:
    static Result<Rtnetlink> open();
    // Until the kernel has said yes.
    Result<void> ask(const NetlinkRequest& request);
    // Each message of a dump.
    Result<void> dump(const NetlinkRequest& request,
                      const std::function<void(const NetlinkAnswer&)>& each);

private:
    explicit Rtnetlink(UniqueFd socket) : socket_(std::move(socket)) {}
    Result<void> send(const NetlinkRequest& request, std::uint16_t flags);
    // True when the answer is complete.
    Result<bool> take(std::span<const std::byte> bytes,
                      const std::function<void(const NetlinkAnswer&)>& each) const;
    Result<void> receive(const std::function<void(const NetlinkAnswer&)>& each);

    UniqueFd socket_;
    std::uint32_t sequence_ = 0;
};

} // namespace os
