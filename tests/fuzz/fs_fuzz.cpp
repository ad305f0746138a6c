// The FUSE server as a hostile guest sees it: a sequence of requests over a temporary directory,
// with node ids and file handles from earlier answers mixed into otherwise arbitrary bytes.
#include <algorithm>
#include <memory>
#include <vector>

#include <sys/resource.h>

#include "virtio/backend/fs/testing/fuse_client.hpp"

namespace {

using virtio::FsServer;
using virtio::fs::testing::FuseClient;
using virtio::fs::testing::serve;
using virtio::fs::testing::TemporaryDirectory;

// A share that several inputs use one after the other, until it is full of what they left.
struct Share {
    Share() {
        dir.write("file", "some text to read and write");
        std::filesystem::create_directories(dir / "sub/below");
        std::filesystem::create_symlink("../outside", dir / "link");
    }
    TemporaryDirectory dir;
    std::unique_ptr<FsServer> writable = serve({.path = dir.path(), .max_cached_fds = 8});
    std::unique_ptr<FsServer> read_only =
        serve({.path = dir.path(), .read_only = true, .cache = virtio::Cache::Always});
};

class Input {
public:
    explicit Input(std::span<const std::byte> rest) : rest_(rest) {}
    bool empty() const { return rest_.empty(); }
    template <typename T>
    T take() {
        T out{};
        const std::span<const std::byte> bytes = take_bytes(sizeof out);
        std::memcpy(&out, bytes.data(), bytes.size());
        return out;
    }
    std::span<const std::byte> take_bytes(std::size_t length) {
        const auto bytes = rest_.first(std::min(length, rest_.size()));
        rest_ = rest_.subspan(bytes.size());
        return bytes;
    }

private:
    std::span<const std::byte> rest_;
};

// What the server has given out so far.
struct Known {
    std::vector<std::uint64_t> nodes = {FUSE_ROOT_ID};
    std::vector<std::uint64_t> handles = {0};
    template <typename T>
    static T pick(const std::vector<T>& from, std::uint8_t by) {
        return from[by % from.size()];
    }
};

void step(FsServer& server, Input& input, Known& known) {
    const auto opcode = input.take<std::uint8_t>();
    const auto node = input.take<std::uint8_t>();
    const auto handle = input.take<std::uint8_t>();
    const auto shape = input.take<std::uint8_t>();
    const auto body = input.take_bytes(input.take<std::uint8_t>());

    std::vector<std::byte> message(sizeof(fuse_in_header) + body.size());
    fuse_in_header header{};
    header.len = static_cast<std::uint32_t>(message.size()) + ((shape & 0x80) != 0 ? 1 : 0);
    header.opcode = opcode % 56;
    header.nodeid = (shape & 1) != 0 ? node : Known::pick(known.nodes, node);
    std::memcpy(message.data(), &header, sizeof header);
    std::copy(body.begin(), body.end(), message.begin() + sizeof header);
    // Most arguments begin with a handle or a second node.
    const std::uint64_t first =
        (shape & 2) != 0 ? Known::pick(known.handles, handle) : Known::pick(known.nodes, handle);
    if ((shape & 4) != 0 && body.size() >= sizeof first)
        std::memcpy(message.data() + sizeof header, &first, sizeof first);

    const std::size_t room = std::size_t{1} << ((shape >> 3) & 15);
    std::vector<std::byte> reply(sizeof(fuse_out_header) + room);
    const std::size_t cut = message.size() / 3;
    const struct iovec in[] = {{message.data(), cut}, {message.data() + cut, message.size() - cut}};
    const struct iovec out[] = {{reply.data(), 5}, {reply.data() + 5, reply.size() - 5}};
    const std::size_t length = server.handle(in, out);
    if (length > reply.size())
        __builtin_trap();
    fuse_out_header answer{};
    if (length < sizeof answer)
        return;
    std::memcpy(&answer, reply.data(), sizeof answer);
    if (answer.len != length || answer.error > 0 || (answer.error < 0 && length != sizeof answer))
        __builtin_trap();
    std::uint64_t value = 0;
    if (answer.error != 0 || length < sizeof answer + sizeof value)
        return;
    std::memcpy(&value, reply.data() + sizeof answer, sizeof value);
    (header.opcode == FUSE_OPEN || header.opcode == FUSE_OPENDIR ? known.handles : known.nodes)
        .push_back(value);
    if (header.opcode == FUSE_CREATE && length >= sizeof answer + sizeof(fuse_entry_out) + 8) {
        std::memcpy(&value, reply.data() + sizeof answer + sizeof(fuse_entry_out), sizeof value);
        known.handles.push_back(value);
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static std::unique_ptr<Share> share;
    static unsigned uses = 0;
    if (share == nullptr || ++uses % 500 == 0) {
        // Files stay small, whatever fallocate is asked for.
        const rlimit limit{1u << 20, 1u << 20};
        ::setrlimit(RLIMIT_FSIZE, &limit);
        share = std::make_unique<Share>();
    }
    Input input(std::as_bytes(std::span(data, size)));
    FsServer& server = (input.take<std::uint8_t>() & 1) != 0 ? *share->read_only : *share->writable;
    FuseClient client(server);
    Known known;
    for (int steps = 0; !input.empty() && steps < 64; ++steps)
        step(server, input, known);
    server.reset();
    return 0;
}
