#include "agent/ttrpc/client.hpp"

#include <utility>

#include "agent/ttrpc/ttrpc.pb.h"

namespace ttrpc {

namespace {

constexpr Client::CallId last_stream = 0xffff'fffd;
// Calls that were forgotten, or whose time was up, and whose answers may still come.
constexpr std::size_t most_unanswered = 4096;

} // namespace

os::Result<std::unique_ptr<Client>> Client::start(os::EventLoop& loop, os::UniqueFd socket) {
    std::unique_ptr<Client> client(new Client(loop));
    Client* self = client.get();
    TRY(client->connection_,
        Connection::start(loop, std::move(socket),
                          {.frame = [self](const Frame& frame) { self->on_frame(frame); },
                           .too_long =
                               [self](const FrameHeader& header) {
                                   if (!self->waiting_.contains(header.stream)) {
                                       self->connection_->close("the server answered a call twice");
                                       return;
                                   }
                                   self->finish(header.stream,
                                                os::fail(os::Code::ResourceExhausted,
                                                         "the answer is longer than 4 MiB"));
                               },
                           .closed = [self](const std::string& why) { self->fail_all(why); }}));
    return client;
}

Client::~Client() {
    *alive_ = false;
    for (auto& [id, entry] : waiting_) {
        if (entry.timer != 0)
            loop_.cancel(entry.timer);
    }
}

Client::CallId Client::call(const std::string& service, const std::string& method,
                            const std::string& payload, std::chrono::nanoseconds limit,
                            Answered answered) {
    const CallId id = next_;
    Request request;
    request.set_service(service);
    request.set_method(method);
    request.set_payload(payload);
    request.set_timeout_nano(limit.count());
    const std::string bytes = request.SerializeAsString();
    waiting_[id].answered = std::move(answered);
    const char* problem = nullptr;
    os::Code code = os::Code::Unavailable;
    if (!is_open()) {
        problem = "the connection is closed";
    } else if (id > last_stream) {
        problem = "the connection has used up its stream numbers";
    } else if (bytes.size() > max_message) {
        problem = "the request is longer than 4 MiB";
        code = os::Code::ResourceExhausted;
    }
    next_ += 2;
    if (problem != nullptr) {
        loop_.defer([this, id, code, problem, alive = alive_] {
            if (*alive)
                finish(id, os::fail(code, problem));
        });
        return id;
    }
    if (limit > no_limit) {
        waiting_[id].timer = loop_.after(limit, [this, id] {
            const Answered late = std::move(waiting_[id].answered);
            waiting_[id].timer = 0;
            forget(id);
            late(os::fail(os::Code::DeadlineExceeded, "no answer in time"));
        });
    }
    connection_->send(make_frame(id, FrameType::Request, bytes));
    return id;
}

// Its entry stays, for the answer that it still may get: only what is waited for, or was, can be
// answered, so that a server cannot say things without end.
void Client::forget(CallId call) {
    const auto found = waiting_.find(call);
    if (found == waiting_.end())
        return;
    if (found->second.timer != 0)
        loop_.cancel(std::exchange(found->second.timer, 0));
    found->second.answered = nullptr;
    if (waiting_.size() > most_unanswered)
        connection_->close("the server leaves too many calls without an answer");
}

void Client::finish(CallId call, os::Result<std::string> payload) {
    const auto found = waiting_.find(call);
    if (found == waiting_.end())
        return;
    const Answered answered = std::move(found->second.answered);
    if (found->second.timer != 0)
        loop_.cancel(found->second.timer);
    waiting_.erase(found);
    if (answered)
        answered(std::move(payload));
}

void Client::on_frame(const Frame& frame) {
    const std::uint32_t stream = frame.header.stream;
    if (static_cast<FrameType>(frame.header.type) != FrameType::Response) {
        connection_->close("the server sent a frame that only a client sends");
        return;
    }
    if (stream % 2 != 1 || stream >= next_ || !waiting_.contains(stream)) {
        connection_->close("the server answered a call that was never made, or twice");
        return;
    }
    Response response;
    if (!response.ParseFromString(frame.payload)) {
        connection_->close("the server's answer is no valid message");
        return;
    }
    if (response.status().code() != 0)
        finish(stream, os::fail(static_cast<os::Code>(response.status().code()),
                                response.status().message()));
    else
        finish(stream, std::move(*response.mutable_payload()));
}

void Client::fail_all(const std::string& why) {
    const std::shared_ptr<bool> alive = alive_;
    std::unordered_map<CallId, Waiting> waiting;
    waiting.swap(waiting_);
    for (auto& [id, entry] : waiting) {
        if (entry.timer != 0)
            loop_.cancel(entry.timer);
        if (!entry.answered)
            continue;
        entry.answered(os::fail(os::Code::Unavailable,
                                why.empty() ? "the server closed the connection" : why));
        if (!*alive)
            return;
    }
    if (const auto closed = std::exchange(closed_, nullptr))
        closed(why);
}

} // namespace ttrpc
