// PR_SET_MM of prctl(2): where /proc/PID shows the program's parts, which file it is, what its
// auxiliary vector was. What restores programs from files, or names itself anew, sets it.
#include <linux/auxvec.h>
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/prctl.h>
#include <linux/resource.h>

#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/mm/address_space.hpp"
#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/syscalls/file_helpers.hpp"
#include "guestkernel/syscalls/task_calls.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

using Map = ::prctl_mm_map;
using Layout = AddressSpace::Layout;
using Words = decltype(Layout::auxv);

// Where each option's word is; the break, which is memory's, is not in the layout alone.
struct Word {
    u64 option;
    __u64 Map::*told;
    u64 Layout::*kept;
};
constexpr Word layout_words[] = {
    {PR_SET_MM_START_CODE, &Map::start_code, &Layout::code_start},
    {PR_SET_MM_END_CODE, &Map::end_code, &Layout::code_end},
    {PR_SET_MM_START_DATA, &Map::start_data, &Layout::data_start},
    {PR_SET_MM_END_DATA, &Map::end_data, &Layout::data_end},
    {PR_SET_MM_START_STACK, &Map::start_stack, &Layout::stack_start},
    {PR_SET_MM_ARG_START, &Map::arg_start, &Layout::args_start},
    {PR_SET_MM_ARG_END, &Map::arg_end, &Layout::args_end},
    {PR_SET_MM_ENV_START, &Map::env_start, &Layout::env_start},
    {PR_SET_MM_ENV_END, &Map::env_end, &Layout::env_end},
    {PR_SET_MM_START_BRK, &Map::start_brk, nullptr},
    {PR_SET_MM_BRK, &Map::brk, nullptr},
};

const Word* word_of(u64 option) {
    for (const Word& word : layout_words)
        if (word.option == option)
            return &word;
    return nullptr;
}

Map current_map(AddressSpace& space) {
    const AddressSpace::Break heap = space.break_range();
    Map map = {};
    for (const Word& word : layout_words)
        if (word.kept != nullptr)
            map.*word.told = space.layout.*word.kept;
    map.start_brk = heap.start;
    map.brk = heap.end;
    return map;
}

// validate_prctl_map_addr() of Linux: inside of the address space, in order, within RLIMIT_DATA.
// Nothing need be mapped there.
Result<void> check(const Map& map, u64 data_limit) {
    for (const u64 at :
         {map.start_code, map.end_code, map.start_data, map.end_data, map.start_brk, map.brk,
          map.start_stack, map.arg_start, map.arg_end, map.env_start, map.env_end})
        if (at < user_min || at >= user_max)
            return fail(EINVAL);
    if (map.start_code >= map.end_code || map.start_data > map.end_data ||
        map.start_brk > map.brk || map.arg_start > map.arg_end || map.env_start > map.env_end)
        return fail(EINVAL);
    if (map.brk - map.start_brk + (map.end_data - map.start_data) > data_limit)
        return fail(EINVAL);
    return {};
}

void apply(AddressSpace& space, const Map& map) {
    for (const Word& word : layout_words)
        if (word.kept != nullptr)
            space.layout.*word.kept = map.*word.told;
    space.set_break_range({map.start_brk, map.brk});
}

// What lies on the stack must be mapped (or have something mapped above it, as Linux looks).
bool lies_on_stack(u64 option) {
    return option == PR_SET_MM_START_STACK || option == PR_SET_MM_ARG_START ||
           option == PR_SET_MM_ARG_END || option == PR_SET_MM_ENV_START ||
           option == PR_SET_MM_ENV_END;
}

bool is_below_a_mapping(AddressSpace& space, u64 address) {
    bool found = false;
    space.for_each_mapping(
        [](const MappingInfo&, void* raw) {
            *static_cast<bool*>(raw) = true;
            return false;
        },
        &found, false, address);
    return found;
}

Result<void> set_word(AddressSpace& space, u64 option, u64 address) {
    if (address < user_min || address >= user_max)
        return fail(EINVAL);
    const Word* const word = word_of(option);
    if (word == nullptr)
        return fail(EINVAL);
    Map map = current_map(space);
    map.*word->told = address;
    TRY(check(map, current_limit(RLIMIT_DATA)));
    if (lies_on_stack(option) && !is_below_a_mapping(space, address))
        return fail(EFAULT);
    // Nothing else: another thread may be at the rest, or the break have moved meanwhile.
    if (word->kept != nullptr)
        space.layout.*word->kept = address;
    else
        space.set_break_range(option == PR_SET_MM_BRK ? AddressSpace::Break{0, address}
                                                      : AddressSpace::Break{address, 0});
    return {};
}

// Zero behind what was given, and at the end in any case.
Result<void> copy_in_vector(Words& words, u64 address, u64 bytes) {
    if (bytes > sizeof words)
        return fail(EINVAL);
    TRY(copy_in_bytes(words, address, bytes));
    constexpr usize count = sizeof words / sizeof words[0];
    words[count - 2] = words[count - 1] = AT_NULL;
    return {};
}

// Up to AT_NULL and its value: what /proc/PID/auxv shows.
void set_vector(AddressSpace& space, const Words& words) {
    Layout& layout = space.layout;
    constexpr u32 count = sizeof words / sizeof words[0];
    u32 used = 0;
    while (used + 2 < count && words[used] != AT_NULL)
        used += 2;
    __builtin_memcpy(layout.auxv, words, sizeof words);
    layout.auxv_words = used + 2;
}

// An executable file, that cannot be written from now on.
Result<void> set_program(Task& task, AddressSpace& space, u32 fd) {
    TRY(usable_file(task, static_cast<int>(fd)));
    auto opened = open_for_exec(static_cast<int>(fd), "", AT_EMPTY_PATH);
    if (!opened && opened.error().code != ETXTBSY)
        return fail(opened.error().code);
    if (space.maps_program())
        return fail(EBUSY);
    if (!opened)
        return fail(EACCES);
    space.set_program(std::move(*opened));
    return {};
}

Result<void> set_map(Task& task, AddressSpace& space, u64 address, u64 size) {
    if (size != sizeof(Map))
        return fail(EINVAL);
    TRY(const Map map, UserPtr<const Map>(address).copy_in());
    TRY(check(map, current_limit(RLIMIT_DATA)));
    Words words = {};
    if (map.auxv_size != 0) {
        if (map.auxv == nullptr)
            return fail(EINVAL);
        TRY(copy_in_vector(words, __builtin_bit_cast(u64, map.auxv), map.auxv_size));
    }
    constexpr u32 no_file = ~0u;
    if (map.exe_fd != no_file) {
        if (!capable_here(CAP_CHECKPOINT_RESTORE) && !capable_here(CAP_SYS_ADMIN))
            return fail(EPERM);
        TRY(set_program(task, space, map.exe_fd));
    }
    apply(space, map);
    if (map.auxv_size != 0)
        set_vector(space, words);
    return {};
}

Result<void> set_auxiliary_vector(AddressSpace& space, u64 address, u64 bytes) {
    Words words = {};
    TRY(copy_in_vector(words, address, bytes));
    // What lies behind the given stays, as on Linux.
    const Layout& layout = space.layout;
    for (usize i = (bytes + sizeof(u64) - 1) / sizeof(u64); i < layout.auxv_words; i++)
        words[i] = layout.auxv[i];
    set_vector(space, words);
    return {};
}

} // namespace

Result<long> set_memory_layout(Task& task, u64 option, u64 address, u64 size, u64 rest) {
    const bool sized =
        option == PR_SET_MM_AUXV || option == PR_SET_MM_MAP || option == PR_SET_MM_MAP_SIZE;
    if (rest != 0 || (size != 0 && !sized))
        return fail(EINVAL);
    AddressSpace& space = *task.address_space;
    if (option == PR_SET_MM_MAP_SIZE) {
        TRY(UserPtr<u32>(address).copy_out(u32{sizeof(Map)}));
        return 0;
    }
    if (option == PR_SET_MM_MAP) {
        TRY(set_map(task, space, address, size));
        return 0;
    }
    if (!capable(CAP_SYS_RESOURCE))
        return fail(EPERM);
    if (option == PR_SET_MM_EXE_FILE)
        TRY(set_program(task, space, static_cast<u32>(address)));
    else if (option == PR_SET_MM_AUXV)
        TRY(set_auxiliary_vector(space, address, size));
    else
        TRY(set_word(space, option, address));
    return 0;
}

} // namespace kernel
