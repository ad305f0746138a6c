#include "agent/container/device_program.hpp"

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>

#include <sys/syscall.h>

#include "agent/os/unique_fd.hpp"

namespace container {

namespace {

// r1 is the context until its members are read, and scratch after that.
enum Register : std::uint8_t { result, scratch, accesses, type, major_number, minor_number };

bpf_insn instruction(int code, int to, int from, int offset, std::int32_t constant) {
    bpf_insn out{};
    out.code = static_cast<std::uint8_t>(code);
    out.dst_reg = static_cast<std::uint8_t>(to) & 15;
    out.src_reg = static_cast<std::uint8_t>(from) & 15;
    out.off = static_cast<std::int16_t>(offset);
    out.imm = constant;
    return out;
}

class Assembler {
public:
    void load(Register to, std::size_t offset) {
        emit(BPF_LDX | BPF_MEM | BPF_W, to, scratch, static_cast<int>(offset), 0);
    }
    void copy(Register to, Register from) { emit(BPF_ALU | BPF_MOV | BPF_X, to, from, 0, 0); }
    void keep_bits(Register to, std::uint32_t bits) {
        emit(BPF_ALU | BPF_AND | BPF_K, to, 0, 0, static_cast<std::int32_t>(bits));
    }
    void shift_right(Register to, int bits) { emit(BPF_ALU | BPF_RSH | BPF_K, to, 0, 0, bits); }
    // A jump that is still to learn its end.
    std::size_t jump_unless(Register what, std::uint32_t value) {
        emit(BPF_JMP | BPF_JNE | BPF_K, what, 0, 0, static_cast<std::int32_t>(value));
        return code_.size() - 1;
    }
    std::size_t jump_if(Register what, std::uint32_t value) {
        emit(BPF_JMP | BPF_JEQ | BPF_K, what, 0, 0, static_cast<std::int32_t>(value));
        return code_.size() - 1;
    }
    void land(std::size_t jump) {
        code_[jump].off = static_cast<std::int16_t>(code_.size() - jump - 1);
    }
    void leave(bool allow) {
        emit(BPF_ALU64 | BPF_MOV | BPF_K, result, 0, 0, allow ? 1 : 0);
        emit(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
    }
    std::vector<bpf_insn> take() { return std::move(code_); }

private:
    void emit(int code, int to, int from, int offset, std::int32_t constant) {
        code_.push_back(instruction(code, to, from, offset, constant));
    }
    std::vector<bpf_insn> code_;
};

constexpr std::uint32_t all_accesses =
    BPF_DEVCG_ACC_READ | BPF_DEVCG_ACC_WRITE | BPF_DEVCG_ACC_MKNOD;

std::vector<spec::DeviceRule> promised() {
    constexpr std::uint32_t all = all_accesses;
    const auto allow = [](char type, std::optional<std::uint32_t> major,
                          std::optional<std::uint32_t> minor, std::uint32_t accesses) {
        return spec::DeviceRule{
            .allow = true, .type = type, .major = major, .minor = minor, .accesses = accesses};
    };
    std::vector<spec::DeviceRule> out = {
        allow('c', {}, {}, BPF_DEVCG_ACC_MKNOD), allow('b', {}, {}, BPF_DEVCG_ACC_MKNOD),
        allow('c', 5, 0, all),   // /dev/tty
        allow('c', 5, 2, all),   // /dev/ptmx
        allow('c', 136, {}, all) // /dev/pts
    };
    for (const std::uint32_t minor : {3U, 5U, 7U, 8U, 9U}) // null, zero, full, random, urandom
        out.push_back(allow('c', 1, minor, all));
    return out;
}

// The accesses that no rule has decided yet are in `accesses`.
void compile(const spec::DeviceRule& rule, Assembler& code) {
    std::vector<std::size_t> passing;
    if (rule.type != 'a')
        passing.push_back(
            code.jump_unless(type, rule.type == 'b' ? BPF_DEVCG_DEV_BLOCK : BPF_DEVCG_DEV_CHAR));
    if (rule.major)
        passing.push_back(code.jump_unless(major_number, *rule.major));
    if (rule.minor)
        passing.push_back(code.jump_unless(minor_number, *rule.minor));
    if (rule.allow) {
        code.keep_bits(accesses, ~rule.accesses & 0xffff);
        passing.push_back(code.jump_unless(accesses, 0));
    } else {
        code.copy(scratch, accesses);
        code.keep_bits(scratch, rule.accesses);
        passing.push_back(code.jump_if(scratch, 0));
    }
    code.leave(rule.allow);
    for (const std::size_t jump : passing)
        code.land(jump);
}

long call_bpf(int command, bpf_attr& attributes) {
    return syscall(SYS_bpf, command, &attributes, sizeof attributes);
}

constexpr std::size_t most_programs = 64; // as many as Linux lets a group have

os::Result<std::vector<std::uint32_t>> attached_programs(int group) {
    std::vector<std::uint32_t> ids(most_programs);
    bpf_attr query{};
    query.query.target_fd = static_cast<std::uint32_t>(group);
    query.query.attach_type = BPF_CGROUP_DEVICE;
    query.query.prog_cnt = static_cast<std::uint32_t>(ids.size());
    query.query.prog_ids = reinterpret_cast<std::uint64_t>(ids.data());
    if (call_bpf(BPF_PROG_QUERY, query) != 0)
        return os::fail_errno(errno, "ask for the control group's device programs");
    ids.resize(query.query.prog_cnt);
    return ids;
}

os::Result<os::UniqueFd> load(const std::vector<bpf_insn>& code) {
    bpf_attr attributes{};
    attributes.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
    attributes.insns = reinterpret_cast<std::uint64_t>(code.data());
    attributes.insn_cnt = static_cast<std::uint32_t>(code.size());
    attributes.license = reinterpret_cast<std::uint64_t>("");
    std::strncpy(attributes.prog_name, "oci_devices", sizeof attributes.prog_name - 1);
    os::UniqueFd program(static_cast<int>(call_bpf(BPF_PROG_LOAD, attributes)));
    if (!program)
        return os::fail_errno(errno, "load the program of linux.resources.devices");
    return program;
}

os::Result<void> attach(int group, int program) {
    bpf_attr attributes{};
    attributes.target_fd = static_cast<std::uint32_t>(group);
    attributes.attach_bpf_fd = static_cast<std::uint32_t>(program);
    attributes.attach_type = BPF_CGROUP_DEVICE;
    attributes.attach_flags = BPF_F_ALLOW_MULTI;
    if (call_bpf(BPF_PROG_ATTACH, attributes) != 0)
        return os::fail_errno(errno, "attach the program of linux.resources.devices");
    return {};
}

os::Result<void> detach(int group, std::uint32_t id) {
    bpf_attr attributes{};
    attributes.prog_id = id;
    const os::UniqueFd program(static_cast<int>(call_bpf(BPF_PROG_GET_FD_BY_ID, attributes)));
    if (!program)
        return os::fail_errno(errno, "open the earlier program of linux.resources.devices");
    attributes = {};
    attributes.target_fd = static_cast<std::uint32_t>(group);
    attributes.attach_bpf_fd = static_cast<std::uint32_t>(program.get());
    attributes.attach_type = BPF_CGROUP_DEVICE;
    if (call_bpf(BPF_PROG_DETACH, attributes) != 0)
        return os::fail_errno(errno, "detach the earlier program of linux.resources.devices");
    return {};
}

} // namespace

std::vector<bpf_insn> compile_device_rules(const std::vector<spec::DeviceRule>& rules) {
    std::vector<spec::DeviceRule> deciding;
    bool otherwise = false;
    for (const spec::DeviceRule& rule : rules) {
        if (rule.type == 'a' && !rule.major && !rule.minor && rule.accesses == all_accesses) {
            // Of everything: what was said before it no longer counts.
            deciding.clear();
            otherwise = rule.allow;
        } else {
            deciding.push_back(rule);
        }
    }
    if (otherwise && deciding.empty())
        return {};
    for (const spec::DeviceRule& rule : promised())
        deciding.push_back(rule);

    Assembler code;
    code.load(accesses, offsetof(bpf_cgroup_dev_ctx, access_type));
    code.load(major_number, offsetof(bpf_cgroup_dev_ctx, major));
    code.load(minor_number, offsetof(bpf_cgroup_dev_ctx, minor));
    code.copy(type, accesses);
    code.keep_bits(type, 0xffff);
    code.shift_right(accesses, 16);
    for (auto rule = deciding.rbegin(); rule != deciding.rend(); ++rule)
        compile(*rule, code);
    code.leave(otherwise);
    return code.take();
}

os::Result<void> apply_device_rules(const std::string& directory,
                                    const std::vector<spec::DeviceRule>& rules) {
    if (rules.empty())
        return {};
    const os::UniqueFd group(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!group)
        return os::fail_errno(errno, "open the control group ", directory);
    const std::vector<bpf_insn> code = compile_device_rules(rules);
    TRY(const std::vector<std::uint32_t> earlier, attached_programs(group.get()));
    // The new one first: all that are attached must allow, so no moment allows too much.
    if (!code.empty()) {
        TRY(const os::UniqueFd program, load(code));
        TRY(attach(group.get(), program.get()));
    }
    for (const std::uint32_t id : earlier)
        TRY(detach(group.get(), id));
    return {};
}

} // namespace container
