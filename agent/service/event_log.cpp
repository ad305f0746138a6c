#include "agent/service/event_log.hpp"

#include <algorithm>
#include <ctime>

namespace service {

namespace {

// Of one answer: far below a message's limit.
constexpr int most_at_once = 512;

} // namespace

std::int64_t now() {
    timespec time{};
    clock_gettime(CLOCK_REALTIME, &time);
    return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

void EventLog::add(proto::Event event) {
    event.set_number(++last_);
    event.set_at(now());
    events_.push_back(std::move(event));
    if (events_.size() > most)
        events_.pop_front();
    std::list<std::pair<std::uint64_t, Answer>> waiting;
    waiting.swap(waiting_);
    for (auto& [after, answer] : waiting)
        try_answer(after, answer);
}

bool EventLog::try_answer(std::uint64_t after, const Answer& answer) const {
    if (after >= last_)
        return false;
    proto::NextEventsResponse response;
    if (!events_.empty() && events_.front().number() > after + 1)
        response.set_lost(events_.front().number() - after - 1);
    for (const proto::Event& event : events_) {
        if (event.number() > after && response.events_size() < most_at_once)
            *response.add_events() = event;
    }
    answer(response);
    return true;
}

bool EventLog::next(std::uint64_t after, const Answer& answer, Waiting& waiting) {
    if (try_answer(after, answer))
        return true;
    // A number from the future: an agent that was restarted counts from 1 again.
    waiting = waiting_.insert(waiting_.end(), {std::min(after, last_), answer});
    return false;
}

} // namespace service
