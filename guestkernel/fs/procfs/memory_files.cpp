// What /proc/PID says about a process's memory; proc(5).
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/fs.h>
#include <linux/mman.h>

#include "guestkernel/core/vdso.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/procfs/subject.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/mm/heap.hpp"

namespace kernel::procfs {
namespace {

constexpr usize path_column = 73;

// Copies [start, end) of a program's memory; what cannot be read ends it. So does the size: where
// its arguments are is for the program to say (prctl(2), PR_SET_MM), and all of its address space
// is more than a reader can wait for, or the kernel keep.
constexpr usize longest_copy = 2 * 1024 * 1024; // more than programs are given, and of one piece
void copy_memory(TextBuilder& out, AddressSpace& space, u64 start, u64 end) {
    char piece[512];
    if (end > start && end - start > longest_copy)
        end = start + longest_copy;
    while (start < end && !out.failed() && !fatal_signal_pending()) {
        const usize wanted = end - start < sizeof piece ? end - start : sizeof piece;
        const usize got = space.read_own_memory(VirtAddr(start), piece, wanted);
        out.append({piece, got});
        if (got < wanted)
            return;
        start += got;
    }
}

void show_mapping(TextBuilder& out, const MappingInfo& mapping) {
    const usize line = out.size();
    out.hex(mapping.start.raw(), 8);
    out.append("-");
    out.hex(mapping.end.raw(), 8);
    const u32 protection = mapping.protection;
    const char access[] = {' ',
                           (protection & PROT_READ) != 0 ? 'r' : '-',
                           (protection & PROT_WRITE) != 0 ? 'w' : '-',
                           (protection & PROT_EXEC) != 0 ? 'x' : '-',
                           (mapping.flags & MAP_SHARED) != 0 ? 's' : 'p',
                           ' '};
    out.append({access, sizeof access});
    u64 device = 0, inode = 0;
    String name;
    if (mapping.name == nullptr && mapping.file && mapping.file->inode() != nullptr) {
        const Inode& node = *mapping.file->inode();
        inode = node.number();
        device = node.superblock() == nullptr ? 0 : node.superblock()->device_number;
        if (!mapping.file->describe(name))
            if (auto path = path_name(mapping.file->path()))
                name = std::move(*path);
    }
    out.hex(mapping.offset, 8);
    out.append(" ");
    out.hex(device_major(device), 2);
    out.append(":");
    out.hex(device_minor(device), 2);
    out.print(" {} ", inode);
    const std::string_view text = mapping.name != nullptr ? mapping.name : name.view();
    if (!text.empty()) {
        out.pad_to(out.size() - line, path_column);
        for (const char& c : text) // only newlines are escaped here
            out.append(c == '\n' ? std::string_view("\\012") : std::string_view(&c, 1));
    }
    out.append("\n");
}

struct Sums {
    u64 size = 0, resident = 0, dirty = 0, shared = 0, anonymous = 0, locked = 0;
    u64 proportional = 0; // bytes
    u64 first = 0, last = 0;
};

void show_sums(TextBuilder& out, const Sums& sums, bool with_size) {
    constexpr usize label = 16;
    if (with_size) {
        out.kilobytes("Size:", label, sums.size);
        out.kilobytes("KernelPageSize:", label, 1);
        out.kilobytes("MMUPageSize:", label, 1);
    }
    const u64 own = sums.resident - sums.shared;
    const u64 own_dirty = sums.dirty < own ? sums.dirty : own;
    out.kilobytes("Rss:", label, sums.resident);
    out.text("Pss:", label);
    out.number(sums.proportional / 1024, 8);
    out.append(" kB\n");
    out.kilobytes("Pss_Dirty:", label, own_dirty);
    out.kilobytes("Shared_Clean:", label, sums.shared);
    out.kilobytes("Shared_Dirty:", label, 0);
    out.kilobytes("Private_Clean:", label, own - own_dirty);
    out.kilobytes("Private_Dirty:", label, own_dirty);
    out.kilobytes("Referenced:", label, sums.resident);
    out.kilobytes("Anonymous:", label, sums.anonymous);
    for (const char* absent : {"LazyFree:", "AnonHugePages:", "ShmemPmdMapped:", "FilePmdMapped:",
                               "Shared_Hugetlb:", "Private_Hugetlb:", "Swap:", "SwapPss:"})
        out.kilobytes(absent, label, 0);
    out.kilobytes("Locked:", label, sums.locked);
}

Sums sums_of(const MappingInfo& mapping) {
    Sums sums;
    sums.size = (mapping.end.raw() - mapping.start.raw()) / page_size;
    sums.resident = mapping.resident_pages;
    sums.dirty = mapping.dirty_pages;
    sums.shared = mapping.shared_pages < sums.resident ? mapping.shared_pages : sums.resident;
    if (!mapping.file)
        sums.anonymous = sums.resident;
    sums.proportional = mapping.proportional_bytes;
    if ((mapping.flags & MAP_LOCKED) != 0)
        sums.locked = sums.proportional / page_size;
    return sums;
}

bool maps_line(const MappingInfo& mapping, void* context) {
    auto& out = *static_cast<TextBuilder*>(context);
    show_mapping(out, mapping);
    return !out.failed();
}

bool smaps_lines(const MappingInfo& mapping, void* context) {
    auto& out = *static_cast<TextBuilder*>(context);
    show_mapping(out, mapping);
    show_sums(out, sums_of(mapping), true);
    out.append("THPeligible:    0\nVmFlags:");
    const auto flag = [&](bool set, const char* name) { out.append(set ? name : ""); };
    flag((mapping.protection & PROT_READ) != 0, " rd");
    flag((mapping.protection & PROT_WRITE) != 0, " wr");
    flag((mapping.protection & PROT_EXEC) != 0, " ex");
    flag((mapping.flags & MAP_SHARED) != 0, " sh");
    out.append(" mr mw me");
    flag((mapping.flags & MAP_SHARED) != 0, " ms");
    flag((mapping.flags & MAP_GROWSDOWN) != 0, " gd");
    flag((mapping.flags & MAP_LOCKED) != 0, " lo");
    flag(mapping.at_random, " rr");
    flag(mapping.no_fork, " dc");
    flag(mapping.locked_on_fault, " lf");
    flag((mapping.flags & MAP_NORESERVE) != 0, " nr");
    flag(mapping.wiped_on_fork, " wf");
    flag(mapping.no_dump, " dd");
    out.append(" \n");
    return !out.failed();
}

bool add_sums(const MappingInfo& mapping, void* context) {
    auto& total = *static_cast<Sums*>(context);
    const Sums sums = sums_of(mapping);
    if (total.last == 0)
        total.first = mapping.start.raw();
    total.last = mapping.end.raw();
    total.resident += sums.resident;
    total.dirty += sums.dirty;
    total.shared += sums.shared;
    total.anonymous += sums.anonymous;
    total.locked += sums.locked;
    total.proportional += sums.proportional;
    return true;
}

// /proc/PID/mem: the bytes at the address that is the position.
class MemoryFile final : public File {
public:
    MemoryFile(Path path, Ref<Inode> inode, u32 flags, Ref<AddressSpace> space)
        : File(std::move(path), std::move(inode), flags), space_(std::move(space)) {}
    const char* type_name() const override { return "process-memory"; }

    Result<usize> read(IoBuffer& out, u64 offset) override {
        return transfer(out, offset, [this](u64 at, u8* bytes, usize count, IoBuffer& buffer) {
            const usize got = space_->read_foreign(VirtAddr(at), bytes, count);
            return buffer.copy_out(bytes, got);
        });
    }
    Result<usize> write(IoBuffer& in, u64 offset) override {
        return transfer(in, offset, [this](u64 at, u8* bytes, usize count, IoBuffer& buffer) {
            const usize got = buffer.copy_in(bytes, count);
            return space_->write_foreign(VirtAddr(at), bytes, got);
        });
    }
    Result<u64> seek(i64 offset, int whence) override {
        if (whence == 2)
            return fail(EINVAL);
        return File::seek(offset, whence);
    }

private:
    template <typename F>
    Result<usize> transfer(IoBuffer& buffer, u64 offset, F&& move) {
        u8 bytes[256];
        usize done = 0;
        while (buffer.remaining() > 0 && offset + done < user_max) {
            const usize count =
                buffer.remaining() < sizeof bytes ? buffer.remaining() : sizeof bytes;
            const usize moved = move(offset + done, bytes, count, buffer);
            done += moved;
            if (moved < count)
                return done != 0 ? Result<usize>(done) : Result<usize>(fail(EIO));
        }
        return done;
    }
    Ref<AddressSpace> space_;
};

} // namespace

Result<Ref<File>> open_memory(const Path& path, Ref<Inode> inode, u32 flags,
                              const TableContext& of) {
    TRY(Ref<AddressSpace> space, subject_memory(of));
    if (!space)
        return fail(ESRCH);
    TRY(auto file, make_ref<MemoryFile>(path, std::move(inode), flags, std::move(space)));
    return Ref<File>(std::move(file));
}

Result<void> show_statm(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<Process> process, subject_process(of));
    AddressSpace::Usage use{};
    if (auto task = subject_task(of))
        if (const Ref<AddressSpace> space = address_space_of(**task))
            use = space->usage();
    const u64 shared = use.resident_file + use.resident_shared;
    out.print("{} {} {} {} 0 {} 0\n", use.virtual_pages, use.resident_anonymous + shared, shared,
              use.text_pages, use.data_pages + use.stack_pages);
    return {};
}

Result<void> show_cmdline(TextBuilder& out, const TableContext& of) {
    auto task = subject_task(of);
    if (!task)
        return process_exists(of) ? Result<void>() : Result<void>(fail(ESRCH));
    const Ref<AddressSpace> space = address_space_of(**task); // everybody may see it
    if (!space)
        return {};
    const AddressSpace::Layout& layout = space->layout;
    const u64 start = layout.args_start, end = layout.args_end;
    // setproctitle: who overwrote the last NUL has a single string there, which may go on into the
    // environment, if that comes next (proc(5)); what else lies there is not for everybody. A page
    // of it at most.
    char last = '\0';
    if (end > start && space->read_own_memory(VirtAddr(end - 1), &last, 1) == 1 && last != '\0') {
        const u64 environment = layout.env_start == end ? layout.env_end : end;
        const u64 limit = environment > end ? environment : end;
        TextBuilder title;
        copy_memory(title, *space, start, limit - start < page_size ? limit : start + page_size);
        const usize length = title.view().find('\0');
        out.append(length < title.size() ? title.view().substr(0, length + 1) : title.view());
        return {};
    }
    copy_memory(out, *space, start, end);
    return {};
}

Result<Ref<RefCounted>> bind_memory(TableContext& of) {
    TRY(Ref<AddressSpace> space, subject_memory(of));
    of.memory = space.get();
    return Ref<RefCounted>(std::move(space));
}

Result<void> show_environ(TextBuilder& out, const TableContext& of) {
    if (of.memory == nullptr)
        return {};
    copy_memory(out, *of.memory, of.memory->layout.env_start, of.memory->layout.env_end);
    return {};
}

Result<void> show_auxv(TextBuilder& out, const TableContext& of) {
    if (of.memory == nullptr)
        return {};
    out.append({reinterpret_cast<const char*>(of.memory->layout.auxv),
                of.memory->layout.auxv_words * sizeof(u64)});
    return {};
}

Result<void> show_maps(TextBuilder& out, const TableContext& of) {
    if (of.memory == nullptr)
        return {};
    of.memory->for_each_mapping(&maps_line, &out, false);
    return {};
}

Result<void> show_smaps(TextBuilder& out, const TableContext& of) {
    if (of.memory == nullptr)
        return {};
    of.memory->for_each_mapping(&smaps_lines, &out, true);
    return {};
}

namespace {

// All memory is node 0's.
bool numa_line(const MappingInfo& mapping, void* context) {
    auto& out = *static_cast<TextBuilder*>(context);
    const Sums sums = sums_of(mapping);
    out.hex(mapping.start.raw(), 8);
    out.append(" default");
    String name;
    if (mapping.name != nullptr && std::string_view(mapping.name) == "[heap]") {
        out.append(" heap");
    } else if (mapping.name != nullptr && std::string_view(mapping.name) == "[stack]") {
        out.append(" stack");
    } else if (mapping.file) {
        if (!mapping.file->describe(name))
            if (auto path = path_name(mapping.file->path()))
                name = std::move(*path);
        out.append(" file=");
        out.escaped(name.view());
    }
    if (sums.anonymous > 0)
        out.print(" anon={}", sums.anonymous);
    if (sums.dirty > 0)
        out.print(" dirty={}", sums.dirty);
    if (mapping.file && sums.resident > 0)
        out.print(" mapped={}", sums.resident);
    if (sums.resident > 0)
        out.print(" N0={}", sums.resident);
    if (sums.resident > 0)
        out.append(" kernelpagesize_kB=4");
    out.append("\n");
    return !out.failed();
}

} // namespace

Result<void> show_numa_maps(TextBuilder& out, const TableContext& of) {
    if (of.memory == nullptr)
        return {};
    of.memory->for_each_mapping(&numa_line, &out, true);
    return {};
}

Result<void> show_smaps_rollup(TextBuilder& out, const TableContext& of) {
    if (of.memory == nullptr)
        return {};
    Sums sums;
    of.memory->for_each_mapping(&add_sums, &sums, true);
    const usize line = out.size();
    out.hex(sums.first, 8);
    out.append("-");
    out.hex(sums.last, 8);
    out.append(" ---p 00000000 00:00 0 ");
    out.pad_to(out.size() - line, path_column);
    out.append("[rollup]\n");
    show_sums(out, sums, false);
    return {};
}

// --- map_files -----------------------------------------------------------------------------------

namespace {

// The first mapping of a file that starts at `from` or later.
struct FileMapping {
    u64 from;
    bool found = false;
    u64 start = 0, end = 0;
    Ref<File> file;
};

bool take_file_mapping(const MappingInfo& mapping, void* context) {
    auto& wanted = *static_cast<FileMapping*>(context);
    // The vDSO's pages are every process's: nobody gets at them by their file.
    if (!mapping.file || mapping.file.get() == vdso_image().file.get() ||
        mapping.start.raw() < wanted.from)
        return true;
    wanted.found = true;
    wanted.start = mapping.start.raw();
    wanted.end = mapping.end.raw();
    wanted.file = mapping.file;
    return false;
}

// The file of the mapping that a name stands for: exactly its range.
Result<Ref<File>> mapped_file(const TableContext& of) {
    TRY(const Ref<AddressSpace> space, subject_memory(of));
    FileMapping mapping{.from = of.start};
    if (space)
        space->for_each_mapping(&take_file_mapping, &mapping, false, mapping.from);
    if (!mapping.found || mapping.start != of.start || mapping.end != of.end)
        return fail(ENOENT);
    return std::move(mapping.file);
}

} // namespace

Result<bool> next_mapping(const TableContext& of, u64 from, TableContext& child) {
    TRY(const Ref<AddressSpace> space, subject_memory(of));
    FileMapping mapping{.from = from};
    if (space)
        space->for_each_mapping(&take_file_mapping, &mapping, false, mapping.from);
    child.start = mapping.start;
    child.end = mapping.end;
    return mapping.found;
}

Result<void> find_mapping(const TableContext& of) {
    TRY(const Ref<File> file, mapped_file(of));
    return {};
}

Result<void> link_mapping(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<File> file, mapped_file(of));
    return describe_file(out, *file);
}

// proc(5): the files behind a program's mappings may lie where it could not open them itself.
Result<Path> follow_mapping(const TableContext& of) {
    if (!capable(CAP_SYS_ADMIN) && !capable(CAP_CHECKPOINT_RESTORE))
        return fail(EPERM);
    TRY(const Ref<File> file, mapped_file(of));
    return path_of(*file);
}

u32 mapping_link_mode(const TableContext& of) {
    auto file = mapped_file(of);
    if (!file)
        return 0;
    return ((*file)->readable() ? 0400u : 0u) | ((*file)->writable() ? 0200u : 0u);
}

} // namespace kernel::procfs
