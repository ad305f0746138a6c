// Budget: what the connections of one server keep in memory together: answers that are not sent yet
// and requests that have come in part. Each has limits of its own, but there may be thousands.
#pragma once

#include <cstddef>
#include <functional>
#include <unordered_map>

namespace ttrpc {

class Budget {
public:
    explicit Budget(std::size_t most) : most_(most) {}
    Budget(const Budget&) = delete;
    Budget& operator=(const Budget&) = delete;

    // From `before` bytes to `now` of one connection's.
    void change(std::size_t before, std::size_t now);
    // Who keeps nothing waits before it takes more; those who do can finish what they have begun.
    bool is_short() const { return held_ > most_ / 2; }
    // Who still adds to it loses its connection.
    bool is_exceeded() const { return held_ > most_; }
    // Called once, when it is short no more; by the loop's work for other connections.
    void wait(const void* who, std::function<void()> resume) { waiting_[who] = std::move(resume); }
    void forget(const void* who) { waiting_.erase(who); }

private:
    const std::size_t most_;
    std::size_t held_ = 0;
    std::unordered_map<const void*, std::function<void()>> waiting_;
};

} // namespace ttrpc
