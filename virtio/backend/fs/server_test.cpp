// Every operation through the byte interface, on a temporary directory.
#include <algorithm>
#include <dirent.h>
#include <set>

#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/xattr.h>

#include <catch2/catch.hpp>

#include "virtio/backend/fs/fd_cache.hpp"
#include "virtio/backend/fs/testing/fuse_client.hpp"
#include "virtio/backend/fs/xattrs.hpp"

using namespace virtio;
using namespace virtio::fs::testing;

namespace {

constexpr std::uint64_t root = FUSE_ROOT_ID;

struct Writable {
    TemporaryDirectory dir;
    std::unique_ptr<FsServer> server = serve({.path = dir.path(), .cache = Cache::Auto});
    FuseClient client{*server};
};

struct ReadOnly {
    TemporaryDirectory dir;
    std::unique_ptr<FsServer> server =
        serve({.path = dir.path(), .read_only = true, .cache = Cache::Always});
    FuseClient client{*server};
};

struct stat host_stat(const std::string& path) {
    struct stat found {};
    ::lstat(path.c_str(), &found);
    return found;
}

std::set<std::string> names(const std::vector<ListedEntry>& entries) {
    std::set<std::string> out;
    for (const ListedEntry& entry : entries)
        out.insert(entry.name);
    return out;
}

// An overlay of `dir`/lower that is mounted nowhere, and gone with its descriptor; none where that
// is not allowed.
UniqueFd make_overlay(const TemporaryDirectory& dir) {
    const UniqueFd made(::fsopen("overlay", FSOPEN_CLOEXEC));
    if (!made)
        return {};
    for (const char* part : {"lower", "upper", "work"}) {
        const std::string option = std::string(part) + "dir";
        if (::fsconfig(made.get(), FSCONFIG_SET_STRING, option.c_str(), (dir / part).c_str(), 0) !=
            0)
            return {};
    }
    if (::fsconfig(made.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
        return {};
    return UniqueFd(::fsmount(made.get(), FSMOUNT_CLOEXEC, 0));
}

// What is made later is younger by the clock of file systems, too.
void let_time_pass() {
    ::usleep(50'000);
}

} // namespace

TEST_CASE("INIT agrees on 1 MiB requests and on what a share offers") {
    Writable share;
    const Answer answer = share.client.init();
    REQUIRE(answer);
    const auto out = answer.as<fuse_init_out>();
    CHECK(out.major == 7);
    CHECK(out.minor >= 36);
    CHECK(out.max_write == fs_max_transfer);
    CHECK(out.max_pages == 256);
    CHECK((out.flags & FUSE_DO_READDIRPLUS) != 0);
    CHECK((out.flags & FUSE_ATOMIC_O_TRUNC) != 0);
    CHECK((out.flags & FUSE_NO_OPEN_SUPPORT) == 0);
    CHECK((out.flags & FUSE_POSIX_ACL) == 0);
    CHECK((share.client.init(FUSE_BIG_WRITES).as<fuse_init_out>().flags) == FUSE_BIG_WRITES);
}

TEST_CASE("INIT refuses a client that is too old and tells a newer one the version") {
    Writable share;
    fuse_init_in in{};
    in.major = 7;
    in.minor = 12;
    CHECK(share.client.call(FUSE_INIT, 0, in).error == EPROTO);
    in.major = 8;
    CHECK(share.client.call(FUSE_INIT, 0, in).as<std::uint32_t>() == 7);
}

TEST_CASE("nothing is served before INIT") {
    TemporaryDirectory dir;
    const auto server = serve({.path = dir.path()});
    FuseClient client(*server, false);
    CHECK(client.getattr(root).error == EIO);
}

TEST_CASE("LOOKUP and GETATTR show what the host has") {
    Writable share;
    share.dir.write("file", "hello");
    ::chmod((share.dir / "file").c_str(), 0640);
    const auto host = host_stat(share.dir / "file");
    const auto found = share.client.lookup(root, "file").as<fuse_entry_out>();
    CHECK(found.attr.ino == host.st_ino);
    CHECK(found.attr.size == 5);
    CHECK(found.attr.mode == host.st_mode);
    CHECK(found.attr.uid == host.st_uid);
    CHECK(found.attr.mtimensec == host.st_mtim.tv_nsec);
    CHECK(found.attr_valid == 1);
    const auto again = share.client.getattr(found.nodeid).as<fuse_attr_out>();
    CHECK(again.attr.ino == host.st_ino);
    CHECK(share.client.lookup(root, "file").as<fuse_entry_out>().nodeid == found.nodeid);
    CHECK(share.client.lookup(root, "missing").error == ENOENT);
    CHECK(share.client.lookup(found.nodeid, "below").error == ENOTDIR);
    CHECK(share.client.lookup(root, std::string(255, 'n')).error == ENOENT);
    CHECK(share.client.lookup(root, std::string(256, 'n')).error == ENAMETOOLONG);
}

TEST_CASE("a stable share lets missing names be remembered") {
    ReadOnly share;
    const Answer answer = share.client.lookup(root, "missing");
    REQUIRE(answer);
    CHECK(answer.as<fuse_entry_out>().nodeid == 0);
    CHECK(answer.as<fuse_entry_out>().entry_valid >= 3600);
}

TEST_CASE("a node is known until all its lookups are forgotten") {
    Writable share;
    share.dir.write("file", "");
    const std::uint64_t node = share.client.walk("file");
    CHECK(share.client.walk("file") == node);
    share.client.forget(node, 1);
    CHECK(share.client.getattr(node));
    share.client.forget(node, 1);
    CHECK(share.client.getattr(node).error == ESTALE);
    CHECK(share.client.walk("file") != 0);
    share.client.forget(root, 1000);
    CHECK(share.client.getattr(root));
}

TEST_CASE("BATCH_FORGET forgets several") {
    Writable share;
    share.dir.write("a", "");
    share.dir.write("b", "");
    const std::uint64_t a = share.client.walk("a");
    const std::uint64_t b = share.client.walk("b");
    const fuse_forget_one both[] = {{a, 1}, {b, 1}};
    CHECK_FALSE(
        share.client.call(FUSE_BATCH_FORGET, 0, fuse_batch_forget_in{2, 0}, both[0], both[1])
            .replied);
    CHECK(share.client.getattr(a).error == ESTALE);
    CHECK(share.client.getattr(b).error == ESTALE);
}

TEST_CASE("a forgotten directory is found again from a child that is still known") {
    Writable share;
    std::filesystem::create_directories(share.dir / "a/b");
    share.dir.write("a/b/file", "text");
    const std::uint64_t a = share.client.walk("a");
    const std::uint64_t b = share.client.walk("b", a);
    const std::uint64_t file = share.client.walk("file", b);
    share.client.forget(a, 1);
    share.client.forget(b, 1);
    CHECK(share.client.getattr(file).as<fuse_attr_out>().attr.size == 4);
    CHECK(share.client.walk("a") == a);
}

TEST_CASE("more nodes are reachable than descriptors are kept") {
    TemporaryDirectory dir;
    for (int i = 0; i < 100; ++i) {
        std::filesystem::create_directories(dir / (std::to_string(i) + "/x/y"));
        dir.write(std::to_string(i) + "/x/y/file", std::to_string(i));
    }
    const auto server = serve({.path = dir.path(), .max_cached_fds = 8});
    FuseClient client(*server);
    std::vector<std::uint64_t> nodes;
    for (int i = 0; i < 100; ++i)
        nodes.push_back(client.walk(std::to_string(i) + "/x/y/file"));
    for (std::size_t i = 0; i < nodes.size(); ++i) {
        const auto opened = client.open(nodes[i], O_RDONLY).as<fuse_open_out>();
        CHECK(client.read(nodes[i], opened.fh, 0, 100).text() == std::to_string(i));
    }
}

TEST_CASE("open files leave descriptors for the rest of the process") {
    constexpr std::size_t most = 32;
    TemporaryDirectory dir;
    for (std::size_t i = 0; i < most; ++i)
        dir.write(std::to_string(i), std::to_string(i));
    const auto server = serve({.path = dir.path(), .max_cached_fds = 8, .max_fds = most});
    FuseClient client(*server);
    std::vector<std::pair<std::uint64_t, std::uint64_t>> files; // node and handle
    Answer refused;
    std::uint64_t node = 0;
    for (std::size_t i = 0; i < most; ++i) {
        node = client.walk(std::to_string(i));
        refused = client.open(node, O_RDWR);
        if (!refused)
            break;
        files.emplace_back(node, refused.as<fuse_open_out>().fh);
    }
    CHECK(refused.error == ENFILE);
    CHECK(fs::HostFd::count() <= most);
    REQUIRE(files.size() > 1);
    fuse_release_in in{};
    in.fh = files.back().second;
    CHECK(client.call(FUSE_RELEASE, files.back().first, in));
    CHECK(client.open(node, O_RDWR));
    CHECK(client.read(files.front().first, files.front().second, 0, 4).text() == "0");
}

TEST_CASE("a file replaced on the host is a new node, and the old one is stale") {
    Writable share;
    share.dir.write("file", "old");
    const std::uint64_t old_node = share.client.walk("file");
    share.dir.write("new", "newer");
    std::filesystem::rename(share.dir / "new", share.dir / "file");
    CHECK(share.client.getattr(old_node).error == ESTALE);
    const auto found = share.client.lookup(root, "file").as<fuse_entry_out>();
    CHECK(found.nodeid != old_node);
    CHECK(found.attr.size == 5);
}

TEST_CASE("what a change copies up in an overlay of the host stays the same node", "[root]") {
    TemporaryDirectory dir;
    for (const char* part : {"lower/d", "lower/many", "upper", "work"})
        std::filesystem::create_directories(dir / part);
    dir.write("lower/d/file", "old");
    for (int i = 0; i < 40; ++i)
        dir.write("lower/many/" + std::to_string(i), "");
    UniqueFd overlay = make_overlay(dir);
    if (!overlay)
        return;
    const auto server = serve({.directory = std::move(overlay), .max_cached_fds = 8});
    REQUIRE(server);
    FuseClient client(*server);
    const std::uint64_t directory = client.walk("d");
    const std::uint64_t file = client.walk("file", directory);
    const auto number = client.getattr(file).as<fuse_attr_out>().attr.ino;
    REQUIRE(number != 0);
    let_time_pass();

    const auto opened = client.open(file, O_WRONLY | O_APPEND).as<fuse_open_out>();
    CHECK(client.write(file, opened.fh, 3, " and new"));
    CHECK(client.create(directory, "other", O_WRONLY));
    CHECK(client.getattr(directory));
    CHECK(client.getattr(file).as<fuse_attr_out>().attr.size == 11);
    client.release(file, opened.fh);
    // With no descriptor left, both are found by their names.
    const std::uint64_t many = client.walk("many");
    for (int i = 0; i < 40; ++i)
        REQUIRE(client.open(client.walk(std::to_string(i), many), O_RDONLY));
    CHECK(client.getattr(file).as<fuse_attr_out>().attr.ino == number);
    CHECK(client.walk("d") == directory);
    CHECK(client.walk("d/file") == file);
}

TEST_CASE("SETATTR changes size, mode, owner and times") {
    Writable share;
    share.dir.write("file", "hello world");
    const std::uint64_t node = share.client.walk("file");
    fuse_setattr_in in{};
    in.valid = FATTR_SIZE | FATTR_MODE | FATTR_MTIME;
    in.size = 5;
    in.mode = 0604;
    in.mtime = 1234567;
    in.mtimensec = 89;
    const Answer answer = share.client.call(FUSE_SETATTR, node, in);
    REQUIRE(answer);
    CHECK(answer.as<fuse_attr_out>().attr.size == 5);
    const auto host = host_stat(share.dir / "file");
    CHECK(share.dir.read("file") == "hello");
    CHECK((host.st_mode & 07777) == 0604);
    CHECK(host.st_mtim.tv_sec == 1234567);
    CHECK(host.st_mtim.tv_nsec == 89);
    in.valid = FATTR_UID | FATTR_GID;
    in.uid = ::geteuid();
    in.gid = ::getegid();
    CHECK(share.client.call(FUSE_SETATTR, node, in));
    in.valid = FATTR_SIZE;
    CHECK(share.client.call(FUSE_SETATTR, root, in).error == EISDIR);
    in.size = ~std::uint64_t{0};
    CHECK(share.client.call(FUSE_SETATTR, node, in).error == EFBIG);
}

TEST_CASE("SETATTR on a symbolic link changes the link, and has no mode to change") {
    Writable share;
    share.dir.write("target", "");
    std::filesystem::create_symlink("target", share.dir / "link");
    const std::uint64_t node = share.client.walk("link");
    fuse_setattr_in in{};
    in.valid = FATTR_MTIME;
    in.mtime = 42;
    CHECK(share.client.call(FUSE_SETATTR, node, in));
    CHECK(host_stat(share.dir / "link").st_mtim.tv_sec == 42);
    CHECK(host_stat(share.dir / "target").st_mtim.tv_sec != 42);
    in.valid = FATTR_MODE;
    CHECK(share.client.call(FUSE_SETATTR, node, in).error == EOPNOTSUPP);
}

TEST_CASE("files are created, written, read and closed") {
    Writable share;
    const Answer created = share.client.create(root, "file", O_RDWR | O_CREAT | O_EXCL, 0640);
    REQUIRE(created);
    const auto node = created.as<fuse_entry_out>().nodeid;
    const auto fh = created.as<fuse_open_out>(sizeof(fuse_entry_out)).fh;
    CHECK(share.client.write(node, fh, 0, "hello world").as<fuse_write_out>().size == 11);
    CHECK(share.client.read(node, fh, 6, 100).text() == "world");
    CHECK(share.client.read(node, fh, 100, 100).text().empty());
    CHECK(share.dir.read("file") == "hello world");
    CHECK((host_stat(share.dir / "file").st_mode & 07777) == 0640);
    fuse_fsync_in sync{};
    sync.fh = fh;
    CHECK(share.client.call(FUSE_FSYNC, node, sync));
    fuse_flush_in flush{};
    flush.fh = fh;
    CHECK(share.client.call(FUSE_FLUSH, node, flush));
    CHECK(share.client.release(node, fh));
    CHECK(share.client.release(node, fh).error == EBADF);
    CHECK(share.client.read(node, fh, 0, 1).error == EBADF);
    CHECK(share.client.create(root, "file", O_RDWR | O_CREAT | O_EXCL).error == EEXIST);
    CHECK(share.client.create(root, "file", O_RDWR | O_CREAT | O_TRUNC));
    CHECK(share.dir.read("file").empty());
}

TEST_CASE("a megabyte goes through in one request, at any alignment") {
    Writable share;
    std::string data(fs_max_transfer, '\0');
    for (std::size_t i = 0; i < data.size(); ++i)
        data[i] = static_cast<char>(i * 7 + i / 251);
    const Answer created = share.client.create(root, "big", O_RDWR);
    const auto node = created.as<fuse_entry_out>().nodeid;
    const auto fh = created.as<fuse_open_out>(sizeof(fuse_entry_out)).fh;
    CHECK(share.client.write(node, fh, 3, data).as<fuse_write_out>().size == data.size());
    CHECK(share.client.read(node, fh, 3, fs_max_transfer).text() == data);
}

TEST_CASE("OPEN keeps to the access mode, truncates, and tells unchanged contents") {
    Writable share;
    share.dir.write("file", "text");
    const std::uint64_t node = share.client.walk("file");
    const auto first = share.client.open(node, O_RDONLY).as<fuse_open_out>();
    CHECK((first.open_flags & FOPEN_KEEP_CACHE) == 0);
    CHECK((share.client.open(node, O_RDONLY).as<fuse_open_out>().open_flags & FOPEN_KEEP_CACHE) !=
          0);
    CHECK(share.client.write(node, first.fh, 0, "x").error == EBADF);
    const auto writer = share.client.open(node, O_WRONLY).as<fuse_open_out>();
    CHECK(share.client.read(node, writer.fh, 0, 1).error == EBADF);
    CHECK(share.client.write(node, writer.fh, 4, "more"));
    CHECK((share.client.open(node, O_RDONLY).as<fuse_open_out>().open_flags & FOPEN_KEEP_CACHE) ==
          0);
    CHECK(share.client.open(node, O_WRONLY | O_TRUNC));
    CHECK(share.dir.read("file").empty());
    CHECK(share.client.open(root, O_RDONLY).error == EISDIR);
}

TEST_CASE("a handle belongs to its node and its kind") {
    Writable share;
    share.dir.write("a", "a");
    share.dir.write("b", "b");
    const std::uint64_t a = share.client.walk("a");
    const std::uint64_t b = share.client.walk("b");
    const auto fh = share.client.open(a, O_RDONLY).as<fuse_open_out>().fh;
    CHECK(share.client.read(b, fh, 0, 1).error == EBADF);
    fuse_release_in in{};
    in.fh = fh;
    CHECK(share.client.call(FUSE_RELEASEDIR, a, in).error == EBADF);
    CHECK(share.client.read(a, 0, 0, 1).error == EBADF);
    CHECK(share.client.read(a, ~std::uint64_t{0}, 0, 1).error == EBADF);
}

TEST_CASE("an open file lives on without a name") {
    Writable share;
    share.dir.write("file", "text");
    const std::uint64_t node = share.client.walk("file");
    const auto fh = share.client.open(node, O_RDWR).as<fuse_open_out>().fh;
    CHECK(share.client.call(FUSE_UNLINK, root, "file"));
    CHECK(share.client.getattr(node).as<fuse_attr_out>().attr.nlink == 0);
    CHECK(share.client.read(node, fh, 0, 10).text() == "text");
    fuse_setattr_in in{};
    in.valid = FATTR_SIZE | FATTR_MODE;
    in.size = 2;
    in.mode = 0600;
    CHECK(share.client.call(FUSE_SETATTR, node, in).as<fuse_attr_out>().attr.size == 2);
}

TEST_CASE("an open directory lives on without a name") {
    TemporaryDirectory dir;
    std::filesystem::create_directory(dir / "d");
    for (int i = 0; i < 40; ++i)
        dir.write(std::to_string(i), "");
    const auto server = serve({.path = dir.path(), .max_cached_fds = 8});
    FuseClient client(*server);
    const std::uint64_t node = client.walk("d");
    REQUIRE(client.call(FUSE_OPENDIR, node, fuse_open_in{}));
    CHECK(client.call(FUSE_RMDIR, root, "d"));
    for (int i = 0; i < 40; ++i)
        REQUIRE(client.open(client.walk(std::to_string(i)), O_RDONLY));
    CHECK(client.getattr(node));
}

TEST_CASE("what is left of a file when one of its names goes is still its node") {
    Writable share;
    FuseClient& client = share.client;
    share.dir.write("a", "text");
    for (const char* name : {"b", "c"})
        std::filesystem::create_hard_link(share.dir / "a", share.dir / name);
    const std::uint64_t node = client.walk("a");
    REQUIRE(client.walk("b") == node);
    CHECK(client.call(FUSE_UNLINK, root, "b"));
    CHECK(client.getattr(node).as<fuse_attr_out>().attr.nlink == 2);

    share.dir.write("new", "");
    client.call(FUSE_DESTROY, 0);
    client.init();
    const std::uint64_t again = client.walk("a");
    REQUIRE(client.walk("c") == again);
    CHECK(client.rename(root, "new", root, "c"));
    CHECK(client.getattr(again).as<fuse_attr_out>().attr.nlink == 1);
}

TEST_CASE("a pipe and a directory that somebody is in have attributes without a name") {
    Writable share;
    FuseClient& client = share.client;
    REQUIRE(::mkfifo((share.dir / "pipe").c_str(), 0600) == 0);
    const std::uint64_t pipe = client.walk("pipe");
    CHECK(client.call(FUSE_UNLINK, root, "pipe"));
    CHECK(S_ISFIFO(client.getattr(pipe).as<fuse_attr_out>().attr.mode));
    std::filesystem::create_directory(share.dir / "d");
    const std::uint64_t directory = client.walk("d");
    CHECK(client.call(FUSE_RMDIR, root, "d"));
    CHECK(S_ISDIR(client.getattr(directory).as<fuse_attr_out>().attr.mode));
    // A file with contents does not stay on the disk for it.
    share.dir.write("file", "text");
    const std::uint64_t file = client.walk("file");
    CHECK(client.call(FUSE_UNLINK, root, "file"));
    CHECK(client.getattr(file).error == ESTALE);
}

TEST_CASE("directories, links and special files are made and removed") {
    Writable share;
    const auto dir = share.client.mkdir(root, "dir", 01750).as<fuse_entry_out>();
    CHECK((dir.attr.mode & 07777) == 01750);
    CHECK(share.client.mkdir(root, "dir").error == EEXIST);
    CHECK(share.client.call(FUSE_SYMLINK, dir.nodeid, "link", "../some/where"));
    const std::uint64_t link = share.client.walk("dir/link");
    CHECK(share.client.call(FUSE_READLINK, link).text() == "../some/where");
    CHECK(share.client.call(FUSE_READLINK, root).error == EINVAL);

    fuse_mknod_in fifo{};
    fifo.mode = S_IFIFO | 0666;
    fifo.umask = 022;
    const auto made = share.client.call(FUSE_MKNOD, root, fifo, "fifo").as<fuse_entry_out>();
    CHECK(made.attr.mode == (S_IFIFO | 0644));
    fuse_mknod_in device{};
    device.mode = S_IFCHR | 0666;
    device.rdev = 0x103;
    CHECK(share.client.call(FUSE_MKNOD, root, device, "null").error == EPERM);

    share.dir.write("file", "text");
    const std::uint64_t file = share.client.walk("file");
    const auto linked =
        share.client.call(FUSE_LINK, dir.nodeid, fuse_link_in{file}, "hard").as<fuse_entry_out>();
    CHECK(linked.nodeid == file);
    CHECK(linked.attr.nlink == 2);
    CHECK(share.client.call(FUSE_LINK, root, fuse_link_in{link}, "link2"));
    CHECK(S_ISLNK(host_stat(share.dir / "link2").st_mode));

    CHECK(share.client.call(FUSE_RMDIR, root, "dir").error == ENOTEMPTY);
    CHECK(share.client.call(FUSE_UNLINK, root, "dir").error == EISDIR);
    CHECK(share.client.call(FUSE_UNLINK, dir.nodeid, "hard"));
    CHECK(share.client.call(FUSE_UNLINK, dir.nodeid, "link"));
    CHECK(share.client.call(FUSE_RMDIR, root, "dir"));
    CHECK(share.client.call(FUSE_RMDIR, root, "fifo").error == ENOTDIR);
    CHECK(share.client.getattr(file).as<fuse_attr_out>().attr.nlink == 1);
}

TEST_CASE("a renamed directory takes its nodes with it, even when no descriptor is left") {
    TemporaryDirectory dir;
    const auto server = serve({.path = dir.path(), .max_cached_fds = 8});
    FuseClient client(*server);
    std::filesystem::create_directories(dir / "a/b");
    std::filesystem::create_directories(dir / "to");
    dir.write("a/b/file", "text");
    for (int i = 0; i < 20; ++i)
        std::filesystem::create_directories(dir / ("other" + std::to_string(i)));
    const std::uint64_t file = client.walk("a/b/file");
    CHECK(client.rename(root, "a", client.walk("to"), "moved"));
    for (int i = 0; i < 20; ++i)
        client.lookup(client.walk("other" + std::to_string(i)), "x");
    const auto opened = client.open(file, O_RDONLY).as<fuse_open_out>();
    CHECK(client.read(file, opened.fh, 0, 10).text() == "text");
    CHECK(client.rename(root, "missing", root, "x").error == ENOENT);
    CHECK(client.rename(root, "to", client.walk("to"), "in-itself").error == EINVAL);
}

TEST_CASE("RENAME2 exchanges, and does not replace when told so") {
    Writable share;
    share.dir.write("a", "contents of a");
    share.dir.write("b", "b");
    const std::uint64_t a = share.client.walk("a");
    CHECK(share.client.rename(root, "a", root, "b", 1 /* RENAME_NOREPLACE */).error == EEXIST);
    CHECK(share.client.rename(root, "a", root, "b", 2 /* RENAME_EXCHANGE */));
    CHECK(share.dir.read("b") == "contents of a");
    CHECK(share.client.getattr(a).as<fuse_attr_out>().attr.size == 13);
    CHECK(share.client.walk("b") == a);
    CHECK(share.client.rename(root, "a", root, "b", 0x80).error == EINVAL);
}

TEST_CASE("READDIR and READDIRPLUS list every entry once, whatever the buffer") {
    Writable share;
    std::set<std::string> expected = {".", ".."};
    for (int i = 0; i < 300; ++i) {
        const std::string name = "entry-with-number-" + std::to_string(i);
        share.dir.write(name, std::string(static_cast<std::size_t>(i), 'x'));
        expected.insert(name);
    }
    const auto fh = share.client.call(FUSE_OPENDIR, root, fuse_open_in{}).as<fuse_open_out>().fh;
    for (const std::uint32_t size : {300u, 4096u, 65536u}) {
        CHECK(names(share.client.list(root, fh, false, size)) == expected);
        const auto plus = share.client.list(root, fh, true, size);
        CHECK(plus.size() == expected.size());
        CHECK(names(plus) == expected);
        for (const ListedEntry& one : plus) {
            if (one.name == "." || one.name == "..") {
                CHECK(one.entry.nodeid == 0);
                CHECK(one.type == DT_DIR);
                continue;
            }
            CHECK(one.type == DT_REG);
            CHECK(one.number == one.entry.attr.ino);
            CHECK(one.entry.attr.size == std::stoul(one.name.substr(18)));
        }
    }
    CHECK(share.client.list(root, fh, false, 16).empty());
    fuse_release_in in{};
    in.fh = fh;
    CHECK(share.client.call(FUSE_RELEASEDIR, root, in));
    CHECK(share.client.call(FUSE_OPENDIR, share.client.walk("entry-with-number-1"), fuse_open_in{})
              .error == ENOTDIR);
}

TEST_CASE("an entry of READDIRPLUS counts as a lookup, and needs no descriptor until used") {
    Writable share;
    share.dir.write("file", "text");
    const auto fh = share.client.call(FUSE_OPENDIR, root, fuse_open_in{}).as<fuse_open_out>().fh;
    const auto entries = share.client.list(root, fh, true);
    const auto file = std::ranges::find(entries, "file", &ListedEntry::name)->entry.nodeid;
    const auto opened = share.client.open(file, O_RDONLY).as<fuse_open_out>();
    CHECK(share.client.read(file, opened.fh, 0, 10).text() == "text");
    share.client.forget(file, 1);
    CHECK(share.client.getattr(file).error == ESTALE);
}

TEST_CASE("LSEEK, FALLOCATE and COPY_FILE_RANGE reach the file") {
    Writable share;
    const Answer created = share.client.create(root, "file", O_RDWR);
    const auto node = created.as<fuse_entry_out>().nodeid;
    const auto fh = created.as<fuse_open_out>(sizeof(fuse_entry_out)).fh;
    fuse_fallocate_in allocate{};
    allocate.fh = fh;
    allocate.length = 8192;
    CHECK(share.client.call(FUSE_FALLOCATE, node, allocate));
    CHECK(host_stat(share.dir / "file").st_size == 8192);
    CHECK(share.client.write(node, fh, 1u << 20, "tail"));
    fuse_lseek_in seek{};
    seek.fh = fh;
    seek.offset = 100000;
    seek.whence = SEEK_DATA;
    CHECK(share.client.call(FUSE_LSEEK, node, seek).as<fuse_lseek_out>().offset == 1u << 20);
    seek.whence = SEEK_SET;
    CHECK(share.client.call(FUSE_LSEEK, node, seek).error == EINVAL);

    const Answer second = share.client.create(root, "copy", O_RDWR);
    fuse_copy_file_range_in copy{};
    copy.fh_in = fh;
    copy.off_in = 1u << 20;
    copy.nodeid_out = second.as<fuse_entry_out>().nodeid;
    copy.fh_out = second.as<fuse_open_out>(sizeof(fuse_entry_out)).fh;
    copy.len = 100;
    CHECK(share.client.call(FUSE_COPY_FILE_RANGE, node, copy).as<fuse_write_out>().size == 4);
    CHECK(share.dir.read("copy") == "tail");
}

TEST_CASE("extended attributes are set, read, listed and removed") {
    Writable share;
    share.dir.write("file", "");
    const std::uint64_t node = share.client.walk("file");
    if (::setxattr((share.dir / "file").c_str(), "user.probe", "x", 1, 0) != 0)
        return; // a file system without them
    const std::string value = "value";
    struct {
        std::uint32_t size;
        std::uint32_t flags;
    } set{5, 0};
    CHECK(
        share.client.call(FUSE_SETXATTR, node, set, "user.test", std::as_bytes(std::span(value))));
    CHECK(share.client.call(FUSE_GETXATTR, node, fuse_getxattr_in{}, "user.test")
              .as<fuse_getxattr_out>()
              .size == 5);
    CHECK(share.client.call(FUSE_GETXATTR, node, fuse_getxattr_in{100, 0}, "user.test").text() ==
          "value");
    CHECK(share.client.call(FUSE_GETXATTR, node, fuse_getxattr_in{2, 0}, "user.test").error ==
          ERANGE);
    CHECK(share.client.call(FUSE_GETXATTR, node, fuse_getxattr_in{}, "user.none").error == ENODATA);
    const std::string listed =
        share.client.call(FUSE_LISTXATTR, node, fuse_getxattr_in{1000, 0}).text();
    CHECK(listed.find("user.test") != std::string::npos);
    CHECK(share.client.call(FUSE_REMOVEXATTR, node, "user.test"));
    CHECK(share.client.call(FUSE_REMOVEXATTR, node, "user.test").error == ENODATA);
    set.size = 1000; // more than there is
    CHECK(share.client.call(FUSE_SETXATTR, node, set, "user.test").error == EINVAL);
}

TEST_CASE("extended attributes work on a kernel without getxattrat, by opening the file") {
    TemporaryDirectory dir;
    dir.write("file", "");
    std::filesystem::create_symlink("file", dir / "link");
    if (::setxattr((dir / "file").c_str(), "user.test", "value", 5, 0) != 0)
        return; // a file system without them
    auto proc = virtio::fs::ProcFds::open();
    REQUIRE(proc);
    const virtio::fs::Xattrs xattrs(*proc, false);
    const UniqueFd file(::open((dir / "file").c_str(), O_PATH | O_CLOEXEC));
    const UniqueFd link(::open((dir / "link").c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    std::array<std::byte, 100> value{};
    auto length = xattrs.get(file.get(), S_IFREG, "user.test", value);
    REQUIRE(length);
    CHECK(*length == 5);
    CHECK(xattrs.list(file.get(), S_IFREG, value));
    CHECK(xattrs.set(file.get(), S_IFREG, "user.more", std::span(value).first(3), XATTR_CREATE));
    CHECK(::getxattr((dir / "file").c_str(), "user.more", nullptr, 0) == 3);
    CHECK(xattrs.remove(file.get(), S_IFREG, "user.more"));
    CHECK(xattrs.remove(file.get(), S_IFREG, "user.more").error().code == ENODATA);
    CHECK(xattrs.get(link.get(), S_IFLNK, "user.test", value).error().code == EOPNOTSUPP);
    CHECK(xattrs.list(link.get(), S_IFLNK, value).error().code == EOPNOTSUPP);
}

TEST_CASE("extended attributes of a read-only share are read without opening") {
    ReadOnly share;
    std::filesystem::create_directories(share.dir / "dir");
    share.dir.write("dir/file", "");
    std::filesystem::create_symlink("file", share.dir / "dir/link");
    if (::setxattr((share.dir / "dir/file").c_str(), "user.test", "value", 5, 0) != 0)
        return; // a file system without them
    const std::uint64_t file = share.client.walk("dir/file");
    const std::uint64_t link = share.client.walk("dir/link");
    CHECK(share.client.call(FUSE_GETXATTR, file, fuse_getxattr_in{100, 0}, "user.test").text() ==
          "value");
    CHECK(share.client.call(FUSE_LISTXATTR, file, fuse_getxattr_in{100, 0}).body.size() == 10);
    CHECK_FALSE(share.client.call(FUSE_GETXATTR, link, fuse_getxattr_in{100, 0}, "user.test"));
    CHECK(share.client.call(FUSE_LISTXATTR, link, fuse_getxattr_in{100, 0}).body.empty());
    CHECK_FALSE(share.client.call(FUSE_GETXATTR, root, fuse_getxattr_in{}, "user.test"));
}

TEST_CASE("extended attributes can be switched off") {
    TemporaryDirectory dir;
    const auto server = serve({.path = dir.path(), .xattrs = false});
    FuseClient client(*server);
    CHECK(client.call(FUSE_LISTXATTR, root, fuse_getxattr_in{}).error == ENOSYS);
}

TEST_CASE("STATFS and ACCESS answer") {
    Writable share;
    const auto found = share.client.call(FUSE_STATFS, root).as<fuse_statfs_out>();
    CHECK(found.st.blocks > 0);
    CHECK(found.st.namelen == 255);
    CHECK(share.client.call(FUSE_ACCESS, root, fuse_access_in{R_OK | X_OK, 0}));
    CHECK(share.client.call(FUSE_ACCESS, root, fuse_access_in{64, 0}).error == EINVAL);
}

TEST_CASE("a file without a name can be given one") {
    Writable share;
    fuse_create_in in{};
    in.flags = O_RDWR;
    in.mode = S_IFREG | 0600;
    const Answer made = share.client.call(FUSE_TMPFILE, root, in, "ignored");
    if (made.error == EOPNOTSUPP)
        return; // a file system without them
    REQUIRE(made);
    const auto node = made.as<fuse_entry_out>().nodeid;
    const auto fh = made.as<fuse_open_out>(sizeof(fuse_entry_out)).fh;
    CHECK(share.client.write(node, fh, 0, "text"));
    CHECK(share.client.call(FUSE_LINK, root, fuse_link_in{node}, "named")
              .as<fuse_entry_out>()
              .nodeid == node);
    CHECK(share.client.release(node, fh));
    CHECK(share.dir.read("named") == "text");
    CHECK(share.client.getattr(node).as<fuse_attr_out>().attr.size == 4);
}

TEST_CASE("what root makes for others is theirs", "[root]") {
    if (::geteuid() != 0)
        return;
    Writable share;
    share.client.uid = 1234;
    share.client.gid = 5678;
    CHECK(share.client.create(root, "file", O_RDWR, 04755));
    CHECK(share.client.mkdir(root, "dir"));
    CHECK(share.client.call(FUSE_SYMLINK, root, "link", "target"));
    for (const char* name : {"file", "dir", "link"}) {
        CHECK(host_stat(share.dir / name).st_uid == 1234);
        CHECK(host_stat(share.dir / name).st_gid == 5678);
    }
    CHECK((host_stat(share.dir / "file").st_mode & 07777) == 04755);
    share.client.uid = share.client.gid = 0;
    CHECK(share.client.create(root, "own", O_RDWR));
    CHECK(host_stat(share.dir / "own").st_uid == 0);
}

TEST_CASE("a read-only share refuses every change and serves without OPEN") {
    ReadOnly share;
    std::filesystem::create_directories(share.dir / "dir");
    share.dir.write("dir/file", "text");
    const std::uint64_t dir = share.client.walk("dir");
    const std::uint64_t file = share.client.walk("dir/file");
    CHECK(share.client.create(root, "x", O_RDWR).error == EROFS);
    CHECK(share.client.mkdir(root, "x").error == EROFS);
    CHECK(share.client.call(FUSE_UNLINK, dir, "file").error == EROFS);
    CHECK(share.client.call(FUSE_RMDIR, root, "dir").error == EROFS);
    CHECK(share.client.rename(root, "dir", root, "y").error == EROFS);
    CHECK(share.client.call(FUSE_SYMLINK, root, "x", "y").error == EROFS);
    CHECK(share.client.call(FUSE_LINK, root, fuse_link_in{file}, "x").error == EROFS);
    CHECK(share.client.call(FUSE_MKNOD, root, fuse_mknod_in{}, "x").error == EROFS);
    CHECK(share.client.call(FUSE_SETATTR, file, fuse_setattr_in{}).error == EROFS);
    CHECK(share.client.call(FUSE_REMOVEXATTR, file, "user.x").error == EROFS);
    CHECK(share.client.write(file, 0, 0, "x").error == EROFS);
    CHECK(share.client.call(FUSE_FALLOCATE, file, fuse_fallocate_in{}).error == EROFS);
    CHECK(share.client.open(file, O_RDWR).error == EROFS);
    CHECK(share.client.open(file, O_RDONLY | O_TRUNC).error == EROFS);
    CHECK(share.client.call(FUSE_ACCESS, file, fuse_access_in{W_OK, 0}).error == EROFS);
    CHECK(share.dir.read("dir/file") == "text");

    const bool without_open =
        (share.client.init().as<fuse_init_out>().flags & FUSE_NO_OPEN_SUPPORT) != 0;
    CHECK(without_open == (::geteuid() == 0));
    if (!without_open)
        return;
    const std::uint64_t again = share.client.walk("dir/file");
    CHECK(share.client.open(again, O_RDONLY).error == ENOSYS);
    CHECK(share.client.read(again, 0, 1, 2).text() == "ex");
    const auto listed = share.client.list(share.client.walk("dir"), 0, true);
    CHECK(names(listed) == std::set<std::string>{".", "..", "file"});
    CHECK(share.client.read(share.client.walk("dir"), 0, 0, 1).error == EISDIR);
    // A client that did not ask for it gets handles.
    share.client.init(FUSE_BIG_WRITES);
    CHECK(share.client.open(share.client.walk("dir/file"), O_RDONLY));
}

TEST_CASE("a share of one file shows that file alone") {
    TemporaryDirectory dir;
    dir.write("hosts", "127.0.0.1");
    dir.write("secret", "secret");
    std::filesystem::create_symlink("hosts", dir / "link");
    const auto server = serve({.path = dir / "link"});
    REQUIRE(server);
    CHECK(server->file_name() == "hosts");
    FuseClient client(*server);
    const std::uint64_t node = client.walk("hosts");
    CHECK(client.lookup(root, "secret").error == ENOENT);
    const auto directory = client.call(FUSE_OPENDIR, root, fuse_open_in{}).as<fuse_open_out>().fh;
    CHECK(names(client.list(root, directory, true)) == std::set<std::string>{".", "..", "hosts"});
    const auto opened = client.open(node, O_RDWR).as<fuse_open_out>();
    CHECK(client.write(node, opened.fh, 0, "::1      "));
    CHECK(dir.read("hosts") == "::1      ");
    CHECK(client.create(root, "new", O_RDWR).error == EPERM);
    CHECK(client.call(FUSE_UNLINK, root, "hosts").error == EPERM);
    CHECK(client.rename(root, "hosts", root, "x").error == EPERM);
}

TEST_CASE("a share of one file stays with that file") {
    TemporaryDirectory dir;
    dir.write("conf", "old");
    const auto server = serve({.path = dir / "conf"});
    REQUIRE(server);
    FuseClient client(*server);
    const std::uint64_t before = client.walk("conf");
    // As editors and configuration managers do.
    dir.write("conf.new", "new");
    std::filesystem::rename(dir / "conf.new", dir / "conf");
    const auto text = [&](std::uint64_t node) {
        const auto fh = client.open(node, O_RDONLY).as<fuse_open_out>().fh;
        return client.read(node, fh, 0, 16).text();
    };
    CHECK(client.getattr(before));
    CHECK(text(before) == "old");
    std::filesystem::remove(dir / "conf");
    CHECK(client.walk("conf") == before);
    CHECK(text(before) == "old");
    const auto directory = client.call(FUSE_OPENDIR, root, fuse_open_in{}).as<fuse_open_out>().fh;
    CHECK(names(client.list(root, directory, true)) == std::set<std::string>{".", "..", "conf"});
    client.init();
    CHECK(text(client.walk("conf")) == "old");
}

TEST_CASE("a share of one file leaves the attributes of the directory around it alone") {
    TemporaryDirectory dir;
    dir.write("hosts", "127.0.0.1");
    const auto server = serve({.path = dir / "hosts"});
    REQUIRE(server);
    FuseClient client(*server);
    if (::setxattr(dir.path().c_str(), "user.mine", "1", 1, 0) != 0)
        return; // no attributes on this file system
    const auto get = [&](const char* name) {
        fuse_getxattr_in in{};
        in.size = 64;
        return client.call(FUSE_GETXATTR, root, in, name);
    };
    struct {
        std::uint32_t size = 1, flags = 0; // as without FUSE_SETXATTR_EXT
    } set;
    CHECK(client.call(FUSE_SETXATTR, root, set, "user.theirs", std::as_bytes(std::span("x", 1)))
              .error == EPERM);
    CHECK(::getxattr(dir.path().c_str(), "user.theirs", nullptr, 0) == -1);
    CHECK(client.call(FUSE_REMOVEXATTR, root, "user.mine").error == EPERM);
    CHECK(::getxattr(dir.path().c_str(), "user.mine", nullptr, 0) == 1);
    CHECK(get("user.mine").error == ENODATA);
    fuse_getxattr_in all{};
    all.size = 1024;
    CHECK(client.call(FUSE_LISTXATTR, root, all).body.empty());
    // The file's own are the client's.
    CHECK(client.call(FUSE_SETXATTR, client.walk("hosts"), set, "user.x",
                      std::as_bytes(std::span("x", 1))));
}

TEST_CASE("DESTROY and reset forget everything") {
    Writable share;
    share.dir.write("file", "");
    const std::uint64_t node = share.client.walk("file");
    const auto fh = share.client.open(node, O_RDONLY).as<fuse_open_out>().fh;
    CHECK(share.client.call(FUSE_DESTROY, 0));
    share.client.init();
    CHECK(share.client.getattr(node).error == ESTALE);
    CHECK(share.client.read(node, fh, 0, 1).error == EBADF);
    CHECK(share.client.walk("file") != 0);
}

TEST_CASE("a share that cannot be is refused with a reason") {
    TemporaryDirectory dir;
    ::mkfifo((dir / "fifo").c_str(), 0600);
    for (const auto& [path, code] : {std::pair<std::string, int>{dir / "missing", ENOENT},
                                     {dir / "fifo", ENOTDIR},
                                     {"/proc", EINVAL},
                                     {"/proc/self/maps", EINVAL}}) {
        const auto server = FsServer::create({.path = path});
        REQUIRE_FALSE(server);
        CHECK(server.error().code == code);
        CHECK(std::string(server.error().action) != "");
    }
}
