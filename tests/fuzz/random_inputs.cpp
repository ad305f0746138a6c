// A fuzzer without libFuzzer: runs it over inputs that a fixed seed makes, so many as the argument
// says. They are of every length, and half of their bytes are small: those choose among cases.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

int main(int count, char** words) {
    const unsigned inputs =
        count > 1 ? static_cast<unsigned>(std::strtoul(words[1], nullptr, 10)) : 1000;
    for (unsigned seed = 1; seed <= inputs; seed++) {
        std::mt19937 random(seed);
        std::vector<std::uint8_t> bytes(random() % 8192);
        for (std::uint8_t& byte : bytes)
            byte = static_cast<std::uint8_t>(random() % 2 != 0 ? random() : random() % 24);
        (void)LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    }
    std::printf("%u inputs\n", inputs);
    return 0;
}
