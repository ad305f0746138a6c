#include "tests/shim/user.hpp"

#include <algorithm>
#include <csignal>
#include <fcntl.h>
#include <unistd.h>

#include <sys/stat.h>

#include <catch2/catch.hpp>

#include "tools/containerd-shim-joey-v2/address.hpp"
#include "tools/containerd-shim-joey-v2/protocol/forward.pb.h"

namespace shim_test {

namespace {

constexpr const char* config = R"({"ociVersion": "1.0.2", "root": {"path": "rootfs"},
    "process": {"args": ["cat"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
    "linux": {"namespaces": [{"type": "mount"}, {"type": "network"}]}})";

} // namespace

User::User(std::string id, unsigned hurry)
    : id_(std::move(id)), hurry_(hurry), bundle_(os::text(notes_folder, "/bundle-", id_)) {
    enter_private_host();
    REQUIRE(::mkdir(bundle_.c_str(), 0700) == 0);
    REQUIRE(::mkdir((bundle_ + "/source").c_str(), 0700) == 0);
    write_text(bundle_ + "/config.json", config);
    for (const char* name : {"in", "out"})
        make_fifo(name);
    loop_ = *os::EventLoop::create();
    listen_for_events();
}

User::~User() {
    client_.reset();
    events_.reset();
}

void User::make_fifo(const std::string& name) {
    REQUIRE(::mkfifo(fifo(name).c_str(), 0600) == 0);
    fifos_[name] = os::UniqueFd(::open(fifo(name).c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
    REQUIRE(fifos_[name]);
}

void User::listen_for_events() {
    namespace forward = ::containerd::services::events::ttrpc::v1;
    events_ = std::make_unique<ttrpc::Server>(*loop_);
    events_->handle<forward::ForwardRequest, Empty>(
        "containerd.services.events.ttrpc.v1.Events", "Forward",
        [this](const forward::ForwardRequest& request, const ttrpc::Reply<Empty>& reply) {
            topics_.push_back(request.envelope().topic());
            reply(Empty());
        });
    auto socket = shim::listen_at("unix://" + bundle_ + "/events");
    REQUIRE(socket);
    REQUIRE(events_->listen(std::move(*socket)));
}

void User::tell_vm(const std::string& lines) const {
    const std::string place = os::text(notes_folder, "/", id_);
    write_text(place + ".new", lines + "\n");
    REQUIRE(::rename((place + ".new").c_str(), place.c_str()) == 0);
}

std::string User::vm_log() const {
    return content_of(os::text(notes_folder, "/", id_, ".log"));
}

Call User::shim_call(const char* action) const {
    return {.words = {"-namespace", id_, "-id", id_, "-address", "/run/c.sock", "-publish-binary",
                      "/bin/false", action},
            .bundle = bundle_,
            .events = bundle_ + "/events",
            .hurry = hurry_};
}

bool User::start_shim() {
    address_.clear();
    return run_shim(shim_call("start"), address_) == 0 && connect();
}

bool User::connect() {
    client_.reset();
    auto socket = shim::connect_to(shim::path_of(address_));
    if (!socket)
        return false;
    auto client = ttrpc::Client::start(*loop_, std::move(*socket));
    if (client)
        client_ = std::move(*client);
    return client.has_value();
}

api::CreateTaskRequest User::creation() const {
    auto out = about<api::CreateTaskRequest>();
    out.set_bundle(bundle_);
    out.set_stdin(fifo("in"));
    out.set_stdout(fifo("out"));
    auto& mount = *out.add_rootfs();
    mount.set_type("bind");
    mount.set_source(bundle_ + "/source");
    mount.add_options("rbind");
    return out;
}

api::ExecProcessRequest User::execution(const std::string& exec, bool terminal) {
    // Both stay open here, so that the program's input does not end.
    make_fifo(exec);
    make_fifo("in-" + exec);
    auto out = about<api::ExecProcessRequest>(exec);
    out.set_stdin(fifo("in-" + exec));
    out.set_stdout(fifo(exec));
    out.set_terminal(terminal);
    out.mutable_spec()->set_type_url("types.containerd.io/opencontainers/runtime-spec/1/Process");
    out.mutable_spec()->set_value(R"({"args": ["cat"], "cwd": "/"})");
    return out;
}

api::KillRequest User::signal(int number, const std::string& exec) const {
    auto out = about<api::KillRequest>(exec);
    out.set_signal(static_cast<std::uint32_t>(number));
    return out;
}

std::shared_ptr<User::Waiting> User::wait(const std::string& exec) {
    auto out = std::make_shared<Waiting>();
    waits_.push_back(out);
    client_->call<api::WaitResponse>(
        "containerd.task.v2.Task", "Wait", about<api::WaitRequest>(exec), ttrpc::Client::no_limit,
        [out](const os::Result<api::WaitResponse>& answer) {
            out->status = answer ? static_cast<int>(answer->exit_status()) : -1;
        });
    return out;
}

bool User::until(const std::function<bool()>& holds) {
    const auto end = os::EventLoop::Clock::now() + longest_call;
    while (!holds() && os::EventLoop::Clock::now() < end)
        loop_->run_once(std::chrono::milliseconds(5));
    return holds();
}

std::string User::output(const std::string& exec) {
    const std::string name = exec.empty() ? "out" : exec;
    char piece[4096];
    for (ssize_t got = 0; (got = ::read(fifos_[name].get(), piece, sizeof piece)) > 0;)
        outputs_[name].append(piece, static_cast<std::size_t>(got));
    return outputs_[name];
}

void User::write_input(const std::string& text) const {
    REQUIRE(::write(fifos_.at("in").get(), text.data(), text.size()) ==
            static_cast<ssize_t>(text.size()));
}

// As containerd does: killed, deleted, and if the shim will not, without the shim.
void User::end_container() {
    if (!client_ && !connect())
        return;
    static_cast<void>(call<Empty>("Kill", signal(SIGKILL)).has_value());
    bool deleted = false;
    // What was killed is deleted when its end is known.
    static_cast<void>(until([&] {
        const auto answer = call<api::DeleteResponse>("Delete", about<api::DeleteRequest>());
        deleted = answer || answer.error().code == os::Code::NotFound;
        return deleted || !client_->is_open() ||
               answer.error().code != os::Code::FailedPrecondition;
    }));
    // One that has no container may have ended by itself.
    if (!deleted && client_->is_open())
        complain("the container cannot be deleted");
    shut_down();
}

void User::shut_down() {
    static_cast<void>(call<Empty>("Shutdown", about<api::ShutdownRequest>()).has_value());
    static_cast<void>(until([&] { return !client_->is_open(); }));
    if (client_->is_open())
        complain("the shim does not end");
}

bool User::load() {
    if (!connect()) {
        complain("no connection to the shim that is there");
        return true;
    }
    const auto pids = call<api::PidsResponse>("Pids", about<api::PidsRequest>());
    if (pids && pids->processes_size() != 0)
        return true;
    const auto deleted = call<api::DeleteResponse>("Delete", about<api::DeleteRequest>());
    if (!deleted && deleted.error().code != os::Code::NotFound)
        complain("the shim is forgotten: " + deleted.error().message);
    shut_down();
    ended_ = true;
    return false;
}

void User::finish() {
    if (!address_.empty() && !ended_)
        end_container();
    if (!std::all_of(waits_.begin(), waits_.end(), [](const auto& one) { return one->status; }))
        complain("a Wait was never answered");
    client_.reset();
    std::string answer;
    if (run_shim(shim_call("delete"), answer) != 0)
        complain("`delete` fails");
    for (const std::string& name : end_children())
        complain("a process is left: " + name);
    look_for_leftovers();
}

void User::look_for_leftovers() {
    const std::string state = "/run/containerd/joey/" + id_;
    for (const char* kind : {"/containers", "/pods"}) {
        for (const std::string& name : names_in(state + kind))
            complain(os::text("a directory is left: ", state, kind, "/", name));
    }
    if (const std::string path = shim::path_of(address_);
        !path.empty() && ::access(path.c_str(), F_OK) == 0)
        complain("its socket is left");
    // What containerd takes away with the bundle.
    for (const std::string& name : names_in(bundle_)) {
        const char* known[] = {"config.json", "source",   "rootfs", "events",
                               "shim.pid",    "init.pid", "address"};
        // A shim that is killed while it writes one of them leaves it under the name that it has
        // until it is whole.
        const std::string whole = name.substr(0, name.rfind('.'));
        if (!name.starts_with("fifo-") &&
            std::find(std::begin(known), std::end(known), name) == std::end(known) &&
            std::find(std::begin(known), std::end(known), whole) == std::end(known))
            complain("a file is left in the bundle: " + name);
    }
    if (is_mounted_below(bundle_))
        complain("a mount is left");
}

std::string User::complaints() const {
    std::string out;
    for (const std::string& one : complaints_)
        out += (out.empty() ? "" : "; ") + one;
    return out;
}

} // namespace shim_test
