// The overlay against a plain tmpfs that gets the same operations.
#include <cerrno>
#include <fcntl.h>
#include <map>
#include <random>
#include <string>

#include <sys/stat.h>

#include <catch2/catch.hpp>

#include "guestkernel/fs/test_support.hpp"

using namespace kernel;
using kernel::test::code_of;
using kernel::test::FsFixture;

namespace {

struct Listing final : DirectorySink {
    bool add(std::string_view name, u64 inode, u32 type, u64) override {
        if (room-- == 0)
            return false;
        if (name != "." && name != "..")
            REQUIRE(found.emplace(std::string(name), std::pair(inode, type)).second);
        return true;
    }
    std::map<std::string, std::pair<u64, u32>> found;
    int room = 3; // small, so that positions are used
};

std::map<std::string, std::pair<u64, u32>> list(const std::string& directory) {
    auto file = open_file(at_fdcwd, directory, O_RDONLY | O_DIRECTORY, 0);
    REQUIRE(file);
    Listing sink;
    for (u64 at = 0;;) {
        sink.room = 3;
        auto next = (*file)->read_directory(sink, at);
        REQUIRE(next);
        if (*next == at)
            return sink.found;
        at = *next;
    }
}

// Every name below with its type, contents or target, mode and link count.
std::string describe(FsFixture& fs, const std::string& directory) {
    std::string out;
    for (const auto& [name, entry] : list(directory)) {
        const std::string path = directory + "/" + name;
        const Attributes attributes = fs.stat(path, 0);
        REQUIRE(attributes.inode == entry.first);
        REQUIRE((attributes.mode & S_IFMT) >> 12 == entry.second);
        out += name + " " + std::to_string(attributes.mode) + " ";
        if (S_ISDIR(attributes.mode)) {
            out += "{" + describe(fs, path) + "}";
        } else {
            out += std::to_string(attributes.links) + " ";
            if (S_ISREG(attributes.mode))
                out += std::to_string(attributes.size) + ":" + fs.get(path);
            else
                out += (*lookup_path(at_fdcwd, path, 0)).dentry()->inode()->readlink()->c_str();
        }
        out += "\n";
    }
    return out;
}

void fill(FsFixture& fs, const std::string& top) {
    REQUIRE(fs.mkdir(top) == 0);
    for (const char* name : {"/a", "/b", "/a/x", "/a/y", "/b/x"})
        REQUIRE(fs.mkdir(top + name) == 0);
    for (const char* name : {"/a/1", "/a/2", "/a/x/1", "/b/1", "/1", "/2"})
        REQUIRE(fs.put(top + name, std::string("contents of ") + name) == 0);
    REQUIRE(fs.link(top + "/a/1", top + "/b/2") == 0);
    REQUIRE(fs.symlink("/a/1", top + "/3") == 0);
}

void mount_overlay(FsFixture& fs) {
    fill(fs, "/lower");
    REQUIRE(fs.mkdir("/m") == 0);
    const Path lower = *lookup_path(at_fdcwd, "/lower", 0);
    auto overlay = make_overlay({&lower, 1}, fs.root);
    REQUIRE(overlay);
    REQUIRE(mount_at(*lookup_path(at_fdcwd, "/m", 0), std::move(*overlay), 0, "overlay"));
}

} // namespace

TEST_CASE("an overlay behaves as the file system below would, which stays as it was",
          "[fs][overlay]") {
    FsFixture fs;
    mount_overlay(fs);
    fill(fs, "/model");
    const std::string before = describe(fs, "/lower");
    REQUIRE(describe(fs, "/m") == before);

    std::mt19937 random(3);
    const auto name = [&] {
        std::string path;
        static const char* const parts[] = {"/a", "/b", "/x", "/y", "/1", "/2", "/3"};
        for (auto depth = 1 + random() % 3; depth > 0; depth--)
            path += parts[random() % 7];
        return path;
    };
    for (int step = 0; step < 3000; step++) {
        const std::string one = name(), two = name();
        const auto kind = random() % 9;
        int codes[2];
        for (int which = 0; which < 2; which++) {
            const std::string top = which == 0 ? "/m" : "/model";
            int& code = codes[which];
            switch (kind) {
            case 0:
                code = fs.put(top + one, "step " + std::to_string(step));
                break;
            case 1:
                code = fs.mkdir(top + one);
                break;
            case 2:
                code = fs.unlink(top + one);
                break;
            case 3:
                code = fs.rmdir(top + one);
                break;
            case 4:
            case 5:
                code = fs.rename(top + one, top + two, kind == 5 && step % 3 == 0 ? 2 : 0);
                break;
            case 6:
                code = fs.link(top + one, top + two);
                break;
            case 7: {
                auto file = open_file(at_fdcwd, top + one, O_WRONLY | O_APPEND, 0);
                code = code_of(file);
                if (file) {
                    std::string text = "more";
                    IoBuffer buffer(text.data(), text.size());
                    code = code_of((*file)->write(buffer, 0));
                }
                break;
            }
            default:
                code = fs.symlink(two, top + one);
            }
        }
        INFO("step " << step << " kind " << kind << " " << one << " " << two);
        REQUIRE(codes[0] == codes[1]);
        if (step % 50 == 0) {
            DentryCache::shrink(1000); // what is only cached must be found again
            REQUIRE(describe(fs, "/m") == describe(fs, "/model"));
        }
    }
    CHECK(describe(fs, "/lower") == before);
}

TEST_CASE("an overlay keeps inode numbers and links when a file is changed", "[fs][overlay]") {
    FsFixture fs;
    mount_overlay(fs);
    const u64 number = fs.stat("/m/a/1").inode;
    CHECK(number == fs.stat("/lower/a/1").inode);
    CHECK(fs.stat("/m/b/2").inode == number);
    CHECK(fs.stat("/m/b/2").links == 2);
    REQUIRE(fs.put("/m/a/1", "changed") == 0);
    DentryCache::shrink(1000);
    CHECK(fs.stat("/m/b/2").inode == number);
    CHECK(fs.get("/m/b/2") == "changed");
    CHECK(fs.get("/lower/b/2") == "contents of /a/1");
    REQUIRE(fs.unlink("/m/a/1") == 0);
    CHECK(fs.stat("/m/b/2").links == 1);
    REQUIRE(fs.rename("/m/a", "/m/moved") == 0);
    DentryCache::shrink(1000);
    CHECK(fs.get("/m/moved/x/1") == "contents of /a/x/1");
    CHECK(fs.lookup("/m/a") == ENOENT);
    CHECK(fs.lookup("/m/moved/1") == ENOENT);
}

TEST_CASE("an overlay copies contents up with their holes, and only when written",
          "[fs][overlay]") {
    FsFixture fs;
    mount_overlay(fs);
    auto reader = open_file(at_fdcwd, "/m/1", O_RDWR, 0);
    REQUIRE(reader);
    CHECK((*reader)->inode()->page_cache() ==
          (*lookup_path(at_fdcwd, "/lower/1", 0)).dentry()->inode()->page_cache());
    Attributes wanted;
    wanted.size = u64{1} << 30;
    REQUIRE((*reader)->truncate(wanted.size));
    CHECK(fs.stat("/m/1").size == wanted.size);
    CHECK(fs.stat("/m/1").blocks == 8);
    std::string text = "end";
    IoBuffer buffer(text.data(), text.size());
    REQUIRE((*reader)->write(buffer, wanted.size));
    CHECK(fs.stat("/m/1").blocks == 16);
    CHECK(*(*reader)->seek(4096, 3) == wanted.size); // SEEK_DATA
    CHECK(fs.get("/lower/1") == "contents of /1");
}
