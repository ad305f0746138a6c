// Guest: an agent without a kernel below it. Every container's program is a cat which a signal
// ends, says the size of its terminal, and says "started" first. It answers as it should, unless it
// is told otherwise for a method.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "agent/protocol/agent.pb.h"
#include "agent/ttrpc/connection.hpp"

namespace shim_test {

namespace proto = joey::agent::v1;

class Guest {
public:
    // How a method is answered: "" as it should be, or one of those of misbehave().
    using Manner = std::function<std::string(const std::string& method)>;

    Guest(os::EventLoop& loop, Manner manner) : loop_(loop), manner_(std::move(manner)) {}
    void serve(os::UniqueFd socket);
    // Every request so far, as "Method container/exec".
    const std::string& log() const { return log_; }
    bool ended() const { return ended_; }

private:
    struct Peer {
        std::unique_ptr<ttrpc::Connection> connection;
    };
    using PeerRef = std::shared_ptr<Peer>;
    // One request's way back.
    struct Answer {
        std::weak_ptr<Peer> peer;
        std::uint32_t stream = 0;
        std::string manner;
    };
    struct Program {
        bool terminal = false;
        bool running = false;
        bool ended = false;
        std::uint32_t code = 0;
        std::string output;
        std::vector<Answer> waiting;
        std::vector<Answer> reading;
    };

    void on_request(const PeerRef& peer, const ttrpc::Frame& frame);
    void handle(const std::string& method, const std::string& payload, const Answer& answer);
    bool handle_life(const std::string& method, const std::string& payload, const Answer& answer);
    bool handle_streams(const std::string& method, const std::string& payload,
                        const Answer& answer);
    void add(const std::string& key, bool terminal, const Answer& answer);
    void signal(const proto::SignalRequest& request, const Answer& answer);
    void remove(const proto::DeleteRequest& request, const Answer& answer);
    Program* find(const std::string& container, const std::string& exec, const Answer& answer);
    void end(Program& program, std::uint32_t code);
    void say(Program& program, const std::string& text);
    void give_output(Program& program);

    template <typename Message>
    void reply(const Answer& answer, const Message& message) {
        send(answer, false, 0, message.SerializeAsString());
    }
    void refuse(const Answer& answer, os::Code code, const std::string& why);
    void send(const Answer& answer, bool failed, std::int32_t code, const std::string& bytes);
    void misbehave(const Answer& answer, const std::string& good);

    os::EventLoop& loop_;
    Manner manner_;
    std::string log_;
    bool ended_ = false;
    std::map<std::string, Program> programs_; // by "container/exec"
};

} // namespace shim_test
