// What the pod cases use tools/pod by, as a shim does: one call of the engine for each run.
//   pod_caller ROOT create ID BUNDLE [pod=ID] [in=PATH] [out=PATH] [err=PATH]
//   pod_caller ROOT exec ID NAME PROCESS.json [in=PATH] [out=PATH] [err=PATH]
//   pod_caller ROOT wait ID NAME SECONDS        prints "STATUS oom|-"; NAME - is the first process
//   pod_caller ROOT kill ID NAME NUMBER
//   pod_caller ROOT resize ID NAME ROWS COLUMNS
//   pod_caller ROOT close-input ID NAME
//   pod_caller ROOT forget ID NAME               remove_process(); prints its status
//   pod_caller ROOT names ID                     of executed processes
//   pod_caller ROOT pods                         "ID running|ended CONTAINER..."
//   pod_caller ROOT vm-stats POD                 nanoseconds of CPU, bytes, threads
//   pod_caller ROOT remove-pod POD
//   pod_caller ROOT events POD SECONDS           "KIND CONTAINER NAME", all that come in that time
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <map>
#include <string>
#include <vector>

#include "agent/os/files.hpp"
#include "tools/pod/engine.hpp"

namespace {

using pod::Engine;
using Words = std::vector<std::string>;

struct Opened {
    os::UniqueFd fds[3];
    pod::StreamFds numbers{-1, -1, -1};
};

// A fifo as engine.hpp says; anything else is made.
os::Result<void> open_stream(const std::string& word, Opened& out) {
    const std::size_t equals = word.find('=');
    const std::string name = word.substr(0, equals);
    const std::string path = word.substr(equals + 1);
    const std::size_t i = name == "in" ? 0 : name == "out" ? 1 : 2;
    const int flags = i == 0 ? O_RDONLY | O_NONBLOCK : O_RDWR | O_CREAT | O_APPEND;
    out.fds[i] = os::UniqueFd(::open(path.c_str(), flags | O_CLOEXEC, 0600));
    if (!out.fds[i])
        return os::fail_errno(errno, path);
    out.numbers[i] = out.fds[i].get();
    return {};
}

std::string name_of(const std::string& word) {
    return word == "-" ? std::string() : word;
}

unsigned number_of(const std::string& word) {
    return static_cast<unsigned>(std::strtoul(word.c_str(), nullptr, 10));
}

os::Result<int> create(Engine& engine, const Words& words) {
    pod::CreateOptions options{.id = words.at(0), .bundle = words.at(1)};
    Opened streams;
    for (std::size_t i = 2; i < words.size(); ++i) {
        if (words[i].starts_with("pod="))
            options.pod = words[i].substr(4);
        else
            TRY(open_stream(words[i], streams));
    }
    options.streams = streams.numbers;
    TRY(engine.create(options));
    return 0;
}

os::Result<int> exec(Engine& engine, const Words& words) {
    pod::ExecOptions options{.container = words.at(0), .exec_id = words.at(1), .detach = true};
    TRY(const std::string text, os::read_file(AT_FDCWD, words.at(2).c_str()));
    TRY(options.process, pod::parse_object(text, words[2]));
    Opened streams;
    for (std::size_t i = 3; i < words.size(); ++i)
        TRY(open_stream(words[i], streams));
    options.streams = streams.numbers;
    return engine.exec(options);
}

os::Result<int> wait(Engine& engine, const Words& words) {
    TRY(const pod::ExitRecord exit, engine.wait(words.at(0), name_of(words.at(1)),
                                                std::chrono::seconds(number_of(words.at(2)))));
    std::printf("%d %s\n", exit.status, exit.oom_killed ? "oom" : "-");
    return 0;
}

os::Result<int> kill(Engine& engine, const Words& words) {
    TRY(engine.kill_process(words.at(0), name_of(words.at(1)),
                            static_cast<int>(number_of(words.at(2)))));
    return 0;
}

os::Result<int> resize(Engine& engine, const Words& words) {
    TRY(engine.resize(words.at(0), name_of(words.at(1)), number_of(words.at(2)),
                      number_of(words.at(3))));
    return 0;
}

os::Result<int> close_input(Engine& engine, const Words& words) {
    TRY(engine.close_input(words.at(0), name_of(words.at(1))));
    return 0;
}

os::Result<int> forget(Engine& engine, const Words& words) {
    TRY(const pod::ExitRecord exit, engine.remove_process(words.at(0), words.at(1)));
    std::printf("%d\n", exit.status);
    return 0;
}

os::Result<int> names(Engine& engine, const Words& words) {
    for (const pod::ProcessState& one : engine.executed(words.at(0)))
        std::printf("%s %s\n", one.exec_id.c_str(), one.running ? "running" : "ended");
    return 0;
}

os::Result<int> pods(Engine& engine, const Words&) {
    for (const pod::PodState& one : engine.pods()) {
        std::printf("%s %s", one.id.c_str(), one.running ? "running" : "ended");
        for (const std::string& container : one.containers)
            std::printf(" %s", container.c_str());
        std::printf("\n");
    }
    return 0;
}

os::Result<int> vm_stats(Engine& engine, const Words& words) {
    TRY(const pod::VmStats stats, engine.vm_stats(words.at(0)));
    std::printf("%s %s %s\n", std::to_string(stats.user_ns + stats.system_ns).c_str(),
                std::to_string(stats.memory).c_str(), std::to_string(stats.threads).c_str());
    return 0;
}

os::Result<int> remove_pod(Engine& engine, const Words& words) {
    TRY(engine.remove_pod(words.at(0)));
    return 0;
}

void follow(pod::AgentLink& agent, std::uint64_t after) {
    pod::proto::NextEventsRequest request;
    request.set_after(after);
    agent.call_later<pod::proto::NextEventsResponse>(
        "NextEvents", request,
        [&agent, after](const os::Result<pod::proto::NextEventsResponse>& answer) {
            if (!answer)
                return;
            std::uint64_t last = after;
            for (const auto& event : answer->events()) {
                std::printf("%d %s %s\n", static_cast<int>(event.kind()),
                            event.container_id().c_str(), event.exec_id().c_str());
                last = event.number();
            }
            follow(agent, last);
        });
}

os::Result<int> events(Engine& engine, const Words& words) {
    TRY(const auto loop, os::EventLoop::create());
    TRY(const auto agent, engine.agent(words.at(0), *loop));
    follow(*agent, 0);
    loop->after(std::chrono::seconds(number_of(words.at(1))), [&loop] { loop->stop(); });
    loop->run();
    return 0;
}

const std::map<std::string, os::Result<int> (*)(Engine&, const Words&)> commands = {
    {"create", create},     {"exec", exec},     {"wait", wait},
    {"kill", kill},         {"resize", resize}, {"close-input", close_input},
    {"forget", forget},     {"names", names},   {"pods", pods},
    {"vm-stats", vm_stats}, {"events", events}, {"remove-pod", remove_pod},
};

} // namespace

int main(int argc, char** argv) {
    const Words words(argv + 1, argv + argc);
    const auto command = words.size() < 2 ? commands.end() : commands.find(words[1]);
    if (command == commands.end()) {
        std::fprintf(stderr, "usage: pod_caller ROOT COMMAND...; see its source\n");
        return 2;
    }
    Engine engine{pod::StateRoot(words[0])};
    const auto status = command->second(engine, {words.begin() + 2, words.end()});
    if (!status)
        std::fprintf(stderr, "pod_caller: %s\n", status.error().message.c_str());
    return status ? *status : 1;
}
