#include "tests/fuzz/storm/values.hpp"

#include <array>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <iterator>
#include <poll.h>
#include <sched.h>
#include <unistd.h>

#include <asm/unistd_64.h>
#include <linux/aio_abi.h>
#include <linux/if_alg.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/io_uring.h>
#include <linux/netlink.h>
#include <linux/un.h>
#include <linux/vm_sockets.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

namespace storm {
namespace {

// One arena for everything that a call reads or writes: pages to write, one to read, and a hole
// behind them, so that what ends at the edge of the last one is seen to be read too far.
constexpr std::uint64_t arena = 0x100000000;
constexpr std::size_t page = 4096;
constexpr std::size_t good_pages = 14;
constexpr std::uint64_t read_only = arena + good_pages * page;
constexpr std::uint64_t hole = read_only + page;
// Where mmap(2) and its relatives play.
constexpr std::uint64_t playground = 0x200000000;
constexpr std::size_t playground_pages = 64;

const char* const paths[] = {
    "a",
    "b",
    "dir",
    "dir/c",
    "link",
    "fifo",
    ".",
    "..",
    "/",
    "",
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/tty",
    "/dev/ptmx",

    "/dev/fuse",
    "/dev/net/tun",
    "/dev/shm/x",
    "/proc/self/mem",
    "/proc/self/maps",
    "/proc/self/fd",
    "/proc/self/exe",
    "/proc/self/ns/net",
    "/proc/self/ns/mnt",
    "/proc/self/ns/user",
    "/proc/self/ns/pid",
    "/proc/self/status",
    "/proc/self/uid_map",
    "/proc/self/setgroups",
    "/proc/self/oom_score_adj",
    "/proc/self/clear_refs",
    "/proc/self/pagemap",
    "/proc/self/attr/current",
    "/proc/self/task",
    "/proc/self/mountinfo",
    "/proc/self/cmdline",
    "/proc/self/environ",
    "/proc/self/coredump_filter",
    "/proc/1/mem",
    "/proc/sys/vm/drop_caches",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/net/ipv4/ip_local_port_range",
    "/proc/sys/net/core/somaxconn",
    "/proc/sys/fs/pipe-max-size",
    "/proc/net/tcp",
    "/proc/net/route",
    "/proc/pressure/memory",
    "/proc/meminfo",
    "/sys/fs/cgroup",
    "/sys/fs/cgroup/cgroup.procs",
    "/sys/fs/cgroup/cgroup.subtree_control",
    "/sys/fs/cgroup/s",
    "/sys/fs/cgroup/s/memory.max",
    "/sys/fs/cgroup/s/pids.max",
    "/sys/fs/cgroup/s/cgroup.freeze",
    "/sys/fs/cgroup/s/cgroup.kill",
    "/sys/fs/cgroup/s/cpu.max",
    "/sys/fs/cgroup/s/cgroup.procs",
    "/sys/class/net/lo",
    "/queue",
    "tmpfs",
    "proc",
    "sysfs",
    "overlay",
    "cgroup2",
    "mqueue",
    "devpts",
    "fuse",
    "ramfs",
    "bpf",
    "user.a",
    "trusted.overlay.opaque",
    "security.capability",
    "system.posix_acl_access",
    "user",
    "keyring",
    "logon",
    "lowerdir=dir,upperdir=a,workdir=b",
    "size=4k,mode=755",
    "fd=3,rootmode=40000,user_id=0,group_id=0",
    "/bin/true",
    "dir/../dir/../dir/c",
    "a/",
    "/proc/self/fd/5",
    "/proc/self/root/tmp",
    "/proc/self/cwd",
    "../../../..",
    "0",
    "1",
    "100",
    "-1",
    "max",
    "+memory +pids",
    "0 0 1",
    "\n",
    "%n%s",
    "deny",
};

// Commands of ioctl(2), fcntl(2), prctl(2) and others that a small number does not hit.
const std::uint64_t commands[] = {
    0x5401,     0x5402,     0x5403,     0x5404,     0x5405,     0x5408,     0x5409,     0x540a,
    0x540b,     0x540c,     0x540d,     0x540e,     0x540f,     0x5410,     0x5411,     0x5412,
    0x5413,     0x5414,     0x5415,     0x541b,     0x5420,     0x5421,     0x5422,     0x5423,
    0x5424,     0x5425,     0x5427,     0x5428,     0x5429,     0x5450,     0x5451,     0x5452,
    0x5460,     0x80045430, 0x40045431, 0x80045432, 0x40045436, 0x80045438, 0x80045439, 0x5441,
    0x8901,     0x8902,     0x8903,     0x8904,     0x8905,     0x8906,     0x890b,     0x890c,
    0x8910,     0x8911,     0x8912,     0x8913,     0x8914,     0x8915,     0x8916,     0x8919,
    0x891b,     0x891f,     0x8921,     0x8922,     0x8923,     0x8924,     0x8927,     0x8929,
    0x8933,     0x8938,     0x8942,     0x8943,     0x8946,     0x8953,     0x8954,     0x8955,
    0x89a0,     0x89a1,     0x89a2,     0x89f0,     0x89f1,     0x400454ca, 0x400454cb, 0x400454cd,
    0x400454d0, 0x800454d2, 0x800454cf, 0x400454d8, 0x800454d7, 0x400454d9, 0x400454da, 0x400454e2,
    0x400454cc, 0x400454ce, 0xc020660b, 0x80086601, 0x40086602, 0x40046f09, 0xb701,     0xb702,
    0xb703,     0xb704,     0xc018aa3f, 0xc020aa00, 0x8010aa01, 0xc028aa03, 0xc020aa04, 0xc018aa06,
    0xc020aa07, 0xc0502100, 0xc0182101, 0x40182103, 0x40042104, 0x40049409, 0x4020940d, 1024,
    1025,       1026,       1028,       1029,       1030,       1031,       1032,       1033,
    1034,       1035,       1036,       1037,       1038,       0x1001,     0x1002,     0x1003,
    0x1004,     0x1011,     0x1012,     0x4200,     0x4201,     0x4202,     0x4203,     0x4204,
    0x4205,     0x4206,     0x4207,     0x4208,     0x4209,     0x420a,     0x420b,     0x420c,
    0x420d,     0x420e,     0x420f,     0x59616d61, 0x53564d41, 270,        271,        272,
    273,        274,        275,        276,        277,        278,        279,        280,
    281,        282,        283,        800001,     800002,     800003,     800004,     65535,
};

// Calls whose result is a descriptor.
const long makers[] = {
    __NR_open,
    __NR_openat,
    __NR_openat2,
    __NR_creat,
    __NR_dup,
    __NR_socket,
    __NR_accept,
    __NR_accept4,
    __NR_memfd_create,
    __NR_epoll_create,
    __NR_epoll_create1,
    __NR_eventfd,
    __NR_eventfd2,
    __NR_signalfd,
    __NR_signalfd4,
    __NR_timerfd_create,
    __NR_inotify_init,
    __NR_inotify_init1,
    __NR_fanotify_init,
    __NR_pidfd_open,
    __NR_pidfd_getfd,
    __NR_userfaultfd,
    __NR_io_uring_setup,
    __NR_mq_open,
    __NR_open_tree,
    __NR_fsopen,
    __NR_fsmount,
    __NR_fspick,
    __NR_landlock_create_ruleset,
    __NR_open_by_handle_at,
    __NR_bpf,
    __NR_fcntl,
    __NR_seccomp,
    __NR_ioctl,
};

template <class... Arguments>
long raw(long number, Arguments... arguments) {
    return ::syscall(number, arguments...);
}

// The arena may be away, or read-only, since some call of ours: the kernel writes for us, and says
// so instead of killing.
void write(std::uint64_t address, const void* bytes, std::size_t size) {
    const std::uint64_t from[2] = {reinterpret_cast<std::uint64_t>(bytes), size};
    const std::uint64_t to[2] = {address, size};
    raw(__NR_process_vm_writev, raw(__NR_getpid), from, 1, to, 1, 0);
}

template <class List>
auto one_of(Random& random, const List& list) {
    return list[random.below(std::size(list))];
}

} // namespace

std::uint64_t Random::next() {
    std::uint64_t value = state_ += 0x9e3779b97f4a7c15;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
    value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
    return value ^ (value >> 31);
}

Values::Values(std::uint64_t seed) : random_(seed) {
    const auto map = [](std::uint64_t at, std::size_t size, int protection) {
        // NOLINTNEXTLINE(performance-no-int-to-ptr)
        ::mmap(reinterpret_cast<void*>(at), size, protection,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    };
    map(arena, (good_pages + 1) * page, PROT_READ | PROT_WRITE);
    fill(arena, (good_pages + 1) * page / sizeof(std::uint64_t));
    // NOLINTNEXTLINE(performance-no-int-to-ptr)
    ::mprotect(reinterpret_cast<void*>(read_only), page, PROT_READ);
    map(playground, playground_pages * page, PROT_READ | PROT_WRITE);
    descriptors_.reserve(256);
    addresses_.reserve(64);
    const auto keep = [this](long descriptor) {
        if (descriptor >= 0)
            descriptors_.push_back(static_cast<int>(descriptor));
    };
    raw(__NR_mkdir, "dir", 0755);
    raw(__NR_mknod, "fifo", 010644, 0);
    raw(__NR_symlink, "a", "link");
    keep(raw(__NR_open, "a", O_RDWR | O_CREAT, 0644));
    keep(raw(__NR_open, "dir/c", O_RDWR | O_CREAT | O_APPEND, 0644));
    keep(raw(__NR_open, "fifo", O_RDWR | O_NONBLOCK));
    keep(raw(__NR_open, ".", O_RDONLY | O_DIRECTORY));
    keep(raw(__NR_open, ".", O_PATH));
    for (const char* name : {"/dev/null", "/dev/zero", "/dev/full", "/dev/ptmx", "/dev/fuse",
                             "/dev/net/tun", "/dev/tty"})
        keep(raw(__NR_open, name, O_RDWR | O_NOCTTY | O_NONBLOCK));
    for (const char* name :
         {"/proc/self/mem", "/proc/self/maps", "/proc/self/ns/net", "/proc/self/ns/mnt",
          "/proc/self/fd", "/proc/self", "/sys/fs/cgroup", "/dev/urandom", "/"})
        keep(raw(__NR_open, name, O_RDONLY));
    for (const int domain : {AF_UNIX, AF_INET, AF_INET6, AF_PACKET, AF_NETLINK, AF_VSOCK}) {
        for (const int type : {SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET})
            keep(raw(__NR_socket, domain, type | SOCK_NONBLOCK, 0));
    }
    for (const int protocol :
         {NETLINK_SOCK_DIAG, NETLINK_NETFILTER, NETLINK_KOBJECT_UEVENT, NETLINK_GENERIC})
        keep(raw(__NR_socket, AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK, protocol));
    int pair[2];
    for (const int type : {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET}) {
        if (raw(__NR_socketpair, AF_UNIX, type | SOCK_NONBLOCK, 0, pair) == 0) {
            keep(pair[0]);
            keep(pair[1]);
        }
    }
    if (raw(__NR_pipe2, pair, O_NONBLOCK) == 0) {
        keep(pair[0]);
        keep(pair[1]);
    }
    keep(raw(__NR_epoll_create1, 0));
    keep(raw(__NR_eventfd2, 0, O_NONBLOCK));
    keep(raw(__NR_timerfd_create, 1, O_NONBLOCK));
    std::uint64_t signals = ~std::uint64_t{0};
    keep(raw(__NR_signalfd4, -1, &signals, sizeof signals, O_NONBLOCK));
    keep(raw(__NR_inotify_init1, O_NONBLOCK));
    keep(raw(__NR_fanotify_init, O_NONBLOCK, O_RDONLY));
    keep(raw(__NR_memfd_create, "m", MFD_ALLOW_SEALING));
    keep(raw(__NR_userfaultfd, O_NONBLOCK));
    keep(raw(__NR_pidfd_open, raw(__NR_getpid), 0));
    io_uring_params ring{};
    keep(raw(__NR_io_uring_setup, 8, &ring));
    keep(raw(__NR_fsopen, "tmpfs", 0));
    keep(raw(__NR_open_tree, AT_FDCWD, ".", 1 | AT_RECURSIVE));
    keep(raw(__NR_mq_open, "queue", O_RDWR | O_CREAT | O_NONBLOCK, 0600, nullptr));
}

std::uint64_t Values::argument(char kind) {
    switch (kind) {
    case 'f':
        return descriptor();
    case 'd':
        return random_.one_in(2) ? static_cast<std::uint64_t>(AT_FDCWD) : descriptor();
    case 'p':
        return path();
    case 'b':
        return memory();
    case 'h':
        return random_.one_in(8) ? 0 : structure();
    case 's':
    case 'o':
        return random_.one_in(4) ? number() : random_.below(3) * page + random_.below(64);
    case 'n':
        return random_.one_in(6) ? number() : random_.below(36);
    case 'k':
        return random_.one_in(10) ? number() : random_.below(48);
    case 'x':
        return flags();
    case 'm':
        return random_.below(2) * 0100000 + random_.below(010000);
    case 'a':
        if (!addresses_.empty() && random_.one_in(4))
            return one_of(random_, addresses_);
        return random_.one_in(6) ? number() : playground + random_.below(playground_pages) * page;
    case 't':
        return time();
    case 'v':
        return vectors();
    case 'S':
        return socket_address();
    case 'L':
        return structure();
    case 'P':
        return process();
    case 'u':
        return random_.one_in(3) ? number() : random_.below(3);
    case 'g': { // SIGKILL and SIGSTOP are the end too often
        const std::uint64_t signal = random_.below(66);
        return (signal == SIGKILL || signal == SIGSTOP) && !random_.one_in(16) ? 0 : signal;
    }
    case 'c':
        return random_.below(14) - 2;
    case 'C':
        return command();
    case 'r':
        return random_.one_in(8) ? number() : 0;
    default:
        return number();
    }
}

void Values::learn(long number, long result) {
    if (result < 0)
        return;
    if (number == __NR_mmap || number == __NR_mremap || number == __NR_shmat) {
        if (addresses_.size() == addresses_.capacity())
            addresses_.clear();
        addresses_.push_back(static_cast<std::uint64_t>(result));
    }
    for (const long maker : makers) {
        if (maker != number || result > 4096)
            continue;
        if (descriptors_.size() == descriptors_.capacity())
            descriptors_[random_.below(descriptors_.size())] = static_cast<int>(result);
        else
            descriptors_.push_back(static_cast<int>(result));
    }
}

std::uint64_t Values::descriptor() {
    if (descriptors_.empty() || random_.one_in(24))
        return random_.one_in(2) ? number() : random_.below(96);
    return static_cast<std::uint64_t>(static_cast<std::int64_t>(one_of(random_, descriptors_)));
}

std::uint64_t Values::number() {
    const std::uint64_t bit = std::uint64_t{1} << random_.below(64);
    switch (random_.below(8)) {
    case 0:
        return random_.below(4);
    case 1:
        return bit;
    case 2:
        return bit - 1;
    case 3:
        return 0 - bit;
    case 4:
        return bit + 1 + random_.below(page);
    case 5:
        return ~random_.below(16);
    case 6:
        return random_.below(0x10000);
    default:
        return random_.next();
    }
}

std::uint64_t Values::flags() {
    std::uint64_t value = 0;
    for (std::uint64_t left = random_.below(4); left > 0; --left)
        value |= std::uint64_t{1} << random_.below(random_.one_in(4) ? 64 : 22);
    return value;
}

std::uint64_t Values::place(std::size_t size) {
    switch (random_.below(16)) {
    case 0:
        return hole - size; // read-only, up to its end
    case 1:
        return hole - random_.below(size + 1); // into the hole
    case 2:
        return read_only - size;
    default:
        return arena + (random_.below(good_pages * page - size) & ~std::uint64_t{7});
    }
}

std::uint64_t Values::memory() {
    switch (random_.below(24)) {
    case 0:
        return 0;
    case 1:
        return hole;
    case 2:
        return 0xffff800000000000 + random_.below(1 << 30) * 8; // the kernel's
    case 3:
        return number();
    case 4:
        return playground + random_.below(playground_pages * page);
    default:
        return place(1 + random_.below(2 * page));
    }
}

std::uint64_t Values::put(const void* bytes, std::size_t size) {
    const std::uint64_t at = place(size);
    write(at, bytes, size);
    return at;
}

void Values::fill(std::uint64_t address, std::size_t words) {
    std::array<std::uint64_t, 16> block;
    for (std::size_t done = 0; done < words; done += block.size()) {
        for (std::uint64_t& word : block) {
            switch (random_.below(6)) {
            case 0:
                word = number();
                break;
            case 1:
                word = random_.below(64);
                break;
            case 2:
                word = descriptor();
                break;
            case 3:
                word = arena + (random_.below(good_pages * page) & ~std::uint64_t{7});
                break;
            case 4: // two halves of 32 bits, as many structures have
                word = random_.below(128) | (descriptor() << 32);
                break;
            default:
                word = 0;
            }
        }
        const std::size_t left = words - done < block.size() ? words - done : block.size();
        write(address + done * sizeof(std::uint64_t), block.data(), left * sizeof(std::uint64_t));
    }
}

std::uint64_t Values::structure() {
    if (random_.one_in(16))
        return memory();
    const std::size_t words = 1 + random_.below(32);
    const std::uint64_t at = place(words * sizeof(std::uint64_t));
    if (!random_.one_in(8))
        fill(at, words);
    return at;
}

std::uint64_t Values::path() {
    if (random_.one_in(24))
        return memory();
    return reinterpret_cast<std::uint64_t>(one_of(random_, paths));
}

std::uint64_t Values::vectors() {
    std::uint64_t list[16];
    for (std::size_t index = 0; index < std::size(list); index += 2) {
        list[index] = memory();
        list[index + 1] = random_.one_in(12) ? number() : random_.below(2 * page);
    }
    return put(list, sizeof list);
}

std::uint64_t Values::socket_address() {
    std::array<std::uint8_t, 32> bytes{};
    const std::uint16_t families[] = {AF_UNSPEC,  AF_UNIX,   AF_INET, AF_INET6,
                                      AF_NETLINK, AF_PACKET, AF_VSOCK};
    const std::uint16_t family = one_of(random_, families);
    std::memcpy(bytes.data(), &family, sizeof family);
    bytes[3] = static_cast<std::uint8_t>(random_.below(64)); // a small port, in network byte order
    if (family == AF_INET && random_.one_in(2))
        bytes[4] = 127, bytes[7] = 1;
    else if (family == AF_INET6 && random_.one_in(2))
        bytes[23] = 1;
    else if (family == AF_UNIX)
        bytes[2] = random_.one_in(2) ? 'a' : 0;
    else
        for (std::size_t index = 4; index < 12; ++index)
            bytes[index] = static_cast<std::uint8_t>(random_.below(4));
    return put(bytes.data(), bytes.size());
}

// Short as a rule: a call that waits keeps its process from making others.
std::uint64_t Values::time() {
    if (random_.one_in(8))
        return random_.one_in(2) ? 0 : structure();
    const std::uint64_t value[4] = {0, random_.below(2000000), 0, random_.below(2000000)};
    return put(value, sizeof value);
}

std::uint64_t Values::process() {
    switch (random_.below(8)) {
    case 0:
        return number();
    case 1:
        return 0;
    case 2:
        return static_cast<std::uint64_t>(raw(__NR_getpid));
    default:
        return 1 + random_.below(12);
    }
}

std::uint64_t Values::command() {
    return random_.one_in(3) ? random_.below(70) : one_of(random_, commands);
}

} // namespace storm
