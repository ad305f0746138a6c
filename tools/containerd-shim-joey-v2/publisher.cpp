#include "tools/containerd-shim-joey-v2/publisher.hpp"

#include <algorithm>

#include "tools/containerd-shim-joey-v2/address.hpp"
#include "tools/containerd-shim-joey-v2/protocol/forward.pb.h"

namespace shim {

namespace {

namespace forward = ::containerd::services::events::ttrpc::v1;

constexpr const char* service = "containerd.services.events.ttrpc.v1.Events";
constexpr std::chrono::seconds patience(5);
constexpr std::chrono::milliseconds first_delay(100);
constexpr std::chrono::milliseconds longest_delay(5000);
constexpr int most_refusals = 5;

// Whether containerd was there and did not want it, or was not there.
bool is_refusal(os::Code code) {
    return code != os::Code::Unavailable && code != os::Code::DeadlineExceeded &&
           code != os::Code::Cancelled;
}

std::string socket_path(const std::string& address) {
    const std::string path = path_of(address);
    return path.empty() ? address : path;
}

} // namespace

Publisher::~Publisher() {
    if (timer_ != 0)
        loop_.cancel(timer_);
}

void Publisher::add(const char* topic, const wellknown::Any& event) {
    Item item;
    item.topic = topic;
    item.event = event.SerializeAsString();
    forward::ForwardRequest request;
    forward::Envelope& envelope = *request.mutable_envelope();
    set_time(*envelope.mutable_timestamp(), now());
    envelope.set_namespace_(target_.name_space);
    envelope.set_topic(topic);
    *envelope.mutable_event() = event;
    item.envelope = request.SerializeAsString();
    if (queue_.size() >= most_waiting) {
        // The one that is on its way stays.
        const auto victim = queue_.begin() + (sending_ ? 1 : 0);
        log_.warning(
            os::text("event ", victim->topic, " is dropped: too many wait for containerd"));
        queue_.erase(victim);
    }
    queue_.push_back(std::move(item));
    if (!sending_ && timer_ == 0)
        send();
}

void Publisher::send() {
    if (queue_.empty()) {
        if (const auto idle = std::exchange(idle_, nullptr))
            loop_.defer(idle);
        return;
    }
    if (target_.socket.empty()) {
        send_by_fallback();
        return;
    }
    if (!client_ || !client_->is_open()) {
        client_.reset();
        auto socket = connect_to(socket_path(target_.socket));
        if (socket) {
            if (auto client = ttrpc::Client::start(loop_, std::move(*socket)))
                client_ = std::move(*client);
        }
        if (!client_) {
            try_later();
            return;
        }
    }
    sending_ = true;
    client_->call(service, "Forward", queue_.front().envelope, patience,
                  [this](const os::Result<std::string>& answer) {
                      sending_ = false;
                      if (answer) {
                          arrived();
                      } else if (answer.error().code == os::Code::Unimplemented) {
                          send_by_fallback();
                      } else if (is_refusal(answer.error().code)) {
                          refused(answer.error());
                      } else {
                          drop_client();
                          try_later();
                      }
                  });
}

void Publisher::send_by_fallback() {
    sending_ = true;
    fallback_(queue_.front().topic, queue_.front().event,
              [this](const os::Result<std::string>& answer) {
                  sending_ = false;
                  if (answer)
                      arrived();
                  else
                      refused(answer.error());
              });
}

void Publisher::arrived() {
    delay_ = {};
    queue_.pop_front();
    send();
}

void Publisher::refused(const os::Error& why) {
    Item& item = queue_.front();
    if (++item.refusals >= most_refusals) {
        log_.error(os::text("event ", item.topic, " is dropped: ", why.message));
        queue_.pop_front();
    }
    try_later();
}

// Not from within its own callback.
void Publisher::drop_client() {
    loop_.defer([old = std::shared_ptr<ttrpc::Client>(std::move(client_))] {});
}

void Publisher::try_later() {
    delay_ = std::clamp(2 * delay_, first_delay, longest_delay);
    timer_ = loop_.after(delay_, [this] {
        timer_ = 0;
        send();
    });
}

void Publisher::when_idle(std::chrono::nanoseconds limit, std::function<void()> action) {
    if (queue_.empty()) {
        loop_.defer(std::move(action));
        return;
    }
    auto once = std::make_shared<std::function<void()>>(std::move(action));
    const auto act = [once] {
        if (const auto wanted = std::exchange(*once, nullptr))
            wanted();
    };
    idle_ = act;
    loop_.after(limit, act);
}

} // namespace shim
