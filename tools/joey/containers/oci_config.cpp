// The OCI configuration of a container that somebody wants.
#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <fcntl.h>

#include "agent/os/files.hpp"
#include "tools/joey/containers/init_program.hpp"
#include "tools/joey/containers/run_request.hpp"
#include "tools/joey/containers/security.hpp"
#include "tools/joey/sizes.hpp"

namespace joey::containers {

namespace {

using pod::Json;

constexpr std::uint64_t megabyte = 1U << 20;
// Of the VM, beside what the container may use.
constexpr std::uint64_t kernel_share = 128 * megabyte;

constexpr const char* usual_mounts = R"([
  {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
  {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
   "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
  {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
   "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
  {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
   "options": ["nosuid", "noexec", "nodev"]},
  {"destination": "/sys", "type": "sysfs", "source": "sysfs",
   "options": ["nosuid", "noexec", "nodev", "ro"]},
  {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
   "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}
])";

struct Limit {
    const char* name;
    const char* type;
};
constexpr std::array rlimits = {
    Limit{"as", "RLIMIT_AS"},
    Limit{"core", "RLIMIT_CORE"},
    Limit{"cpu", "RLIMIT_CPU"},
    Limit{"data", "RLIMIT_DATA"},
    Limit{"fsize", "RLIMIT_FSIZE"},
    Limit{"locks", "RLIMIT_LOCKS"},
    Limit{"memlock", "RLIMIT_MEMLOCK"},
    Limit{"msgqueue", "RLIMIT_MSGQUEUE"},
    Limit{"nice", "RLIMIT_NICE"},
    Limit{"nofile", "RLIMIT_NOFILE"},
    Limit{"nproc", "RLIMIT_NPROC"},
    Limit{"rss", "RLIMIT_RSS"},
    Limit{"rtprio", "RLIMIT_RTPRIO"},
    Limit{"rttime", "RLIMIT_RTTIME"},
    Limit{"sigpending", "RLIMIT_SIGPENDING"},
    Limit{"stack", "RLIMIT_STACK"},
};

std::optional<std::uint64_t> limit_in(std::string_view text) {
    if (text == "-1" || text == "unlimited")
        return ~std::uint64_t{0};
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (text.empty() || error != std::errc() || end != text.data() + text.size())
        return std::nullopt;
    return value;
}

// "nofile=1024:2048".
os::Result<Json> read_ulimit(const std::string& text) {
    const std::size_t equals = std::min(text.find('='), text.size());
    const std::string_view name = std::string_view(text).substr(0, equals);
    const auto* known = std::find_if(rlimits.begin(), rlimits.end(),
                                     [&](const Limit& one) { return name == one.name; });
    std::string_view rest = std::string_view(text).substr(std::min(equals + 1, text.size()));
    const std::size_t colon = rest.find(':');
    const auto soft = limit_in(rest.substr(0, colon));
    const auto hard = colon == std::string_view::npos ? soft : limit_in(rest.substr(colon + 1));
    if (known == rlimits.end() || !soft || !hard || *soft > *hard)
        return os::fail(os::Code::InvalidArgument, "--ulimit ", text,
                        ": give NAME=SOFT[:HARD], such as nofile=1024:2048");
    return Json{{"type", known->type}, {"soft", *soft}, {"hard", *hard}};
}

// proc(5), /proc/PID/oom_score_adj.
os::Result<int> read_score(const std::string& text) {
    constexpr int most = 1000;
    int score = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), score);
    if (text.empty() || error != std::errc() || end != text.data() + text.size() || score < -most ||
        score > most)
        return os::fail(os::Code::InvalidArgument, "--oom-score-adj ", text,
                        ": give a number from ", -most, " to ", most);
    return score;
}

os::Result<std::uint64_t> size_of(const Arguments& arguments, const char* option) {
    const auto size = parse_size(arguments.value(option));
    if (!size)
        return os::fail(os::Code::InvalidArgument, "--", option, " ", arguments.value(option),
                        ": give a size such as 64m or 2g");
    return *size;
}

struct Security {
    bool no_new_privileges = false;
    bool unconfined = false;
    bool shows_all = false; // nothing of /proc and /sys is masked
    std::string profile;    // a file; empty: the usual one
};

os::Result<Security> read_security(const Arguments& arguments) {
    Security out;
    for (const std::string& text : arguments.values("security-opt")) {
        const std::size_t cut = std::min(text.find_first_of("=:"), text.size());
        const std::string name = text.substr(0, cut);
        const std::string value = text.substr(std::min(cut + 1, text.size()));
        if (name == "no-new-privileges") {
            out.no_new_privileges = value != "false";
        } else if (name == "seccomp") {
            out.unconfined = value == "unconfined";
            out.profile = value == "builtin" || out.unconfined ? std::string() : value;
        } else if (name == "systempaths" && value == "unconfined") {
            out.shows_all = true;
        } else if (name != "label" && name != "apparmor") {
            // Labels are the host's security modules'; the guest has none.
            return os::fail(os::Code::InvalidArgument, "--security-opt ", text,
                            ": give seccomp=FILE, seccomp=unconfined, systempaths=unconfined or "
                            "no-new-privileges");
        }
    }
    return out;
}

os::Result<void> add_security(const Arguments& arguments, RunRequest& request) {
    const bool privileged = arguments.has("privileged");
    TRY(const Security security, read_security(arguments));
    TRY(const std::vector<std::string> limited,
        capabilities(arguments.values("cap-add"), arguments.values("cap-drop")));
    const std::vector<std::string> granted = privileged ? all_capabilities() : limited;
    Json& process = request.config["process"];
    process["capabilities"]["bounding"] = granted;
    // Another user has none in effect, as after execve(2).
    if (request.process.account.uid == 0) {
        process["capabilities"]["effective"] = granted;
        process["capabilities"]["permitted"] = granted;
    }
    process["noNewPrivileges"] = security.no_new_privileges;
    Json& linux_part = request.config["linux"];
    if (!privileged && !security.shows_all) {
        linux_part["maskedPaths"] = masked_paths();
        linux_part["readonlyPaths"] = read_only_paths();
    }
    if (!security.profile.empty()) {
        TRY(linux_part["seccomp"], pod::read_json(security.profile));
    } else if (!privileged && !security.unconfined) {
        linux_part["seccomp"] = usual_seccomp(granted);
    }
    return {};
}

os::Result<void> add_cpu(const Arguments& arguments, Container& container, Json& resources) {
    Json cpu;
    if (arguments.has("cpus")) {
        const std::string text = arguments.value("cpus");
        char* end = nullptr;
        const double cpus = std::strtod(text.c_str(), &end);
        constexpr double least = 0.01;
        constexpr double most = 64;
        if (text.empty() || *end != '\0' || !(cpus >= least && cpus <= most))
            return os::fail(os::Code::InvalidArgument, "--cpus ", text,
                            ": give a number from 0.01 to 64");
        constexpr std::int64_t period = 100'000;
        cpu["period"] = period;
        cpu["quota"] = static_cast<std::int64_t>(std::llround(cpus * period));
        container.limits["NanoCpus"] = std::llround(cpus * 1e9);
    }
    for (const char* name : {"period", "quota"}) {
        const std::string option = os::text("cpu-", name);
        if (!arguments.has(option))
            continue;
        if (arguments.has("cpus"))
            return os::fail(os::Code::InvalidArgument, "--cpus and --", option,
                            " say the same, and do not go together");
        const auto microseconds = limit_in(arguments.value(option));
        if (!microseconds)
            return os::fail(os::Code::InvalidArgument, "--", option, " ", arguments.value(option),
                            ": give microseconds");
        cpu[name] = static_cast<std::int64_t>(*microseconds);
        container.limits[name[0] == 'p' ? "CpuPeriod" : "CpuQuota"] = cpu[name];
    }
    if (arguments.has("cpuset-cpus"))
        container.limits["CpusetCpus"] = cpu["cpus"] = arguments.value("cpuset-cpus");
    if (arguments.has("cpuset-mems"))
        container.limits["CpusetMems"] = cpu["mems"] = arguments.value("cpuset-mems");
    if (arguments.has("cpu-shares")) {
        const auto shares = limit_in(arguments.value("cpu-shares"));
        if (!shares || *shares < 2 || *shares > 262'144)
            return os::fail(os::Code::InvalidArgument, "--cpu-shares ",
                            arguments.value("cpu-shares"), ": give a number from 2 to 262144");
        container.limits["CpuShares"] = cpu["shares"] = *shares;
    }
    if (!cpu.is_null())
        resources["cpu"] = std::move(cpu);
    return {};
}

// The VM has no swap, so that only what Docker refuses is refused.
os::Result<void> add_swap(const Arguments& arguments, Json& resources) {
    if (!arguments.has("memory-swap"))
        return {};
    if (!arguments.has("memory"))
        return os::fail(os::Code::InvalidArgument,
                        "--memory-swap: goes with --memory, and is the sum of both");
    if (arguments.value("memory-swap") == "-1")
        return {};
    TRY(const std::uint64_t both, size_of(arguments, "memory-swap"));
    TRY(const std::uint64_t memory, size_of(arguments, "memory"));
    if (both != 0 && both < memory)
        return os::fail(os::Code::InvalidArgument, "--memory-swap ", arguments.value("memory-swap"),
                        ": is the sum of memory and swap, and less than --memory");
    if (both != 0)
        resources["memory"]["swap"] = both;
    return {};
}

// With room for the kernel.
std::string vm_memory_for(std::uint64_t bytes) {
    return os::text((bytes + kernel_share) / megabyte + 1, "M");
}

os::Result<void> add_memory(const Arguments& arguments, Container& container, Json& resources) {
    TRY(const std::uint64_t bytes, size_of(arguments, "memory"));
    constexpr std::uint64_t least = 6 * megabyte;
    if (bytes < least)
        return os::fail(os::Code::InvalidArgument, "--memory ", arguments.value("memory"),
                        ": 6m at least");
    // The VM is made for the limit, unless somebody has said how large it is to be.
    const Json* before = pod::find(container.limits, "Memory");
    const bool follows = container.vm_memory.empty() ||
                         (before != nullptr && before->is_number_unsigned() && *before != 0 &&
                          container.vm_memory == vm_memory_for(before->get<std::uint64_t>()));
    if (follows && container.pod.empty())
        container.vm_memory = vm_memory_for(bytes);
    resources["memory"]["limit"] = bytes;
    container.limits["Memory"] = bytes;
    return {};
}

os::Result<void> add_limits(const Arguments& arguments, RunRequest& request) {
    Json& resources = request.config["linux"]["resources"];
    resources["devices"] = Json::array({Json{{"allow", false}, {"access", "rwm"}}});
    TRY(read_limits(arguments, request.container, resources));
    for (const std::string& text : arguments.values("ulimit")) {
        TRY(Json limit, read_ulimit(text));
        request.config["process"]["rlimits"].push_back(std::move(limit));
    }
    for (const std::string& text : arguments.values("sysctl")) {
        const std::size_t equals = text.find('=');
        if (equals == std::string::npos)
            return os::fail(os::Code::InvalidArgument, "--sysctl ", text, ": give NAME=VALUE");
        request.config["linux"]["sysctl"][text.substr(0, equals)] = text.substr(equals + 1);
    }
    return {};
}

os::Result<void> add_mounts(const Arguments& arguments, RunRequest& request) {
    Json mounts = Json::parse(usual_mounts, nullptr, false);
    std::uint64_t bytes = 64 * megabyte;
    if (arguments.has("shm-size")) {
        TRY(bytes, size_of(arguments, "shm-size"));
    }
    mounts.push_back(
        Json{{"destination", "/dev/shm"},
             {"type", "tmpfs"},
             {"source", "shm"},
             {"options", {"nosuid", "noexec", "nodev", "mode=1777", os::text("size=", bytes)}}});
    if (arguments.has("init")) {
        TRY(const std::string init, find_init());
        constexpr const char* place = "/dev/init";
        mounts.push_back(Json{{"destination", place},
                              {"type", "bind"},
                              {"source", init},
                              {"options", {"bind", "ro"}}});
        Json& args = request.config["process"]["args"];
        args.insert(args.begin(), {place, "--"});
    }
    request.config["mounts"] = std::move(mounts);
    return {};
}

} // namespace

os::Result<void> read_limits(const Arguments& arguments, Container& container, Json& resources) {
    if (arguments.has("memory")) {
        TRY(add_memory(arguments, container, resources));
    }
    if (arguments.has("memory-reservation")) {
        TRY(const std::uint64_t bytes, size_of(arguments, "memory-reservation"));
        container.limits["MemoryReservation"] = resources["memory"]["reservation"] = bytes;
    }
    TRY(add_swap(arguments, resources));
    if (arguments.has("pids-limit")) {
        const auto most = limit_in(arguments.value("pids-limit"));
        if (!most)
            return os::fail(os::Code::InvalidArgument, "--pids-limit ",
                            arguments.value("pids-limit"), ": give a number; -1: no limit");
        const bool unlimited = *most == ~std::uint64_t{0} || *most == 0;
        resources["pids"]["limit"] = unlimited ? -1 : static_cast<std::int64_t>(*most);
        container.limits["PidsLimit"] = unlimited ? 0 : *most;
    }
    return add_cpu(arguments, container, resources);
}

os::Result<void> make_config(const Arguments& arguments, RunRequest& request) {
    Container& container = request.container;
    TRY(const Json process,
        pod::parse_object(image::oci_process(request.process, container.terminal), "process"));
    Json namespaces = Json::array();
    for (const char* type : {"pid", "network", "ipc", "uts", "mount", "cgroup"})
        namespaces.push_back(Json{{"type", type}});
    request.config = Json{{"ociVersion", "1.0.2"},
                          {"process", process},
                          {"hostname", container.hostname},
                          {"root", {{"readonly", arguments.has("read-only")}}},
                          {"linux", {{"namespaces", namespaces}}},
                          {"annotations", Json::object()}};
    if (arguments.has("domainname"))
        request.config["domainname"] = arguments.value("domainname");
    if (arguments.has("oom-score-adj")) {
        TRY(request.config["process"]["oomScoreAdj"], read_score(arguments.value("oom-score-adj")));
    }
    TRY(add_security(arguments, request));
    TRY(add_limits(arguments, request));
    TRY(add_mounts(arguments, request));
    TRY(add_extras(arguments, request));
    if (container.pod.empty())
        request.config["linux"]["cgroupsPath"] =
            os::text(arguments.value("cgroup-parent", "/joey"), "/", container.id);
    Json& annotations = request.config["annotations"];
    if (!container.vm_memory.empty())
        annotations["io.joey.memory"] = container.vm_memory;
    if (!container.vm_cpus.empty())
        annotations["io.joey.vcpus"] = container.vm_cpus;
    if (!container.privilege.empty())
        annotations["io.joey.privilege"] = container.privilege;
    return {};
}

} // namespace joey::containers
