// A client that means harm: ways out of the share, and messages that are not messages.
#include <atomic>
#include <random>
#include <thread>

#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <catch2/catch.hpp>

#include "virtio/backend/fs/inode_table.hpp"
#include "virtio/backend/fs/testing/fuse_client.hpp"

using namespace virtio;
using namespace virtio::fs::testing;

namespace {

constexpr std::uint64_t root = FUSE_ROOT_ID;

// The share is `dir`/share; `dir`/secret lies beside it.
struct Fortress {
    Fortress() {
        std::filesystem::create_directories(dir / "share/sub");
        dir.write("secret", "secret");
        server = serve({.path = dir / "share", .cache = Cache::None});
        client = std::make_unique<FuseClient>(*server);
    }
    TemporaryDirectory dir;
    std::unique_ptr<FsServer> server;
    std::unique_ptr<FuseClient> client;
};

} // namespace

TEST_CASE("names with slashes, dots or nothing in them are refused everywhere") {
    Fortress fortress;
    FuseClient& client = *fortress.client;
    for (const std::string name : {"../secret", "sub/..", "/etc/passwd", "/", "a/b"}) {
        CHECK(client.lookup(root, name).error == EINVAL);
        CHECK(client.create(root, name, O_RDWR).error == EINVAL);
        CHECK(client.mkdir(root, name).error == EINVAL);
        CHECK(client.call(FUSE_UNLINK, root, name).error == EINVAL);
        CHECK(client.call(FUSE_SYMLINK, root, name, "x").error == EINVAL);
        CHECK(client.rename(root, "sub", root, name).error == EINVAL);
        CHECK(client.rename(root, name, root, "x").error == EINVAL);
    }
    for (const std::string name : {"", ".", ".."}) {
        CHECK(client.create(root, name, O_RDWR).error != 0);
        CHECK(client.mkdir(root, name).error != 0);
        CHECK(client.call(FUSE_RMDIR, root, name).error != 0);
        CHECK(client.rename(root, "sub", root, name).error != 0);
    }
    CHECK(std::filesystem::exists(fortress.dir / "share/sub"));
}

TEST_CASE("the way up ends at the root of the share") {
    Fortress fortress;
    FuseClient& client = *fortress.client;
    const auto own = client.getattr(root).as<fuse_attr_out>().attr.ino;
    CHECK(client.lookup(root, "..").as<fuse_entry_out>().attr.ino == own);
    CHECK(client.lookup(root, ".").as<fuse_entry_out>().nodeid == root);
    const std::uint64_t sub = client.walk("sub");
    CHECK(client.lookup(sub, "..").as<fuse_entry_out>().nodeid == root);
    const auto fh = client.call(FUSE_OPENDIR, root, fuse_open_in{}).as<fuse_open_out>().fh;
    for (const ListedEntry& one : client.list(root, fh, false)) {
        if (one.name == "..")
            CHECK(one.number == own);
    }
}

TEST_CASE("a directory moved out of the share leads nowhere new") {
    Fortress fortress;
    FuseClient& client = *fortress.client;
    const std::uint64_t sub = client.walk("sub");
    std::filesystem::rename(fortress.dir / "share/sub", fortress.dir / "outside");
    CHECK(client.lookup(client.lookup(sub, "..").as<fuse_entry_out>().nodeid, "secret").error != 0);
    CHECK(client.lookup(sub, "secret").error != 0);
}

TEST_CASE("symbolic links are text, never followed") {
    Fortress fortress;
    FuseClient& client = *fortress.client;
    const std::string secret = fortress.dir / "secret";
    CHECK(client.call(FUSE_SYMLINK, root, "absolute", secret));
    CHECK(client.call(FUSE_SYMLINK, root, "relative", "../secret"));
    CHECK(client.call(FUSE_SYMLINK, root, "directory", ".."));
    CHECK(client.call(FUSE_SYMLINK, root, "magic", "/proc/self/root"));
    for (const char* name : {"absolute", "relative", "directory", "magic"}) {
        const auto link = client.lookup(root, name).as<fuse_entry_out>();
        CHECK(S_ISLNK(link.attr.mode));
        CHECK(client.open(link.nodeid, O_RDONLY).error == ELOOP);
        CHECK(client.open(link.nodeid, O_RDWR | O_TRUNC).error == ELOOP);
        CHECK(client.lookup(link.nodeid, "secret").error == ENOTDIR);
        CHECK(client.call(FUSE_OPENDIR, link.nodeid, fuse_open_in{}).error == ENOTDIR);
        CHECK(client.create(link.nodeid, "x", O_RDWR).error == ENOTDIR);
        CHECK(client.create(root, name, O_RDWR | O_TRUNC).error == ELOOP);
        CHECK(client.create(root, name, O_RDWR | O_EXCL).error == EEXIST);
        fuse_setattr_in in{};
        in.valid = FATTR_SIZE;
        CHECK(client.call(FUSE_SETATTR, link.nodeid, in).error == EINVAL);
    }
    CHECK(fortress.dir.read("secret") == "secret");
}

TEST_CASE("a file swapped for a link or a directory for a link is noticed") {
    Fortress fortress;
    fortress.dir.write("share/file", "harmless");
    // No descriptors are kept, so that each use goes by name.
    const auto server =
        serve({.path = fortress.dir / "share", .cache = Cache::None, .max_cached_fds = 8});
    FuseClient client(*server);
    fortress.dir.write("share/sub/secret", "harmless");
    const std::uint64_t file = client.walk("file");
    const std::uint64_t below = client.walk("sub/secret");
    for (int i = 0; i < 20; ++i)
        client.walk("", client.mkdir(root, "d" + std::to_string(i)).as<fuse_entry_out>().nodeid);
    for (int i = 0; i < 20; ++i)
        client.lookup(client.walk("d" + std::to_string(i)), "x");
    std::filesystem::remove(fortress.dir / "share/file");
    std::filesystem::create_symlink("../secret", fortress.dir / "share/file");
    std::filesystem::rename(fortress.dir / "share/sub", fortress.dir / "share/gone");
    std::filesystem::create_symlink("..", fortress.dir / "share/sub");
    CHECK(client.open(file, O_RDONLY).error == ESTALE);
    CHECK(client.getattr(file).error == ESTALE);
    CHECK(client.open(below, O_RDONLY).error == ESTALE);
}

TEST_CASE("pipes, sockets and devices of the host are never opened") {
    Fortress fortress;
    FuseClient& client = *fortress.client;
    ::mkfifo((fortress.dir / "share/fifo").c_str(), 0666);
    const int listener = ::socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::snprintf(address.sun_path, sizeof address.sun_path, "%s",
                  (fortress.dir / "share/socket").c_str());
    // SAFETY: how the sockets interface is.
    ::bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof address);
    ::close(listener);
    if (::geteuid() == 0)
        ::mknod((fortress.dir / "share/device").c_str(), S_IFCHR | 0666, ::makedev(1, 3));
    for (const char* name : {"fifo", "socket", "device"}) {
        const std::uint64_t node = client.walk(name);
        if (node == 0)
            continue;
        CHECK(client.open(node, O_RDONLY).error == ENXIO);
        CHECK(client.open(node, O_WRONLY).error == ENXIO);
        CHECK(client.create(root, name, O_RDWR).error == ENXIO);
        CHECK(client.getattr(node));
        fuse_setattr_in in{};
        in.valid = FATTR_MODE;
        in.mode = 0600;
        CHECK(client.call(FUSE_SETATTR, node, in));
    }
}

TEST_CASE("kernel file systems mounted below the share look like empty directories", "[root]") {
    if (::geteuid() != 0)
        return;
    const auto server = serve({.path = "/", .read_only = true});
    REQUIRE(server);
    FuseClient client(*server);
    const auto proc = client.lookup(root, "proc").as<fuse_entry_out>();
    REQUIRE(proc.nodeid != 0);
    CHECK(S_ISDIR(proc.attr.mode));
    CHECK(client.lookup(proc.nodeid, "self").error == ENOENT);
    CHECK(client.list(proc.nodeid, 0, true).size() == 2);
    CHECK(client.getattr(proc.nodeid));
    CHECK(client.call(FUSE_STATFS, proc.nodeid));
    CHECK(client.lookup(proc.nodeid, "..").as<fuse_entry_out>().nodeid == root);
    // The mapped number is not one of the root's own file system.
    CHECK((proc.attr.ino >> 63) == 1);
}

TEST_CASE("messages of every wrong length are answered or ignored, never believed") {
    Fortress fortress;
    FuseClient& client = *fortress.client;
    for (std::uint32_t opcode = 0; opcode < 60; ++opcode) {
        for (std::size_t length = 0; length < 200; length += 3) {
            std::vector<std::byte> message(sizeof(fuse_in_header) + length, std::byte{0xff});
            fuse_in_header header{};
            header.len = static_cast<std::uint32_t>(message.size());
            header.opcode = opcode;
            header.unique = 77;
            header.nodeid = root;
            std::memcpy(message.data(), &header, sizeof header);
            const Answer answer = client.exchange(message);
            if (answer.replied)
                CHECK(answer.unique == 77);
        }
        if (opcode == FUSE_INIT || opcode == FUSE_DESTROY)
            client.init();
    }
    std::vector<std::byte> message(sizeof(fuse_in_header));
    fuse_in_header header{};
    header.opcode = FUSE_GETATTR;
    for (const std::uint32_t length : {0u, 39u, 41u, 1u << 31, ~0u}) {
        header.len = length;
        std::memcpy(message.data(), &header, sizeof header);
        CHECK(client.exchange(message).error == EINVAL);
    }
    message.resize(10);
    CHECK_FALSE(client.exchange(message).replied);
    CHECK(client.call(1000, root).error == ENOSYS);
    CHECK(client.call(FUSE_IOCTL, root).error == ENOSYS);
    CHECK_FALSE(client.call(FUSE_INTERRUPT, root, std::uint64_t{1}).replied);
    CHECK(client.getattr(~std::uint64_t{0}).error == ESTALE);
    CHECK(client.getattr(0).error == ESTALE);
}

TEST_CASE("what the event loop is asked to forget at once has a bound") {
    Fortress fortress;
    FuseClient& client = *fortress.client;
    const std::uint64_t node = client.walk("sub");
    const auto forget = [&](std::uint32_t count) {
        const fuse_forget_one one{node, 1};
        const fuse_batch_forget_in batch{count, 0};
        fuse_in_header header{};
        header.len = static_cast<std::uint32_t>(sizeof header + sizeof batch + count * sizeof one);
        header.opcode = FUSE_BATCH_FORGET;
        std::vector<fuse_forget_one> entries(512, one);
        std::vector<struct iovec> in = {{&header, sizeof header},
                                        {const_cast<fuse_batch_forget_in*>(&batch), sizeof batch}};
        // The same memory over and over, as descriptors of a queue may be.
        for (std::uint32_t left = count; left != 0;) {
            const std::uint32_t here = std::min<std::uint32_t>(left, 512);
            in.push_back({entries.data(), here * sizeof one});
            left -= here;
        }
        CHECK(fortress.server->handle(in, {}, FsServer::Accept::Notices) == 0);
    };
    forget(1 << 16);
    CHECK(client.getattr(node));
    forget(512);
    CHECK(client.getattr(node).error == ESTALE);
}

TEST_CASE("a node whose key was taken by another file goes with the client") {
    TemporaryDirectory dir;
    // In a process of its own: a lock that is taken twice is waited for without end.
    const pid_t child = ::fork();
    if (child == 0) {
        ::alarm(60);
        UniqueFd directory(::open(dir.path().c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
        auto found = fs::stat_at(directory.get(), "");
        if (!found)
            ::_exit(1);
        fs::InodeTable table(std::move(directory), *found, 8, 1024, true);
        // As a file system without times of birth gives a number again.
        found->stx_ino += 1;
        const auto fd = std::make_shared<fs::HostFd>(UniqueFd(::open("/dev/null", O_RDONLY)));
        if (!table.adopt(*found, fd) || !table.adopt(*found, fd))
            ::_exit(2);
        table.clear();
        ::_exit(table.size() == 1 ? 0 : 3); // the root
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
}

TEST_CASE("a reply that has no room changes nothing") {
    Fortress fortress;
    FuseClient& client = *fortress.client;
    client.reply_room = sizeof(fuse_out_header) + 10;
    CHECK(client.mkdir(root, "dir").error == EINVAL);
    client.reply_room = 3;
    CHECK_FALSE(client.mkdir(root, "dir").replied);
    CHECK_FALSE(std::filesystem::exists(fortress.dir / "share/dir"));
}

TEST_CASE("a path deeper than any stack is walked and forgotten") {
    Fortress fortress;
    FuseClient& client = *fortress.client;
    std::vector<std::uint64_t> nodes = {root};
    for (int i = 0; i < 3000; ++i)
        nodes.push_back(client.mkdir(nodes.back(), "d").as<fuse_entry_out>().nodeid);
    CHECK(nodes.back() != 0);
    for (std::size_t i = 1; i + 1 < nodes.size(); ++i)
        client.forget(nodes[i], 1);
    CHECK(client.getattr(nodes.back()));
    client.forget(nodes.back(), 1);
    CHECK(client.getattr(nodes.back()).error == ESTALE);
    // remove_all() recurses with paths that grow too long.
    for (int i = 0; i < 3000; ++i) {
        client.rename(root, "d", root, "top");
        client.rename(client.walk("top"), "d", root, "d");
        client.call(FUSE_RMDIR, root, "top");
    }
}

TEST_CASE("many threads that rename, open, read and forget find nothing foreign", "[stress]") {
    Fortress fortress;
    const auto server =
        serve({.path = fortress.dir / "share", .cache = Cache::None, .max_cached_fds = 16});
    { FuseClient first(*server); }
    for (int i = 0; i < 8; ++i) {
        std::filesystem::create_directories(fortress.dir / ("share/d" + std::to_string(i)));
        fortress.dir.write("share/d" + std::to_string(i) + "/file", "harmless");
    }
    std::atomic<bool> done{false};
    std::atomic<unsigned> reads{0};
    std::atomic<unsigned> foreign{0};
    // The host's side of the race: what was a file becomes a link to the secret, and back.
    std::thread swapper([&] {
        const std::string at = fortress.dir / "share/swapped";
        while (!done) {
            std::filesystem::remove(at);
            std::filesystem::create_symlink("../secret", at);
            std::filesystem::remove(at);
            fortress.dir.write("share/swapped", "harmless");
        }
    });
    const auto reader = [&](unsigned seed) {
        FuseClient client(*server, false);
        client.reply_room = 4096;
        std::minstd_rand random(seed);
        for (int round = 0; round < 1500; ++round) {
            const std::string dir = "d" + std::to_string(random() % 8);
            const std::string other = "d" + std::to_string(random() % 8);
            const std::uint64_t node = client.walk(round % 2 == 0 ? dir + "/file" : "swapped");
            if (node == 0)
                continue;
            const Answer opened = client.open(node, O_RDONLY);
            if (opened) {
                const auto fh = opened.as<fuse_open_out>().fh;
                const std::string text = client.read(node, fh, 0, 100).text();
                reads += text == "harmless" ? 1 : 0;
                foreign += text.find("secret") != std::string::npos ? 1 : 0;
                client.release(node, fh);
            }
            client.rename(root, dir, root, other, 2 /* RENAME_EXCHANGE */);
            const auto stream = client.call(FUSE_OPENDIR, root, fuse_open_in{});
            if (stream) {
                client.list(root, stream.as<fuse_open_out>().fh, true);
                fuse_release_in in{};
                in.fh = stream.as<fuse_open_out>().fh;
                client.call(FUSE_RELEASEDIR, root, in);
            }
            client.forget(node, 1);
        }
    };
    std::vector<std::thread> readers;
    for (unsigned i = 0; i < 4; ++i)
        readers.emplace_back(reader, i + 1);
    for (std::thread& thread : readers)
        thread.join();
    done = true;
    swapper.join();
    CHECK(foreign == 0);
    CHECK(reads > 100);
}
