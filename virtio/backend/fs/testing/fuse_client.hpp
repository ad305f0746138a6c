// A FUSE client for tests: builds requests, takes answers apart. And a temporary directory to
// serve.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>
#include <unistd.h>
#include <vector>

#include <linux/fuse.h>

#include "virtio/backend/fs/server.hpp"

namespace virtio::fs::testing {

class TemporaryDirectory {
public:
    TemporaryDirectory() {
        std::string pattern = (std::filesystem::temp_directory_path() / "joey-fs-XXXXXX").string();
        path_ = ::mkdtemp(pattern.data());
    }
    TemporaryDirectory(const TemporaryDirectory&) = delete;
    TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
    ~TemporaryDirectory() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    const std::string& path() const { return path_; }
    std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }
    void write(std::string_view name, std::string_view text) const {
        std::ofstream(*this / name, std::ios::binary) << text;
    }
    std::string read(std::string_view name) const {
        std::ifstream file(*this / name, std::ios::binary);
        return {std::istreambuf_iterator<char>(file), {}};
    }

private:
    std::string path_;
};

inline std::unique_ptr<FsServer> serve(ShareConfig config) {
    auto server = FsServer::create(std::move(config));
    return server ? std::move(*server) : nullptr;
}

struct Answer {
    bool replied = false;
    int error = 0; // positive
    std::uint64_t unique = 0;
    std::vector<std::byte> body;

    explicit operator bool() const { return replied && error == 0; }
    // Zero, if the body is shorter.
    template <typename T>
    T as(std::size_t offset = 0) const {
        T out{};
        if (offset + sizeof out <= body.size())
            std::memcpy(&out, body.data() + offset, sizeof out);
        return out;
    }
    std::string text() const {
        std::string out(body.size(), '\0');
        std::ranges::transform(body, out.begin(),
                               [](std::byte byte) { return static_cast<char>(byte); });
        return out;
    }
};

// An entry of READDIR or READDIRPLUS.
struct ListedEntry {
    std::string name;
    std::uint64_t number = 0;
    std::uint64_t next = 0;
    std::uint32_t type = 0;
    fuse_entry_out entry{};
};

class FuseClient {
public:
    explicit FuseClient(FsServer& server, bool start = true) : server_(server) {
        if (start)
            init();
    }

    uid_t uid = ::geteuid();
    gid_t gid = ::getegid();
    std::size_t reply_room = fs_max_transfer + 4096;

    // Strings go with their NUL; everything else as its bytes.
    template <typename... Parts>
    Answer call(std::uint32_t opcode, std::uint64_t node, const Parts&... parts) {
        std::vector<std::byte> message(sizeof(fuse_in_header));
        (append(message, parts), ...);
        fuse_in_header header{};
        header.len = static_cast<std::uint32_t>(message.size());
        header.opcode = opcode;
        header.unique = ++unique_;
        header.nodeid = node;
        header.uid = uid;
        header.gid = gid;
        std::memcpy(message.data(), &header, sizeof header);
        return exchange(message);
    }

    // Cut into pieces, so that nothing can rely on contiguous memory.
    Answer exchange(std::vector<std::byte>& message) {
        reply_.resize(reply_room);
        std::vector<struct iovec> in = pieces(message, 24);
        std::vector<struct iovec> out = pieces(reply_, 7);
        const std::size_t length = server_.handle(in, out);
        Answer answer;
        fuse_out_header header{};
        if (length < sizeof header)
            return answer;
        std::memcpy(&header, reply_.data(), sizeof header);
        answer.replied = header.len == length;
        answer.error = -header.error;
        answer.unique = header.unique;
        answer.body.assign(reply_.begin() + sizeof header,
                           reply_.begin() + static_cast<std::ptrdiff_t>(length));
        return answer;
    }

    Answer init(std::uint32_t flags = ~std::uint32_t{0}) {
        fuse_init_in in{};
        in.major = FUSE_KERNEL_VERSION;
        in.minor = FUSE_KERNEL_MINOR_VERSION;
        in.flags = flags & ~static_cast<std::uint32_t>(FUSE_SETXATTR_EXT);
        in.max_readahead = 1u << 17;
        return call(FUSE_INIT, 0, in);
    }

    Answer lookup(std::uint64_t parent, std::string_view name) {
        return call(FUSE_LOOKUP, parent, name);
    }
    // The node at a path of names, each looked up; 0 if there is none.
    std::uint64_t walk(std::string_view path, std::uint64_t node = FUSE_ROOT_ID) {
        while (!path.empty() && node != 0) {
            const std::size_t slash = std::min(path.find('/'), path.size());
            node = lookup(node, path.substr(0, slash)).as<fuse_entry_out>().nodeid;
            path.remove_prefix(std::min(slash + 1, path.size()));
        }
        return node;
    }
    Answer getattr(std::uint64_t node) { return call(FUSE_GETATTR, node, fuse_getattr_in{}); }
    Answer open(std::uint64_t node, std::uint32_t flags) {
        fuse_open_in in{};
        in.flags = flags;
        return call(FUSE_OPEN, node, in);
    }
    Answer read(std::uint64_t node, std::uint64_t fh, std::uint64_t offset, std::uint32_t size) {
        fuse_read_in in{};
        in.fh = fh;
        in.offset = offset;
        in.size = size;
        return call(FUSE_READ, node, in);
    }
    Answer write(std::uint64_t node, std::uint64_t fh, std::uint64_t offset,
                 std::string_view data) {
        fuse_write_in in{};
        in.fh = fh;
        in.offset = offset;
        in.size = static_cast<std::uint32_t>(data.size());
        return call(FUSE_WRITE, node, in, std::as_bytes(std::span(data)));
    }
    Answer create(std::uint64_t parent, std::string_view name, std::uint32_t flags,
                  std::uint32_t mode = 0644) {
        fuse_create_in in{};
        in.flags = flags;
        in.mode = mode | S_IFREG;
        return call(FUSE_CREATE, parent, in, name);
    }
    Answer mkdir(std::uint64_t parent, std::string_view name, std::uint32_t mode = 0755) {
        fuse_mkdir_in in{};
        in.mode = mode;
        return call(FUSE_MKDIR, parent, in, name);
    }
    Answer release(std::uint64_t node, std::uint64_t fh) {
        fuse_release_in in{};
        in.fh = fh;
        return call(FUSE_RELEASE, node, in);
    }
    Answer rename(std::uint64_t from, std::string_view old_name, std::uint64_t to,
                  std::string_view new_name, std::uint32_t flags = 0) {
        fuse_rename2_in in{};
        in.newdir = to;
        in.flags = flags;
        return call(FUSE_RENAME2, from, in, old_name, new_name);
    }
    void forget(std::uint64_t node, std::uint64_t lookups) {
        call(FUSE_FORGET, node, fuse_forget_in{lookups});
    }

    // All of a directory, in requests of `size` bytes.
    std::vector<ListedEntry> list(std::uint64_t node, std::uint64_t fh, bool plus,
                                  std::uint32_t size = 4096) {
        std::vector<ListedEntry> all;
        for (std::uint64_t offset = 0;;) {
            fuse_read_in in{};
            in.fh = fh;
            in.offset = offset;
            in.size = size;
            const Answer answer = call(plus ? FUSE_READDIRPLUS : FUSE_READDIR, node, in);
            if (!answer || answer.body.empty())
                return all;
            for (std::size_t at = 0; at < answer.body.size();) {
                ListedEntry one;
                if (plus) {
                    one.entry = answer.as<fuse_entry_out>(at);
                    at += sizeof one.entry;
                }
                const auto head = answer.as<fuse_dirent>(at);
                one.name = answer.text().substr(at + FUSE_NAME_OFFSET, head.namelen);
                one.number = head.ino;
                one.type = head.type;
                offset = one.next = head.off;
                at += FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + head.namelen);
                all.push_back(std::move(one));
            }
        }
    }

private:
    static void append(std::vector<std::byte>& to, std::string_view text) {
        append(to, std::as_bytes(std::span(text)));
        to.push_back(std::byte{0});
    }
    static void append(std::vector<std::byte>& to, const char* text) {
        append(to, std::string_view(text));
    }
    static void append(std::vector<std::byte>& to, const std::string& text) {
        append(to, std::string_view(text));
    }
    static void append(std::vector<std::byte>& to, std::span<const std::byte> bytes) {
        to.insert(to.end(), bytes.begin(), bytes.end());
    }
    template <typename T>
    requires std::is_trivially_copyable_v<T>
    static void append(std::vector<std::byte>& to, const T& object) {
        append(to, std::as_bytes(std::span(&object, 1)));
    }

    static std::vector<struct iovec> pieces(std::vector<std::byte>& bytes, std::size_t first) {
        const std::size_t head = std::min(first, bytes.size());
        const std::size_t rest = bytes.size() - head;
        return {{bytes.data(), head},
                {bytes.data() + head, rest / 3},
                {bytes.data(), 0},
                {bytes.data() + head + rest / 3, rest - rest / 3}};
    }

    FsServer& server_;
    std::uint64_t unique_ = 0;
    std::vector<std::byte> reply_; // one for all calls: a megabyte each is what would take the time
};

} // namespace virtio::fs::testing
