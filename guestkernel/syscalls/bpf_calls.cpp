// bpf(2): programs that decide about devices (BPF_PROG_TYPE_CGROUP_DEVICE), by which container
// runtimes give a container the devices that it may use.
#include "guestkernel/syscalls/bpf_calls.hpp"

#include <cstddef>

#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/errno.h>

#include "guestkernel/cgroup/device_programs.hpp"
#include "guestkernel/core/log.hpp"
#include "guestkernel/fs/permission.hpp"
#include "guestkernel/ipc/event_files.hpp"
#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/syscalls/file_helpers.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

constexpr usize most_license_bytes = 128;
constexpr u32 most_log_bytes = ~u32{0} >> 2;

class DeviceProgramFile final : public AnonymousFile {
public:
    DeviceProgramFile(Ref<Inode> inode, Ref<DeviceProgram> loaded)
        : AnonymousFile(std::move(inode), 2), program(std::move(loaded)) {}
    static constexpr char file_type[] = "bpf-prog";
    const char* type_name() const override { return file_type; }
    Result<u64> seek(i64 offset, int whence) override { return File::seek(offset, whence); }
    const Ref<DeviceProgram> program;
};

// The attributes, as far as the caller gave them; the rest is zero. What lies behind the members
// that a command knows must be.
struct CallAttributes {
    bpf_attr value{};

    Result<void> copy_in(u64 address, u32 size) {
        if (size > page_size)
            return fail(E2BIG);
        const usize known = size < sizeof value ? size : sizeof value;
        for (u64 at = known; at < size; at++) {
            TRY(const u8 byte, UserPtr<const u8>(address + at).copy_in());
            if (byte != 0)
                return fail(E2BIG);
        }
        return copy_in_bytes(&value, address, known);
    }
    Result<void> end_at(usize end) const {
        const auto* bytes = reinterpret_cast<const u8*>(&value);
        for (usize at = end; at < sizeof value; at++)
            if (bytes[at] != 0)
                return fail(EINVAL);
        return {};
    }
};

// NOLINTNEXTLINE(cppcoreguidelines-macro-usage): of members, which only the preprocessor can name
#define END_OF(member) (offsetof(bpf_attr, member) + sizeof(bpf_attr::member))

Result<Ref<DeviceProgram>> program_of(Task& task, u32 fd) {
    TRY(Ref<File> file, usable_file(task, static_cast<int>(fd)));
    const auto* found = file_as<DeviceProgramFile>(*file);
    if (found == nullptr)
        return fail(EINVAL);
    return found->program;
}

Result<long> install(Task& task, Ref<DeviceProgram> program) {
    TRY(Ref<Inode> inode, make_anonymous_inode(0600));
    TRY(Ref<DeviceProgramFile> file,
        make_ref<DeviceProgramFile>(std::move(inode), std::move(program)));
    TRY(const int fd, task.files->install(Ref<File>(std::move(file)), true));
    return fd;
}

// --- BPF_PROG_LOAD

Result<void> check_name(std::span<const char> name) {
    bool ended = false;
    for (const char character : name) {
        if (ended)
            return character == 0 ? Result<void>() : fail(EINVAL);
        ended = character == 0;
        const bool letter = (character >= 'a' && character <= 'z') ||
                            (character >= 'A' && character <= 'Z') ||
                            (character >= '0' && character <= '9');
        if (!ended && !letter && character != '_' && character != '.')
            return fail(EINVAL);
    }
    return ended ? Result<void>() : fail(EINVAL);
}

// The verifier's last word: "N: why", with an end. ENOSPC: it does not fit.
Result<void> write_log(const bpf_attr& attr, const EbpfRejection& rejection) {
    if (attr.log_buf == 0)
        return {};
    char text[128];
    const usize length = rejection.why == nullptr ? 0
                                                  : log::format(text, sizeof text, "{}: {}\n",
                                                                rejection.at, rejection.why);
    const usize room = attr.log_size - 1;
    const usize bytes = length < room ? length : room;
    TRY(copy_out_bytes(attr.log_buf, text, bytes));
    TRY(UserPtr<u8>(attr.log_buf + bytes).copy_out(0));
    return bytes < length ? fail(ENOSPC) : Result<void>();
}

Result<void> check_log(const bpf_attr& attr) {
    if ((attr.log_buf != 0) != (attr.log_size != 0) || (attr.log_buf != 0 && attr.log_level == 0))
        return fail(EINVAL);
    constexpr u32 levels = 15; // the instructions, their states, statistics, not the last lines
    if (attr.log_level > levels || attr.log_size > most_log_bytes)
        return fail(EINVAL);
    return {};
}

// Whether the license is a readable string; no helper is here that would ask for one.
Result<void> check_license(u64 address) {
    for (usize at = 0; at < most_license_bytes; at++) {
        TRY(const u8 byte, UserPtr<const u8>(address + at).copy_in());
        if (byte == 0)
            return {};
    }
    return {};
}

Result<long> load_program(Task& task, const CallAttributes& attributes) {
    const bpf_attr& attr = attributes.value;
    TRY(attributes.end_at(END_OF(core_relo_rec_size)));
    if ((attr.prog_flags & ~u32{BPF_F_STRICT_ALIGNMENT | BPF_F_ANY_ALIGNMENT}) != 0)
        return fail(EINVAL);
    TRY(check_license(attr.license));
    if (attr.insn_cnt == 0 || attr.insn_cnt > most_ebpf_instructions)
        return fail(E2BIG);
    if (attr.prog_type != BPF_PROG_TYPE_CGROUP_DEVICE)
        return fail(EINVAL);
    if (!capable(CAP_NET_ADMIN) && !capable(CAP_SYS_ADMIN))
        return fail(EPERM);
    // No types, no other program, no device, no maps.
    if (attr.prog_ifindex != 0 || attr.attach_btf_id != 0 || attr.attach_prog_fd != 0 ||
        attr.func_info_cnt != 0 || attr.line_info_cnt != 0 || attr.core_relo_cnt != 0)
        return fail(EINVAL);
    static_assert(sizeof attr.prog_name == DeviceProgram::name_size);
    TRY(check_name(attr.prog_name));
    TRY(check_log(attr));
    Vector<EbpfInstruction> instructions;
    TRY(instructions.resize(attr.insn_cnt));
    TRY(copy_in_bytes(instructions.span().data(), attr.insns,
                      instructions.size() * sizeof(EbpfInstruction)));
    EbpfRejection rejection;
    const Result<void> checked = check_ebpf(instructions.span(), device_context_rule, rejection);
    TRY(write_log(attr, rejection));
    TRY(checked);
    TRY(Ref<DeviceProgram> program,
        make_ref<DeviceProgram>(std::move(instructions), attr.prog_name, task.credentials->uid));
    return install(task, std::move(program));
}

// --- attachments

Result<long> attach_program(Task& task, const CallAttributes& attributes) {
    const bpf_attr& attr = attributes.value;
    TRY(attributes.end_at(END_OF(replace_bpf_fd)));
    constexpr u32 sharing = BPF_F_ALLOW_OVERRIDE | BPF_F_ALLOW_MULTI;
    const u32 flags = attr.attach_flags;
    if (attr.attach_type != BPF_CGROUP_DEVICE || (flags & ~(sharing | BPF_F_REPLACE)) != 0)
        return fail(EINVAL);
    TRY(Ref<DeviceProgram> program, program_of(task, attr.attach_bpf_fd));
    TRY(Ref<File> directory, usable_file(task, static_cast<int>(attr.target_fd)));
    TRY(Ref<Cgroup> group, cgroup_of_file(*directory));
    const bool replaces = (flags & BPF_F_REPLACE) != 0;
    Ref<DeviceProgram> replaced;
    if (replaces && (flags & BPF_F_ALLOW_MULTI) != 0) {
        TRY(replaced, program_of(task, attr.replace_bpf_fd));
    }
    if ((flags & sharing) == sharing || (replaces && (flags & BPF_F_ALLOW_MULTI) == 0) ||
        (!replaces && attr.replace_bpf_fd != 0))
        return fail(EINVAL);
    TRY(attach_device_program(*group, std::move(program), flags, replaced.get()));
    return 0;
}

Result<long> detach_program(Task& task, const CallAttributes& attributes) {
    const bpf_attr& attr = attributes.value;
    TRY(attributes.end_at(END_OF(attach_type)));
    if (attr.attach_type != BPF_CGROUP_DEVICE)
        return fail(EINVAL);
    TRY(Ref<File> directory, usable_file(task, static_cast<int>(attr.target_fd)));
    TRY(Ref<Cgroup> group, cgroup_of_file(*directory));
    // Where there is one only, it need not be named.
    const auto program = program_of(task, attr.attach_bpf_fd);
    TRY(detach_device_program(*group, program ? program.value().get() : nullptr));
    return 0;
}

Result<long> query_programs(Task& task, const CallAttributes& attributes, u64 address) {
    const auto& query = attributes.value.query;
    if (!capable(CAP_NET_ADMIN) && !capable(CAP_SYS_ADMIN))
        return fail(EPERM);
    TRY(attributes.end_at(END_OF(query.prog_attach_flags)));
    if ((query.query_flags & ~u32{BPF_F_QUERY_EFFECTIVE}) != 0 ||
        query.attach_type != BPF_CGROUP_DEVICE)
        return fail(EINVAL);
    const bool effective = query.query_flags != 0;
    if (effective && query.prog_attach_flags != 0)
        return fail(EINVAL);
    TRY(Ref<File> directory, usable_file(task, static_cast<int>(query.target_fd)));
    TRY(Ref<Cgroup> group, cgroup_of_file(*directory));
    Vector<Ref<DeviceProgram>> programs;
    u32 flags = 0;
    TRY(list_device_programs(*group, effective, programs, flags));
    const auto total = static_cast<u32>(programs.size());
    TRY(UserPtr<u32>(address + offsetof(bpf_attr, query.attach_flags)).copy_out(flags));
    TRY(UserPtr<u32>(address + offsetof(bpf_attr, query.prog_cnt)).copy_out(total));
    if (query.prog_cnt == 0 || query.prog_ids == 0 || total == 0)
        return 0;
    const u32 count = total < query.prog_cnt ? total : query.prog_cnt;
    for (u32 i = 0; i < count; i++) {
        TRY(UserPtr<u32>(query.prog_ids + i * sizeof(u32)).copy_out(programs[i]->id));
        if (query.prog_attach_flags != 0)
            TRY(UserPtr<u32>(query.prog_attach_flags + i * sizeof(u32)).copy_out(flags));
    }
    return count < total ? Result<long>(fail(ENOSPC)) : Result<long>(0);
}

// --- programs by their ids

Result<long> next_program(const CallAttributes& attributes, u64 address) {
    TRY(attributes.end_at(END_OF(next_id)));
    if (!capable(CAP_SYS_ADMIN))
        return fail(EPERM);
    const u32 next = next_device_program(attributes.value.start_id);
    if (next == 0)
        return fail(ENOENT);
    TRY(UserPtr<u32>(address + offsetof(bpf_attr, next_id)).copy_out(next));
    return 0;
}

Result<long> program_by_id(Task& task, const CallAttributes& attributes) {
    TRY(attributes.end_at(END_OF(prog_id)));
    if (!capable(CAP_SYS_ADMIN))
        return fail(EPERM);
    Ref<DeviceProgram> program = find_device_program(attributes.value.prog_id);
    if (!program)
        return fail(ENOENT);
    return install(task, std::move(program));
}

Result<long> describe_program(Task& task, const CallAttributes& attributes, u64 address) {
    TRY(attributes.end_at(END_OF(info)));
    const auto& request = attributes.value.info;
    TRY(const Ref<DeviceProgram> program, program_of(task, request.bpf_fd));
    if (request.info_len > page_size)
        return fail(E2BIG);
    bpf_prog_info info{};
    const u32 length = request.info_len < sizeof info ? request.info_len : sizeof info;
    TRY(copy_in_bytes(&info, request.info, length));
    const u64 instructions_out = info.xlated_prog_insns;
    const u32 room = info.xlated_prog_len;
    info = {};
    info.type = BPF_PROG_TYPE_CGROUP_DEVICE;
    info.id = program->id;
    info.xlated_prog_len = static_cast<u32>(program->instructions.size() * sizeof(EbpfInstruction));
    info.load_time = static_cast<u64>(program->made);
    info.created_by_uid = program->maker;
    info.verified_insns = static_cast<u32>(program->instructions.size());
    __builtin_memcpy(info.name, program->name, sizeof info.name);
    if (room != 0 && instructions_out != 0) {
        info.xlated_prog_insns = instructions_out;
        const u32 bytes = room < info.xlated_prog_len ? room : info.xlated_prog_len;
        TRY(copy_out_bytes(instructions_out, program->instructions.span().data(), bytes));
    }
    TRY(copy_out_bytes(request.info, &info, length));
    TRY(UserPtr<u32>(address + offsetof(bpf_attr, info.info_len)).copy_out(length));
    return 0;
}

} // namespace

Result<long> sys_bpf(Task& task, u32 command, u64 address, u32 size) {
    // As with kernel.unprivileged_bpf_disabled.
    if (!capable(CAP_BPF) && !capable(CAP_SYS_ADMIN))
        return fail(EPERM);
    CallAttributes attributes;
    TRY(attributes.copy_in(address, size));
    switch (command) {
    case BPF_PROG_LOAD:
        return load_program(task, attributes);
    case BPF_PROG_ATTACH:
        return attach_program(task, attributes);
    case BPF_PROG_DETACH:
        return detach_program(task, attributes);
    case BPF_PROG_QUERY:
        return query_programs(task, attributes, address);
    case BPF_PROG_GET_NEXT_ID:
        return next_program(attributes, address);
    case BPF_PROG_GET_FD_BY_ID:
        return program_by_id(task, attributes);
    case BPF_OBJ_GET_INFO_BY_FD:
        return describe_program(task, attributes, address);
    default:
        return fail(EINVAL);
    }
}

} // namespace kernel
