// Container: what is known of a container for people, for good (container.json), and how it is
// doing (condition.json, which only its monitor writes while there is one).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tools/pod/json.hpp"
#include "tools/pod/process_id.hpp"

namespace joey::containers {

struct RestartPolicy {
    enum class Kind : std::uint8_t { No, OnFailure, Always, UnlessStopped };
    Kind kind = Kind::No;
    std::int64_t most = 0; // restarts by on-failure; 0: without end

    // "no", "on-failure", "on-failure:3", "always", "unless-stopped".
    static os::Result<RestartPolicy> parse(std::string_view text);
    std::string text() const;
    // After an end with this status, when it was restarted so often already.
    bool restarts(int status, std::int64_t restarts_so_far) const;
};

struct HealthCheck {
    std::vector<std::string> command; // empty: none
    std::int64_t interval_ns = 30'000'000'000;
    std::int64_t timeout_ns = 30'000'000'000;
    std::int64_t start_period_ns = 0;
    std::int64_t start_interval_ns = 5'000'000'000;
    std::int64_t retries = 3;
};

struct LogLimits {
    bool none = false;
    std::uint64_t file_bytes = 64ULL << 20;
    std::uint64_t files = 2;
};

struct Container {
    std::string id; // 64 hexadecimal digits
    std::string name;
    std::string created; // RFC 3339
    std::string image;   // as typed, or empty
    std::string image_id;
    std::string store; // that the image is in
    std::string lower; // the root directory that is not written to; empty: none
    std::string root;  // the root directory; mounted from `lower` and `layer`, if those are
    std::string layer; // what the container writes
    std::string pod;   // it shares that pod's VM; empty: has its own
    std::vector<std::string> vm_options; // of its VM, if it makes it
    std::string vm_memory;
    std::string vm_cpus;
    std::string privilege;
    std::string network = "user";
    std::string hostname;
    std::vector<std::string> dns;
    std::vector<std::string> hosts;             // lines for /etc/hosts
    std::vector<std::string> resolver;          // lines for /etc/resolv.conf
    std::vector<std::string> shared_namespaces; // with the VM's first container: "pid", "ipc"
    bool terminal = false;
    bool open_stdin = false;
    bool attached_stdin = false; // stdin ends with whoever started it
    bool remove = false;
    RestartPolicy restart;
    HealthCheck health;
    LogLimits log;
    int stop_signal = 15;
    std::int64_t stop_timeout = 10;
    std::map<std::string, std::string> labels;
    std::vector<std::string> published;     // "0.0.0.0:8080->80/tcp"
    std::vector<std::string> exposed;       // "80/tcp"
    pod::Json mounts = pod::Json::array();  // as inspect shows them
    pod::Json limits = pod::Json::object(); // as inspect shows them, HostConfig
    pod::Json config = pod::Json::object(); // as inspect shows it, Config; what commit gives on
    std::vector<std::string> command;       // what runs in it

    static os::Result<Container> parse(std::string_view text, const std::string& what);
    std::string to_text() const;
    std::string short_id() const { return id.substr(0, 12); }
};

enum class Phase : std::uint8_t { Created, Starting, Running, Paused, Restarting, Exited };
std::string_view name_of(Phase phase);

struct HealthState {
    std::string status; // "starting", "healthy", "unhealthy"; empty: no check
    std::int64_t failures = 0;
    pod::Json log = pod::Json::array(); // of the last checks
};

struct Condition {
    Phase phase = Phase::Created;
    pod::ProcessId monitor;
    std::string boot; // of the host, which `monitor` belongs to
    std::string started;
    std::string finished;
    int status = 0;
    std::string error;
    std::int64_t restarts = 0;
    bool out_of_memory = false;
    HealthState health;

    static os::Result<Condition> parse(std::string_view text, const std::string& what);
    std::string to_text() const;
    bool is_live() const { return phase != Phase::Created && phase != Phase::Exited; }
};

// Of this boot of the host (random(4)).
std::string boot_id();

// "[a-zA-Z0-9][a-zA-Z0-9_.-]+", as Docker has it.
os::Result<void> check_name(std::string_view name);
std::string fresh_id();
std::string fresh_name();

} // namespace joey::containers
