// add-checksum IN OUT: a copy of a kernel image with its checksum in place. Part of the build.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "boot/elf/checksum.hpp"

int main(int argc, char** argv) {
    if (argc != 3) {
        std::fputs("usage: add-checksum IN OUT\n", stderr);
        return 2;
    }
    std::ifstream in(argv[1], std::ios::binary);
    std::vector<char> image{std::istreambuf_iterator<char>(in), {}};
    if (const auto added = boot::add_checksum(std::as_writable_bytes(std::span(image))); !added) {
        std::fprintf(stderr, "add-checksum: %s: %s\n", argv[1], added.error().reason);
        return 1;
    }
    std::ofstream out(argv[2], std::ios::binary | std::ios::trunc);
    out.write(image.data(), static_cast<std::streamsize>(image.size()));
    out.close();
    if (!out) {
        std::fprintf(stderr, "add-checksum: cannot write %s\n", argv[2]);
        return 1;
    }
    std::filesystem::permissions(argv[2], std::filesystem::status(argv[1]).permissions());
    return 0;
}
