// What the agent takes from an OCI runtime-spec config.json, checked and in the kernel's own terms.
// Everything here has been validated: the builder asks no more questions about it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <sys/resource.h>

#include "agent/os/error.hpp"
#include "agent/spec/seccomp_spec.hpp"

namespace spec {

struct User {
    std::uint32_t uid = 0;
    std::uint32_t gid = 0;
    std::optional<std::uint32_t> umask;
    std::vector<std::uint32_t> additional_gids;
};

struct Rlimit {
    int resource = 0;
    rlim_t soft = 0;
    rlim_t hard = 0;
};

// Bit n is capability n.
struct Capabilities {
    std::uint64_t bounding = 0;
    std::uint64_t effective = 0;
    std::uint64_t inheritable = 0;
    std::uint64_t permitted = 0;
    std::uint64_t ambient = 0;
    bool given = false; // an executed process without has the container's
};

struct IoPriority {
    int io_class = 0; // IOPRIO_CLASS_*
    int level = 0;
};

struct Process {
    bool terminal = false;
    std::uint16_t rows = 0; // 0: not given
    std::uint16_t columns = 0;
    User user;
    std::vector<std::string> args;
    std::vector<std::string> env;
    std::string cwd;
    Capabilities capabilities; // none given: all sets are empty
    std::vector<Rlimit> rlimits;
    bool no_new_privileges = false;
    std::optional<int> oom_score_adj;
    std::optional<IoPriority> io_priority;
};

struct MountOptions {
    std::uint64_t set = 0;   // MOUNT_ATTR_*
    std::uint64_t clear = 0; // MOUNT_ATTR_*, taken away from a bind mount's source
    std::uint64_t recursive_set = 0;
    std::uint64_t recursive_clear = 0;
    std::vector<std::uint64_t> propagation; // MS_SHARED and its like, MS_REC for the whole tree
    bool bind = false;
    bool recursive_bind = false;
    bool copy_up = false;
    std::vector<std::string> data; // "size=64k", "nr_inodes=1", "sync"

    // Of a new file system, which is a whole tree by itself.
    std::uint64_t set_when_new() const { return (set & ~recursive_clear) | recursive_set; }
};

struct Mount {
    std::string destination;
    std::string type; // "bind" for every kind of bind mount
    std::string source;
    MountOptions options;
    std::string path; // in the document, for messages
};

struct Hook {
    std::string path;
    std::vector<std::string> args; // with args[0]
    std::vector<std::string> env;
    std::uint32_t timeout = 0; // seconds; 0: none
    std::string name;          // "hooks.createRuntime[0]"
};

struct Hooks {
    std::vector<Hook> create_runtime; // prestart ones first
    std::vector<Hook> create_container;
    std::vector<Hook> start_container;
    std::vector<Hook> poststart;
    std::vector<Hook> poststop;
};

struct Namespace {
    int flag = 0;     // CLONE_NEW*
    std::string path; // empty: a new one
};

struct IdMapping {
    std::uint32_t container_id = 0;
    std::uint32_t host_id = 0;
    std::uint32_t size = 0;
};

struct Device {
    std::string path;
    std::uint32_t type = 0; // S_IFCHR, S_IFBLK, S_IFIFO
    std::uint32_t major = 0;
    std::uint32_t minor = 0;
    std::uint32_t mode = 0666;
    std::uint32_t uid = 0;
    std::uint32_t gid = 0;
};

// One line to one file of a control group, in the order of the list.
struct CgroupSetting {
    std::string file;  // "memory.max"
    std::string value; // "1048576"
    std::string name;  // "linux.resources.memory.limit"
};

// A line of linux.resources.devices; the last one that speaks of an access decides it.
struct DeviceRule {
    bool allow = false;
    char type = 'a';                    // 'c', 'b'; 'a': both
    std::optional<std::uint32_t> major; // none: any
    std::optional<std::uint32_t> minor;
    std::uint32_t accesses = 0; // BPF_DEVCG_ACC_*
};

struct Resources {
    std::vector<CgroupSetting> settings;
    std::vector<DeviceRule> devices;
    // An update to a limit below what is in use, which would end processes, is to be refused.
    bool check_usage = false;
    std::vector<std::string> warnings;
};

struct TimeOffset {
    int clock = 0; // CLOCK_MONOTONIC or CLOCK_BOOTTIME
    std::int64_t seconds = 0;
    std::uint32_t nanoseconds = 0;
};

struct Linux {
    std::vector<Namespace> namespaces;
    std::vector<IdMapping> uid_mappings;
    std::vector<IdMapping> gid_mappings;
    std::vector<TimeOffset> time_offsets;
    std::vector<Device> devices;
    std::string cgroups_path;
    Resources resources;
    std::uint64_t rootfs_propagation = 0; // MS_*; 0: not given
    std::vector<std::string> masked_paths;
    std::vector<std::string> readonly_paths;
    std::map<std::string, std::string> sysctls;
    std::optional<Seccomp> seccomp;
    std::optional<std::uint64_t> personality; // PER_*

    const Namespace* find(int flag) const;
    // A new one, not one that is joined.
    bool is_new(int flag) const;
};

struct Spec {
    std::string oci_version;
    std::string rootfs; // absolute
    bool readonly_root = false;
    std::string hostname;
    std::string domainname;
    std::optional<Process> process; // a container without one cannot be started
    std::vector<Mount> mounts;
    Hooks hooks;
    Linux linux_part;
    std::map<std::string, std::string> annotations;
    std::vector<std::string> warnings;
};

// `bundle` is where relative paths begin.
os::Result<Spec> parse_spec(std::string_view config, const std::string& bundle);
os::Result<Process> parse_process(std::string_view process);
os::Result<Resources> parse_resources(std::string_view resources);

// "user" and its like, as the document spells it; empty for an unknown flag.
std::string_view namespace_name(int flag);
// CLONE_NEW* of the kind of namespace that holds it; 0: none does.
int namespace_of_sysctl(const std::string& key);

} // namespace spec
