// /proc/PID/pagemap, clear_refs and coredump_filter; proc(5).
#include <linux/capability.h>
#include <linux/errno.h>

#include "guestkernel/fs/procfs/subject.hpp"
#include "guestkernel/fs/vfs.hpp"

namespace kernel::procfs {
namespace {

constexpr u64 page_present = u64{1} << 63, page_of_file = u64{1} << 61, page_alone = u64{1} << 56,
              page_frame = (u64{1} << 55) - 1;

// One number for each page of the address space. Where a page lies in the machine's memory is for
// who may know (CAP_SYS_ADMIN).
class PageMapFile final : public File {
public:
    PageMapFile(Path path, Ref<Inode> inode, u32 flags, Ref<AddressSpace> space)
        : File(std::move(path), std::move(inode), flags), space_(std::move(space)) {}
    const char* type_name() const override { return "page-map"; }

    Result<usize> read(IoBuffer& out, u64 offset) override {
        if (offset % sizeof(u64) != 0 || out.remaining() % sizeof(u64) != 0)
            return fail(EINVAL);
        const bool frames = capable(CAP_SYS_ADMIN);
        constexpr usize chunk = 32;
        PageView views[chunk];
        u64 entries[chunk];
        usize done = 0;
        while (out.remaining() > 0) {
            const u64 page = (offset + done) / sizeof(u64);
            if (page >= user_max >> page_shift)
                break;
            const usize wanted = out.remaining() / sizeof(u64);
            const usize count = wanted < chunk ? wanted : chunk;
            space_->view_pages(VirtAddr(page << page_shift), {views, count});
            for (usize i = 0; i < count; i++) {
                const PageView& view = views[i];
                entries[i] = view.frame == 0 ? 0
                                             : page_present | (view.of_file ? page_of_file : 0) |
                                                   (view.alone ? page_alone : 0) |
                                                   (frames ? view.frame & page_frame : 0);
            }
            const usize copied = out.copy_out(entries, count * sizeof(u64));
            done += copied;
            if (copied < count * sizeof(u64))
                return done != 0 ? Result<usize>(done) : Result<usize>(fail(EFAULT));
        }
        return done;
    }
    Result<u64> seek(i64 offset, int whence) override {
        if (whence == 2)
            return fail(EINVAL);
        return File::seek(offset, whence);
    }

private:
    Ref<AddressSpace> space_;
};

} // namespace

Result<Ref<File>> open_page_map(const Path& path, Ref<Inode> inode, u32 flags,
                                const TableContext& of) {
    TRY(Ref<AddressSpace> space, subject_memory(of));
    if (!space)
        return fail(ESRCH);
    TRY(auto file, make_ref<PageMapFile>(path, std::move(inode), flags, std::move(space)));
    return Ref<File>(std::move(file));
}

// 1 to 4 clear marks of use, of which none are kept; 5: the peak.
Result<void> store_clear_refs(std::string_view text, const TableContext& of) {
    TRY(const i64 what, parse_number(text));
    if (what < 1 || what > 5)
        return fail(EINVAL);
    TRY(const Ref<Task> task, subject_task(of));
    const Ref<AddressSpace> space = address_space_of(*task);
    if (space && what == 5)
        space->reset_peak();
    return {};
}

Result<void> show_core_filter(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<Process> process, subject_process(of));
    out.hex(process->core_filter, 8);
    out.append("\n");
    return {};
}

// Octal, decimal or hexadecimal, as C has them.
Result<void> store_core_filter(std::string_view text, const TableContext& of) {
    constexpr u32 known = 0x1ff;
    TRY(const Ref<Process> process, subject_process(of));
    while (!text.empty() && text.back() == '\n')
        text.remove_suffix(1);
    u32 base = 10;
    if (text.starts_with("0x") || text.starts_with("0X")) {
        base = 16;
        text.remove_prefix(2);
    } else if (text.size() > 1 && text[0] == '0') {
        base = 8;
        text.remove_prefix(1);
    }
    u32 value = 0;
    for (const char c : text) {
        const u32 digit = c >= '0' && c <= '9'   ? static_cast<u32>(c - '0')
                          : c >= 'a' && c <= 'f' ? static_cast<u32>(c - 'a' + 10)
                          : c >= 'A' && c <= 'F' ? static_cast<u32>(c - 'A' + 10)
                                                 : base;
        if (digit >= base || __builtin_mul_overflow(value, base, &value) ||
            __builtin_add_overflow(value, digit, &value))
            return fail(EINVAL);
    }
    if (text.empty())
        return fail(EINVAL);
    process->core_filter = value & known;
    return {};
}

} // namespace kernel::procfs
