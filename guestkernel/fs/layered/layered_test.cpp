// An overlay with an upper directory against a plain tmpfs that gets the same operations.
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

// Every name below with its type, contents or target, and mode.
std::string describe(FsFixture& fs, const std::string& directory) {
    auto file = open_file(at_fdcwd, directory, O_RDONLY | O_DIRECTORY, 0);
    REQUIRE(file);
    Listing sink;
    for (u64 at = 0;;) {
        sink.room = 3;
        auto next = (*file)->read_directory(sink, at);
        REQUIRE(next);
        if (*next == at)
            break;
        at = *next;
    }
    std::string out;
    for (const auto& [name, entry] : sink.found) {
        const std::string path = directory + "/" + name;
        const Attributes attributes = fs.stat(path, 0);
        INFO(path);
        REQUIRE(attributes.inode == entry.first);
        REQUIRE((attributes.mode & S_IFMT) >> 12 == entry.second);
        out += name + " " + std::to_string(attributes.mode) + " ";
        if (S_ISDIR(attributes.mode))
            out += "{" + describe(fs, path) + "}";
        else if (S_ISREG(attributes.mode))
            out += std::to_string(attributes.size) + ":" + fs.get(path);
        else
            out += (*lookup_path(at_fdcwd, path, 0)).dentry()->inode()->readlink()->c_str();
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
    REQUIRE(fs.symlink("/a/1", top + "/3") == 0);
}

void mount_layers(const std::string& lower) {
    auto overlay = mount_overlay("lowerdir=" + lower + ",upperdir=/upper,workdir=/work");
    REQUIRE(overlay);
    REQUIRE(mount_at(*lookup_path(at_fdcwd, "/m", 0), std::move(*overlay), 0, "overlay"));
}

void unmount_layers() {
    REQUIRE(MountTree::unmount(*lookup_path(at_fdcwd, "/m", lookup_follow), false, false));
}

int change(FsFixture& fs, const std::string& top, u32 kind, int step, const std::string& one,
           const std::string& two) {
    switch (kind) {
    case 0:
        return fs.put(top + one, "step " + std::to_string(step));
    case 1:
        return fs.mkdir(top + one);
    case 2:
        return fs.unlink(top + one);
    case 3:
        return fs.rmdir(top + one);
    case 4:
    case 5:
        return fs.rename(top + one, top + two, kind == 5 && step % 3 == 0 ? 2 : 0);
    case 6:
        return fs.link(top + one, top + two);
    case 7: {
        auto file = open_file(at_fdcwd, top + one, O_WRONLY | O_APPEND, 0);
        if (!file)
            return file.error().code;
        std::string text = "more";
        IoBuffer buffer(text.data(), text.size());
        return code_of((*file)->write(buffer, 0));
    }
    default:
        return fs.symlink(two, top + one);
    }
}

void run(FsFixture& fs, const std::string& lower, unsigned seed) {
    std::mt19937 random(seed);
    const auto name = [&] {
        std::string path;
        static const char* const parts[] = {"/a", "/b", "/x", "/y", "/1", "/2", "/3"};
        for (auto depth = 1 + random() % 3; depth > 0; depth--)
            path += parts[random() % 7];
        return path;
    };
    for (int step = 0; step < 3000; step++) {
        const std::string one = name(), two = name();
        const u32 kind = static_cast<u32>(random() % 9);
        const int code = change(fs, "/m", kind, step, one, two);
        INFO("step " << step << " kind " << kind << " " << one << " " << two);
        if (code != EXDEV) // a directory that a layer below has a part in
            REQUIRE(code == change(fs, "/model", kind, step, one, two));
        if (step % 50 == 0) {
            DentryCache::shrink(1000); // what is only cached must be found again
            REQUIRE(describe(fs, "/m") == describe(fs, "/model"));
        }
        if (step % 500 == 499) { // and what the layers do not hold is not there
            unmount_layers();
            mount_layers(lower);
            REQUIRE(describe(fs, "/m") == describe(fs, "/model"));
        }
    }
}

} // namespace

TEST_CASE("an overlay with an upper directory behaves as one file system would", "[fs][layered]") {
    FsFixture fs;
    fill(fs, "/lower");
    fill(fs, "/model");
    for (const char* name : {"/m", "/upper", "/work"})
        REQUIRE(fs.mkdir(name) == 0);
    mount_layers("/lower");
    const std::string before = describe(fs, "/lower");
    REQUIRE(describe(fs, "/m") == before);
    run(fs, "/lower", 5);
    CHECK(describe(fs, "/lower") == before);
    unmount_layers();
}

TEST_CASE("a layer that an overlay wrote is a lower layer of the next", "[fs][layered]") {
    FsFixture fs;
    fill(fs, "/lower");
    fill(fs, "/model");
    for (const char* name : {"/m", "/upper", "/work"})
        REQUIRE(fs.mkdir(name) == 0);
    mount_layers("/lower");
    run(fs, "/lower", 7);
    unmount_layers();
    REQUIRE(fs.rename("/upper", "/middle") == 0);
    REQUIRE(fs.mkdir("/upper") == 0);
    mount_layers("/middle:/lower");
    REQUIRE(describe(fs, "/m") == describe(fs, "/model"));
    run(fs, "/middle:/lower", 11);
    unmount_layers();
}
