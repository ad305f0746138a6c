#include "guestkernel/trace/core_dump.hpp"

#include <linux/elf.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/mman.h>
#include <linux/resource.h>
#include <linux/signal.h>

#include "guestkernel/core/boot_config.hpp"
#include "guestkernel/core/log.hpp"
#include "guestkernel/core/uts.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/open.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/fs/walk.hpp"
#include "guestkernel/mm/heap.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/trace/core_notes.hpp"

namespace kernel {

namespace {

constexpr u32 core_dumped = 0x80;
constexpr usize chunk_pages = 64;

constinit SpinLock pattern_lock{LockRank::Leaf};
constinit char pattern_text[core_pattern_limit] = "core";
constinit usize pattern_length = 4;
constinit bool pattern_uses_pid = false;
constinit const Path* host_directory = nullptr; // set once

// The file, from its start on. A limit or an error ends it: what is there already is kept.
class CoreFile {
public:
    CoreFile(Ref<File> file, u64 limit) : file_(std::move(file)), limit_(limit) {}
    bool put(const void* data, usize bytes) {
        if (failed_ || fatal_signal_pending() || limit_ - position_ < bytes) {
            failed_ = true;
            return false;
        }
        auto* from = static_cast<u8*>(const_cast<void*>(data)); // a write only reads
        for (usize done = 0; done < bytes;) {
            IoBuffer in(from + done, bytes - done); // a write may cut it to what there is room for
            const auto written = file_->write(in, position_);
            if (!written || *written == 0) {
                failed_ = true;
                return false;
            }
            position_ += *written;
            done += *written;
        }
        return true;
    }
    bool skip(u64 bytes) {
        failed_ = failed_ || limit_ - position_ < bytes;
        position_ += failed_ ? 0 : bytes;
        return !failed_;
    }
    bool pad_to(u64 alignment) { return skip((alignment - position_ % alignment) % alignment); }
    u64 position() const { return position_; }
    // A hole at the end is part of the file as well.
    bool finish() { return !failed_ && file_->truncate(position_).has_value(); }

private:
    const Ref<File> file_;
    const u64 limit_;
    u64 position_ = 0;
    bool failed_ = false;
};

// --- the name

class NameBuilder {
public:
    void put(char c) {
        if (length_ < sizeof text_)
            text_[length_++] = c;
    }
    void put(std::string_view text) {
        for (const char c : text)
            put(c == '/' ? '!' : c); // as Linux: a name stays one component
    }
    void number(u64 value) {
        char digits[24];
        put(std::string_view(digits, log::format(digits, sizeof digits, "{}", value)));
    }
    std::string_view text() const { return {text_, length_}; }

private:
    char text_[4096];
    usize length_ = 0;
};

void expand(NameBuilder& name, char letter, const SignalInfo& info) {
    const Task& task = current_task();
    switch (letter) {
    case '%':
        return name.put('%');
    case 'p':
    case 'P':
        return name.number(static_cast<u64>(task.process->pid));
    case 'i':
    case 'I':
        return name.number(static_cast<u64>(task.tid));
    case 'u':
        return name.number(task.credentials->uid);
    case 'g':
        return name.number(task.credentials->gid);
    case 'd':
        return name.number(task.process->dumpable ? 1 : 0);
    case 's':
        return name.number(static_cast<u64>(info.signo));
    case 't':
        return name.number(realtime_ns() / 1'000'000'000);
    case 'c':
        return name.number(current_limit(RLIMIT_CORE));
    case 'e':
        return name.put(std::string_view(task.name));
    case 'h': {
        char host[uts_length + 1];
        const usize length = get_hostname(host);
        return name.put(std::string_view(host, length));
    }
    case 'E': {
        if (const Ref<File> program = task.address_space->program())
            if (auto path = path_name(program->path()))
                name.put(path->view());
        return;
    }
    default:
        return;
    }
}

void make_name(NameBuilder& name, std::string_view pattern, const SignalInfo& info) {
    bool has_pid = false;
    for (usize i = 0; i < pattern.size(); i++) {
        if (pattern[i] != '%') {
            name.put(pattern[i]);
            continue;
        }
        if (++i == pattern.size())
            break;
        has_pid = has_pid || pattern[i] == 'p';
        expand(name, pattern[i], info);
    }
    if (!has_pid && core_uses_pid()) {
        name.put('.');
        name.number(static_cast<u64>(current_process().pid));
    }
}

constexpr u32 core_flags = O_CREAT | O_WRONLY | O_NOFOLLOW | O_NONBLOCK;
constexpr u32 core_mode = 0600;

// For the host's directory, which takes files of whoever dies: the rights of the kernel.
Result<void> take_kernel_rights(BorrowedCredentials& rights) {
    TRY(Ref<Credentials> fresh, make_ref<Credentials>());
    fresh->cap_effective = fresh->cap_permitted = ~u64{0};
    rights.take(std::move(fresh));
    return {};
}

// The last component of a name in the host's directory; empty: it is not there.
std::string_view name_on_host(std::string_view name) {
    const std::string_view directory = boot_config().core_directory;
    if (host_directory == nullptr || !name.starts_with(directory))
        return {};
    name.remove_prefix(directory.size());
    if (name.empty() || name.front() != '/')
        return {};
    name.remove_prefix(1);
    return name.find('/') == std::string_view::npos ? name : std::string_view();
}

Result<void> check_core(File& file) {
    // Not through a link that somebody laid, and to no device.
    TRY(const Attributes attributes, file.inode()->attributes());
    if ((attributes.mode & mode_type) != mode_regular || attributes.links != 1 ||
        attributes.uid != current_task().credentials->fsuid)
        return fail(EPERM);
    return file.truncate(0);
}

// With more rights than the program has only in the very directory: where its name leads by the
// program's root and mounts is the program's choice.
Result<Ref<File>> open_on_host(std::string_view name) {
    BorrowedCredentials rights;
    TRY(take_kernel_rights(rights));
    PathWalker walker(lookup_beneath);
    TRY(walker.start_from(*host_directory, name));
    TRY(Ref<File> file, open_walk(walker, core_flags, core_mode));
    TRY(check_core(*file));
    return file;
}

Result<Ref<File>> open_core(std::string_view name) {
    if (const std::string_view last = name_on_host(name); !last.empty())
        return open_on_host(last);
    TRY(Ref<File> file, open_file(at_fdcwd, name, core_flags, core_mode));
    TRY(check_core(*file));
    return file;
}

// --- memory

struct Segment {
    u64 start, end;
    u32 protection;
    u64 stored;           // bytes of it that are in the file
    bool from_file;       // what is not in memory is not zeros
    bool refused = false; // MADV_DONTDUMP
};

struct Layout {
    Vector<Segment> segments;
    FileNote files;
    bool failed = false;
};

bool is_elf_header(AddressSpace& space, u64 address) {
    char magic[SELFMAG] = {};
    return space.read_foreign(VirtAddr(address), magic, sizeof magic) == sizeof magic &&
           __builtin_memcmp(magic, ELFMAG, SELFMAG) == 0;
}

bool is_vdso(const MappingInfo& mapping) {
    return mapping.name != nullptr && std::string_view(mapping.name) == "[vdso]";
}

// Bits of coredump_filter: core(5).
constexpr u32 core_private_anonymous = 1, core_shared_anonymous = 2, core_private_files = 4,
              core_shared_files = 8, core_elf_headers = 16;

// By default: private memory and what was changed of files, the headers of ELF files, no unchanged
// contents of files.
u64 stored_bytes(const MappingInfo& mapping, u32 filter) {
    const u64 size = mapping.end.raw() - mapping.start.raw();
    if (is_vdso(mapping))
        return size; // unwinders go through it
    if (mapping.no_dump)
        return 0;
    const bool shared = (mapping.flags & MAP_SHARED) != 0;
    if (!mapping.file) {
        const bool wanted =
            (filter & (shared ? core_shared_anonymous : core_private_anonymous)) != 0;
        const bool untouched = mapping.protection == PROT_NONE && mapping.resident_pages == 0;
        return wanted && !untouched ? size : 0;
    }
    if (shared) { // memory without a name counts as anonymous
        const auto attributes = mapping.file->inode()->attributes();
        const bool nameless = attributes && attributes->links == 0;
        return (filter & (nameless ? core_shared_anonymous : core_shared_files)) != 0 ? size : 0;
    }
    if ((filter & core_private_anonymous) != 0 && mapping.dirty_pages != 0)
        return size;
    return (filter & core_private_files) != 0 ? size : 0;
}

bool note_mapping(const MappingInfo& mapping, void* context) {
    auto& layout = *static_cast<Layout*>(context);
    const Segment segment = {
        mapping.start.raw(),    mapping.end.raw(),
        mapping.protection,     stored_bytes(mapping, current_process().core_filter),
        mapping.read_from_file, mapping.no_dump};
    layout.failed = layout.failed || !layout.segments.push_back(segment).has_value();
    if (mapping.file && !is_vdso(mapping))
        layout.failed = layout.failed || !layout.files.add(mapping).has_value();
    return !layout.failed;
}

// The pages that are there, or can be read; the others stay holes.
bool put_segment(CoreFile& out, AddressSpace& space, const Segment& segment, u8* buffer) {
    u8 resident[chunk_pages];
    for (u64 at = segment.start; at < segment.start + segment.stored;) {
        const u64 rest = (segment.start + segment.stored - at) / page_size;
        const u64 pages = rest < chunk_pages ? rest : chunk_pages;
        if (!space.resident(VirtAddr(at), pages * page_size, resident))
            return out.skip(segment.start + segment.stored - at);
        for (u64 i = 0; i < pages; i++, at += page_size) {
            const bool there = (segment.from_file || (resident[i] & 1) != 0) &&
                               space.read_foreign(VirtAddr(at), buffer, page_size) == page_size;
            if (!(there ? out.put(buffer, page_size) : out.skip(page_size)))
                return false;
        }
        cond_resched();
    }
    return true;
}

bool put_headers(CoreFile& out, const Layout& layout, usize notes_bytes) {
    const usize count = layout.segments.size() + 1;
    Elf64_Ehdr header = {};
    __builtin_memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header.e_type = ET_CORE;
    header.e_machine = EM_X86_64;
    header.e_version = EV_CURRENT;
    header.e_phoff = sizeof header;
    header.e_ehsize = sizeof header;
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = static_cast<u16>(count);
    Elf64_Phdr notes = {};
    notes.p_type = PT_NOTE;
    notes.p_offset = sizeof header + count * sizeof(Elf64_Phdr);
    notes.p_filesz = notes_bytes;
    notes.p_align = 4;
    u64 at = (notes.p_offset + notes_bytes + page_size - 1) & ~(page_size - 1);
    if (!out.put(&header, sizeof header) || !out.put(&notes, sizeof notes))
        return false;
    for (const Segment& segment : layout.segments) {
        Elf64_Phdr load = {};
        load.p_type = PT_LOAD;
        load.p_offset = at;
        load.p_vaddr = segment.start;
        load.p_filesz = segment.stored;
        load.p_memsz = segment.end - segment.start;
        load.p_flags = ((segment.protection & PROT_READ) != 0 ? u32{PF_R} : 0) |
                       ((segment.protection & PROT_WRITE) != 0 ? u32{PF_W} : 0) |
                       ((segment.protection & PROT_EXEC) != 0 ? u32{PF_X} : 0);
        load.p_align = page_size;
        at += segment.stored;
        if (!out.put(&load, sizeof load))
            return false;
    }
    return true;
}

// Requires: all other threads are parked.
Result<void> write_core(CoreFile& out, const SignalInfo& info) {
    Task& task = current_task();
    AddressSpace& space = *task.address_space;
    arch::save_fpu(task);
    Layout layout;
    space.for_each_mapping(note_mapping, &layout, true);
    constexpr usize most_segments = PN_XNUM - 2;
    if (layout.failed || layout.segments.size() > most_segments)
        return fail(ENOMEM);
    for (Segment& segment : layout.segments)
        if (segment.stored == 0 && !segment.refused && (segment.protection & PROT_READ) != 0 &&
            (task.process->core_filter & core_elf_headers) != 0 &&
            is_elf_header(space, segment.start))
            segment.stored = page_size;
    auto* buffer = static_cast<u8*>(kmalloc(page_size));
    if (buffer == nullptr)
        return fail(ENOMEM);
    const CoreNotes notes(*task.process, info, layout.files);
    bool done = put_headers(out, layout, notes.size());
    done = done && notes.write([&](const void* data, usize bytes) { return out.put(data, bytes); });
    done = done && out.pad_to(page_size);
    for (const Segment& segment : layout.segments)
        done = done && put_segment(out, space, segment, buffer);
    kfree(buffer);
    return done && out.finish() ? Result<void>() : fail(EIO);
}

// --- the other threads

// Every other thread ends; those that are not on their way already wait in park_for_core(). Those
// that are must be gone as well: from here on the list of threads is gone through without a lock.
bool stop_others(Process& process, int signal) {
    {
        SpinGuard guard(process.signal_lock);
        if (process.group_exiting)
            return false;
        process.core_dumper = &current_task();
        process.core_parked = 0;
        process.group_exit_status = static_cast<u32>(signal);
        kill_threads_locked(process, &current_task());
    }
    const auto alone = [&] {
        SpinGuard guard(process.signal_lock);
        if (process.core_parked + 1 < process.live_tasks)
            return false;
        for (const Task& other : process.tasks)
            if (other.exiting)
                return false;
        return true;
    };
    if (wait_until(process.thread_events, alone, no_deadline, TaskState::Killable) !=
        WaitOutcome::Ready)
        return false;
    for (Task& other : process.tasks)
        while (&other != arch::current() && other.on_cpu != 0)
            arch::relax();
    return true;
}

void let_others_go(Process& process, bool dumped) {
    {
        SpinGuard guard(process.signal_lock);
        if (process.core_dumper != &current_task())
            return;
        if (dumped)
            process.group_exit_status |= core_dumped;
        process.core_dumper = nullptr;
    }
    process.core_done.wake_all();
}

Result<void> dump(const SignalInfo& info, u64 limit) {
    TRY(const Owned<NameBuilder> name, make_owned<NameBuilder>()); // too large for the stack
    char pattern[core_pattern_limit];
    const std::string_view text(pattern, core_pattern(pattern));
    make_name(*name, text, info);
    TRY(Ref<File> file, open_core(name->text()));
    CoreFile out(std::move(file), limit);
    return write_core(out, info);
}

} // namespace

u32 dump_core(const SignalInfo& info) {
    Process& process = current_process();
    const u64 limit = current_limit(RLIMIT_CORE);
    if (limit < page_size || !process.dumpable)
        return 0;
    bool dumped = false;
    if (stop_others(process, info.signo)) {
        const auto result = dump(info, limit);
        dumped = result.has_value();
        if (!dumped)
            log::warning("core file of {} ({}): error {}", std::string_view(current_task().name),
                         process.pid, result.error().code);
    }
    let_others_go(process, dumped);
    return dumped ? core_dumped : 0;
}

void park_for_core(Task& task) {
    Process& process = *task.process;
    {
        SpinGuard guard(process.signal_lock);
        if (process.core_dumper == nullptr || process.core_dumper == &task)
            return;
        process.core_parked++;
    }
    process.thread_events.wake_all();
    (void)wait_until(
        process.core_done, [&] { return process.core_dumper == nullptr; }, no_deadline,
        TaskState::Uninterruptible);
}

Result<void> find_core_directory() {
    BorrowedCredentials rights;
    TRY(take_kernel_rights(rights));
    TRY(Path found,
        lookup_path(at_fdcwd, boot_config().core_directory, lookup_follow | lookup_directory));
    host_directory = new (std::nothrow) Path(std::move(found));
    return host_directory != nullptr ? Result<void>() : fail(ENOMEM);
}

usize core_pattern(char (&out)[core_pattern_limit]) {
    SpinGuard guard(pattern_lock);
    __builtin_memcpy(out, pattern_text, pattern_length);
    return pattern_length;
}

Result<void> set_core_pattern(std::string_view pattern) {
    while (!pattern.empty() && (pattern.back() == '\n' || pattern.back() == ' '))
        pattern.remove_suffix(1);
    // A program to pipe to would run outside of every container.
    if (pattern.size() >= core_pattern_limit || (!pattern.empty() && pattern.front() == '|'))
        return fail(EINVAL);
    SpinGuard guard(pattern_lock);
    __builtin_memcpy(pattern_text, pattern.data(), pattern.size());
    pattern_length = pattern.size();
    return {};
}

bool core_uses_pid() {
    return pattern_uses_pid;
}
void set_core_uses_pid(bool on) {
    pattern_uses_pid = on;
}

} // namespace kernel
