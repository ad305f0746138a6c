#include "guestkernel/task/program_image.hpp"

#include <linux/auxvec.h>
#include <linux/errno.h>
#include <linux/mman.h>
#include <linux/resource.h>

#include "guestkernel/arch/cpuid.hpp"
#include "guestkernel/core/vdso.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/mm/heap.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

constexpr u32 hwcap2_fsgsbase = 2;
constexpr u64 clock_ticks = 100;
// struct rt_sigframe, alignments and red zone beside the FPU state.
constexpr u64 signal_frame_overhead = 440 + 128 + 64 + 16 + 4;

struct Buffer { // heap memory that goes away by itself
    explicit Buffer(usize bytes) : data(static_cast<u8*>(kmalloc(bytes))) {}
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { kfree(data); }
    u8* data;
};

u32 processor_features() {
    static u32 cached = 0; // CPUID traps
    if (cached == 0)
        cached = arch::cpuid(1).edx;
    return cached;
}

Result<void> read_exact(File& file, void* to, usize bytes, u64 offset) {
    TRY(const usize got, read_file(file, to, bytes, offset));
    if (got != bytes)
        return fail(ENOEXEC);
    return {};
}

Result<void> read_image(File& file, std::span<const u8> header, ElfImage& image) {
    u64 table_offset = 0;
    usize table_bytes = 0;
    TRY(check_elf_header(header, table_offset, table_bytes));
    if (table_offset <= header.size() && table_bytes <= header.size() - table_offset)
        return read_elf_segments(header, header.subspan(table_offset, table_bytes), image);
    const Buffer table(table_bytes);
    if (table.data == nullptr)
        return fail(ENOMEM);
    TRY(read_exact(file, table.data, table_bytes, table_offset));
    return read_elf_segments(header, std::span<const u8>(table.data, table_bytes), image);
}

// The part of a segment past its bytes in the file reads as zeros.
Result<void> map_zeros(AddressSpace& space, const ElfSegment& segment, u64 bias) {
    const u64 file_end = segment.address + segment.file_size + bias;
    const u64 end = page_up(segment.address + segment.memory_size + bias);
    const u64 first_page =
        segment.file_size == 0 ? page_down(segment.address + bias) : page_up(file_end);
    if (end > first_page) {
        MapRequest request;
        request.hint = VirtAddr(first_page);
        request.length = end - first_page;
        request.protection = segment.protection;
        request.flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
        TRY(space.map(request));
    }
    if (segment.file_size == 0 || (segment.protection & PROT_WRITE) == 0 || first_page == file_end)
        return {};
    static constexpr u8 zeros[512] = {};
    for (u64 at = file_end; at < first_page;) {
        const u64 part = first_page - at < sizeof zeros ? first_page - at : sizeof zeros;
        if (space.write_foreign(VirtAddr(at), zeros, part) != part)
            return fail(ENOMEM);
        at += part;
    }
    return {};
}

Result<VirtAddr> map_file_part(AddressSpace& space, const Ref<File>& file,
                               const ElfSegment& segment, u64 at, u64 length, u32 flags) {
    MapRequest request;
    request.hint = VirtAddr(at);
    request.length = length;
    request.protection = segment.protection;
    request.flags = MAP_PRIVATE | flags;
    request.file = file;
    request.offset = page_down(segment.offset);
    return space.map(request);
}

// Maps all segments; returns the bias between the file's addresses and the memory's. `base`: where
// the first page goes, 0: anywhere. Only for images that are position-independent.
Result<u64> map_image(AddressSpace& space, const Ref<File>& file, const ElfImage& image, u64 base) {
    const u64 low = image.low();
    u64 bias = image.position_independent ? base - low : 0;
    bool placed = !image.position_independent || base != 0;
    for (unsigned i = 0; i < image.segment_count; i++) {
        const ElfSegment& segment = image.segments[i];
        const u64 page = page_down(segment.address);
        const u64 file_length = page_up(segment.address - page + segment.file_size);
        if (!placed) {
            // The first mapping takes the room of all, so that nothing else lands in between.
            const u64 span = image.high() - low;
            const u64 slack = image.alignment > page_size ? image.alignment : 0;
            TRY(const VirtAddr start, map_file_part(space, file, segment, 0, span + slack, 0));
            const u64 aligned = (start.raw() + image.alignment - 1) & ~(image.alignment - 1);
            if (slack != 0 || segment.file_size == 0) {
                TRY(space.unmap(start, span + slack));
                bias = aligned - low;
            } else {
                bias = start.raw() - low;
                if (span > file_length)
                    TRY(space.unmap(start + file_length, span - file_length));
                placed = true;
                TRY(map_zeros(space, segment, bias));
                continue;
            }
            placed = true;
        }
        if (segment.file_size != 0)
            TRY(map_file_part(space, file, segment, page + bias, file_length, MAP_FIXED));
        TRY(map_zeros(space, segment, bias));
    }
    return bias;
}

struct Interpreter {
    u64 entry = 0;
    u64 base = 0;
};

Result<Interpreter> load_interpreter(AddressSpace& space, File& program, const ElfImage& image) {
    const Buffer path(image.interpreter_size);
    const Buffer header(page_size);
    if (path.data == nullptr || header.data == nullptr)
        return fail(ENOMEM);
    TRY(read_exact(program, path.data, image.interpreter_size, image.interpreter_offset));
    if (path.data[image.interpreter_size - 1] != '\0')
        return fail(ENOEXEC);
    // SAFETY: bytes as characters.
    const auto* name = reinterpret_cast<const char*>(path.data);
    TRY(Ref<File> file, open_for_exec(at_fdcwd, std::string_view(name), 0));
    TRY(const usize got, read_file(*file, header.data, page_size, 0));
    ElfImage own;
    if (auto read = read_image(*file, std::span<const u8>(header.data, got), own); !read)
        return fail(read.error().code == ENOEXEC ? ELIBBAD : read.error().code);
    TRY(const u64 bias, map_image(space, file, own, 0));
    return Interpreter{own.entry + bias, own.low() + bias};
}

Result<u64> map_vdso(AddressSpace& space) {
    const VdsoImage& vdso = vdso_image();
    if (!vdso.file || offsets_after_exec())
        return u64{0};
    MapRequest request;
    request.length = page_up(vdso.size);
    request.protection = PROT_READ | PROT_EXEC;
    request.flags = MAP_PRIVATE;
    request.file = vdso.file;
    request.name = "[vdso]";
    TRY(const VirtAddr start, space.map(request));
    space.layout.vdso = start.raw() + vdso.elf_offset;
    return space.layout.vdso;
}

void note_layout(AddressSpace& space, const ElfImage& image, u64 bias) {
    AddressSpace::Layout& layout = space.layout;
    layout.code_start = ~u64{0};
    for (unsigned i = 0; i < image.segment_count; i++) {
        const ElfSegment& segment = image.segments[i];
        const u64 start = segment.address + bias;
        const u64 end = start + segment.file_size;
        if ((segment.protection & PROT_EXEC) != 0) {
            layout.code_start = start < layout.code_start ? start : layout.code_start;
            layout.code_end = end > layout.code_end ? end : layout.code_end;
        }
        // The last segment, whatever it holds, as Linux has it.
        layout.data_start = start > layout.data_start ? start : layout.data_start;
        layout.data_end = end > layout.data_end ? end : layout.data_end;
    }
    if (layout.code_start == ~u64{0})
        layout.code_start = 0;
}

void set_limits(AddressSpace& space) {
    space.limits.address_space = current_limit(RLIMIT_AS);
    space.limits.data = current_limit(RLIMIT_DATA);
    space.limits.stack = current_limit(RLIMIT_STACK);
    space.limits.locked = current_limit(RLIMIT_MEMLOCK);
}

} // namespace

Result<ProgramImage> build_program(Ref<File> file, std::span<const u8> header,
                                   std::string_view name, const ExecStrings& strings,
                                   const ProgramIds& ids) {
    const Buffer image_memory(sizeof(ElfImage)); // too large for the stack
    if (image_memory.data == nullptr)
        return fail(ENOMEM);
    ElfImage& image = *::new (static_cast<void*>(image_memory.data)) ElfImage();
    TRY(read_image(*file, header, image));
    ProgramImage result;
    TRY(result.space, AddressSpace::create());
    AddressSpace& space = *result.space;
    set_limits(space);
    const AddressLayout layout = choose_address_layout(space.limits.stack, ids.personality);
    space.mappings_top = layout.mappings_top;

    const bool has_interpreter = image.interpreter_size != 0;
    u64 base = 0;
    if (image.position_independent && has_interpreter)
        base = (layout.program + image.alignment - 1) & ~(image.alignment - 1);
    TRY(const u64 bias, map_image(space, file, image, base));
    note_layout(space, image, bias);
    // A program without interpreter that may lie anywhere (ld.so itself) lies among the mappings:
    // its break goes where programs go.
    const u64 image_end =
        image.position_independent && !has_interpreter ? layout.program : image.high() + bias;
    const u64 break_start = image_end + layout.break_distance;
    space.init_break(VirtAddr(break_start));
    space.layout.break_start = break_start;

    Interpreter interpreter;
    if (has_interpreter) {
        TRY(interpreter, load_interpreter(space, *file, image));
    }
    TRY(const u64 vdso, map_vdso(space));
    result.entry = has_interpreter ? interpreter.entry : image.entry + bias;
    if (result.entry >= user_max)
        return fail(EINVAL); // IRETQ takes no such address
    space.set_program(std::move(file));

    const u64 auxiliary[] = {
        AT_SYSINFO_EHDR, vdso,
        AT_HWCAP,        processor_features(),
        AT_PAGESZ,       page_size,
        AT_CLKTCK,       clock_ticks,
        AT_PHDR,         image.header_address != 0 ? image.header_address + bias : 0,
        AT_PHENT,        56,
        AT_PHNUM,        image.header_count,
        AT_BASE,         interpreter.base,
        AT_FLAGS,        0,
        AT_ENTRY,        image.entry + bias,
        AT_UID,          ids.uid,
        AT_EUID,         ids.euid,
        AT_GID,          ids.gid,
        AT_EGID,         ids.egid,
        AT_SECURE,       ids.secure ? u64{1} : u64{0},
        AT_HWCAP2,       hwcap2_fsgsbase,
        AT_MINSIGSTKSZ,  arch::fpu_state_size() + signal_frame_overhead,
    };
    const usize skipped = vdso == 0 ? 2 : 0;
    TRY(result.stack_pointer,
        build_stack(space, layout, name, strings, std::span<const u64>(auxiliary).subspan(skipped),
                    image.executable_stack));
    return result;
}

} // namespace kernel
