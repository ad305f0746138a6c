// Requests per second of the FUSE server, without a guest: what it adds to a round trip.
//   fs_server_bench [DIRECTORY]     default: /usr
#include <cstdio>
#include <ctime>
#include <dirent.h>
#include <string>
#include <vector>

#include "virtio/backend/fs/testing/fuse_client.hpp"

using namespace virtio;
using namespace virtio::fs::testing;

// CPU time of the process: nothing here waits, and the machine may be busy with other things.
struct Clock {
    using time_point = double;
    static time_point now() {
        timespec time{};
        ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
        return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
    }
};

namespace {

// A request as a driver would send it: header and arguments in one piece, the reply in two.
class Bench {
public:
    explicit Bench(FsServer& server) : server_(server) {}

    template <typename T>
    std::size_t call(std::uint32_t opcode, std::uint64_t node, const T& arguments,
                     std::string_view name = {}) {
        std::byte message[512];
        fuse_in_header header{};
        header.len = static_cast<std::uint32_t>(sizeof header + sizeof arguments + name.size() +
                                                (name.empty() ? 0 : 1));
        header.opcode = opcode;
        header.nodeid = node;
        std::memcpy(message, &header, sizeof header);
        std::memcpy(message + sizeof header, &arguments, sizeof arguments);
        std::memcpy(message + sizeof header + sizeof arguments, name.data(), name.size());
        message[sizeof header + sizeof arguments + name.size()] = std::byte{0};
        const struct iovec in[] = {{message, header.len}};
        const struct iovec out[] = {{&answer_, sizeof answer_}, {reply_.data(), reply_.size()}};
        const std::size_t length = server_.handle(in, out);
        return length < sizeof answer_ ? 0 : length - sizeof answer_;
    }
    std::size_t lookup(std::uint64_t node, std::string_view name) {

        std::byte message[512];
        fuse_in_header header{};
        header.len = static_cast<std::uint32_t>(sizeof header + name.size() + 1);
        header.opcode = FUSE_LOOKUP;
        header.nodeid = node;
        std::memcpy(message, &header, sizeof header);
        std::memcpy(message + sizeof header, name.data(), name.size());
        message[sizeof header + name.size()] = std::byte{0};
        const struct iovec in[] = {{message, header.len}};
        const struct iovec out[] = {{&answer_, sizeof answer_}, {reply_.data(), reply_.size()}};
        return server_.handle(in, out);
    }
    int error() const { return -answer_.error; }
    template <typename T>
    T body(std::size_t at = 0) const {
        T out;
        std::memcpy(&out, reply_.data() + at, sizeof out);
        return out;
    }
    std::string name(std::size_t at, std::size_t length) const {
        // SAFETY: bytes seen as the characters that they are.
        return {reinterpret_cast<const char*>(reply_.data() + at), length};
    }

private:
    FsServer& server_;
    fuse_out_header answer_{};
    std::vector<std::byte> reply_ = std::vector<std::byte>(fs_max_transfer);
};

double seconds_since(Clock::time_point start) {
    return Clock::now() - start;
}

void report(const char* what, std::size_t count, double seconds, double bytes = 0) {
    std::printf("%-28s %9.0f /s   %7.2f us each", what, static_cast<double>(count) / seconds,
                seconds / static_cast<double>(count) * 1e6);
    if (bytes > 0)
        std::printf("   %7.0f MB/s", bytes / seconds / 1e6);
    std::printf("\n");
}

template <typename F>
void measure(const char* what, std::size_t count, double bytes_each, F&& request) {
    const auto start = Clock::now();
    for (std::size_t i = 0; i < count; ++i)
        request(i);
    report(what, count, seconds_since(start), bytes_each * static_cast<double>(count));
}

// All of a tree, as `find` would: READDIRPLUS of each directory. Returns the number of entries.
std::size_t walk_tree(Bench& bench, std::uint64_t node, std::size_t& requests) {
    std::size_t entries = 0;
    std::vector<std::uint64_t> below;
    fuse_read_in in{};
    in.size = 65536;
    for (;;) {
        const std::size_t length = bench.call(FUSE_READDIRPLUS, node, in);
        ++requests;
        if (length == 0)
            break;
        for (std::size_t at = 0; at < length;) {
            const auto entry = bench.body<fuse_direntplus>(at);
            ++entries;
            if (entry.dirent.type == DT_DIR && entry.entry_out.nodeid != 0)
                below.push_back(entry.entry_out.nodeid);
            in.offset = entry.dirent.off;
            at += FUSE_DIRENTPLUS_SIZE(&entry);
        }
    }
    for (const std::uint64_t next : below)
        entries += walk_tree(bench, next, requests);
    return entries;
}

} // namespace

int main(int argc, char** argv) {
    const std::string directory = argc > 1 ? argv[1] : "/usr";
    auto server = FsServer::create({.path = directory, .read_only = true, .cache = Cache::Always});
    if (!server) {
        std::fprintf(stderr, "%s: %s\n", directory.c_str(), server.error().action);
        return 1;
    }
    FuseClient(**server).init();
    Bench bench(**server);

    for (const char* round : {"cold nodes", "warm nodes"}) {
        std::size_t requests = 0;
        const auto start = Clock::now();
        const std::size_t entries = walk_tree(bench, FUSE_ROOT_ID, requests);
        std::printf("READDIRPLUS of the tree, %s: %zu entries, %zu requests\n", round, entries,
                    requests);
        report("  entries", entries, seconds_since(start));
    }

    TemporaryDirectory temporary;
    temporary.write("file", std::string(16u << 20, 'x'));
    auto other =
        FsServer::create({.path = temporary.path(), .read_only = true, .cache = Cache::Always});
    if (!other)
        return 1;
    FuseClient(**other).init();
    Bench files(**other);
    constexpr std::size_t count = 200'000;
    measure("LOOKUP, there", count, 0, [&](std::size_t) { files.lookup(FUSE_ROOT_ID, "file"); });
    const auto node = files.body<fuse_entry_out>().nodeid;
    measure("LOOKUP, missing", count, 0, [&](std::size_t) { files.lookup(FUSE_ROOT_ID, "none"); });
    measure("GETATTR", count, 0,
            [&](std::size_t) { files.call(FUSE_GETATTR, node, fuse_getattr_in{}); });
    for (const std::uint32_t size : {4096u, 131072u, 1048576u}) {
        const std::string name = "READ " + std::to_string(size / 1024) + "K";
        measure(name.c_str(), (std::size_t{4} << 30) / (size + 65536) / 4, size,
                [&](std::size_t i) {
                    fuse_read_in in{};
                    in.size = size;
                    in.offset = i * size % (16u << 20);
                    files.call(FUSE_READ, node, in);
                });
    }
    return 0;
}
