// The VM's metrics on a Unix socket, by HTTP: GET /metrics. For whoever may open the socket: curl
// --unix-socket, a collector, `joey metrics`.
#pragma once

#include <functional>
#include <list>
#include <string>

#include "virtio/backend/event_loop.hpp"
#include "virtio/backend/unique_fd.hpp"

namespace joey {

class MetricsEndpoint {
public:
    // Callers that have not got their answer yet; the oldest makes way for a new one.
    static constexpr std::size_t most_callers = 16;
    static constexpr std::size_t longest_request = 8192;

    // `text` is asked for each answer. All on the loop's thread.
    MetricsEndpoint(virtio::EventLoop& loop, virtio::UniqueFd listener,
                    std::function<std::string()> text)
        : loop_(loop), listener_(std::move(listener)), text_(std::move(text)) {}
    MetricsEndpoint(const MetricsEndpoint&) = delete;
    MetricsEndpoint& operator=(const MetricsEndpoint&) = delete;
    ~MetricsEndpoint();

    base::Result<void, virtio::HostError> start();

private:
    struct Caller {
        virtio::UniqueFd socket;
        std::string request; // as far as it has come
        std::string answer;  // what is left of it
    };
    using Callers = std::list<Caller>;

    void accept();
    void turn_away();
    void serve(Callers::iterator caller);
    bool hear(Caller& caller); // whether it goes on
    bool speak(Caller& caller);
    void forget(Callers::iterator caller);

    virtio::EventLoop& loop_;
    virtio::UniqueFd listener_;
    virtio::UniqueFd spare_; // makes room for one more when the process has no descriptors left
    const std::function<std::string()> text_;
    Callers callers_; // the oldest first
};

// The answer to a request's head, which ends in an empty line.
std::string answer_to(std::string_view request, const std::function<std::string()>& text);

} // namespace joey
