// Random arguments of system calls: descriptors of all kinds, paths, memory good and bad, numbers
// at the edges.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace storm {

// SplitMix64: the same numbers for the same seed, everywhere.
class Random {
public:
    explicit Random(std::uint64_t seed) : state_(seed) {}
    std::uint64_t next();
    // 0 to `count` - 1; `count` is not 0.
    std::uint64_t below(std::uint64_t count) { return next() % count; }
    bool one_in(std::uint64_t count) { return below(count) == 0; }

private:
    std::uint64_t state_;
};

class Values {
public:
    // Opens what calls can be made on and maps memory; from here on nothing of libc's is used but
    // raw calls.
    explicit Values(std::uint64_t seed);

    // An argument of the kind that calls.def names by one letter.
    std::uint64_t argument(char kind);
    // The call with this number answered a descriptor, perhaps: later calls may get it.
    void learn(long number, long result);
    Random& random() { return random_; }

private:
    std::uint64_t descriptor();
    std::uint64_t number();
    std::uint64_t flags();
    std::uint64_t memory();    // an address of the arena as a rule, with something in it
    std::uint64_t structure(); // the same, filled anew
    std::uint64_t path();
    std::uint64_t vectors();
    std::uint64_t socket_address();
    std::uint64_t time();
    std::uint64_t process();
    std::uint64_t command();
    void fill(std::uint64_t address, std::size_t words);
    std::uint64_t put(const void* bytes, std::size_t size); // somewhere in the arena
    std::uint64_t place(std::size_t size);                  // where so much fits, or ends at a hole

    Random random_;
    std::vector<int> descriptors_;
    std::vector<std::uint64_t> addresses_; // of mappings that calls made
};

} // namespace storm
