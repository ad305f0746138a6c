// The agent's methods with any messages, in any order. Nothing is created (the requests'
// configurations are not valid but by a miracle, and the control group is nowhere); what is tested
// is that every message is answered and none does harm.
#include <cstdint>
#include <cstdlib>

#include <sys/socket.h>

#include "agent/service/agent.hpp"
#include "agent/ttrpc/client.hpp"

namespace {

// Not those that change this machine: Mount, Unmount, SetHostname, SetSysctls, Shutdown.
constexpr const char* methods[] = {
    "Info",   "Create", "Exec",       "Start",      "Signal",     "Pause",
    "Resume", "Update", "Wait",       "State",      "List",       "Processes",
    "Stats",  "Delete", "ReadOutput", "WriteInput", "CloseInput", "ResizeTerminal"};

struct Machine {
    std::unique_ptr<os::EventLoop> loop = std::move(*os::EventLoop::create());
    std::unique_ptr<service::Children> children = std::move(*service::Children::start(*loop));
    service::Agent agent{*loop, *children, {.cgroup_root = "/nonexistent"}};
    ttrpc::Server server{*loop};
    std::unique_ptr<ttrpc::Client> client;

    Machine() {
        agent.register_methods(server);
        int ends[2] = {};
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0 ||
            !server.serve(os::UniqueFd(ends[0])))
            std::abort();
        client = std::move(*ttrpc::Client::start(*loop, os::UniqueFd(ends[1])));
    }
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static Machine machine;
    int calls = 0;
    int answers = 0;
    while (size > 2) {
        const char* method = methods[data[0] % std::size(methods)];
        const std::size_t length = std::min<std::size_t>(size - 2, data[1]);
        const std::string payload(reinterpret_cast<const char*>(data) + 2, length);
        data += 2 + length;
        size -= 2 + length;
        ++calls;
        machine.client->call("joey.agent.v1.Agent", method, payload, ttrpc::Client::no_limit,
                             [&answers](const os::Result<std::string>&) { ++answers; });
    }
    for (int i = 0; i < 1000 && answers < calls; ++i)
        machine.loop->run_once(std::chrono::milliseconds(1));
    if (answers != calls)
        std::abort();
    return 0;
}
