#include <cerrno>
#include <fcntl.h>

#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include <catch2/catch.hpp>

#include "tools/image/testing/archive_maker.hpp"
#include "tools/image/tree_writer.hpp"

using namespace image;
using namespace image::testing;

namespace {

// A root directory with something beside it that must not change.
class Tree {
public:
    explicit Tree(bool privileged = ::geteuid() == 0, Limits limits = {}) {
        ::mkdir((folder_ / "root").c_str(), 0755);
        ::mkdir((folder_ / "outside").c_str(), 0755);
        folder_.write("outside/file", "untouched");
        writer_.emplace(
            os::UniqueFd(::open((folder_ / "root").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)),
            limits, privileged);
    }
    // Empty if it went well.
    std::string apply(const std::string& tar) {
        MemorySource bytes(tar);
        const auto applied = writer_->apply(bytes, "layer");
        CHECK(folder_.read("outside/file") == "untouched");
        struct stat status {};
        CHECK(::stat((folder_ / "outside").c_str(), &status) == 0);
        CHECK(status.st_nlink == 2);
        CHECK((status.st_mode & 07777) == 0755);
        CHECK(::stat((folder_ / "outside/file").c_str(), &status) == 0);
        CHECK(status.st_nlink == 1);
        return applied ? "" : applied.error().message;
    }
    std::string apply(ArchiveMaker& maker) { return apply(maker.finish()); }
    std::string finish() {
        const auto finished = writer_->finish();
        return finished ? "" : finished.error().message;
    }
    std::string path(const std::string& name) const { return folder_ / ("root/" + name); }
    std::string read(const std::string& name) const { return folder_.read("root/" + name); }
    bool has(const std::string& name) const {
        struct stat status {};
        return ::lstat(path(name).c_str(), &status) == 0;
    }
    struct stat stat(const std::string& name) const {
        struct stat status {};
        if (::lstat(path(name).c_str(), &status) != 0)
            FAIL(name << " is missing");
        return status;
    }
    std::string xattr(const std::string& name, const char* attribute) const {
        char value[256];
        const ssize_t size = ::lgetxattr(path(name).c_str(), attribute, value, sizeof value);
        return size < 0 ? "none" : std::string(value, static_cast<std::size_t>(size));
    }
    TreeFacts facts() const { return writer_->facts(); }
    // Where an absolute path would lead to.
    std::string outside() const { return folder_ / "outside"; }

private:
    ScratchFolder folder_;
    std::optional<TreeWriter> writer_;
};

bool mentions(const std::string& text, std::string_view word) {
    INFO(text);
    const bool found = text.find(word) != std::string::npos;
    CHECK(found);
    return found;
}

} // namespace

TEST_CASE("files, directories and links come out as they went in") {
    Tree tree;
    ArchiveMaker layer;
    layer.directory("./", {.mode = 0711, .mtime = 5})
        .directory("a", {.mode = 0750, .mtime = 77})
        .file("a/f", "hello", {.mode = 0604, .mtime = 123456789})
        .link("a/l", "/etc/passwd")
        .hard_link("a/h", "a/f")
        .node("a/p", AE_IFIFO)
        .file("implied/parent/f", "x")
        .file("/absolute/./name//f", "y");
    REQUIRE(tree.apply(layer) == "");
    REQUIRE(tree.finish() == "");
    CHECK(tree.read("a/f") == "hello");
    CHECK((tree.stat("a/f").st_mode & 07777) == 0604);
    CHECK(tree.stat("a/f").st_mtime == 123456789);
    CHECK(tree.stat("a/f").st_ino == tree.stat("a/h").st_ino);
    CHECK(S_ISLNK(tree.stat("a/l").st_mode));
    CHECK(S_ISFIFO(tree.stat("a/p").st_mode));
    CHECK((tree.stat("a").st_mode & 07777) == 0750);
    CHECK(tree.stat("a").st_mtime == 77);
    CHECK(tree.stat("").st_mtime == 5);
    CHECK((tree.stat("").st_mode & 07777) == 0711);
    CHECK((tree.stat("implied/parent").st_mode & 07777) == 0755);
    CHECK(tree.read("absolute/name/f") == "y");
    CHECK(tree.facts().bytes == 7);
}

TEST_CASE("paths that lead out are refused") {
    for (const char* path : {"../outside/file", "a/../../outside/file", "/../outside/file", ".."}) {
        Tree tree;
        ArchiveMaker layer;
        layer.file(path, "evil");
        CHECK(mentions(tree.apply(layer), "out of the image's root"));
    }
    Tree tree;
    ArchiveMaker inside;
    inside.file("a/../b", "fine");
    CHECK(tree.apply(inside) == "");
    CHECK(tree.read("b") == "fine");
}

TEST_CASE("links on the way stay inside the root") {
    const auto attack = [](const std::string& target) {
        Tree tree;
        ArchiveMaker layer;
        layer.link("out", target).file("out/file", "evil").file("out/new", "evil");
        // Either refused, or made below the root.
        static_cast<void>(tree.apply(layer));
        CHECK_FALSE(::access((tree.outside() + "/new").c_str(), F_OK) == 0);
    };
    attack("../outside");
    attack("../../../../../../tmp");
    Tree tree;
    ArchiveMaker absolute;
    absolute.link("out", tree.outside()).file("out/file", "evil");
    CHECK_FALSE(tree.apply(absolute) == "");

    // Through a link of a lower layer, into what it means in the image.
    Tree merged;
    ArchiveMaker lower;
    lower.directory("usr").directory("usr/lib").link("lib", "usr/lib").link("abs", "/usr/lib");
    ArchiveMaker upper;
    upper.file("lib/x", "1").file("abs/y", "2");
    REQUIRE(merged.apply(lower) == "");
    REQUIRE(merged.apply(upper) == "");
    CHECK(merged.read("usr/lib/x") == "1");
    CHECK(merged.read("usr/lib/y") == "2");
}

TEST_CASE("a file in the place of a link replaces the link, not what it leads to") {
    Tree tree;
    ArchiveMaker layer;
    layer.link("l", "../outside/file").file("l", "evil");
    CHECK(tree.apply(layer) == "");
    CHECK(S_ISREG(tree.stat("l").st_mode));
    Tree second;
    ArchiveMaker directory;
    directory.link("l", second.outside()).directory("l", {.mode = 0777}).file("l/x", "1");
    CHECK(second.apply(directory) == "");
    CHECK(S_ISDIR(second.stat("l").st_mode));
}

TEST_CASE("hard links out of the root, to directories and to nothing are refused") {
    const auto problem = [](const std::string& target) {
        Tree tree;
        ArchiveMaker layer;
        layer.directory("d").link("s", "../outside").hard_link("h", target);
        return tree.apply(layer);
    };
    CHECK(mentions(problem("../outside/file"), "out of the image's root"));
    CHECK(mentions(problem("/../outside/file"), "out of the image's root"));
    CHECK(mentions(problem("s/file"), "not there"));
    CHECK(mentions(problem("missing"), "not there"));
    CHECK(mentions(problem("d"), "directory"));
    CHECK(mentions(problem("."), "root"));
    Tree tree;
    ArchiveMaker layer;
    // The link itself gets a second name, not what it leads to.
    layer.link("s", "../outside/file").hard_link("h", "s").file("h", "evil").file("f", "x");
    layer.hard_link("f", "f");
    CHECK(tree.apply(layer) == "");
    CHECK(tree.read("f") == "x");
}

TEST_CASE("whiteouts hide what is below and nothing else") {
    Tree tree;
    ArchiveMaker lower;
    lower.file("gone", "1")
        .file("kept", "2")
        .file("dir/a", "3")
        .file("dir/sub/b", "4")
        .file("x", "5");
    ArchiveMaker upper;
    upper.hide("", "gone").hide("", "dir").hide("", "missing").hide("nowhere", "z");
    REQUIRE(tree.apply(lower) == "");
    REQUIRE(tree.apply(upper) == "");
    CHECK_FALSE(tree.has("gone"));
    CHECK_FALSE(tree.has("dir"));
    CHECK(tree.has("kept"));
    CHECK_FALSE(tree.has(".wh.gone"));
    CHECK_FALSE(tree.has("nowhere"));
}

TEST_CASE("an opaque directory keeps what its own layer brings, in any order") {
    const bool opaque_first = GENERATE(true, false);
    Tree tree;
    ArchiveMaker lower;
    lower.file("d/old", "1").file("d/sub/old", "2").file("d/same", "3").file("other/old", "4");
    ArchiveMaker upper;
    if (opaque_first)
        upper.hide("d", ".wh..opq");
    upper.directory("d").file("d/sub/new", "5").file("d/same", "6");
    if (!opaque_first)
        upper.hide("d", ".wh..opq");
    REQUIRE(tree.apply(lower) == "");
    REQUIRE(tree.apply(upper) == "");
    CHECK_FALSE(tree.has("d/old"));
    CHECK_FALSE(tree.has("d/sub/old"));
    CHECK(tree.read("d/sub/new") == "5");
    CHECK(tree.read("d/same") == "6");
    CHECK(tree.has("other/old"));
    CHECK_FALSE(tree.has("d/.wh..wh..opq"));
}

TEST_CASE("a whiteout after its own layer's file of that name hides only the lower one") {
    Tree tree;
    ArchiveMaker lower;
    lower.file("d/lower", "1");
    ArchiveMaker upper;
    upper.file("d/upper", "2").hide("", "d");
    REQUIRE(tree.apply(lower) == "");
    REQUIRE(tree.apply(upper) == "");
    CHECK(tree.read("d/upper") == "2");
    CHECK_FALSE(tree.has("d/lower"));
}

TEST_CASE("whiteouts through links and of odd names stay inside") {
    Tree tree;
    ArchiveMaker lower;
    lower.link("out", "../outside").file("f", "x");
    REQUIRE(tree.apply(lower) == "");
    ArchiveMaker through;
    through.hide("out", "file").hide("out", ".wh..opq").hide("", "out");
    CHECK(tree.apply(through) == "");
    CHECK_FALSE(tree.has("out"));
    for (const char* name : {".", "..", ""}) {
        ArchiveMaker odd;
        odd.file(std::string(".wh.") + name, "");
        CHECK(mentions(tree.apply(odd), "hides nothing"));
    }
    ArchiveMaker meta;
    meta.file(".wh..wh.plnk", "").file(".wh..wh.aufs", "");
    CHECK(tree.apply(meta) == "");
    CHECK(tree.has("f"));
}

TEST_CASE("of entries of one path the last counts") {
    Tree tree;
    ArchiveMaker layer;
    layer.file("a", "1").file("a", "22").directory("b").file("b/x", "1").file("b", "now a file");
    layer.file("c", "file").directory("c").file("c/d", "2");
    REQUIRE(tree.apply(layer) == "");
    CHECK(tree.read("a") == "22");
    CHECK(tree.read("b") == "now a file");
    CHECK(tree.read("c/d") == "2");
}

TEST_CASE("a directory that comes again keeps its content and gets the new facts") {
    Tree tree;
    ArchiveMaker lower;
    lower.directory("d", {.mode = 0755}).file("d/f", "1");
    ArchiveMaker upper;
    upper.directory("d", {.mode = 0700, .mtime = 9});
    REQUIRE(tree.apply(lower) == "");
    REQUIRE(tree.apply(upper) == "");
    REQUIRE(tree.finish() == "");
    CHECK(tree.read("d/f") == "1");
    CHECK((tree.stat("d").st_mode & 07777) == 0700);
    CHECK(tree.stat("d").st_mtime == 9);
}

TEST_CASE("a new file does not write through another name of the old one") {
    Tree tree;
    ArchiveMaker lower;
    lower.file("a", "old").hard_link("b", "a");
    ArchiveMaker upper;
    upper.file("a", "new");
    REQUIRE(tree.apply(lower) == "");
    REQUIRE(tree.apply(upper) == "");
    CHECK(tree.read("a") == "new");
    CHECK(tree.read("b") == "old");
}

TEST_CASE("without privileges set-id bits and devices are written down, not made") {
    Tree tree(false);
    ArchiveMaker layer;
    layer.file("su", "x", {.mode = 04755})
        .file("shadow", "x", {.mode = 0})
        .directory("closed", {.mode = 0})
        .node("null", AE_IFCHR, 1, 3)
        .node("disk", AE_IFBLK, 8, 0)
        .file("closed/f", "y");
    REQUIRE(tree.apply(layer) == "");
    CHECK((tree.stat("su").st_mode & 07777) == 0755);
    CHECK(tree.xattr("su", override_xattr) == "0:0:4755");
    CHECK((tree.stat("shadow").st_mode & 07777) == 0600);
    CHECK(tree.xattr("shadow", override_xattr) == "0:0:0000");
    CHECK((tree.stat("closed").st_mode & 07777) == 0700);
    CHECK(tree.read("closed/f") == "y");
    CHECK(S_ISREG(tree.stat("null").st_mode));
    CHECK(tree.xattr("null", override_xattr) == "0:0:0640:char-1-3");
    CHECK(tree.xattr("disk", override_xattr) == "0:0:0640:block-8-0");
    CHECK(tree.facts().attributes.recorded == 5);
}

TEST_CASE("root gets owners, set-id bits, devices and capabilities as they are") {
    if (::geteuid() != 0) {
        WARN("not root: nothing to see here");
        return;
    }
    Tree tree;
    const std::string capability("\1\0\0\2\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
    ArchiveMaker layer;
    layer.file("su", "x", {.mode = 06755, .uid = 12, .gid = 34})
        .file("ping", "x",
              {.mode = 0755, .uid = 7, .xattrs = {{"security.capability", capability}}})
        .link("l", "su")
        .node("null", AE_IFCHR, 1, 3);
    REQUIRE(tree.apply(layer) == "");
    CHECK((tree.stat("su").st_mode & 07777) == 06755);
    CHECK(tree.stat("su").st_uid == 12);
    CHECK(tree.stat("su").st_gid == 34);
    CHECK(tree.xattr("ping", "security.capability") == capability);
    CHECK((S_ISCHR(tree.stat("null").st_mode) || tree.xattr("null", override_xattr) != "none"));
    if (S_ISCHR(tree.stat("null").st_mode))
        CHECK(tree.stat("null").st_rdev == makedev(1, 3));
}

TEST_CASE("attributes that belong to the host are left out") {
    Tree tree;
    ArchiveMaker layer;
    layer.file("f", "x",
               {.xattrs = {{"user.mine", "v"},
                           {"trusted.overlay.opaque", "y"},
                           {"trusted.overlay.redirect", "/etc"},
                           {"security.selinux", "label"},
                           {"security.ima", "hash"},
                           {override_xattr, "0:0:0777"}}});
    REQUIRE(tree.apply(layer) == "");
    CHECK(tree.xattr("f", "user.mine") == "v");
    CHECK(tree.xattr("f", "trusted.overlay.opaque") == "none");
    CHECK(tree.xattr("f", "trusted.overlay.redirect") == "none");
    CHECK(tree.xattr("f", "security.selinux") == "none");
    CHECK(tree.xattr("f", override_xattr) == "none");
    CHECK(tree.facts().attributes.lost == 5);
}

TEST_CASE("sparse files stay sparse, and of the right size") {
    Tree tree;
    ArchiveMaker layer;
    layer.sparse("s", 3 << 20, 1 << 20, "middle");
    REQUIRE(tree.apply(layer) == "");
    CHECK(tree.stat("s").st_size == 3 << 20);
    CHECK(tree.stat("s").st_blocks * 512 < 1 << 20);
    CHECK(tree.read("s").substr(1 << 20, 6) == "middle");
    CHECK(tree.facts().bytes < 1 << 20);
}

TEST_CASE("limits end what would not end") {
    Limits limits;
    limits.unpacked_bytes = 1000;
    Tree small(false, limits);
    ArchiveMaker big;
    big.file("a", std::string(600, 'x')).file("b", std::string(600, 'x'));
    CHECK(mentions(small.apply(big), "--max-size"));

    limits = {};
    limits.entries = 3;
    Tree few(false, limits);
    ArchiveMaker many;
    many.file("a", "").file("b", "").file("c", "").file("d", "");
    CHECK(mentions(few.apply(many), "more than 3 entries"));
    Tree shallow(false, limits);
    ArchiveMaker implied;
    implied.file("a/b/c/d", "");
    CHECK(mentions(shallow.apply(implied), "more than 3 entries"));

    limits = {};
    limits.remembered_bytes = 10;
    Tree forgetful(false, limits);
    ArchiveMaker long_paths;
    long_paths.directory("abcdefg").directory("abcdefg").directory("abcdefg/h");
    CHECK(mentions(forgetful.apply(long_paths), "paths of the image's directories"));

    limits = {};
    limits.file_bytes = 100;
    Tree tiny(false, limits);
    ArchiveMaker one;
    one.sparse("s", 1 << 20, 4096, "x");
    CHECK(mentions(tiny.apply(one), "a file of more than"));

    Tree tree;
    ArchiveMaker name;
    name.file(std::string(256, 'n'), "");
    CHECK(mentions(tree.apply(name), "longer than 255"));
    ArchiveMaker path;
    std::string deep;
    for (int i = 0; i < 2100; ++i)
        deep += "d/";
    path.file(deep + "f", "");
    CHECK(mentions(tree.apply(path), "longer than 4095"));
}

TEST_CASE("trees deeper than any path are removed again") {
    Tree tree;
    std::string chain;
    for (int i = 0; i < 1000; ++i)
        chain += "d/";
    ArchiveMaker layer;
    layer.file(chain + "f", "x").link("s", chain).file("s/" + chain + "f", "y");
    layer.link("t", "s/" + chain).file("t/" + chain + "f", "z");
    REQUIRE(tree.apply(layer) == "");
    ArchiveMaker upper;
    upper.hide("", "d");
    CHECK(tree.apply(upper) == "");
    CHECK_FALSE(tree.has("d"));
}

TEST_CASE("a directory that is moved while its tree is removed leads nowhere else") {
    const ScratchFolder folder;
    for (const char* name : {"tree", "tree/a", "tree/a/b", "tree/a/b/c"})
        REQUIRE(::mkdir((folder / name).c_str(), 0755) == 0);
    folder.write("tree/a/b/c/last", "");
    const os::UniqueFd top(::open(folder.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    // As a container does that still has the volume: what was four levels deep is one.
    std::vector<std::string> visited;
    const auto walked =
        walk_beneath(top.get(), "tree", [&](const WalkEntry& entry) -> base::Result<void, int> {
            struct stat place {};
            CHECK(::fstat(entry.directory, &place) == 0);
            CHECK(place.st_ino == entry.directory_ino);
            visited.push_back(entry.name);
            if (entry.name == "last")
                CHECK(::rename((folder / "tree/a/b/c").c_str(), (folder / "tree/c").c_str()) == 0);
            return {};
        });
    REQUIRE_FALSE(walked.has_value());
    CHECK(walked.error() == ESTALE);
    CHECK(visited == std::vector<std::string>{"last"});
}

TEST_CASE("names are bytes: neither normalized nor refused") {
    Tree tree;
    ArchiveMaker layer;
    layer.file("e\xcc\x81", "decomposed").file("\xc3\xa9", "composed").file("\xff\xfe", "no UTF-8");
    layer.file(std::string(150, 'x') + "\xcc\x81", "long").link("l", "t\xc3\xa9");
    REQUIRE(tree.apply(layer) == "");
    CHECK(tree.read("e\xcc\x81") == "decomposed");
    CHECK(tree.read("\xc3\xa9") == "composed");
    CHECK(tree.read("\xff\xfe") == "no UTF-8");
    CHECK(tree.read(std::string(150, 'x') + "\xcc\x81") == "long");
}

TEST_CASE("a file in the place of a directory on the way is an error, not a crash") {
    Tree tree;
    ArchiveMaker layer;
    layer.file("a", "file").file("a/b", "x");
    CHECK(mentions(tree.apply(layer), "a/b"));
    ArchiveMaker dangling;
    dangling.link("lost", "nowhere").file("lost/x", "y");
    CHECK(mentions(tree.apply(dangling), "lost/x"));
    ArchiveMaker loop;
    loop.link("l1", "l2").link("l2", "l1").file("l1/x", "y");
    CHECK(mentions(tree.apply(loop), "l1/x"));
}

TEST_CASE("damaged archives say so") {
    ArchiveMaker good;
    good.file("a", std::string(5000, 'a')).file("b", "b");
    const std::string tar = good.finish();
    Tree cut;
    CHECK(mentions(cut.apply(tar.substr(0, 3000)), "damaged"));
    Tree flipped;
    std::string bad = tar;
    bad[100] = static_cast<char>(bad[100] ^ 1); // its checksum no longer holds
    CHECK(mentions(flipped.apply(bad), "damaged"));
    Tree noise;
    CHECK(mentions(noise.apply(std::string(4096, 'z')), "damaged"));
    Tree nothing;
    CHECK(nothing.apply(std::string()) == "");
    CHECK(nothing.apply(std::string(10240, '\0')) == "");
}
