// A ttrpc server and a ttrpc client with any bytes from the other side, cut anywhere; the requests
// reach a handler that parses its message as the agent's do.
#include <cstdint>
#include <cstdlib>

#include <sys/socket.h>

#include "agent/protocol/agent.pb.h"
#include "agent/ttrpc/client.hpp"
#include "agent/ttrpc/server.hpp"

namespace {

using joey::agent::v1::CreateRequest;
using joey::agent::v1::StateResponse;

struct Pair {
    os::UniqueFd near;
    os::UniqueFd far;
};

Pair make_pair() {
    int ends[2] = {};
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        std::abort();
    return {os::UniqueFd(ends[0]), os::UniqueFd(ends[1])};
}

// Sends in pieces whose sizes the input chooses, with rounds of the loop between.
void feed(os::EventLoop& loop, int fd, const std::uint8_t* data, std::size_t size) {
    while (size > 0) {
        const std::size_t piece = std::min<std::size_t>(size, 1 + data[0] % 64);
        if (send(fd, data, piece, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
            break;
        data += piece;
        size -= piece;
        loop.run_once(std::chrono::milliseconds(0));
    }
    shutdown(fd, SHUT_WR);
    for (int i = 0; i < 4; ++i)
        loop.run_once(std::chrono::milliseconds(0));
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 2)
        return 0;
    const auto loop = std::move(*os::EventLoop::create());
    ttrpc::Server server(*loop, {.connections = 2, .calls_per_connection = 4});
    std::vector<ttrpc::Reply<StateResponse>> held;
    server.handle<CreateRequest, StateResponse>(
        "s", "m", [&](const CreateRequest& request, const auto& reply) {
            if (request.container_id().empty())
                held.push_back(reply);
            else
                reply(StateResponse());
        });
    Pair pair = make_pair();
    if (!server.serve(std::move(pair.far)))
        std::abort();
    feed(*loop, pair.near.get(), data, size);
    held.clear();

    Pair other = make_pair();
    const auto client = std::move(*ttrpc::Client::start(*loop, std::move(other.near)));
    int answers = 0;
    for (int i = 0; i < 2; ++i)
        client->call<StateResponse>("s", "m", CreateRequest(), ttrpc::Client::no_limit,
                                    [&answers](const auto&) { ++answers; });
    feed(*loop, other.far.get(), data, size);
    // The server has gone: every call has been answered, once.
    if (answers != 2)
        std::abort();
    return 0;
}
