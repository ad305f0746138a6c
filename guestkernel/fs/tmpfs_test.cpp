#include <cerrno>
#include <fcntl.h>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/xattr.h>

#include <catch2/catch.hpp>

#include "guestkernel/fs/attributes.hpp"
#include "guestkernel/fs/test_support.hpp"

using namespace kernel;
using kernel::test::code_of;
using kernel::test::FsFixture;

namespace {

class Collector : public DirectorySink {
public:
    explicit Collector(usize room) : room_(room) {}
    bool add(std::string_view name, u64, u32, u64 next) override {
        if (names.size() == room_)
            return false;
        names.emplace_back(name);
        last = next;
        return true;
    }
    std::vector<std::string> names;
    u64 last = 0;

private:
    usize room_;
};

std::set<std::string> list(const char* name) {
    auto file = open_file(at_fdcwd, name, O_RDONLY | O_DIRECTORY, 0);
    std::set<std::string> out;
    u64 at = 0;
    for (;;) {
        Collector some(3);
        at = *(*file)->read_directory(some, at);
        if (some.names.empty())
            return out;
        for (auto& entry : some.names)
            CHECK(out.insert(entry).second);
    }
}

usize write_text(File& file, std::string text, u64 at) {
    IoBuffer buffer(text.data(), text.size());
    auto put = file.write(buffer, at);
    return put ? *put : 0;
}

} // namespace

// The model: a map from name to an index of a file, and each file's contents and link count.
TEST_CASE("random operations leave the same directory as a model of it", "[fs][tmpfs]") {
    FsFixture fs;
    std::mt19937 random(4711);
    std::map<std::string, int> names;
    std::vector<std::string> contents;
    auto name = [&] { return "/n" + std::to_string(random() % 40); };
    for (int step = 0; step < 4000; step++) {
        const std::string a = name();
        const std::string b = name();
        switch (random() % 6) {
        case 0: {
            const std::string text = "text " + std::to_string(step);
            REQUIRE(fs.put(a, text) == 0);
            if (names.count(a) == 0) {
                names[a] = static_cast<int>(contents.size());
                contents.emplace_back();
            }
            contents[static_cast<usize>(names[a])] = text;
            break;
        }
        case 1:
            REQUIRE(fs.unlink(a) == (names.count(a) != 0 ? 0 : ENOENT));
            names.erase(a);
            break;
        case 2: {
            const bool there = names.count(a) != 0;
            REQUIRE(fs.rename(a, b) == (there ? 0 : ENOENT));
            if (there && a != b && (names.count(b) == 0 || names[a] != names[b])) {
                names[b] = names[a];
                names.erase(a);
            }
            break;
        }
        case 3: {
            const int expected = names.count(a) == 0 ? ENOENT : names.count(b) != 0 ? EEXIST : 0;
            const int got = fs.link(a, b);
            // Which of two errors comes first is not the model's business.
            REQUIRE((got == expected || (got != 0 && expected != 0)));
            if (got == 0)
                names[b] = names[a];
            break;
        }
        case 4:
            if (names.count(a) != 0 && names.count(b) != 0) {
                REQUIRE(fs.rename(a, b, RENAME_EXCHANGE) == 0);
                std::swap(names[a], names[b]);
            }
            break;
        default:
            if (step % 50 == 0)
                DentryCache::shrink(1000);
            break;
        }
    }
    std::set<std::string> expected{".", ".."};
    std::map<int, u32> links;
    for (auto& [key, file] : names) {
        expected.insert(key.substr(1));
        links[file]++;
    }
    CHECK(list("/") == expected);
    for (auto& [key, file] : names) {
        CHECK(fs.get(key) == contents[static_cast<usize>(file)]);
        CHECK(fs.stat(key).links == links[file]);
    }
}

TEST_CASE("reading a directory goes on where it stopped, whatever came and went", "[fs][tmpfs]") {
    FsFixture fs;
    REQUIRE(fs.mkdir("/d") == 0);
    for (int i = 0; i < 200; i++)
        REQUIRE(fs.put("/d/f" + std::to_string(i), "") == 0);
    auto directory = open_file(at_fdcwd, "/d", O_RDONLY, 0);
    Collector first(52); // with "." and ".."
    u64 at = *(*directory)->read_directory(first, 0);
    CHECK(at == first.last);
    for (int i = 0; i < 150; i++)
        REQUIRE(fs.unlink("/d/f" + std::to_string(i)) == 0);
    for (int i = 0; i < 100; i++)
        REQUIRE(fs.put("/d/g" + std::to_string(i), "") == 0);
    Collector rest(1000);
    at = *(*directory)->read_directory(rest, at);
    CHECK(rest.names.size() == 50 + 100);
    std::set<std::string> seen(rest.names.begin(), rest.names.end());
    CHECK(seen.count("f199") == 1);
    CHECK(seen.count("f149") == 0);
    CHECK(seen.count("g0") == 1);
    Collector none(10);
    CHECK(*(*directory)->read_directory(none, at) == at);
    CHECK(none.names.empty());
    CHECK(fs.stat("/d").links == 2);
    REQUIRE(fs.mkdir("/d/sub") == 0);
    CHECK(fs.stat("/d").links == 3);
}

TEST_CASE("sparse files take no more than what was written", "[fs][tmpfs]") {
    FsFixture fs;
    constexpr u64 far = u64{2} << 30;
    auto file = *open_file(at_fdcwd, "/s", O_RDWR | O_CREAT, 0600);
    CHECK(write_text(*file, "end", far) == 3);
    CHECK(fs.stat("/s").size == far + 3);
    CHECK(fs.stat("/s").blocks == 8);
    CHECK(*file->seek(0, SEEK_DATA) == far);
    CHECK(*file->seek(0, SEEK_HOLE) == 0);
    CHECK(*file->seek(static_cast<i64>(far), SEEK_HOLE) == far + 3);
    CHECK(code_of(file->seek(static_cast<i64>(far + 3), SEEK_DATA)) == ENXIO);
    std::string middle(10000, 'x');
    CHECK(*read_file(*file, middle.data(), middle.size(), far / 2) == middle.size());
    CHECK(middle == std::string(10000, '\0'));
    CHECK(fs.stat("/s").blocks == 8); // reading holes fills none

    CHECK(write_text(*file, std::string(3 * 4096, 'y'), 4096) == 3 * 4096);
    CHECK(fs.stat("/s").blocks == 32);
    REQUIRE(file->allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2 * 4096, 4096).has_value());
    CHECK(fs.stat("/s").blocks == 24);
    char byte = 'z';
    CHECK(*read_file(*file, &byte, 1, 2 * 4096) == 1);
    CHECK(byte == '\0');
    REQUIRE(file->truncate(4096 + 10).has_value());
    CHECK(fs.stat("/s").blocks == 8);
    REQUIRE(file->truncate(8192).has_value());
    CHECK(*read_file(*file, &byte, 1, 4096 + 10) == 1);
    CHECK(byte == '\0');
    REQUIRE(file->allocate(FALLOC_FL_KEEP_SIZE, 0, 1 << 20).has_value());
    CHECK(fs.stat("/s").size == 8192);
    CHECK(fs.stat("/s").blocks == 2048);
}

TEST_CASE("appends go to the end, and a full tmpfs says so", "[fs][tmpfs]") {
    FsFixture fs;
    auto one = *open_file(at_fdcwd, "/log", O_WRONLY | O_CREAT | O_APPEND, 0600);
    auto two = *open_file(at_fdcwd, "/log", O_WRONLY | O_APPEND, 0);
    CHECK(write_text(*one, "a", 0) == 1);
    CHECK(write_text(*two, "b", 0) == 1);
    CHECK(write_text(*one, "c", 0) == 1);
    CHECK(one->append_end == 3);
    CHECK(fs.get("/log") == "abc");

    REQUIRE(fs.mkdir("/small") == 0);
    const Path place = *lookup_path(at_fdcwd, "/small", 0);
    REQUIRE(mount_at(place, *make_tmpfs("size=64k,mode=755"), 0, "tmpfs").has_value());
    auto big = *open_file(at_fdcwd, "/small/f", O_RDWR | O_CREAT, 0600);
    std::string data(64 << 10, 'd');
    CHECK(write_text(*big, data, 0) == data.size());
    IoBuffer more(data.data(), 1);
    CHECK(code_of(big->write(more, 64 << 10)) == ENOSPC);
    CHECK(write_text(*big, "over", 100) == 4);          // what is there can be overwritten
    CHECK(write_text(*big, data, 60 << 10) == 4 << 10); // and the part of a write that fits is done
    auto stats = *place.mount()->superblock().stats();
    (void)stats;
    const FileSystemStats small =
        *lookup_path(at_fdcwd, "/small", 0)->mount()->superblock().stats();
    CHECK(small.blocks == 16);
    CHECK(small.free_blocks == 0);
    REQUIRE(big->truncate(0).has_value());
    CHECK(lookup_path(at_fdcwd, "/small", 0)->mount()->superblock().stats()->free_blocks == 16);
    CHECK_FALSE(make_tmpfs("size=12q").has_value());
    CHECK_FALSE(make_tmpfs("nonsense").has_value());
}

TEST_CASE("a write that a full tmpfs cuts short ends where the room ends", "[fs][tmpfs]") {
    FsFixture fs;
    REQUIRE(fs.mkdir("/small") == 0);
    const Path place = *lookup_path(at_fdcwd, "/small", 0);
    REQUIRE(mount_at(place, *make_tmpfs("size=16k,mode=755"), 0, "tmpfs").has_value());
    auto file = *open_file(at_fdcwd, "/small/f", O_RDWR | O_CREAT, 0600);
    REQUIRE(write_text(*file, "x", 2 * page_size) == 1);
    const std::string data(8 * page_size, 'd');
    CHECK(write_text(*file, data, 100) == 4 * page_size - 100);
    CHECK(fs.stat("/small/f").size == 4 * page_size);
    IoBuffer more(const_cast<char*>(data.data()), data.size());
    CHECK(code_of(file->write(more, 4 * page_size)) == ENOSPC);
    CHECK(code_of(file->allocate(0, 0, 5 * page_size)) == ENOSPC);
}

TEST_CASE("extended attributes are kept by name", "[fs][tmpfs]") {
    FsFixture fs;
    REQUIRE(fs.put("/f", "") == 0);
    Inode& inode = *lookup_path(at_fdcwd, "/f", 0)->dentry()->inode();
    CHECK(code_of(inode.get_xattr("user.a")) == ENODATA);
    REQUIRE(inode.set_xattr("user.a", "one", XATTR_CREATE).has_value());
    CHECK(code_of(inode.set_xattr("user.a", "two", XATTR_CREATE)) == EEXIST);
    REQUIRE(inode.set_xattr("user.a", std::string_view("t\0o", 3), XATTR_REPLACE).has_value());
    CHECK(code_of(inode.set_xattr("user.b", "x", XATTR_REPLACE)) == ENODATA);
    REQUIRE(inode.set_xattr("trusted.c", "", 0).has_value());
    CHECK(code_of(inode.set_xattr("odd.c", "", 0)) == EOPNOTSUPP);
    CHECK(inode.get_xattr("user.a")->view() == std::string_view("t\0o", 3));
    CHECK(inode.get_xattr("trusted.c")->view().empty());
    String names;
    REQUIRE(inode.list_xattrs(names).has_value());
    CHECK(names.view() == std::string_view("user.a\0trusted.c\0", 17));
    REQUIRE(inode.remove_xattr("user.a").has_value());
    CHECK(code_of(inode.remove_xattr("user.a")) == ENODATA);
}

TEST_CASE("extended attributes take from what inodes may take", "[fs][tmpfs]") {
    FsFixture fs;
    REQUIRE(fs.mkdir("/small") == 0);
    const Path place = *lookup_path(at_fdcwd, "/small", 0);
    REQUIRE(mount_at(place, *make_tmpfs("nr_inodes=6,mode=755"), 0, "tmpfs").has_value());
    REQUIRE(fs.put("/small/f", "") == 0);
    Inode& inode = *lookup_path(at_fdcwd, "/small/f", 0)->dentry()->inode();
    const std::string value(1900, 'v');
    REQUIRE(inode.set_xattr("user.a", value, 0).has_value());
    REQUIRE(inode.set_xattr("user.b", value, 0).has_value());
    CHECK(code_of(inode.set_xattr("user.c", value, 0)) == ENOSPC);
    CHECK(code_of(inode.get_xattr("user.c")) == ENODATA);
    CHECK(fs.put("/small/g", "") == ENOSPC);
    REQUIRE(inode.remove_xattr("user.a").has_value());
    CHECK(fs.put("/small/g", "") == 0);
    REQUIRE(inode.set_xattr("user.b", "", XATTR_REPLACE).has_value());
    CHECK(inode.set_xattr("user.c", value, 0).has_value());
    CHECK(fs.unlink("/small/f") == 0);
    for (const char* name : {"/small/h", "/small/i", "/small/j", "/small/k"})
        CHECK(fs.put(name, "") == 0);
    CHECK(fs.put("/small/l", "") == ENOSPC);
}

TEST_CASE("without options a file system in memory has an end of files, too", "[fs][tmpfs]") {
    FsFixture fs;
    const FileSystemStats stats = *(*make_tmpfs(""))->stats();
    CHECK(stats.files == memory_stats().total / 2);
    CHECK(stats.free_files == stats.files - 1);
    const auto small = make_tmpfs_superblock("nr_inodes=2", "tmpfs");
    REQUIRE(small.has_value());
    CHECK((*small)->take_inode().has_value());
    CHECK(code_of((*small)->take_inode()) == ENOSPC);
}

TEST_CASE("memory objects obey their seals", "[fs][tmpfs]") {
    FsFixture fs;
    auto file = *make_shared_memory_file("memfd:test", 100, 2); // MFD_ALLOW_SEALING
    auto* memory = file_as<TmpfsRegularFile>(*file);
    REQUIRE(memory != nullptr);
    CHECK(std::string(path_name(file->path())->view()) == "/memfd:test (deleted)");
    CHECK(memory->file().seals() == 0);
    REQUIRE(memory->file().add_seals(F_SEAL_SHRINK).has_value());
    CHECK(code_of(file->truncate(50)) == EPERM);
    CHECK(code_of(file->truncate(150)) == 0);
    REQUIRE(memory->file().add_seals(F_SEAL_GROW).has_value());
    CHECK(code_of(file->truncate(200)) == EPERM);
    CHECK(write_text(*file, "in", 148) == 2);
    CHECK(write_text(*file, "out", 148) == 0);
    REQUIRE(memory->file().add_seals(F_SEAL_WRITE | F_SEAL_SEAL).has_value());
    CHECK(write_text(*file, "no", 0) == 0);
    CHECK(code_of(memory->file().add_seals(F_SEAL_SHRINK)) == EPERM);
    auto plain = *make_shared_memory_file("dev/zero", 4096, 0);
    CHECK(code_of(file_as<TmpfsRegularFile>(*plain)->file().add_seals(F_SEAL_SHRINK)) == EPERM);
}

TEST_CASE("an unnamed file gets a name by link", "[fs][tmpfs]") {
    FsFixture fs;
    auto file = *open_file(at_fdcwd, "/", O_RDWR | O_TMPFILE, 0600);
    CHECK(write_text(*file, "late", 0) == 4);
    CHECK(file->inode()->attributes()->links == 0);
    const int fd = *fs.task.files->install(file, false);
    REQUIRE(make_link(fd, "", at_fdcwd, "/named", AT_EMPTY_PATH).has_value());
    CHECK(fs.get("/named") == "late");
    CHECK(fs.stat("/named").links == 1);
}

TEST_CASE("a page is seen with all of a write's bytes or with none") {
    FsFixture fs;
    auto file = *open_file(at_fdcwd, "file", O_RDWR | O_CREAT, 0644);
    const std::string page(page_size, 'x');
    hosted::register_user_range(page.data(), page.size());
    PageCache& cache = *file->inode()->page_cache();
    hosted::meanwhile().copy = [&] { CHECK(!cache.lookup(0)); };
    const UserVector vector{reinterpret_cast<u64>(page.data()), page.size()};
    IoBuffer buffer(std::span(&vector, 1));
    auto put = file->write(buffer, 0);
    REQUIRE(put);
    CHECK(*put == page_size);
    CHECK(!hosted::meanwhile().copy);
    CHECK(cache.lookup(0).data()[page_size - 1] == 'x');
}
