#include <cerrno>
#include <fcntl.h>

#include <linux/fs.h>

#include <catch2/catch.hpp>

#include "guestkernel/fs/attributes.hpp"
#include "guestkernel/fs/test_support.hpp"

using namespace kernel;
using kernel::test::code_of;
using kernel::test::FsFixture;

TEST_CASE("names resolve through directories, dots and slashes", "[fs][walk]") {
    FsFixture fs;
    REQUIRE(fs.mkdir("/a") == 0);
    REQUIRE(fs.mkdir("/a/b/") == 0);
    REQUIRE(fs.put("/a/b/f", "x") == 0);
    CHECK(fs.resolve("/a/b/f") == "/a/b/f");
    CHECK(fs.resolve("//a//./b/.//f") == "/a/b/f");
    CHECK(fs.resolve("/a/b/../b/f") == "/a/b/f");
    CHECK(fs.resolve("/../../a/..") == "/");
    CHECK(fs.resolve("a/b") == "/a/b");
    CHECK(fs.lookup("/a/b/f/") == ENOTDIR);
    CHECK(fs.lookup("/a/b/f/x") == ENOTDIR);
    CHECK(fs.lookup("/a/none") == ENOENT);
    CHECK(fs.lookup("/a/none/b") == ENOENT);
    CHECK(fs.lookup("") == ENOENT);
    CHECK(fs.lookup("/a/" + std::string(256, 'n')) == ENAMETOOLONG);
    CHECK(fs.lookup("/a/" + std::string(255, 'n')) == ENOENT);
    CHECK(fs.mkdir("/a/" + std::string(255, 'n')) == 0);
    CHECK(fs.lookup("/a/" + std::string(255, 'n')) == 0);
}

TEST_CASE("symbolic links lead on, to the fortieth", "[fs][walk]") {
    FsFixture fs;
    REQUIRE(fs.mkdir("/d") == 0);
    REQUIRE(fs.put("/d/f", "text") == 0);
    REQUIRE(fs.symlink("d", "/to_d") == 0);
    REQUIRE(fs.symlink("../d/f", "/d/to_f") == 0);
    REQUIRE(fs.symlink("/to_d/to_f", "/far") == 0);
    REQUIRE(fs.symlink("d/", "/slash") == 0);
    REQUIRE(fs.symlink("nowhere", "/dangling") == 0);
    CHECK(fs.resolve("/to_d/f") == "/d/f");
    CHECK(fs.resolve("/far") == "/d/f");
    CHECK(fs.resolve("/to_d", 0) == "/to_d");
    CHECK(fs.resolve("/to_d/", 0) == "/d");
    CHECK(fs.resolve("/slash/f") == "/d/f");
    CHECK(fs.resolve("/slash") == "/d");
    CHECK(fs.lookup("/dangling") == ENOENT);
    CHECK(fs.lookup("/far/x") == ENOTDIR);

    REQUIRE(fs.symlink("loop_b", "/loop_a") == 0);
    REQUIRE(fs.symlink("loop_a", "/loop_b") == 0);
    CHECK(fs.lookup("/loop_a") == ELOOP);
    CHECK(fs.lookup("/loop_a/x") == ELOOP);

    std::string last = "d";
    for (int i = 1; i <= 41; i++) {
        const std::string name = "l" + std::to_string(i);
        REQUIRE(fs.symlink(last, "/" + name) == 0);
        last = name;
    }
    CHECK(fs.resolve("/l40/f") == "/d/f");
    CHECK(fs.lookup("/l41/f") == ELOOP);
}

TEST_CASE("open creates, refuses and follows as open(2) says", "[fs][open]") {
    FsFixture fs;
    REQUIRE(fs.mkdir("/d") == 0);
    REQUIRE(fs.put("/f", "12345") == 0);
    REQUIRE(fs.symlink("f", "/to_f") == 0);
    REQUIRE(fs.symlink("new", "/to_new") == 0);
    CHECK(fs.open("/f", O_RDONLY | O_CREAT | O_EXCL) == EEXIST);
    CHECK(fs.open("/to_new", O_RDWR | O_CREAT | O_EXCL) == EEXIST);
    CHECK(fs.open("/d", O_RDONLY) == 0);
    CHECK(fs.open("/d", O_WRONLY) == EISDIR);
    CHECK(fs.open("/d", O_RDONLY | O_CREAT) == EISDIR);
    CHECK(fs.open("/f", O_RDONLY | O_DIRECTORY) == ENOTDIR);
    CHECK(fs.open("/to_f", O_RDONLY | O_NOFOLLOW) == ELOOP);
    CHECK(fs.open("/to_f", O_PATH | O_NOFOLLOW) == 0);
    CHECK(fs.open("/fresh/", O_RDWR | O_CREAT) == EISDIR);
    CHECK(fs.open("/none", O_RDONLY) == ENOENT);
    // A dangling link is created at its target.
    CHECK(fs.open("/to_new", O_RDWR | O_CREAT) == 0);
    CHECK(fs.stat("/new", 0).mode == (0100000 | 0644));
    CHECK(fs.open("/f", O_WRONLY | O_TRUNC) == 0);
    CHECK(fs.stat("/f").size == 0);
    CHECK(fs.open("/d", O_RDWR | O_TMPFILE) == 0);
    CHECK(fs.open("/d", O_RDONLY | O_TMPFILE) == EINVAL);
}

TEST_CASE("scoped lookups stay inside", "[fs][walk]") {
    FsFixture fs;
    REQUIRE(fs.mkdir("/jail") == 0);
    REQUIRE(fs.mkdir("/jail/etc") == 0);
    REQUIRE(fs.mkdir("/etc") == 0);
    REQUIRE(fs.symlink("/etc", "/jail/abs") == 0);
    REQUIRE(fs.symlink("../..", "/jail/up") == 0);
    const Path jail = *lookup_path(at_fdcwd, "/jail", 0);
    auto in = [&](std::string_view name, u32 flags) -> std::string {
        auto path = lookup_path_from(jail, name, flags | lookup_follow);
        if (!path)
            return "error " + std::to_string(path.error().code);
        auto text = path_name(*path);
        return std::string(text->view());
    };
    const std::string refused = "error " + std::to_string(EXDEV);
    CHECK(in("abs", lookup_in_root) == "/jail/etc");
    CHECK(in("/etc", lookup_in_root) == "/jail/etc");
    CHECK(in("up/etc", lookup_in_root) == "/jail/etc");
    CHECK(in("../../etc", lookup_in_root) == "/jail/etc");
    CHECK(in("abs", lookup_beneath) == refused);
    CHECK(in("/etc", lookup_beneath) == refused);
    CHECK(in("..", lookup_beneath) == refused);
    CHECK(in("etc/../../jail/etc", lookup_beneath) == refused);
    CHECK(in("etc/..", lookup_beneath) == "/jail");
    CHECK(in("abs", lookup_no_symlinks) == "error " + std::to_string(ELOOP));
}

TEST_CASE("mounts cover, are crossed both ways, move and go", "[fs][mount]") {
    FsFixture fs;
    REQUIRE(fs.mkdir("/m") == 0);
    REQUIRE(fs.mkdir("/m/below") == 0);
    REQUIRE(fs.mkdir("/other") == 0);
    REQUIRE(fs.mount_tmpfs("/m") == 0);
    CHECK(fs.lookup("/m/below") == ENOENT);
    REQUIRE(fs.mkdir("/m/x") == 0);
    CHECK(fs.resolve("/m/x/../..") == "/");
    CHECK(fs.resolve("/m/x") == "/m/x");
    CHECK(fs.lookup("/m/x", lookup_no_xdev) == EXDEV);
    CHECK(fs.rmdir("/m") == EBUSY);
    CHECK(fs.rename("/m", "/n") == EBUSY);
    CHECK(fs.rename("/m/x", "/x") == EXDEV);

    // Bind: the same directory at two places.
    const Path x = *lookup_path(at_fdcwd, "/m/x", 0);
    const Path other = *lookup_path(at_fdcwd, "/other", 0);
    REQUIRE(MountTree::bind(x, other, false).has_value());
    REQUIRE(fs.put("/other/f", "bound") == 0);
    CHECK(fs.get("/m/x/f") == "bound");
    CHECK(fs.resolve("/other/..") == "/");

    // Stacked: the upper one counts, and goes first.
    REQUIRE(fs.mount_tmpfs("/m") == 0);
    CHECK(fs.lookup("/m/x") == ENOENT);
    Path top = *lookup_path(at_fdcwd, "/m", 0);
    REQUIRE(MountTree::unmount(top, false, false).has_value());
    top = Path();
    CHECK(fs.get("/m/x/f") == "bound");

    // Busy while something is open; detached lazily all the same.
    Path m = *lookup_path(at_fdcwd, "/m", 0);
    {
        auto file = open_file(at_fdcwd, "/m/x/f", O_RDONLY, 0);
        CHECK(code_of(MountTree::unmount(m, false, false)) == EBUSY);
        REQUIRE(MountTree::unmount(m, true, false).has_value());
        char text[5];
        CHECK(*read_file(**file, text, 5, 0) == 5);
    }
    CHECK(fs.lookup("/m/below") == 0);
    CHECK(fs.get("/other/f") == "bound");
}

TEST_CASE("a mount that was unmounted is neither copied nor changed", "[fs][mount]") {
    FsFixture fs;
    REQUIRE(fs.mkdir("/m") == 0);
    REQUIRE(fs.mkdir("/n") == 0);
    REQUIRE(fs.mount_tmpfs("/m") == 0);
    const Path gone = *lookup_path(at_fdcwd, "/m", lookup_follow);
    const Path there = *lookup_path(at_fdcwd, "/n", lookup_follow);
    REQUIRE(MountTree::unmount(gone, true, false).has_value());
    CHECK(code_of(MountTree::bind(gone, there, true)) == EINVAL);
    CHECK(code_of(MountTree::clone_tree(gone, true)) == EINVAL);
    CHECK(code_of(MountTree::change_flags(gone, MS_NOSUID, 0, true)) == EINVAL);
    CHECK(code_of(MountTree::remount(gone, MS_RDONLY, true)) == EINVAL);
}

TEST_CASE("mounts that come by propagation count against the limit", "[fs][mount]") {
    FsFixture fs;
    constexpr int peers = 200;
    REQUIRE(fs.mkdir("/m") == 0);
    REQUIRE(fs.mkdir("/peers") == 0);
    REQUIRE(fs.mount_tmpfs("/m") == 0);
    REQUIRE(fs.mkdir("/m/in") == 0);
    const Path shared = *lookup_path(at_fdcwd, "/m", 0);
    REQUIRE(MountTree::change_propagation(shared, MS_SHARED, false).has_value());
    for (int i = 0; i < peers; i++) {
        const std::string place = "/peers/" + std::to_string(i);
        REQUIRE(fs.mkdir(place) == 0);
        REQUIRE(MountTree::bind(shared, *lookup_path(at_fdcwd, place, 0), false).has_value());
    }

    int error = 0;
    for (usize i = 0; error == 0 && i <= MountTree::mount_limit / peers; i++)
        error = fs.mount_tmpfs("/m/in");

    CHECK(error == ENOSPC);
    Vector<Ref<Mount>> mounts;
    REQUIRE(MountTree::list(mounts).has_value());
    CHECK(mounts.size() <= MountTree::mount_limit);
    CHECK(mounts.size() > MountTree::mount_limit - 2 * peers);
}

TEST_CASE("a read-only mount refuses changes, and is refused while files are open for writing",
          "[fs][mount]") {
    FsFixture fs;
    REQUIRE(fs.mkdir("/m") == 0);
    REQUIRE(fs.mount_tmpfs("/m") == 0);
    REQUIRE(fs.put("/m/f", "1") == 0);
    const Path m = *lookup_path(at_fdcwd, "/m", 0);
    {
        auto writer = open_file(at_fdcwd, "/m/f", O_WRONLY, 0);
        REQUIRE(writer.has_value());
        CHECK(code_of(MountTree::remount(m, MS_RDONLY, true)) == EBUSY);
    }
    REQUIRE(MountTree::remount(m, MS_RDONLY, true).has_value());
    CHECK(fs.open("/m/f", O_RDWR) == EROFS);
    CHECK(fs.open("/m/g", O_WRONLY | O_CREAT) == EROFS);
    CHECK(fs.open("/m/f", O_RDONLY) == 0);
    CHECK(fs.mkdir("/m/d") == EROFS);
    CHECK(fs.unlink("/m/f") == EROFS);
    CHECK(fs.rename("/m/f", "/m/g") == EROFS);
    CHECK(code_of(change_mode(*lookup_path(at_fdcwd, "/m/f", 0), 0600)) == EROFS);
    REQUIRE(MountTree::remount(m, 0, true).has_value());
    CHECK(fs.unlink("/m/f") == 0);
}

TEST_CASE("rename keeps the tree a tree", "[fs][rename]") {
    FsFixture fs;
    REQUIRE(fs.mkdir("/a") == 0);
    REQUIRE(fs.mkdir("/a/b") == 0);
    REQUIRE(fs.mkdir("/a/b/c") == 0);
    REQUIRE(fs.mkdir("/empty") == 0);
    REQUIRE(fs.put("/f", "f") == 0);
    REQUIRE(fs.put("/g", "g") == 0);
    CHECK(fs.rename("/a", "/a/b/c/d") == EINVAL);
    CHECK(fs.rename("/a", "/a/x") == EINVAL);
    CHECK(fs.rename("/a/b/c", "/a") == ENOTEMPTY);
    CHECK(fs.rename("/a/b", "/a/b") == 0);
    CHECK(fs.rename("/f", "/empty") == EISDIR);
    CHECK(fs.rename("/empty", "/f") == ENOTDIR);
    CHECK(fs.rename("/f", "/none/f") == ENOENT);
    CHECK(fs.rename("/none", "/f") == ENOENT);
    CHECK(fs.rename("/f", "/f/") == ENOTDIR);
    CHECK(fs.rename("/a/b/c", "/empty") == 0); // an empty directory is replaced
    CHECK(fs.lookup("/a/b/c") == ENOENT);
    CHECK(fs.rename("/empty/", "/moved/") == 0);
    CHECK(fs.rename("/f", "/g", RENAME_NOREPLACE) == EEXIST);
    CHECK(fs.rename("/f", "/g", RENAME_EXCHANGE) == 0);
    CHECK(fs.get("/f") == "g");
    CHECK(fs.get("/g") == "f");
    CHECK(fs.rename("/f", "/a/b", RENAME_EXCHANGE) == 0);
    CHECK(fs.get("/a/b") == "g");
    CHECK(fs.stat("/f").links == 2);
    CHECK(fs.rename("/g", "/a/b") == 0);
    CHECK(fs.get("/a/b") == "f");
    CHECK(fs.rename("/a/.", "/x") == EBUSY);
    // Two names of one file: nothing happens.
    REQUIRE(fs.link("/a/b", "/h") == 0);
    CHECK(fs.rename("/a/b", "/h") == 0);
    CHECK(fs.get("/a/b") == "f");
    CHECK(fs.stat("/h").links == 2);
    // A directory that moved is found under its new name by those that stand in it.
    REQUIRE(fs.mkdir("/moved/in") == 0);
    const Path in = *lookup_path(at_fdcwd, "/moved/in", 0);
    CHECK(fs.rename("/moved", "/a/" + std::string(60, 'l')) == 0);
    auto name = path_name(in);
    CHECK(std::string(name->view()) == "/a/" + std::string(60, 'l') + "/in");
    const Path parent = *lookup_path_from(in, "..", 0);
    CHECK(std::string(path_name(parent)->view()) == "/a/" + std::string(60, 'l'));
}

TEST_CASE("what is removed is gone for those inside too", "[fs][unlink]") {
    FsFixture fs;
    REQUIRE(fs.mkdir("/d") == 0);
    REQUIRE(fs.put("/f", "kept") == 0);
    const Path d = *lookup_path(at_fdcwd, "/d", 0);
    auto file = open_file(at_fdcwd, "/f", O_RDWR, 0);
    REQUIRE(fs.unlink("/f") == 0);
    CHECK(fs.lookup("/f") == ENOENT);
    CHECK(std::string(path_name((*file)->path())->view()) == "/f (deleted)");
    char text[4];
    CHECK(*read_file(**file, text, 4, 0) == 4);
    REQUIRE(fs.put("/f", "new") == 0);
    CHECK(fs.get("/f") == "new");
    REQUIRE(fs.rmdir("/d") == 0);
    fs.task.fs->set_cwd(d);
    CHECK(fs.mkdir("x") == ENOENT);
    CHECK(fs.open("x", O_WRONLY | O_CREAT) == ENOENT);
    CHECK(fs.rmdir("/d") == ENOENT);
    fs.task.fs->set_cwd(fs.root);
    CHECK(fs.rmdir(".") == EINVAL);
    CHECK(fs.rmdir("/") == EBUSY);
    REQUIRE(fs.mkdir("/d") == 0);
    REQUIRE(fs.mkdir("/d/e") == 0);
    CHECK(fs.rmdir("/d") == ENOTEMPTY);
    CHECK(fs.rmdir("/d/e/..") == ENOTEMPTY);
    CHECK(fs.unlink("/d") == EISDIR);
    CHECK(fs.rmdir("/f") == ENOTDIR);
}

TEST_CASE("permissions: bits, sticky directories, capabilities, set-user-ID", "[fs][permission]") {
    FsFixture fs;
    REQUIRE(fs.mkdir("/tmp") == 0);
    REQUIRE(code_of(change_mode(*lookup_path(at_fdcwd, "/tmp", 0), 01777)) == 0);
    REQUIRE(fs.mkdir("/locked", 0700) == 0);
    REQUIRE(fs.put("/locked/f", "secret") == 0);
    fs.become(1000);
    CHECK(fs.mkdir("/x") == EACCES);
    CHECK(fs.lookup("/locked/f") == EACCES);
    CHECK(fs.open("/locked", O_RDONLY) == EACCES);
    REQUIRE(fs.put("/tmp/mine", "1") == 0);
    CHECK(fs.stat("/tmp/mine").uid == 1000);
    CHECK(code_of(change_owner(*lookup_path(at_fdcwd, "/tmp/mine", 0), 1001, keep_id)) == EPERM);
    REQUIRE(code_of(change_mode(*lookup_path(at_fdcwd, "/tmp/mine", 0), 04777)) == 0);
    CHECK(fs.stat("/tmp/mine").mode == (0100000 | 04777));
    fs.become(1001);
    CHECK(fs.unlink("/tmp/mine") == EPERM);
    CHECK(fs.rename("/tmp/mine", "/tmp/other") == EPERM);
    CHECK(code_of(change_mode(*lookup_path(at_fdcwd, "/tmp/mine", 0), 0600)) == EPERM);
    CHECK(fs.open("/tmp/mine", O_RDONLY | O_NOATIME) == EPERM);
    {
        auto file = open_file(at_fdcwd, "/tmp/mine", O_WRONLY, 0);
        char text[] = "2";
        IoBuffer buffer(text, 1);
        REQUIRE((*file)->write(buffer, 0).has_value());
    }
    CHECK(fs.stat("/tmp/mine").mode == (0100000 | 0777)); // a stranger's write takes the bit away
    fs.become(0);
    CHECK(fs.unlink("/tmp/mine") == 0);
    // A set-group-ID directory hands its group down.
    REQUIRE(fs.mkdir("/shared") == 0);
    REQUIRE(code_of(change_owner(*lookup_path(at_fdcwd, "/shared", 0), keep_id, 77)) == 0);
    REQUIRE(code_of(change_mode(*lookup_path(at_fdcwd, "/shared", 0), 02777)) == 0);
    REQUIRE(fs.mkdir("/shared/sub") == 0);
    CHECK(fs.stat("/shared/sub").gid == 77);
    CHECK((fs.stat("/shared/sub").mode & 02000) != 0);
}

TEST_CASE("a program that runs cannot be written, nor one being written run", "[fs][open]") {
    FsFixture fs;
    REQUIRE(fs.put("/prog", "#!") == 0);
    CHECK(code_of(open_for_exec(at_fdcwd, "/prog", 0)) == EACCES);
    REQUIRE(code_of(change_mode(*lookup_path(at_fdcwd, "/prog", 0), 0755)) == 0);
    {
        auto running = open_for_exec(at_fdcwd, "/prog", 0);
        REQUIRE(running.has_value());
        CHECK(fs.open("/prog", O_WRONLY) == ETXTBSY);
        CHECK(fs.open("/prog", O_RDONLY) == 0);
        CHECK(open_for_exec(at_fdcwd, "/prog", 0).has_value());
    }
    auto writer = open_file(at_fdcwd, "/prog", O_WRONLY, 0);
    REQUIRE(writer.has_value());
    CHECK(code_of(open_for_exec(at_fdcwd, "/prog", 0)) == ETXTBSY);
}

TEST_CASE("the dentry cache lets go of what nobody uses", "[fs][dentry]") {
    FsFixture fs;
    for (int i = 0; i < 500; i++)
        REQUIRE(fs.put("/f" + std::to_string(i), std::to_string(i)) == 0);
    for (int i = 0; i < 100; i++)
        CHECK(fs.lookup("/none" + std::to_string(i)) == ENOENT);
    const usize before = DentryCache::count();
    CHECK(before >= 600);
    auto open = open_file(at_fdcwd, "/f7", O_RDONLY, 0);
    CHECK(DentryCache::shrink(10'000) >= 590);
    CHECK(DentryCache::count() <= before - 590);
    CHECK(fs.get("/f7") == "7");
    CHECK(fs.get("/f499") == "499");
}
