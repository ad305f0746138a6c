#include "tools/joey/host.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fcntl.h>
#include <optional>
#include <sched.h>
#include <unistd.h>

#include <linux/openat2.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>

#include <fmt/format.h>

#include "boot/protocol/layout.hpp"
#include "tools/pod/vm_process.hpp"
#include "virtio/backend/unique_fd.hpp"

namespace joey {
namespace {

constexpr std::uint64_t default_memory_floor = 256ull << 20;
constexpr std::uint64_t default_memory_cap = pod::largest_usual_memory;

// More than any list of accounts has.
constexpr std::size_t largest_file = std::size_t{16} << 20;

// A root directory may be anybody's: what is no regular file (a pipe that nobody writes to, a
// device without an end) is none, nor is what is larger than `most`.
std::optional<std::string> read_small_file(int directory, const char* path, std::uint64_t resolve,
                                           std::size_t most = largest_file) {
    struct open_how how {};
    how.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
    how.resolve = resolve;
    const virtio::UniqueFd fd(
        static_cast<int>(::syscall(SYS_openat2, directory, path, &how, sizeof how)));
    if (!fd)
        return std::nullopt;
    struct stat status {};
    if (::fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode))
        return std::nullopt;
    std::string text;
    char buffer[16384];
    while (text.size() <= most) {
        const ssize_t got = ::read(fd.get(), buffer, sizeof buffer);
        if (got <= 0)
            return got < 0 ? std::nullopt : std::optional(std::move(text));
        text.append(buffer, static_cast<std::size_t>(got));
    }
    return std::nullopt;
}

template <typename T>
std::optional<T> to_number(std::string_view text) {
    T value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (text.empty() || error != std::errc() || end != text.data() + text.size())
        return std::nullopt;
    return value;
}

std::vector<std::string_view> split(std::string_view text, char separator) {
    std::vector<std::string_view> parts;
    for (;;) {
        const std::size_t at = text.find(separator);
        parts.push_back(text.substr(0, at));
        if (at == std::string_view::npos)
            return parts;
        text.remove_prefix(at + 1);
    }
}

// A cgroup file's numbers; words that are none ("max") are left out.
std::vector<std::int64_t> cgroup_numbers(const char* path) {
    std::vector<std::int64_t> numbers;
    const auto text = read_small_file(AT_FDCWD, path, 0);
    if (!text)
        return numbers;
    std::string_view line = *text;
    line = line.substr(0, line.find('\n'));
    for (const std::string_view word : split(line, ' ')) {
        if (const auto number = to_number<std::int64_t>(word))
            numbers.push_back(*number);
    }
    return numbers;
}

// CPUs' worth of quota, rounded up; 0 = no quota. A container sees its own cgroup at the mount's
// root.
unsigned quota_cpus() {
    auto numbers = cgroup_numbers("/sys/fs/cgroup/cpu.max"); // cgroup-v2.rst, cpu.max: quota period
    if (numbers.size() != 2) {
        const auto quota = cgroup_numbers("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
        const auto period = cgroup_numbers("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
        if (quota.size() != 1 || period.size() != 1)
            return 0;
        numbers = {quota[0], period[0]};
    }
    if (numbers[0] <= 0 || numbers[1] <= 0)
        return 0;
    return static_cast<unsigned>((numbers[0] + numbers[1] - 1) / numbers[1]);
}

std::uint64_t cgroup_memory_limit() {
    for (const char* path :
         {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
        const auto numbers = cgroup_numbers(path);
        if (numbers.size() == 1 && numbers[0] > 0)
            return static_cast<std::uint64_t>(numbers[0]);
    }
    return UINT64_MAX;
}

// The accounts of a root directory that need not be this machine's.
class Accounts {
public:
    explicit Accounts(const std::string& rootfs) {
        const virtio::UniqueFd root(::open(rootfs.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
        if (!root)
            return;
        passwd_ = read_small_file(root.get(), "etc/passwd", RESOLVE_IN_ROOT).value_or("");
        group_ = read_small_file(root.get(), "etc/group", RESOLVE_IN_ROOT).value_or("");
    }

    // passwd(5): name:password:UID:GID:...
    struct User {
        std::string_view name;
        std::uint32_t uid;
        std::uint32_t gid;
    };
    template <typename Match>
    std::optional<User> find_user(Match&& match) const {
        for (const std::string_view line : split(passwd_, '\n')) {
            const auto fields = split(line, ':');
            if (fields.size() < 4)
                continue;
            const auto uid = to_number<std::uint32_t>(fields[2]);
            const auto gid = to_number<std::uint32_t>(fields[3]);
            if (uid && gid && match(fields[0], *uid))
                return User{fields[0], *uid, *gid};
        }
        return std::nullopt;
    }

    // group(5): name:password:GID:member,member
    std::optional<std::uint32_t> find_group(std::string_view name) const {
        for (const std::string_view line : split(group_, '\n')) {
            const auto fields = split(line, ':');
            if (fields.size() >= 3 && fields[0] == name)
                return to_number<std::uint32_t>(fields[2]);
        }
        return std::nullopt;
    }
    std::vector<std::uint32_t> groups_of(std::string_view user) const {
        std::vector<std::uint32_t> groups;
        for (const std::string_view line : split(group_, '\n')) {
            const auto fields = split(line, ':');
            if (fields.size() < 4)
                continue;
            const auto members = split(fields[3], ',');
            const auto gid = to_number<std::uint32_t>(fields[2]);
            if (gid && std::find(members.begin(), members.end(), user) != members.end())
                groups.push_back(*gid);
        }
        return groups;
    }

private:
    std::string passwd_;
    std::string group_;
};

} // namespace

std::optional<std::string> read_text_file_in(const std::string& rootfs, const char* path,
                                             std::size_t most) {
    const virtio::UniqueFd root(::open(rootfs.c_str(), O_PATH | O_CLOEXEC));
    if (!root)
        return std::nullopt;
    auto text = read_small_file(root.get(), path, RESOLVE_IN_ROOT, most);
    if (text && text->find('\0') != std::string::npos)
        return std::nullopt;
    return text;
}

unsigned usable_cpus() {
    cpu_set_t set;
    unsigned cpus = 1;
    if (::sched_getaffinity(0, sizeof set, &set) == 0)
        cpus = static_cast<unsigned>(CPU_COUNT(&set));
    if (const unsigned quota = quota_cpus(); quota != 0)
        cpus = std::min(cpus, quota);
    return std::clamp(cpus, 1u, boot::max_cpus);
}

std::uint64_t default_memory_bytes() {
    struct sysinfo info {};
    std::uint64_t total = 2 * default_memory_floor;
    if (::sysinfo(&info) == 0)
        total = static_cast<std::uint64_t>(info.totalram) * info.mem_unit;
    const std::uint64_t half = std::min(total, cgroup_memory_limit()) / 2;
    return std::clamp(half, default_memory_floor, default_memory_cap) & ~(boot::page_size - 1);
}

std::vector<boot::Rlimit> current_rlimits() {
    std::vector<boot::Rlimit> limits;
    for (std::uint32_t resource = 0; resource < RLIM_NLIMITS; ++resource) {
        struct rlimit limit {};
        if (::getrlimit(static_cast<__rlimit_resource_t>(resource), &limit) == 0)
            limits.push_back({resource, limit.rlim_cur, limit.rlim_max});
    }
    return limits;
}

std::uint32_t current_address_randomization() {
    if ((::personality(0xffffffff) & ADDR_NO_RANDOMIZE) != 0)
        return 0;
    const auto text = read_small_file(AT_FDCWD, "/proc/sys/kernel/randomize_va_space", 0);
    return text && (text->starts_with("0") || text->starts_with("1"))
               ? static_cast<std::uint32_t>((*text)[0] - '0')
               : 2;
}

void lift_core_limit(std::vector<boot::Rlimit>& limits) {
    for (boot::Rlimit& limit : limits) {
        if (limit.resource == RLIMIT_CORE)
            limit.soft = limit.hard = RLIM_INFINITY;
    }
}

void raise_open_file_limit() {
    struct rlimit limit {};
    if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        ::setrlimit(RLIMIT_NOFILE, &limit);
    }
}

Identity caller_identity() {
    Identity identity{::geteuid(), ::getegid(), {}};
    const int count = ::getgroups(0, nullptr);
    if (count > 0) {
        identity.groups.resize(static_cast<std::size_t>(count));
        const int got = ::getgroups(count, identity.groups.data());
        identity.groups.resize(static_cast<std::size_t>(std::max(got, 0)));
    }
    return identity;
}

Outcome<Identity> resolve_user(const std::string& text, const std::string& rootfs) {
    const Accounts accounts(rootfs);
    const std::size_t colon = text.find(':');
    const std::string_view user_text = std::string_view(text).substr(0, colon);
    const auto number = to_number<std::uint32_t>(user_text);
    const auto user = accounts.find_user([&](std::string_view name, std::uint32_t uid) {
        return number ? uid == *number : name == user_text;
    });
    if (!number && !user)
        return fail(fmt::format("--user {}: no user '{}' in {}/etc/passwd; give a number", text,
                                user_text, rootfs == "/" ? "" : rootfs));

    Identity identity;
    identity.uid = number ? *number : user->uid;
    if (colon == std::string::npos) {
        identity.gid = user ? user->gid : identity.uid;
        identity.groups = user ? accounts.groups_of(user->name) : std::vector<std::uint32_t>{};
        return identity;
    }
    const std::string_view group_text = std::string_view(text).substr(colon + 1);
    auto gid = to_number<std::uint32_t>(group_text);
    if (!gid)
        gid = accounts.find_group(group_text);
    if (!gid)
        return fail(fmt::format("--user {}: no group '{}' in {}/etc/group; give a number", text,
                                group_text, rootfs == "/" ? "" : rootfs));
    identity.gid = *gid;
    return identity;
}

} // namespace joey
