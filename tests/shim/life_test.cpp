// The life of a pod whose VM does what it should.
#include <csignal>

#include <sys/stat.h>

#include <catch2/catch.hpp>

#include "tests/shim/user.hpp"
#include "tools/containerd-shim-joey-v2/protocol/metrics.pb.h"

using namespace shim_test;

namespace {

constexpr unsigned no_hurry = 1;

api::StateResponse state_of(User& user, const std::string& exec = "") {
    const auto answer = user.call<api::StateResponse>("State", user.about<api::StateRequest>(exec));
    return answer ? *answer : api::StateResponse();
}

bool has_event(const User& user, const char* topic) {
    return std::find(user.topics().begin(), user.topics().end(), topic) != user.topics().end();
}

} // namespace

TEST_CASE("a pod's life: created, started, spoken to, paused, killed, deleted, and nothing stays",
          "[life]") {
    User user("life", no_hurry);
    REQUIRE(user.start_shim());
    const auto created = user.call<api::CreateTaskResponse>("Create", user.creation());
    REQUIRE(created);
    CHECK(created->pid() > 0);
    CHECK(state_of(user).status() == shim::TaskStatus::CREATED);
    CHECK_FALSE(user.call<api::CreateTaskResponse>("Create", user.creation()));
    const auto ended = user.wait();
    REQUIRE(user.call<api::StartResponse>("Start", user.about<api::StartRequest>()));
    CHECK_FALSE(user.call<api::StartResponse>("Start", user.about<api::StartRequest>()));
    user.write_input("hello\n");
    CHECK(user.until([&] { return user.output() == "started\nhello\n"; }));
    CHECK(user.call<Empty>("Kill", user.signal(SIGUSR1)));
    CHECK(user.until([&] { return user.output().ends_with("usr1\n"); }));

    REQUIRE(user.call<Empty>("Pause", user.about<api::PauseRequest>()));
    CHECK(state_of(user).status() == shim::TaskStatus::PAUSED);
    REQUIRE(user.call<Empty>("Resume", user.about<api::ResumeRequest>()));
    CHECK(state_of(user).status() == shim::TaskStatus::RUNNING);
    const auto stats = user.call<api::StatsResponse>("Stats", user.about<api::StatsRequest>());
    REQUIRE(stats);
    io::containerd::cgroups::v2::Metrics metrics;
    REQUIRE(metrics.ParseFromString(stats->stats().value()));
    CHECK(metrics.cpu().usage_usec() == 4711);
    CHECK_FALSE(user.call<api::DeleteResponse>("Delete", user.about<api::DeleteRequest>()));

    CHECK(user.call<Empty>("Kill", user.signal(SIGTERM)));
    CHECK(user.until([&] { return ended->status.has_value(); }));
    CHECK(ended->status == 143);
    CHECK(user.call<Empty>("Kill", user.signal(SIGTERM)).error().code == os::Code::NotFound);
    const auto deleted = user.call<api::DeleteResponse>("Delete", user.about<api::DeleteRequest>());
    REQUIRE(deleted);
    CHECK(deleted->exit_status() == 143);
    CHECK(user.call<api::StateResponse>("State", user.about<api::StateRequest>()).error().code ==
          os::Code::NotFound);
    user.finish();
    CHECK(user.complaints() == "");
    for (const char* topic : {"/tasks/create", "/tasks/start", "/tasks/paused", "/tasks/resumed",
                              "/tasks/exit", "/tasks/delete"})
        CHECK(has_event(user, topic));
}

TEST_CASE("the VM ends also when a pod's first container is deleted while its last one is",
          "[life]") {
    User user("both", no_hurry);
    REQUIRE(user.start_shim());
    REQUIRE(user.call<api::CreateTaskResponse>("Create", user.creation()));
    const std::string second = user.bundle() + "-second";
    REQUIRE(::mkdir(second.c_str(), 0700) == 0);
    write_text(second + "/config.json", content_of(user.bundle() + "/config.json"));
    auto creation = user.creation();
    creation.set_id("second");
    creation.set_bundle(second);
    creation.clear_stdin();
    creation.clear_stdout();
    REQUIRE(user.call<api::CreateTaskResponse>("Create", creation));
    // The second one's program ends with its input, which it has none of.
    CHECK(user.call<Empty>("Kill", user.signal(SIGKILL)));
    api::StateRequest asked;
    asked.set_id("second");
    CHECK(user.until([&] {
        const auto state = user.call<api::StateResponse>("State", asked);
        return state && state->status() == shim::TaskStatus::STOPPED &&
               state_of(user).status() == shim::TaskStatus::STOPPED;
    }));
    user.tell_vm("Delete late");
    api::DeleteRequest last;
    last.set_id("second");
    user.send("Delete", last);
    CHECK(user.call<api::DeleteResponse>("Delete", user.about<api::DeleteRequest>()));
    CHECK(user.until([&] { return !user.call<api::StateResponse>("State", asked); }));
    CHECK(names_in("/run/containerd/joey/both/pods").empty());
    user.finish();
    CHECK(user.complaints() == "");
}

TEST_CASE("a process that is executed: its terminal, its size, its end, its deletion", "[life]") {
    User user("exec", no_hurry);
    REQUIRE(user.start_shim());
    REQUIRE(user.call<api::CreateTaskResponse>("Create", user.creation()));
    CHECK_FALSE(user.call<Empty>("Exec", user.execution("early", false)));
    REQUIRE(user.call<api::StartResponse>("Start", user.about<api::StartRequest>()));
    for (const char* name : {"plain", "terminal"}) {
        const bool terminal = name == std::string("terminal");
        REQUIRE(user.call<Empty>("Exec", user.execution(name, terminal)));
        const auto ended = user.wait(name);
        REQUIRE(user.call<api::StartResponse>("Start", user.about<api::StartRequest>(name)));
        CHECK(user.until([&] { return user.output(name).starts_with("started"); }));
        auto size = user.about<api::ResizePtyRequest>(name);
        size.set_width(132);
        size.set_height(43);
        CHECK(user.call<Empty>("ResizePty", size));
        if (terminal)
            CHECK(
                user.until([&] { return user.output(name).find("43x132") != std::string::npos; }));
        CHECK(user.call<Empty>("Kill", user.signal(SIGKILL, name)));
        CHECK(user.until([&] { return ended->status.has_value(); }));
        CHECK(ended->status == 137);
        const auto deleted =
            user.call<api::DeleteResponse>("Delete", user.about<api::DeleteRequest>(name));
        REQUIRE(deleted);
        CHECK(deleted->exit_status() == 137);
    }
    for (const std::string& name : names_in("/run/containerd/joey/exec/containers/exec"))
        CHECK_FALSE(name.starts_with("exec-"));
    user.finish();
    CHECK(user.complaints() == "");
}

TEST_CASE("a process that cannot be started leaves nothing in the guest", "[life]") {
    User user("refused", no_hurry);
    REQUIRE(user.start_shim());
    REQUIRE(user.call<api::CreateTaskResponse>("Create", user.creation()));
    REQUIRE(user.call<api::StartResponse>("Start", user.about<api::StartRequest>()));
    REQUIRE(user.call<Empty>("Exec", user.execution("none", false)));
    user.tell_vm("Start refuse");
    const auto ended = user.wait("none");
    const auto started =
        user.call<api::StartResponse>("Start", user.about<api::StartRequest>("none"));
    REQUIRE_FALSE(started);
    INFO(user.vm_log());
    CHECK(user.vm_log().find("Delete refused/shim-1\n") != std::string::npos);
    CHECK(user.until([&] { return ended->status.has_value(); }));
    CHECK(ended->status == 255);
    CHECK(user.call<api::DeleteResponse>("Delete", user.about<api::DeleteRequest>("none")));
    user.finish();
    CHECK(user.complaints() == "");
}

TEST_CASE("a connection that the guest ends is made again when it is needed", "[life]") {
    User user("again", no_hurry);
    REQUIRE(user.start_shim());
    REQUIRE(user.call<api::CreateTaskResponse>("Create", user.creation()));
    REQUIRE(user.call<api::StartResponse>("Start", user.about<api::StartRequest>()));
    for (const char* manner : {"Stats hangup", "Stats noise"}) {
        user.tell_vm(manner);
        CHECK_FALSE(user.call<api::StatsResponse>("Stats", user.about<api::StatsRequest>()));
        user.tell_vm("");
        CHECK(user.call<api::StatsResponse>("Stats", user.about<api::StatsRequest>()));
    }
    CHECK(user.call<Empty>("Kill", user.signal(SIGUSR1)));
    CHECK(user.until([&] { return user.output().ends_with("usr1\n"); }));
    user.finish();
    CHECK(user.complaints() == "");
}
