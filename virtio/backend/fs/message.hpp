// Request and Reply: the two halves of a FUSE exchange, as an operation sees them.
#pragma once

#include <cstddef>
#include <cstring>
#include <limits.h>
#include <span>
#include <string_view>

#include <linux/fuse.h>

#include "virtio/backend/fs/host.hpp"
#include "virtio/backend/fs/iov.hpp"

namespace virtio::fs {

// One component of a path: not empty, no '/', not "." or "..", NUL-terminated.
class Name {
public:
    const char* c_str() const { return text_; }
    std::string_view view() const { return {text_, length_}; }

private:
    friend class Request;
    char text_[NAME_MAX + 1] = {};
    std::size_t length_ = 0;
};

class Request {
public:
    Request(const fuse_in_header& header, const IovCursor& rest) : header_(header), rest_(rest) {}

    const fuse_in_header& header() const { return header_; }
    std::uint64_t node() const { return header_.nodeid; }
    // What has not been read yet: the payload, at last.
    IovCursor& rest() { return rest_; }

    template <typename T>
    Result<T> arguments() {
        T out{};
        if (!rest_.read_object(out))
            return fail(EINVAL);
        return out;
    }

    // A NUL-terminated string that fits into `buffer` with its NUL; its length.
    Result<std::size_t> string(std::span<char> buffer) {
        IovCursor ahead = rest_;
        const std::size_t length = std::min(buffer.size(), ahead.remaining());
        if (!ahead.read(std::as_writable_bytes(buffer.first(length))))
            return fail(EINVAL);
        const void* end = std::memchr(buffer.data(), 0, length);
        if (end == nullptr)
            return fail(length == buffer.size() ? ENAMETOOLONG : EINVAL);
        const auto size = static_cast<std::size_t>(static_cast<const char*>(end) - buffer.data());
        rest_.skip(size + 1);
        return size;
    }

    // "." and ".." are refused with EINVAL unless `dots`.
    Result<void> name(Name& out, bool dots = false) {
        TRY(out.length_, string(out.text_));
        const std::string_view text = out.view();
        if (text.empty())
            return fail(ENOENT);
        if (text.find('/') != std::string_view::npos)
            return fail(EINVAL);
        if (!dots && (text == "." || text == ".."))
            return fail(EINVAL);
        return {};
    }

private:
    const fuse_in_header header_;
    IovCursor rest_;
};

// Where an operation writes its answer; the header comes by itself.
class Reply {
public:
    // Requires: `out` stands behind the header's place.
    explicit Reply(const IovCursor& out) : body_(out), room_(out.remaining()) {}

    IovCursor& body() { return body_; }
    std::size_t room() const { return body_.remaining(); }
    std::size_t length() const { return room_ - body_.remaining(); }
    // Requires: nothing has been written.
    void limit(std::size_t length) {
        body_.limit(length);
        room_ = body_.remaining();
    }

    template <typename T>
    Result<void> put(const T& object) {
        return body_.write_object(object) ? Result<void>() : fail(ERANGE);
    }

private:
    IovCursor body_;
    std::size_t room_;
};

} // namespace virtio::fs
