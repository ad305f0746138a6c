#include "agent/service/agent.hpp"

#include <algorithm>
#include <csignal>
#include <unistd.h>

#include "agent/spec/parts.hpp"

namespace service {

namespace {

constexpr const char* service_name = "joey.agent.v1.Agent";
constexpr std::uint32_t protocol_version = 2;

os::Result<WantedStreams> wanted_of(const proto::Streams& streams) {
    WantedStreams out{.input = streams.input(),
                      .output = streams.output(),
                      .error = streams.error(),
                      .preserved = {}};
    if (static_cast<std::size_t>(streams.preserved_size()) > most_preserved)
        return os::fail(os::Code::InvalidArgument, "streams.preserved: ", streams.preserved_size(),
                        " descriptors are more than ", most_preserved);
    for (const int kind : streams.preserved()) {
        if (!proto::Preserved_IsValid(kind))
            return os::fail(os::Code::InvalidArgument, "streams.preserved: there is no kind ",
                            kind);
        out.preserved.push_back(static_cast<WantedStreams::Preserved>(kind));
    }
    return out;
}

os::Error no_descriptor(std::uint32_t number) {
    return {os::Code::InvalidArgument,
            os::text("the process was given no descriptor ", number, " to be served")};
}

template <typename T>
std::function<void(os::Result<void>)> answer_with(const ttrpc::Reply<T>& reply, T value = {}) {
    return [reply, value](const os::Result<void>& result) {
        if (result)
            reply(value);
        else
            reply(base::Failure(result.error()));
    };
}

os::Result<proto::Empty> empty(const os::Result<void>& result) {
    if (!result)
        return base::Failure(result.error());
    return proto::Empty();
}

} // namespace

os::Result<void> check_id(const char* field, const std::string& id) {
    constexpr std::size_t longest = 255;
    const auto is_allowed = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               c == '_' || c == '.' || c == '+' || c == '-';
    };
    if (id.empty())
        return os::fail(os::Code::InvalidArgument, field, ": is missing");
    if (id.size() > longest || id == "." || id == ".." ||
        !std::all_of(id.begin(), id.end(), is_allowed))
        return os::fail(os::Code::InvalidArgument, field, ": ", spec::quote(id),
                        " is no name: letters, digits and _.+- are, 255 of them at most");
    return {};
}

void Agent::register_methods(ttrpc::Server& server) {
    register_containers(server);
    register_streams(server);
    register_sandbox(server);
}

void Agent::register_containers(ttrpc::Server& server) {
    server.handle<proto::CreateRequest, proto::CreateResponse>(
        service_name, "Create",
        [this](const auto& request, const auto& reply) { create(request, reply); });
    server.handle<proto::ExecRequest, proto::ExecResponse>(
        service_name, "Exec",
        [this](const auto& request, const auto& reply) { exec(request, reply); });
    server.handle<proto::StartRequest, proto::StartResponse>(
        service_name, "Start",
        [this](const auto& request, const auto& reply) { start(request, reply); });
    server.handle<proto::SignalRequest, proto::Empty>(
        service_name, "Signal",
        [this](const auto& request, const auto& reply) { signal(request, reply); });
    server.handle<proto::UpdateRequest, proto::Empty>(
        service_name, "Update",
        [this](const auto& request, const auto& reply) { update(request, reply); });
    server.handle<proto::ProcessRequest, proto::WaitResponse>(
        service_name, "Wait",
        [this](const auto& request, const auto& reply) { wait(request, reply); });
    server.handle<proto::ProcessRequest, proto::StateResponse>(
        service_name, "State",
        [this](const auto& request, const auto& reply) { state(request, reply); });
    server.handle<proto::Empty, proto::ListResponse>(
        service_name, "List", [this](const auto&, const auto& reply) { list(reply); });
    server.handle<proto::ContainerRequest, proto::ProcessesResponse>(
        service_name, "Processes",
        [this](const auto& request, const auto& reply) { processes(request, reply); });
    server.handle<proto::DeleteRequest, proto::WaitResponse>(
        service_name, "Delete",
        [this](const auto& request, const auto& reply) { remove(request, reply); });
    server.handle<proto::ContainerRequest, proto::Empty>(
        service_name, "Pause", [this](const auto& request, const auto& reply) {
            const auto container = find(request.container_id());
            if (container)
                (*container)->pause(answer_with(reply));
            else
                reply(base::Failure(container.error()));
        });
    server.handle<proto::ContainerRequest, proto::Empty>(
        service_name, "Resume", [this](const auto& request, const auto& reply) {
            const auto container = find(request.container_id());
            reply(container ? empty((*container)->resume()) : base::Failure(container.error()));
        });
    server.handle<proto::ContainerRequest, proto::StatsResponse>(
        service_name, "Stats", [this](const auto& request, const auto& reply) {
            const auto container = find(request.container_id());
            if (container)
                reply(read_stats((*container)->cgroup()));
            else
                reply(base::Failure(container.error()));
        });
}

void Agent::register_streams(ttrpc::Server& server) {
    server.handle<proto::ReadOutputRequest, proto::ReadOutputResponse>(
        service_name, "ReadOutput",
        [this](const auto& request, const auto& reply) { read_output(request, reply); });
    server.handle<proto::WriteInputRequest, proto::Empty>(
        service_name, "WriteInput",
        [this](const auto& request, const auto& reply) { write_input(request, reply); });
    server.handle<proto::CloseInputRequest, proto::Empty>(
        service_name, "CloseInput",
        [this](const auto& request, const auto& reply) { close_input(request, reply); });
    server.handle<proto::ResizeTerminalRequest, proto::Empty>(
        service_name, "ResizeTerminal",
        [this](const auto& request, const auto& reply) { resize(request, reply); });
    server.handle<proto::NextEventsRequest, proto::NextEventsResponse>(
        service_name, "NextEvents",
        [this](const auto& request, const auto& reply) { next_events(request, reply); });
}

void Agent::register_sandbox(ttrpc::Server& server) {
    server.handle<proto::InfoRequest, proto::InfoResponse>(
        service_name, "Info", [this](const auto&, const auto& reply) { info(reply); });
    server.handle<proto::MountRequest, proto::Empty>(
        service_name, "Mount",
        [](const auto& request, const auto& reply) { reply(empty(mount_for_sandbox(request))); });
    server.handle<proto::UnmountRequest, proto::Empty>(
        service_name, "Unmount",
        [](const auto& request, const auto& reply) { reply(empty(unmount_for_sandbox(request))); });
    server.handle<proto::SetHostnameRequest, proto::Empty>(
        service_name, "SetHostname",
        [](const auto& request, const auto& reply) { reply(empty(set_hostname(request))); });
    server.handle<proto::SetSysctlsRequest, proto::Empty>(
        service_name, "SetSysctls",
        [](const auto& request, const auto& reply) { reply(empty(set_sysctls(request))); });
    server.handle<proto::Empty, proto::Empty>(
        service_name, "Shutdown", [this](const auto&, const auto& reply) { shutdown(reply); });
}

os::Result<Agent::ContainerRef> Agent::find(const std::string& container_id) const {
    const auto found = containers_.find(container_id);
    if (found == containers_.end())
        return os::fail(os::Code::NotFound, "there is no container ", spec::quote(container_id));
    return found->second;
}

os::Result<std::shared_ptr<Process>> Agent::find(const std::string& container_id,
                                                 const std::string& exec_id) const {
    TRY(const ContainerRef container, find(container_id));
    return container->find(exec_id);
}

// The name may be another's by now: a shutdown gives up the names of what it cannot remove.
void Agent::forget(const ContainerRef& container) {
    const auto found = containers_.find(container->id());
    if (found != containers_.end() && found->second == container)
        containers_.erase(found);
}

void Agent::info(const Reply<proto::InfoResponse>& reply) const {
    proto::InfoResponse out;
    out.set_version(JOEY_VERSION);
    out.set_protocol(protocol_version);
    out.set_pid(static_cast<std::uint32_t>(getpid()));
    for (const std::string& name : container::Cgroup::controllers(config_.cgroup_root))
        out.add_controllers(name);
    for (const char* name : {"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"}) {
        if (access(os::text("/proc/self/ns/", name).c_str(), F_OK) == 0)
            out.add_namespaces(name);
    }
    out.set_seccomp(access("/proc/sys/kernel/seccomp/actions_avail", F_OK) == 0);
    reply(out);
}

void Agent::create(const proto::CreateRequest& request, const Reply<proto::CreateResponse>& reply) {
    const std::string& id = request.container_id();
    const auto checked = check_id("container_id", id);
    if (!checked) {
        reply(base::Failure(checked.error()));
        return;
    }
    if (!ending_.empty()) {
        reply(os::fail(os::Code::FailedPrecondition, "the agent is being shut down"));
        return;
    }
    if (containers_.contains(id)) {
        reply(os::fail(os::Code::AlreadyExists, "there is a container ", id));
        return;
    }
    if (!spec::is_clean_absolute(request.bundle())) {
        reply(
            os::fail(os::Code::InvalidArgument, "bundle: must be an absolute path free of \"..\""));
        return;
    }
    auto parsed = spec::parse_spec(request.spec(), request.bundle());
    if (parsed && !parsed->process)
        parsed = os::fail(os::Code::InvalidArgument, "process: is missing");
    const auto wanted = wanted_of(request.streams());
    if (!parsed || !wanted) {
        reply(base::Failure(!parsed ? parsed.error() : wanted.error()));
        return;
    }
    const auto container =
        std::make_shared<Container>(Container::Surroundings{loop_, children_, events_}, id,
                                    request.bundle(), std::move(*parsed), config_.cgroup_root);
    // The group is the container's alone: two in one, or one below another, would be killed
    // together.
    for (const auto& [other_id, other] : containers_) {
        if (other->cgroup().overlaps(container->cgroup())) {
            reply(os::fail(os::Code::AlreadyExists, "linux.cgroupsPath: container ", other_id,
                           " has this group"));
            return;
        }
    }
    containers_[id] = container;
    container->create(*wanted, [this, container, reply](const os::Result<void>& result) {
        if (!result) {
            forget(container);
            reply(base::Failure(result.error()));
            return;
        }
        proto::CreateResponse out;
        out.set_pid(static_cast<std::uint32_t>((*container->find(""))->pid()));
        for (const std::string& warning : container->spec().warnings)
            out.add_warnings(warning);
        reply(out);
    });
}

void Agent::exec(const proto::ExecRequest& request, const Reply<proto::ExecResponse>& reply) {
    const auto checked = check_id("exec_id", request.exec_id());
    const auto container = find(request.container_id());
    auto process = spec::parse_process(request.process());
    const auto wanted = wanted_of(request.streams());
    if (!checked || !container || !process || !wanted) {
        reply(base::Failure(!container ? container.error()
                            : !checked ? checked.error()
                            : !process ? process.error()
                                       : wanted.error()));
        return;
    }
    (*container)->exec(request.exec_id(), std::move(*process), *wanted, answer_with(reply));
}

void Agent::start(const proto::StartRequest& request, const Reply<proto::StartResponse>& reply) {
    const auto container = find(request.container_id());
    const auto process = find(request.container_id(), request.exec_id());
    if (!container || !process) {
        reply(base::Failure(process.error()));
        return;
    }
    proto::StartResponse out;
    out.set_pid(static_cast<std::uint32_t>(std::max((*process)->pid(), 0)));
    if (request.exec_id().empty())
        (*container)->start(answer_with(reply, out));
    else
        (*container)->start_exec(request.exec_id(), answer_with(reply, out));
}

void Agent::signal(const proto::SignalRequest& request, const Reply<proto::Empty>& reply) {
    const auto container = find(request.container_id());
    const auto process = find(request.container_id(), request.exec_id());
    if (!container || !process) {
        reply(base::Failure(process.error()));
        return;
    }
    if (request.signal() == 0 || request.signal() > static_cast<unsigned>(SIGRTMAX)) {
        reply(os::fail(os::Code::InvalidArgument, "signal: there is no signal ", request.signal()));
        return;
    }
    const int number = static_cast<int>(request.signal());
    // A process that is named is meant alone, as with runc's shim: containerd's client asks for
    // "all" whenever it kills to delete, executed processes too.
    const bool whole = request.all() && request.exec_id().empty();
    reply(empty(whole ? (*container)->signal_all(number) : (*process)->signal(number)));
}

void Agent::update(const proto::UpdateRequest& request, const Reply<proto::Empty>& reply) {
    const auto container = find(request.container_id());
    const auto resources = spec::parse_resources(request.resources());
    if (!container || !resources) {
        reply(base::Failure(container ? resources.error() : container.error()));
        return;
    }
    reply(empty((*container)->update(*resources)));
}

void Agent::wait(const proto::ProcessRequest& request, const Reply<proto::WaitResponse>& reply) {
    const auto process = find(request.container_id(), request.exec_id());
    if (!process) {
        reply(base::Failure(process.error()));
        return;
    }
    // Weakly: the process keeps this function.
    const std::uint64_t waiting = (*process)->on_exit([reply, process = std::weak_ptr(*process)] {
        proto::WaitResponse out;
        if (const auto ended = process.lock())
            *out.mutable_exit() = ended->exit();
        reply(out);
    });
    reply.on_cancel([process = std::weak_ptr(*process), waiting] {
        if (const auto left = process.lock()) {
            left->forget(waiting);
            left->abandon();
        }
    });
}

void Agent::state(const proto::ProcessRequest& request, const Reply<proto::StateResponse>& reply) {
    const auto container = find(request.container_id());
    const auto process = find(request.container_id(), request.exec_id());
    if (!container || !process) {
        reply(base::Failure(process.error()));
        return;
    }
    reply((*container)->describe(request.exec_id(), **process));
}

void Agent::list(const Reply<proto::ListResponse>& reply) const {
    proto::ListResponse out;
    for (const auto& [id, container] : containers_)
        *out.add_containers() = container->describe("", **container->find(""));
    reply(out);
}

void Agent::processes(const proto::ContainerRequest& request,
                      const Reply<proto::ProcessesResponse>& reply) {
    const auto container = find(request.container_id());
    const auto pids =
        container ? (*container)->cgroup().processes() : base::Failure(container.error());
    if (!pids) {
        reply(base::Failure(pids.error()));
        return;
    }
    proto::ProcessesResponse out;
    for (const pid_t pid : *pids)
        out.add_pids(static_cast<std::uint32_t>(pid));
    reply(out);
}

void Agent::remove(const proto::DeleteRequest& request, const Reply<proto::WaitResponse>& reply) {
    const auto container = find(request.container_id());
    const auto process = find(request.container_id(), request.exec_id());
    if (!container || !process) {
        reply(base::Failure(process.error()));
        return;
    }
    const bool whole = request.exec_id().empty();
    const auto done = [this, whole, container = *container, process = *process,
                       reply](const os::Result<void>& result) {
        if (!result) {
            reply(base::Failure(result.error()));
            return;
        }
        if (whole)
            forget(container);
        proto::WaitResponse out;
        *out.mutable_exit() = process->exit();
        reply(out);
    };
    if (whole)
        (*container)->remove(request.force(), done);
    else
        (*container)->remove_exec(request.exec_id(), request.force(), done);
}

void Agent::read_output(const proto::ReadOutputRequest& request,
                        const Reply<proto::ReadOutputResponse>& reply) {
    const auto process = find(request.container_id(), request.exec_id());
    if (!process) {
        reply(base::Failure(process.error()));
        return;
    }
    const bool error = request.stream() == proto::STDERR;
    const std::uint32_t descriptor = request.descriptor();
    const auto stream_of = [error, descriptor](Process& owner) {
        return descriptor != 0 ? owner.streams().output_of(descriptor)
               : error         ? &owner.streams().error
                               : &owner.streams().output;
    };
    OutputStream* const stream = stream_of(**process);
    if (stream == nullptr) {
        reply(base::Failure(no_descriptor(descriptor)));
        return;
    }
    const auto holds = std::make_shared<bool>(true);
    stream->read(request.offset(), request.max_bytes(),
                 [reply, holds](os::Result<std::string> data) {
                     *holds = false;
                     proto::ReadOutputResponse out;
                     if (data)
                         out.set_data(std::move(*data));
                     reply(data ? os::Result<proto::ReadOutputResponse>(std::move(out))
                                : base::Failure(data.error()));
                 });
    // What nobody waits for any more must stay in the pipe.
    if (*holds)
        reply.on_cancel([process = std::weak_ptr(*process), stream_of] {
            if (const auto owner = process.lock())
                stream_of(*owner)->cancel();
        });
}

void Agent::write_input(const proto::WriteInputRequest& request, const Reply<proto::Empty>& reply) {
    const auto process = find(request.container_id(), request.exec_id());
    InputStream* const stream =
        process ? (*process)->streams().input_of(request.descriptor()) : nullptr;
    if (stream == nullptr)
        reply(base::Failure(process ? no_descriptor(request.descriptor()) : process.error()));
    else
        stream->write(request.data(), answer_with(reply));
}

void Agent::close_input(const proto::CloseInputRequest& request, const Reply<proto::Empty>& reply) {
    const auto process = find(request.container_id(), request.exec_id());
    InputStream* const stream =
        process ? (*process)->streams().input_of(request.descriptor()) : nullptr;
    if (stream == nullptr) {
        reply(base::Failure(process ? no_descriptor(request.descriptor()) : process.error()));
        return;
    }
    stream->close_when_written();
    reply(proto::Empty());
}

void Agent::resize(const proto::ResizeTerminalRequest& request, const Reply<proto::Empty>& reply) {
    const auto process = find(request.container_id(), request.exec_id());
    if (!process) {
        reply(base::Failure(process.error()));
        return;
    }
    constexpr std::uint32_t most = 0xffff;
    if (request.rows() > most || request.columns() > most) {
        reply(os::fail(os::Code::InvalidArgument, "rows, columns: must lie between 0 and 65535"));
        return;
    }
    reply(empty((*process)->resize(static_cast<std::uint16_t>(request.rows()),
                                   static_cast<std::uint16_t>(request.columns()))));
}

void Agent::next_events(const proto::NextEventsRequest& request,
                        const Reply<proto::NextEventsResponse>& reply) {
    EventLog::Waiting waiting;
    const auto answer = [reply](const proto::NextEventsResponse& response) { reply(response); };
    if (!events_.next(request.after(), answer, waiting))
        reply.on_cancel([this, waiting] { events_.forget(waiting); });
}

void Agent::shutdown(const Reply<proto::Empty>& reply) {
    end_containers([this, reply] {
        reply(proto::Empty());
        stop();
    });
}

void Agent::shut_down() {
    end_containers([this] { stop(); });
}

void Agent::stop() {
    ended_ = true;
    loop_.defer([this] { loop_.stop(); });
}

void Agent::end_containers(std::function<void()> done) {
    ending_.push_back(std::move(done));
    // Who asks while the containers are being ended already, waits for the same end.
    if (ending_.size() == 1)
        end_next_container();
}

// Every container, one after the other, each with its poststop hooks.
void Agent::end_next_container() {
    if (!containers_.empty()) {
        const auto container = containers_.begin()->second;
        container->remove(true, [this, container](const os::Result<void>&) {
            // One that cannot be removed must not keep the machine on.
            forget(container);
            end_next_container();
        });
        return;
    }
    sync();
    for (const auto& done : ending_)
        done();
}

} // namespace service
