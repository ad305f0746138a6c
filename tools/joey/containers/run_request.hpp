// RunRequest: a container that somebody wants, from the words of `joey run`.
#pragma once

#include "tools/image/process.hpp"
#include "tools/joey/containers/attachment.hpp"
#include "tools/joey/containers/base.hpp"
#include "tools/joey/containers/session.hpp"

namespace joey::containers {

struct Volume {
    enum class Kind : std::uint8_t { Bind, Named, Own, Memory };
    Kind kind = Kind::Bind;
    std::string source; // a path, or a name
    std::string target;
    bool read_only = false;
    bool make_source = false; // a directory, if it is missing
    std::string options;      // of Memory: "size=64m,mode=1777"
};

struct RunRequest {
    Container container; // without what only its place on disk gives
    Base base;
    image::ProcessDescription process;
    std::vector<Volume> volumes;
    pod::Json config; // the OCI configuration, without root and volumes
    bool detach = false;
    unsigned wants = 0;
    std::string detach_keys;
    bool proxy_signals = true;
};

os::Result<RunRequest> read_run_request(const Session& session, const Arguments& arguments);

// Parts of it.
// volumes.cpp: "SOURCE:TARGET[:ro]", "type=bind,source=...", "/tmp:size=64m".
os::Result<Volume> parse_volume(std::string_view text);
os::Result<Volume> parse_mount(std::string_view text);
os::Result<Volume> parse_tmpfs(std::string_view text);
os::Result<std::vector<Volume>> read_volumes(const Session& session, const Arguments& arguments,
                                             const image::ProcessDescription& process);
// Makes their places in the container's directory; adds them to the configuration.
os::Result<void> place_volumes(const Session& session, RunRequest& request,
                               const std::string& directory);
// "db:10.0.0.1", "db=::1", "host:host-gateway" as a line of /etc/hosts.
os::Result<std::string> line_for_hosts(const std::string& host);
// ports.cpp: "8080:80", "127.0.0.1:53:53/udp", "8000-8010:9000-9010", "80".
struct Port {
    std::string address = "0.0.0.0";
    std::uint16_t host = 0; // 0: any that is free
    std::uint16_t guest = 0;
    std::string protocol = "tcp";
};
os::Result<std::vector<Port>> parse_ports(std::string_view text);
// "80", "8000-8010/udp": those of --expose, which lead nowhere by themselves.
os::Result<std::vector<Port>> parse_exposed(std::string_view text);
os::Result<void> add_ports(const Arguments& arguments, RunRequest& request);
// run_extras.cpp: what is shared with another container; devices, groups, annotations.
os::Result<void> read_sharing(const Session& session, const Arguments& arguments, Container& out);
os::Result<void> add_extras(const Arguments& arguments, RunRequest& request);
os::Result<std::vector<Volume>> volumes_from(const Session& session, const Arguments& arguments);
// description.cpp: what inspect shows of it beside what it runs with, in Docker's words.
void describe_request(const Arguments& arguments, const image::Overrides& overrides,
                      RunRequest& request);
// oci_config.cpp
// --memory, --cpus and their like: what the configuration says of them, and inspect.
os::Result<void> read_limits(const Arguments& arguments, Container& container,
                             pod::Json& resources);
os::Result<void> make_config(const Arguments& arguments, RunRequest& request);

} // namespace joey::containers
