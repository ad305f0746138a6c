#include "tests/shim/guest.hpp"

#include <chrono>
#include <csignal>
#include <unistd.h>

#include "agent/ttrpc/ttrpc.pb.h"

namespace shim_test {

namespace {

constexpr std::uint32_t signal_base = 128;

std::string key_of(const std::string& container, const std::string& exec) {
    return container + "/" + exec;
}

template <typename Message>
Message parsed(const std::string& bytes) {
    Message out;
    static_cast<void>(out.ParseFromString(bytes));
    return out;
}

} // namespace

void Guest::serve(os::UniqueFd socket) {
    const auto peer = std::make_shared<Peer>();
    // The functions keep the peer, until the last of them is told that it is closed.
    auto connection = ttrpc::Connection::start(
        loop_, std::move(socket),
        {.frame = [this, peer](const ttrpc::Frame& frame) { on_request(peer, frame); },
         .too_long = [](const ttrpc::FrameHeader&) {},
         .closed = [this, peer](
                       const std::string&) { loop_.defer([peer] { peer->connection.reset(); }); }});
    if (connection)
        peer->connection = std::move(*connection);
}

void Guest::on_request(const PeerRef& peer, const ttrpc::Frame& frame) {
    const auto request = parsed<ttrpc::Request>(frame.payload);
    // All of them begin with the container, and most go on with the process.
    const auto subject = parsed<proto::ProcessRequest>(request.payload());
    log_ += os::text(
        request.method(), " ",
        key_of(subject.container_id(), request.method() == "Create" ? "" : subject.exec_id()),
        "\n");
    const Answer answer{peer, frame.header.stream, manner_(request.method())};
    if (answer.manner == "late") {
        constexpr std::chrono::milliseconds late(150);
        Answer then = answer;
        then.manner.clear();
        loop_.after(late, [this, method = request.method(), payload = request.payload(), then] {
            handle(method, payload, then);
        });
        return;
    }
    handle(request.method(), request.payload(), answer);
}

void Guest::handle(const std::string& method, const std::string& payload, const Answer& answer) {
    if (!handle_life(method, payload, answer) && !handle_streams(method, payload, answer))
        refuse(answer, os::Code::Unimplemented, method + ": not served");
}

bool Guest::handle_life(const std::string& method, const std::string& payload,
                        const Answer& answer) {
    const auto subject = parsed<proto::ProcessRequest>(payload);
    if (method == "Create") {
        const std::string spec = parsed<proto::CreateRequest>(payload).spec();
        add(key_of(subject.container_id(), ""), spec.find("\"terminal\":true") != std::string::npos,
            answer);
    } else if (method == "Exec") {
        const std::string process = parsed<proto::ExecRequest>(payload).process();
        add(key_of(subject.container_id(), subject.exec_id()),
            process.find("\"terminal\":true") != std::string::npos, answer);
    } else if (method == "Start") {
        Program* program = find(subject.container_id(), subject.exec_id(), answer);
        if (program == nullptr)
            return true;
        program->running = true;
        say(*program, "started\n");
        reply(answer, proto::StartResponse());
    } else if (method == "Wait") {
        Program* program = find(subject.container_id(), subject.exec_id(), answer);
        if (program == nullptr)
            return true;
        program->waiting.push_back(answer);
        if (program->ended)
            end(*program, program->code);
    } else if (method == "Signal") {
        signal(parsed<proto::SignalRequest>(payload), answer);
    } else if (method == "Delete") {
        remove(parsed<proto::DeleteRequest>(payload), answer);
    } else if (method == "Pause" || method == "Resume" || method == "Update" ||
               method == "SetSysctls") {
        reply(answer, proto::Empty());
    } else if (method == "Stats") {
        proto::StatsResponse stats;
        stats.mutable_cpu()->set_usage_usec(4711);
        reply(answer, stats);
    } else if (method == "Shutdown") {
        ended_ = true;
        reply(answer, proto::Empty());
    } else {
        return false;
    }
    return true;
}

bool Guest::handle_streams(const std::string& method, const std::string& payload,
                           const Answer& answer) {
    if (method == "NextEvents") {
        // There are none. Whoever misbehaves here does it at once.
        if (!answer.manner.empty())
            reply(answer, proto::NextEventsResponse());
        return true;
    }
    const auto subject = parsed<proto::ProcessRequest>(payload);
    if (method != "ReadOutput" && method != "WriteInput" && method != "CloseInput" &&
        method != "ResizeTerminal")
        return false;
    Program* program = find(subject.container_id(), subject.exec_id(), answer);
    if (program == nullptr)
        return true;
    if (method == "ReadOutput") {
        if (parsed<proto::ReadOutputRequest>(payload).stream() == proto::STDERR) {
            reply(answer, proto::ReadOutputResponse());
            return true;
        }
        program->reading.push_back(answer);
        give_output(*program);
        return true;
    }
    if (method == "WriteInput") {
        say(*program, parsed<proto::WriteInputRequest>(payload).data());
    } else if (method == "ResizeTerminal") {
        const auto size = parsed<proto::ResizeTerminalRequest>(payload);
        say(*program, os::text(size.rows(), "x", size.columns(), "\n"));
    } else {
        end(*program, 0);
    }
    reply(answer, proto::Empty());
    return true;
}

void Guest::add(const std::string& key, bool terminal, const Answer& answer) {
    if (programs_.contains(key)) {
        refuse(answer, os::Code::AlreadyExists, key + " is there already");
        return;
    }
    programs_[key].terminal = terminal;
    reply(answer, proto::CreateResponse());
}

Guest::Program* Guest::find(const std::string& container, const std::string& exec,
                            const Answer& answer) {
    const auto found = programs_.find(key_of(container, exec));
    if (found != programs_.end())
        return &found->second;
    refuse(answer, os::Code::NotFound, key_of(container, exec) + " is not there");
    return nullptr;
}

void Guest::signal(const proto::SignalRequest& request, const Answer& answer) {
    Program* program = find(request.container_id(), request.exec_id(), answer);
    if (program == nullptr)
        return;
    if (program->ended) {
        refuse(answer, os::Code::NotFound, "the process has finished");
        return;
    }
    if (request.signal() == SIGUSR1)
        say(*program, "usr1\n");
    else
        end(*program, signal_base + request.signal());
    reply(answer, proto::Empty());
}

void Guest::remove(const proto::DeleteRequest& request, const Answer& answer) {
    Program* program = find(request.container_id(), request.exec_id(), answer);
    if (program == nullptr)
        return;
    end(*program, signal_base + SIGKILL);
    programs_.erase(key_of(request.container_id(), request.exec_id()));
    reply(answer, proto::WaitResponse());
}

void Guest::end(Program& program, std::uint32_t code) {
    program.code = program.ended ? program.code : code;
    program.ended = true;
    proto::WaitResponse response;
    response.mutable_exit()->set_code(program.code);
    for (const Answer& answer : std::exchange(program.waiting, {}))
        reply(answer, response);
    give_output(program);
}

void Guest::say(Program& program, const std::string& text) {
    program.output += text;
    give_output(program);
}

void Guest::give_output(Program& program) {
    if (program.output.empty() && !program.ended)
        return;
    for (const Answer& answer : std::exchange(program.reading, {})) {
        proto::ReadOutputResponse response;
        response.set_data(std::exchange(program.output, std::string()));
        reply(answer, response);
    }
}

void Guest::refuse(const Answer& answer, os::Code code, const std::string& why) {
    send(answer, true, static_cast<std::int32_t>(code), why);
}

void Guest::send(const Answer& answer, bool failed, std::int32_t code, const std::string& bytes) {
    ttrpc::Response response;
    if (failed) {
        response.mutable_status()->set_code(code);
        response.mutable_status()->set_message(bytes);
    } else {
        response.set_payload(bytes);
    }
    const std::string frame =
        ttrpc::make_frame(answer.stream, ttrpc::FrameType::Response, response.SerializeAsString());
    const PeerRef peer = answer.peer.lock();
    if (!peer || !peer->connection)
        return;
    if (answer.manner.empty())
        peer->connection->send(frame);
    else
        misbehave(answer, frame);
}

void Guest::misbehave(const Answer& answer, const std::string& good) {
    ttrpc::Connection& connection = *answer.peer.lock()->connection;
    const std::string manner_text =
        answer.manner == "refuse" ? "told to\n\x1b[31mrefuse" : "no text: \xff";
    const auto frame_of = [&](std::uint32_t stream, ttrpc::FrameType type,
                              const std::string& payload, bool failed) {
        ttrpc::Response response;
        if (failed) {
            response.mutable_status()->set_code(13);
            response.mutable_status()->set_message(manner_text);
        }
        response.set_payload(payload);
        return ttrpc::make_frame(stream, type, response.SerializeAsString());
    };
    const std::string& manner = answer.manner;
    if (manner == "refuse" || manner == "mumble") {
        connection.send(frame_of(answer.stream, ttrpc::FrameType::Response, "", true));
    } else if (manner == "nonsense") {
        // A good frame with what is no message.
        connection.send(
            frame_of(answer.stream, ttrpc::FrameType::Response, std::string(40, '\xff'), false));
    } else if (manner == "noise") {
        std::string noise(300, '\0');
        for (std::size_t i = 0; i < noise.size(); ++i)
            noise[i] = static_cast<char>(i * 151 + 7);
        connection.send(noise);
    } else if (manner == "long") {
        const auto header =
            ttrpc::encode({.length = ~0u, .stream = answer.stream, .type = 2, .flags = 0});
        connection.send(std::string(header.data(), header.size()));
    } else if (manner == "twice") {
        connection.send(good + good);
    } else if (manner == "other") {
        connection.send(frame_of(answer.stream + 1000, ttrpc::FrameType::Response, "", false));
    } else if (manner == "asks") {
        connection.send(frame_of(answer.stream, ttrpc::FrameType::Request, "", false));
    } else if (manner == "half") {
        connection.send(good.substr(0, good.size() / 2));
        connection.close("told to");
    } else if (manner == "hangup") {
        connection.close("told to");
    } else if (manner == "dies") {
        ::_exit(1);
    }
    // "never": nothing.
}

} // namespace shim_test
