// Layers that somebody hostile made: bytes as they are, and archives of entries whose names, links
// and kinds are chosen to meet each other. Whatever they say, nothing beside the root changes.
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <string>
#include <string_view>
#include <unistd.h>

#include <sys/stat.h>

#include "tools/image/beneath.hpp"
#include "tools/image/testing/archive_maker.hpp"
#include "tools/image/tree_writer.hpp"

namespace {

void require(bool holds) {
    if (!holds)
        std::abort();
}

constexpr std::size_t block = 512;

constexpr std::array<std::string_view, 16> names = {
    "a",    "b",    "a/b",   "b/a",     "a/b/c",          "../out",       "a/../../out",
    "/out", "./",   ".wh.a", "a/.wh.b", "a/.wh..wh..opq", ".wh..wh..opq", ".wh...",
    "l",    "l/out"};
constexpr std::array<std::string_view, 8> targets = {"../out", "..",  "/", "a",
                                                     "b",      "a/b", "l", "."};
// Files, links, devices, directories, pipes, old sparse files; then what no one knows.
constexpr std::string_view kinds = "01234567SVMA5525";

// One ustar header and its data, made of four bytes.
void add_entry(std::string& tar, const std::uint8_t* choice) {
    std::array<char, block> header{};
    const auto put = [&header](std::size_t at, std::string_view text) {
        std::memcpy(header.data() + at, text.data(), text.size());
    };
    const std::size_t size = choice[3] % 8 == 0 ? 700 : choice[3] % 3;
    std::array<char, 13> octal{};
    put(0, names[choice[0] % names.size()]);
    std::snprintf(octal.data(), octal.size(), "%07o", (choice[3] * 77U) & 07777U);
    put(100, octal.data());
    put(108, "0000000");
    put(116, "0000000");
    std::snprintf(octal.data(), octal.size(), "%011zo", size);
    put(124, octal.data());
    put(136, "00000000000");
    header[156] = kinds[choice[1] % kinds.size()];
    put(157, targets[choice[2] % targets.size()]);
    put(257, std::string_view("ustar\00000", 8));
    put(148, "        ");
    unsigned sum = 0;
    for (const char c : header)
        sum += static_cast<unsigned char>(c);
    std::snprintf(octal.data(), octal.size(), "%06o", sum);
    put(148, octal.data());
    header[154] = '\0';
    tar.append(header.data(), header.size());
    tar.append((size + block - 1) / block * block, 'x');
}

std::string make_tar(const std::uint8_t* data, std::size_t size) {
    std::string tar;
    for (std::size_t at = 0; at + 4 <= size && tar.size() < 200 * block; at += 4)
        add_entry(tar, data + at);
    tar.append(2 * block, '\0');
    return tar;
}

struct Place {
    image::testing::ScratchFolder folder;
    os::UniqueFd top{::open(folder.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    Place() {
        require(::mkdir((folder / "out").c_str(), 0751) == 0);
        folder.write("out/file", "untouched");
    }
    void check() const {
        struct stat status {};
        require(::stat((folder / "out").c_str(), &status) == 0);
        require((status.st_mode & 07777) == 0751 && status.st_nlink == 2);
        require(::stat((folder / "out/file").c_str(), &status) == 0 && status.st_nlink == 1);
        require(folder.read("out/file") == "untouched");
        require(image::list_names(top.get())->size() == 2); // out and root
        const os::UniqueFd out(::openat(top.get(), "out", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        require(image::list_names(out.get())->size() == 1);
    }
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 2)
        return 0;
    static const Place place;
    require(image::remove_tree(place.top.get(), "root").has_value());
    require(::mkdirat(place.top.get(), "root", 0755) == 0);
    image::Limits limits;
    limits.unpacked_bytes = 1 << 20;
    limits.file_bytes = 1 << 20;
    limits.entries = 1000;
    os::UniqueFd root(::openat(place.top.get(), "root", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    // Devices are not made: the fuzzer may run as root.
    image::TreeWriter tree(std::move(root), limits, false);
    const bool structured = data[0] % 4 != 0;
    // Two layers: what the first leaves is what the second meets.
    const std::size_t half = (size - 1) / 2;
    for (const auto& [from, count] :
         {std::pair(std::size_t{1}, half), {1 + half, size - 1 - half}}) {
        const std::string tar =
            structured ? make_tar(data + from, count)
                       : std::string(reinterpret_cast<const char*>(data) + from, count);
        image::testing::MemorySource source(tar);
        const auto applied = tree.apply(source, "layer");
        require(applied || !applied.error().message.empty());
    }
    static_cast<void>(tree.finish());
    place.check();
    return 0;
}
