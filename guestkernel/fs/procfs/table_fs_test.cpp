#include <cerrno>
#include <fcntl.h>
#include <string>

#include <catch2/catch.hpp>

#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/procfs/table_fs.hpp"
#include "guestkernel/fs/test_support.hpp"

using namespace kernel;
using kernel::test::code_of;
using kernel::test::FsFixture;

namespace {

std::string stored;

constexpr TableEntry thing_files[] = {
    {.name = "which",
     .mode = mode_regular | 0444,
     .show = [](TextBuilder& out, const TableContext& of) -> Result<void> {
         out.print("thing {}\n", of.cpu);
         return {};
     }},
};
constexpr TableEntry thing = {.name = "", .mode = mode_directory | 0555, .children = thing_files};
constexpr TableNumbers things = {"thing",
                                 [](const TableContext&, i32 after) {
                                     return after < 7 ? 7 : after < 12 ? 12 : -1;
                                 },
                                 [](const TableContext& of) { return of.cpu == 7 || of.cpu == 12; },
                                 [](TableContext of, i32 number) {
                                     of.cpu = number;
                                     return of;
                                 },
                                 &thing};
constexpr TableEntry files[] = {
    {.name = "constant", .mode = mode_regular | 0444, .text = "always\n"},
    {.name = "knob",
     .mode = mode_regular | 0644,
     .text = "0\n",
     .store = [](std::string_view text, const TableContext&) -> Result<void> {
         stored = std::string(text);
         return {};
     }},
    {.name = "link",
     .mode = mode_symlink | 0777,
     .link = [](TextBuilder& out, const TableContext&) -> Result<void> {
         out.append("thing12/which");
         return {};
     }},
};
constexpr TableEntry top = {
    .name = "", .mode = mode_directory | 0555, .children = files, .numbers = &things};

} // namespace

TEST_CASE("a file system made of tables is walked, read and written", "[fs][procfs]") {
    FsFixture fs;
    auto superblock = make_ref<TableSuperblock>("table", u64{1});
    REQUIRE(superblock);
    REQUIRE((*superblock)->init(top));
    REQUIRE(fs.mkdir("/t") == 0);
    REQUIRE(mount_at(*lookup_path(at_fdcwd, "/t", 0), Ref<Superblock>(*superblock), 0, "t"));
    CHECK(fs.get("/t/constant") == "always\n");
    CHECK(fs.get("/t/thing7/which") == "thing 7\n");
    CHECK(fs.get("/t/link") == "thing 12\n");
    CHECK(fs.lookup("/t/thing8") == ENOENT);
    CHECK(fs.lookup("/t/thing07") == ENOENT);
    CHECK(fs.put("/t/knob", "17\n") == 0);
    CHECK(stored == "17\n");
    CHECK(fs.open("/t/new", O_CREAT | O_WRONLY) != 0);
    CHECK(fs.unlink("/t/constant") != 0);
}

TEST_CASE("numbers written to a sysctl are decimal, with blanks around", "[procfs]") {
    CHECK(*parse_number(" -12\n") == -12);
    CHECK(*parse_number("0") == 0);
    CHECK(code_of(parse_number("")) == EINVAL);
    CHECK(code_of(parse_number("1x")) == EINVAL);
    CHECK(code_of(parse_number("99999999999999999999")) == EINVAL);
    CHECK(*parse_list(" 0-2,5\n") == 0x27);
    CHECK(*parse_list("") == 0);
    for (const std::string_view wrong : {"x", "2-1", "64", "-1", "1,,2"})
        CHECK(code_of(parse_list(wrong)) == EINVAL);
}

TEST_CASE("text is padded and escaped as proc(5) shows it", "[procfs]") {
    TextBuilder text;
    text.kilobytes("MemTotal:", 16, 2);
    text.hex(0xab, 4);
    text.append(" ");
    text.escaped("a b\\");
    text.octal(022, 4);
    CHECK(text.view() == "MemTotal:              8 kB\n00ab a\\040b\\1340022");
    CHECK_FALSE(text.failed());
}
