// Events for whoever asks: numbered, kept until they are many, and waited for.
#pragma once

#include <deque>
#include <functional>
#include <list>

#include "agent/protocol/agent.pb.h"

namespace service {

namespace proto = joey::agent::v1;

// Nanoseconds since 1970.
std::int64_t now();

class EventLog {
public:
    using Answer = std::function<void(const proto::NextEventsResponse&)>;
    // A handle to stop waiting by.
    using Waiting = std::list<std::pair<std::uint64_t, Answer>>::iterator;

    // Number and time are filled in.
    void add(proto::Event event);
    // Answers at once if there is something after `after`; otherwise `answer` waits.
    bool next(std::uint64_t after, const Answer& answer, Waiting& waiting);
    void forget(Waiting waiting) { waiting_.erase(waiting); }

private:
    static constexpr std::size_t most = 4096;
    bool try_answer(std::uint64_t after, const Answer& answer) const;

    std::deque<proto::Event> events_;
    std::uint64_t last_ = 0;
    std::list<std::pair<std::uint64_t, Answer>> waiting_;
};

} // namespace service
