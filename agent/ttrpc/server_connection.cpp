#include "agent/ttrpc/server_connection.hpp"

#include <chrono>

#include "agent/ttrpc/ttrpc.pb.h"

namespace ttrpc {

ServerConnection::~ServerConnection() {
    cancel_calls();
}

os::Result<void> ServerConnection::start(os::UniqueFd socket) {
    TRY(connection_, Connection::start(loop_, std::move(socket),
                                       {.frame = [this](const Frame& frame) { on_frame(frame); },
                                        .too_long =
                                            [this](const FrameHeader& header) {
                                                if (open_stream(header))
                                                    refuse(header.stream,
                                                           os::Code::ResourceExhausted,
                                                           "the message is longer than 4 MiB");
                                            },
                                        .closed =
                                            [this](const std::string&) {
                                                cancel_calls();
                                                server_.connections_.erase(this);
                                            }},
                                       &server_.budget_));
    return {};
}

void ServerConnection::on_frame(const Frame& frame) {
    const std::uint32_t stream = frame.header.stream;
    switch (static_cast<FrameType>(frame.header.type)) {
    case FrameType::Request:
        if (open_stream(frame.header))
            on_request(stream, frame.payload);
        return;
    case FrameType::Data:
        refuse(stream, os::Code::Unimplemented, "streaming calls are not served");
        return;
    case FrameType::Response:
        break;
    }
    connection_->close("the client sent a frame that only a server sends");
}

bool ServerConnection::open_stream(const FrameHeader& header) {
    if (static_cast<FrameType>(header.type) != FrameType::Request) {
        refuse(header.stream, os::Code::InvalidArgument, "the message is longer than 4 MiB");
        return false;
    }
    if (header.stream % 2 != 1) {
        refuse(header.stream, os::Code::InvalidArgument, "a client's streams have odd numbers");
        return false;
    }
    if (header.stream <= last_stream_) {
        refuse(header.stream, os::Code::InvalidArgument, "the stream's number was used before");
        return false;
    }
    last_stream_ = header.stream;
    if (pending_.size() >= server_.limits_.calls_per_connection) {
        refuse(header.stream, os::Code::ResourceExhausted,
               "too many calls wait on this connection");
        return false;
    }
    return true;
}

void ServerConnection::on_request(std::uint32_t stream, const std::string& bytes) {
    Request request;
    if (!request.ParseFromString(bytes)) {
        refuse(stream, os::Code::InvalidArgument, "the request is no valid message");
        return;
    }
    os::Error error;
    const Server::Handler* handler = server_.find(request.service(), request.method(), error);
    if (handler == nullptr) {
        answer(stream, &error, {});
        return;
    }
    std::map<std::string, std::string> metadata;
    for (const KeyValue& entry : request.metadata())
        metadata[entry.key()] = entry.value();
    const auto call =
        std::make_shared<Call>(request.service(), request.method(),
                               std::move(*request.mutable_payload()), std::move(metadata));
    call->answer_ = [this, stream](const os::Error* failure, std::string payload) {
        finish(stream);
        answer(stream, failure, std::move(payload));
    };
    pending_[stream].call = call;
    if (request.timeout_nano() > 0)
        start_timer(stream, request.timeout_nano());
    (*handler)(call);
}

void ServerConnection::start_timer(std::uint32_t stream, std::int64_t nanoseconds) {
    pending_[stream].timer = loop_.after(std::chrono::nanoseconds(nanoseconds), [this, stream] {
        const std::shared_ptr<Call> call = pending_[stream].call.lock();
        if (!call)
            return;
        pending_[stream].timer = 0;
        const os::Error late{os::Code::DeadlineExceeded,
                             os::text(call->method(), ": the caller's time is up")};
        answer(stream, &late, {});
        pending_.erase(stream);
        call->cancel();
    });
}

void ServerConnection::finish(std::uint32_t stream) {
    const auto found = pending_.find(stream);
    if (found == pending_.end())
        return;
    if (found->second.timer != 0)
        loop_.cancel(found->second.timer);
    pending_.erase(found);
}

void ServerConnection::answer(std::uint32_t stream, const os::Error* error, std::string payload) {
    Response response;
    if (error != nullptr) {
        response.mutable_status()->set_code(static_cast<std::int32_t>(error->code));
        // A client whose library refuses the string would take the whole answer for broken.
        response.mutable_status()->set_message(os::as_utf8(error->message));
    } else {
        response.set_payload(std::move(payload));
    }
    std::string bytes = response.SerializeAsString();
    if (bytes.size() > max_message) {
        refuse(stream, os::Code::ResourceExhausted, "the answer is longer than 4 MiB");
        return;
    }
    connection_->send(make_frame(stream, FrameType::Response, bytes));
}

void ServerConnection::refuse(std::uint32_t stream, os::Code code, const char* why) {
    const os::Error error{code, why};
    answer(stream, &error, {});
}

void ServerConnection::cancel_calls() {
    std::unordered_map<std::uint32_t, Pending> pending;
    pending.swap(pending_);
    for (auto& [stream, entry] : pending) {
        if (entry.timer != 0)
            loop_.cancel(entry.timer);
        if (const std::shared_ptr<Call> call = entry.call.lock())
            call->cancel();
    }
}

} // namespace ttrpc
