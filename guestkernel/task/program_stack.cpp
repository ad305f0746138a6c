// The first stack of a program.
#include <linux/auxvec.h>
#include <linux/errno.h>
#include <linux/mman.h>

#include "guestkernel/core/random.hpp"
#include "guestkernel/task/program_image.hpp"

namespace kernel {

namespace {

constexpr u64 spare_bytes =
    128 * 1024; // mapped below what is written now; the rest grows by faults
constexpr char platform[] = "x86_64";
constexpr usize random_bytes_count = 16;

bool write(AddressSpace& space, u64 to, const void* from, usize bytes) {
    return space.write_foreign(VirtAddr(to), from, bytes) == bytes;
}

// Everything from the stack pointer up to the platform string.
Result<void> fill_words(Vector<u64>& words, const ExecStrings& strings, u64 strings_at) {
    const usize arguments = strings.argument_count();
    TRY(words.push_back(arguments));
    for (usize i = 0; i < arguments; i++)
        TRY(words.push_back(strings_at + strings.offset(i)));
    TRY(words.push_back(0));
    for (usize i = 0; i < strings.environment_count(); i++)
        TRY(words.push_back(strings_at + strings.offset(arguments + i)));
    return words.push_back(0);
}

} // namespace

Result<u64> build_stack(AddressSpace& space, const AddressLayout& places, std::string_view name,
                        const ExecStrings& strings, std::span<const u64> auxiliary,
                        bool executable) {
    // From the top: a null word, the name, environment and arguments; some way below the platform,
    // random bytes; then the words.
    const u64 top = places.stack_top;
    const u64 name_at = top - sizeof(u64) - (name.size() + 1);
    const u64 strings_at = name_at - strings.bytes();
    const u64 platform_at = (strings_at & ~u64{15}) - places.stack_shift - 16;
    const u64 random_at = platform_at - random_bytes_count;
    Vector<u64> words;
    const usize count =
        strings.argument_count() + strings.environment_count() + 3 + auxiliary.size() + 8;
    TRY(words.reserve(count));
    TRY(fill_words(words, strings, strings_at));
    const usize auxv_at = words.size();
    TRY(words.append(auxiliary));
    const u64 added[] = {AT_RANDOM,   random_at,   AT_EXECFN, name_at,
                         AT_PLATFORM, platform_at, AT_NULL,   0};
    TRY(words.append(std::span<const u64>(added)));
    const u64 pointer = (random_at - words.size() * sizeof(u64)) & ~u64{15};

    MapRequest request;
    const u64 start = page_down(pointer) - spare_bytes;
    request.hint = VirtAddr(start);
    request.length = top - start;
    request.protection = u32{PROT_READ | PROT_WRITE} | (executable ? u32{PROT_EXEC} : 0u);
    request.flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_GROWSDOWN | MAP_STACK;
    request.name = "[stack]";
    TRY(space.map(request));

    u8 random[random_bytes_count];
    random_bytes(random, sizeof random);
    const bool written = write(space, name_at, name.data(),
                               name.size()) && // the NUL is there already: fresh pages are zeros
                         strings.for_each_piece([&](u64 offset, const char* data, usize bytes) {
                             return write(space, strings_at + offset, data, bytes);
                         }) &&
                         write(space, platform_at, platform, sizeof platform) &&
                         write(space, random_at, random, sizeof random) &&
                         write(space, pointer, words.data(), words.size() * sizeof(u64));
    if (!written)
        return fail(ENOMEM);

    AddressSpace::Layout& layout = space.layout;
    layout.stack_start = pointer;
    layout.args_start = strings_at;
    const bool has_environment = strings.environment_count() != 0;
    layout.args_end =
        has_environment ? strings_at + strings.offset(strings.argument_count()) : name_at;
    layout.env_start = layout.args_end;
    layout.env_end = name_at;
    layout.auxv_words = 0;
    for (usize i = auxv_at; i < words.size() && layout.auxv_words < 48; i++)
        layout.auxv[layout.auxv_words++] = words[i];
    return pointer;
}

} // namespace kernel
