#include "tools/joey/metrics/endpoint.hpp"

#include <cerrno>
#include <fcntl.h>

#include <sys/socket.h>

#include <fmt/format.h>

namespace joey {

namespace {

constexpr std::string_view end_of_head = "\r\n\r\n";

std::string answer(std::string_view status, std::string_view type, std::string_view body,
                   bool with_body) {
    return fmt::format("HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n"
                       "Connection: close\r\n\r\n{}",
                       status, type, body.size(), with_body ? body : std::string_view());
}

} // namespace

std::string answer_to(std::string_view request, const std::function<std::string()>& text) {
    constexpr std::string_view plain = "text/plain; charset=utf-8";
    const std::string_view line = request.substr(0, request.find("\r\n"));
    const std::size_t first = std::min(line.find(' '), line.size());
    const std::size_t second = std::min(line.find(' ', first + 1), line.size());
    const std::string_view method = line.substr(0, first);
    std::string_view target = line.substr(std::min(first + 1, second), second - first);
    target = target.substr(0, target.find_first_of(" ?"));
    const bool is_head = method == "HEAD";
    if (second == line.size() || !line.substr(second + 1).starts_with("HTTP/1."))
        return answer("400 Bad Request", plain, "a request of HTTP/1.1 was expected\n", true);
    if (method != "GET" && !is_head)
        return answer("405 Method Not Allowed", plain, "only GET and HEAD\n", true);
    if (target != "/metrics")
        return answer("404 Not Found", plain, "there is /metrics, and no more\n", !is_head);
    return answer("200 OK", "text/plain; version=0.0.4; charset=utf-8", text(), !is_head);
}

MetricsEndpoint::~MetricsEndpoint() {
    while (!callers_.empty())
        forget(callers_.begin());
    loop_.remove(listener_.get());
}

base::Result<void, virtio::HostError> MetricsEndpoint::start() {
    spare_ = virtio::UniqueFd(::fcntl(listener_.get(), F_DUPFD_CLOEXEC, 0));
    return loop_.add(listener_.get(), {.read = true, .write = false},
                     [this](virtio::Readiness) { accept(); });
}

void MetricsEndpoint::accept() {
    virtio::UniqueFd socket(
        ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) {
        if (errno == EMFILE || errno == ENFILE)
            turn_away();
        return;
    }
    if (callers_.size() >= most_callers)
        forget(callers_.begin());
    const int number = socket.get();
    const auto caller = callers_.insert(callers_.end(), Caller{std::move(socket), {}, {}});
    const auto watched = loop_.add(number, {.read = true, .write = false},
                                   [this, caller](virtio::Readiness) { serve(caller); });
    if (!watched)
        callers_.erase(caller);
}

// There are no descriptors, most of which the guest has a say in: who waits in the backlog would
// keep the loop turning for as long as that lasts.
void MetricsEndpoint::turn_away() {
    if (!callers_.empty())
        return forget(callers_.begin());
    spare_.reset();
    virtio::UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    // Another thread was quicker: better no metrics than no rest.
    if (!socket)
        return loop_.remove(listener_.get());
    ::shutdown(socket.get(), SHUT_RDWR);
    spare_ = std::move(socket);
}

void MetricsEndpoint::serve(Callers::iterator caller) {
    const bool goes_on = caller->answer.empty() ? hear(*caller) : speak(*caller);
    if (!goes_on)
        forget(caller);
}

bool MetricsEndpoint::hear(Caller& caller) {
    char piece[1024];
    const ssize_t got = ::recv(caller.socket.get(), piece, sizeof piece, 0);
    if (got < 0)
        return errno == EAGAIN || errno == EINTR;
    if (got == 0 || caller.request.size() + static_cast<std::size_t>(got) > longest_request)
        return false;
    caller.request.append(piece, static_cast<std::size_t>(got));
    if (caller.request.find(end_of_head) == std::string::npos)
        return true;
    caller.answer = answer_to(caller.request, text_);
    if (!loop_.modify(caller.socket.get(), {.read = false, .write = true}))
        return false;
    return speak(caller);
}

bool MetricsEndpoint::speak(Caller& caller) {
    const ssize_t sent = ::send(caller.socket.get(), caller.answer.data(), caller.answer.size(),
                                MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0)
        return errno == EAGAIN || errno == EINTR;
    caller.answer.erase(0, static_cast<std::size_t>(sent));
    return !caller.answer.empty();
}

void MetricsEndpoint::forget(Callers::iterator caller) {
    loop_.remove(caller->socket.get());
    callers_.erase(caller);
}

} // namespace joey
