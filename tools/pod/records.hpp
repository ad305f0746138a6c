// What is known of pods and containers on the host, as files. Everything that a later command needs
// is here, for the command that made them is gone by then.
//
//   ROOT/containers/ID/   record.json  lock  exit.json  begun.json  exec-NAME.json
//   exec-NAME.exit.json ROOT/pods/ID/         lock  vm.json  log  vsock  root/  share/
//
// begun.json is the record of a container that is being created: what is made for it is written
// there before it is made, so that whoever finds it without a record.json can take everything away.
//
// Locks: a container's before its pod's. Who only reads or signals takes none: hooks, which run
// under a lock, may.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "tools/pod/process_id.hpp"
#include "tools/pod/state_files.hpp"

namespace pod {

// Where a user's pods are.
class StateRoot {
public:
    explicit StateRoot(std::string path) : path_(std::move(path)) {}
    const std::string& path() const { return path_; }
    // Requires: check_id() has passed the id.
    std::string container(const std::string& id) const { return path_ + "/containers/" + id; }
    std::string pod(const std::string& id) const { return path_ + "/pods/" + id; }
    std::vector<std::string> containers() const { return names_in(path_ + "/containers"); }
    std::vector<std::string> pods() const { return names_in(path_ + "/pods"); }
    os::Result<void> make() const;

private:
    std::string path_;
};

// A directory or file of the host in the pod's share.
struct Shared {
    std::string name; // in the share
    std::uint64_t device = 0;
    std::uint64_t inode = 0;
    bool read_only = false;
    bool recursive = false;
    std::uint64_t mount_flags = 0; // that it has from the host's mount: ST_RDONLY, ST_NOEXEC
};

struct ContainerRecord {
    std::string id;
    std::string pod;
    std::string bundle;
    std::string rootfs;
    std::string created; // RFC 3339
    std::string oci_version;
    std::map<std::string, std::string> annotations;
    ProcessId process; // the relay, which stands for the container on the host
    bool terminal = false;
    bool started = false;
    bool paused = false;
    std::vector<Shared> shared;
    std::vector<std::string> cgroups;       // directories of the host that were made for it
    Json hooks = Json::object();            // of the configuration
    Json process_template = Json::object(); // process of the configuration: what exec begins with

    static os::Result<ContainerRecord> load(const StateRoot& root, const std::string& id);
    // Of one whose creation has not lived to its end.
    static os::Result<ContainerRecord> load_begun(const StateRoot& root, const std::string& id);
    static os::Result<ContainerRecord> parse(std::string_view text, const std::string& what);
    std::string to_text() const;
    os::Result<void> store(const StateRoot& root) const;
    os::Result<void> store_begun(const StateRoot& root) const;
};

// Whether a container of the pod runs, waits for its start or is being created; but for `except`.
bool is_used(const StateRoot& root, const std::string& pod, const std::string& except);

// How a process of a container ended; its relay writes it.
struct ExitRecord {
    int status = 0;          // as a shell has it: 128 + signal
    std::int64_t at = 0;     // nanoseconds since 1970
    bool oom_killed = false; // a process of its container was ended for want of memory

    static std::optional<ExitRecord> load(const std::string& path);
    os::Result<void> store(const std::string& path) const;
};

// One more process in a container, which its caller gave a name: until remove_exec().
struct ExecRecord {
    std::string exec;
    ProcessId process; // the relay
    bool terminal = false;

    static std::string path(const StateRoot& root, const std::string& container,
                            const std::string& exec);
    static std::string exit_path(const StateRoot& root, const std::string& container,
                                 const std::string& exec);
    static os::Result<ExecRecord> load(const StateRoot& root, const std::string& container,
                                       const std::string& exec);
    static std::vector<std::string> names(const StateRoot& root, const std::string& container);
    os::Result<void> store(const StateRoot& root, const std::string& container) const;
    static void remove(const StateRoot& root, const std::string& container,
                       const std::string& exec);
};

// Now, as RFC 3339 has it.
std::string timestamp();

} // namespace pod
