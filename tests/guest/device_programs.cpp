// bpf(2) for control groups' device programs: what the verifier takes, attaching, asking, and what
// members may do.
#include <cstddef>
#include <cstdint>
#include <fcntl.h>
#include <sched.h>
#include <string>
#include <unistd.h>
#include <vector>

#include <linux/bpf.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "tests/guest/check.hpp"

namespace {

using Program = std::vector<bpf_insn>;

bpf_insn insn(uint8_t code, uint8_t to, uint8_t from, int16_t offset, int32_t constant) {
    bpf_insn made{};
    made.code = code;
    made.dst_reg = to & 15;
    made.src_reg = from & 15;
    made.off = offset;
    made.imm = constant;
    return made;
}
bpf_insn set(uint8_t to, int32_t value) {
    return insn(BPF_ALU64 | BPF_MOV | BPF_K, to, 0, 0, value);
}
bpf_insn copy(uint8_t to, uint8_t from) {
    return insn(BPF_ALU64 | BPF_MOV | BPF_X, to, from, 0, 0);
}
bpf_insn word(uint8_t to, uint8_t from, int16_t offset) {
    return insn(BPF_LDX | BPF_MEM | BPF_W, to, from, offset, 0);
}
bpf_insn alu(uint8_t operation, uint8_t to, int32_t constant) {
    return insn(BPF_ALU | operation | BPF_K, to, 0, 0, constant);
}
bpf_insn jump(uint8_t operation, uint8_t to, int32_t constant, int16_t offset) {
    return insn(BPF_JMP | operation | BPF_K, to, 0, offset, constant);
}
bpf_insn leave() {
    return insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
}

constexpr int16_t major_at = offsetof(bpf_cgroup_dev_ctx, major);
constexpr int16_t minor_at = offsetof(bpf_cgroup_dev_ctx, minor);

long bpf(int command, bpf_attr& attr, size_t size = sizeof(bpf_attr)) {
    return syscall(SYS_bpf, command, &attr, size);
}

long load(const Program& program, std::string* log = nullptr) {
    bpf_attr attr{};
    attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
    attr.insns = reinterpret_cast<uint64_t>(program.data());
    attr.insn_cnt = static_cast<uint32_t>(program.size());
    attr.license = reinterpret_cast<uint64_t>("GPL");
    strcpy(attr.prog_name, "devices_1");
    std::vector<char> room(65536);
    if (log != nullptr) {
        attr.log_level = 1;
        attr.log_buf = reinterpret_cast<uint64_t>(room.data());
        attr.log_size = static_cast<uint32_t>(room.size());
    }
    const long result = bpf(BPF_PROG_LOAD, attr);
    const int error = errno;
    if (log != nullptr)
        *log = room.data();
    errno = error;
    return result;
}

int good(const Program& program) {
    const long fd = load(program);
    CHECK(fd >= 0);
    return static_cast<int>(fd);
}

void programs_are_verified() {
    CHECK(fcntl(good({set(0, 1), leave()}), F_GETFD) == FD_CLOEXEC);
    // Every path is 0 or 1: by constants, by a mask, by both joined.
    good({word(2, 1, 0), jump(BPF_JNE, 2, 7, 2), set(0, 1), leave(), set(0, 0), leave()});
    good({word(0, 1, 4), alu(BPF_AND, 0, 1), leave()});
    good({copy(6, 1), word(0, 6, 8), alu(BPF_RSH, 0, 3), alu(BPF_AND, 0, 1), leave()});
    // The stack, and halves of the first member.
    good({set(3, 1), insn(BPF_STX | BPF_MEM | BPF_DW, 10, 3, -8, 0),
          insn(BPF_LDX | BPF_MEM | BPF_DW, 0, 10, -8, 0), alu(BPF_AND, 0, 1), leave()});
    good({insn(BPF_LDX | BPF_MEM | BPF_H, 0, 1, 0, 0), alu(BPF_AND, 0, 1), leave()});
    good({insn(BPF_LD | BPF_IMM | BPF_DW, 2, 0, 0, -1), insn(0, 0, 0, 0, 5), set(0, 0), leave()});

    CHECK_FAILS(load({}), E2BIG);
    CHECK_FAILS(load({set(0, 2), leave()}), EINVAL);
    CHECK_FAILS(load({leave()}), EACCES);                                // no answer
    CHECK_FAILS(load({copy(0, 1), leave()}), EINVAL);                    // an address as the answer
    CHECK_FAILS(load({copy(0, 5), leave()}), EACCES);                    // never written
    CHECK_FAILS(load({set(0, 1)}), EINVAL);                              // runs over its end
    CHECK_FAILS(load({set(0, 1), leave(), set(0, 0), leave()}), EINVAL); // unreachable
    CHECK_FAILS(load({set(0, 1), jump(BPF_JEQ, 0, 1, 5), leave()}), EINVAL);
    CHECK_FAILS(load({set(0, 1), insn(BPF_JMP | BPF_JA, 0, 0, -2, 0), leave()}), EINVAL);
    CHECK_FAILS(load({word(0, 1, 12), set(0, 1), leave()}), EACCES);
    CHECK_FAILS(load({word(0, 1, 2), set(0, 1), leave()}), EACCES);
    CHECK_FAILS(load({insn(BPF_LDX | BPF_MEM | BPF_H, 2, 1, major_at, 0), set(0, 1), leave()}),
                EACCES);
    CHECK_FAILS(load({word(0, 10, -516), set(0, 1), leave()}), EACCES);
    CHECK_FAILS(load({set(2, 1), insn(BPF_STX | BPF_MEM | BPF_W, 1, 2, 0, 0), set(0, 1), leave()}),
                EACCES);
    CHECK_FAILS(load({set(2, 64), word(0, 2, 0), set(0, 1), leave()}), EACCES);
    CHECK_FAILS(load({set(0, 1), insn(BPF_ALU64 | BPF_DIV | BPF_K, 0, 0, 0, 0), leave()}), EINVAL);
    CHECK_FAILS(load({set(0, 1), insn(BPF_ALU | BPF_LSH | BPF_K, 0, 0, 0, 32), leave()}), EINVAL);
    CHECK_FAILS(load({insn(0xff, 0, 0, 0, 0), set(0, 1), leave()}), EINVAL);

    std::string log;
    CHECK(load({set(0, 2), leave()}, &log) == -1 && !log.empty());
}

void attributes_are_checked() {
    bpf_attr attr{};
    CHECK_FAILS(bpf(BPF_PROG_LOAD, attr, 8192), E2BIG);
    CHECK_FAILS(bpf(9999, attr), EINVAL);
    CHECK_FAILS(syscall(SYS_bpf, BPF_PROG_LOAD, nullptr, sizeof attr), EFAULT);
    const Program program{set(0, 1), leave()};
    attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
    attr.insns = reinterpret_cast<uint64_t>(program.data());
    attr.insn_cnt = 2;
    CHECK_FAILS(bpf(BPF_PROG_LOAD, attr), EFAULT); // no license
    attr.license = reinterpret_cast<uint64_t>("GPL");
    attr.prog_name[0] = '/';
    CHECK_FAILS(bpf(BPF_PROG_LOAD, attr), EINVAL);
    attr.prog_name[0] = 0;
    char log[16];
    attr.log_buf = reinterpret_cast<uint64_t>(log); // without a level
    attr.log_size = sizeof log;
    CHECK_FAILS(bpf(BPF_PROG_LOAD, attr), EINVAL);
    // Nobody without privileges.
    const pid_t child = fork();
    if (child == 0) {
        CHECK(setuid(1000) == 0);
        CHECK_FAILS(load(program), EPERM);
        _exit(0);
    }
    int status = 1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

long attach(int group, int program, uint32_t flags, int replaced = 0) {
    bpf_attr attr{};
    attr.target_fd = static_cast<uint32_t>(group);
    attr.attach_bpf_fd = static_cast<uint32_t>(program);
    attr.attach_type = BPF_CGROUP_DEVICE;
    attr.attach_flags = flags;
    attr.replace_bpf_fd = static_cast<uint32_t>(replaced);
    return bpf(BPF_PROG_ATTACH, attr);
}

long detach(int group, int program) {
    bpf_attr attr{};
    attr.target_fd = static_cast<uint32_t>(group);
    attr.attach_bpf_fd = static_cast<uint32_t>(program);
    attr.attach_type = BPF_CGROUP_DEVICE;
    return bpf(BPF_PROG_DETACH, attr);
}

uint32_t id_of(int program) {
    bpf_prog_info info{};
    bpf_attr attr{};
    attr.info.bpf_fd = static_cast<uint32_t>(program);
    attr.info.info_len = sizeof info;
    attr.info.info = reinterpret_cast<uint64_t>(&info);
    CHECK(bpf(BPF_OBJ_GET_INFO_BY_FD, attr) == 0);
    CHECK(info.type == BPF_PROG_TYPE_CGROUP_DEVICE && info.id != 0);
    return info.id;
}

std::vector<uint32_t> attached(int group, uint32_t flags = 0, uint32_t* sharing = nullptr) {
    uint32_t ids[64];
    bpf_attr attr{};
    attr.query.target_fd = static_cast<uint32_t>(group);
    attr.query.attach_type = BPF_CGROUP_DEVICE;
    attr.query.query_flags = flags;
    attr.query.prog_ids = reinterpret_cast<uint64_t>(ids);
    attr.query.prog_cnt = 64;
    CHECK(bpf(BPF_PROG_QUERY, attr) == 0);
    if (sharing != nullptr)
        *sharing = attr.query.attach_flags;
    return {ids, ids + attr.query.prog_cnt};
}

std::string base;

int make_group(const std::string& name) {
    CHECK(mkdir((base + name).c_str(), 0755) == 0);
    const int fd = open((base + name).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

using Ids = std::vector<uint32_t>;

void attachments() {
    const int outer = make_group("/outer"), inner = make_group("/outer/inner");
    const int one = good({set(0, 1), leave()}), two = good({set(0, 1), leave()});
    CHECK(attached(outer).empty());
    CHECK_FAILS(detach(outer, one), ENOENT);
    CHECK_FAILS(attach(one, one, 0), EBADF);
    CHECK_FAILS(attach(outer, outer, 0), EINVAL);
    CHECK_FAILS(attach(outer, 9999, 0), EBADF);
    CHECK_FAILS(attach(outer, one, BPF_F_ALLOW_OVERRIDE | BPF_F_ALLOW_MULTI), EINVAL);

    // Alone: nothing below, and a second one takes its place.
    CHECK(attach(outer, one, 0) == 0);
    CHECK_FAILS(attach(inner, two, 0), EPERM);
    CHECK_FAILS(attach(outer, two, BPF_F_ALLOW_MULTI), EPERM);
    CHECK(attach(outer, two, 0) == 0);
    CHECK(attached(outer) == Ids{id_of(two)});
    CHECK(detach(outer, two) == 0);

    // Overridden below.
    CHECK(attach(outer, one, BPF_F_ALLOW_OVERRIDE) == 0);
    CHECK(attached(inner, BPF_F_QUERY_EFFECTIVE) == Ids{id_of(one)});
    CHECK(attach(inner, two, BPF_F_ALLOW_OVERRIDE) == 0);
    CHECK(attached(inner, BPF_F_QUERY_EFFECTIVE) == Ids{id_of(two)});
    CHECK(detach(inner, two) == 0 && detach(outer, one) == 0);

    // Several.
    uint32_t sharing = 0;
    CHECK(attach(outer, one, BPF_F_ALLOW_MULTI) == 0);
    CHECK_FAILS(attach(outer, one, BPF_F_ALLOW_MULTI), EINVAL);
    CHECK(attach(outer, two, BPF_F_ALLOW_MULTI) == 0);
    CHECK((attached(outer, 0, &sharing) == Ids{id_of(one), id_of(two)}) &&
          sharing == BPF_F_ALLOW_MULTI);
    CHECK_FAILS(detach(outer, 0), EINVAL);
    const int three = good({set(0, 1), leave()});
    CHECK_FAILS(attach(outer, three, BPF_F_ALLOW_MULTI | BPF_F_REPLACE, three), ENOENT);
    CHECK(attach(outer, three, BPF_F_ALLOW_MULTI | BPF_F_REPLACE, one) == 0);
    CHECK((attached(outer) == Ids{id_of(three), id_of(two)}));
    CHECK(attach(inner, one, BPF_F_ALLOW_MULTI) == 0);
    CHECK((attached(inner, BPF_F_QUERY_EFFECTIVE) == Ids{id_of(one), id_of(three), id_of(two)}));

    bpf_attr attr{};
    attr.prog_id = id_of(three);
    const long again = bpf(BPF_PROG_GET_FD_BY_ID, attr);
    CHECK(again >= 0 && id_of(static_cast<int>(again)) == id_of(three));
    attr = {};
    attr.start_id = id_of(three) - 1;
    CHECK(bpf(BPF_PROG_GET_NEXT_ID, attr) == 0 && attr.next_id == id_of(three));
    attr = {};
    attr.prog_id = 0x7fffffff;
    CHECK_FAILS(bpf(BPF_PROG_GET_FD_BY_ID, attr), ENOENT);

    CHECK(rmdir((base + "/outer/inner").c_str()) == 0 && rmdir((base + "/outer").c_str()) == 0);
}

template <typename F>
void as_member(const std::string& group, F&& body) {
    const pid_t child = fork();
    if (child == 0) {
        const int procs = open((base + group + "/cgroup.procs").c_str(), O_WRONLY | O_CLOEXEC);
        CHECK(procs >= 0 && write(procs, "0", 1) == 1);
        body();
        _exit(0);
    }
    int status = 1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

// Reading /dev/zero; anything with /dev/null; nothing else.
Program rules() {
    return {word(2, 1, 0),
            word(3, 1, major_at),
            word(4, 1, minor_at),
            copy(5, 2),
            alu(BPF_AND, 2, 0xffff),
            alu(BPF_RSH, 5, 16),
            jump(BPF_JNE, 2, BPF_DEVCG_DEV_CHAR, 6),
            jump(BPF_JNE, 3, 1, 5),
            jump(BPF_JEQ, 4, 3, 2),
            jump(BPF_JNE, 4, 5, 3),
            jump(BPF_JNE, 5, BPF_DEVCG_ACC_READ, 2),
            set(0, 1),
            leave(),
            set(0, 0),
            leave()};
}

void members_are_held_to_it() {
    const int group = make_group("/held");
    const int below = make_group("/held/below");
    close(below);
    const int program = good(rules());
    CHECK(attach(group, program, BPF_F_ALLOW_MULTI) == 0);
    close(program); // the group keeps it
    char place[] = "/tmp/device_programs.XXXXXX";
    CHECK(mkdtemp(place) != nullptr);
    const std::string node = std::string(place) + "/node";
    for (const char* where : {"/held", "/held/below"})
        as_member(where, [&] {
            CHECK(open("/dev/null", O_RDWR) >= 0);
            CHECK(open("/dev/zero", O_RDONLY) >= 0);
            CHECK_FAILS(open("/dev/zero", O_RDWR), EPERM);
            CHECK_FAILS(open("/dev/full", O_RDONLY), EPERM);
            CHECK(open("/dev/full", O_PATH) >= 0);
            CHECK_FAILS(access("/dev/full", R_OK), EPERM);
            CHECK_FAILS(access("/dev/full", F_OK), EPERM);
            CHECK(open("/proc/self/status", O_RDONLY) >= 0);
            CHECK(mknod(node.c_str(), S_IFCHR | 0600, makedev(1, 3)) == 0 &&
                  unlink(node.c_str()) == 0);
            CHECK_FAILS(mknod(node.c_str(), S_IFCHR | 0600, makedev(1, 5)), EPERM);
            CHECK_FAILS(mknod(node.c_str(), S_IFBLK | 0600, makedev(1, 3)), EPERM);
            CHECK(mknod(node.c_str(), S_IFIFO | 0600, 0) == 0 && unlink(node.c_str()) == 0);
            CHECK(mknod(node.c_str(), S_IFCHR | 0600, 0) == 0 && unlink(node.c_str()) == 0);
        });
    CHECK(open("/dev/full", O_RDONLY) >= 0); // others are not
    CHECK(detach(group, open("/dev/null", O_RDONLY)) == -1);
    CHECK(rmdir((base + "/held/below").c_str()) == 0 && rmdir((base + "/held").c_str()) == 0);
    CHECK(rmdir(place) == 0);
}

} // namespace

int main() {
    CHECK(unshare(CLONE_NEWNS) == 0);
    CHECK(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
    char place[] = "/tmp/device_programs_groups.XXXXXX";
    CHECK(mkdtemp(place) != nullptr);
    CHECK(mount("cgroup2", place, "cgroup2", 0, nullptr) == 0);
    base = std::string(place) + "/device_programs." + std::to_string(getpid());
    CHECK(mkdir(base.c_str(), 0755) == 0);
    programs_are_verified();
    attributes_are_checked();
    attachments();
    members_are_held_to_it();
    CHECK(rmdir(base.c_str()) == 0);
    CHECK(umount2(place, MNT_DETACH) == 0 && rmdir(place) == 0);
    return 0;
}
