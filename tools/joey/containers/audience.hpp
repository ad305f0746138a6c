// Audience: those who watch a container, each over a socket of its own. Whoever reads slowly makes
// the program wait, as a pipe would; whoever is gone is forgotten.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>

#include "agent/os/event_loop.hpp"
#include "tools/joey/containers/attachment.hpp"

namespace joey::containers {

class Audience {
public:
    struct Handlers {
        std::function<void(std::string_view)> input;
        std::function<void()> end_of_input;
        std::function<void(Size)> resize;
        std::function<void()> drained; // is_full() no more
    };
    Audience(os::EventLoop& loop, Handlers handlers);
    ~Audience();
    Audience(const Audience&) = delete;
    Audience& operator=(const Audience&) = delete;

    void listen(os::UniqueFd socket);
    // One who is there from the start: what it said is heard before this returns.
    void add(os::UniqueFd socket);
    // To those who want it; Started, Failed and Ended are for all.
    void tell_all(Word word, std::string_view data);
    bool is_full() const;
    // The program takes no more input just now.
    void hold_input(bool hold);
    // Waits until all have got what was told, or have gone; then they are sent home.
    void finish(std::chrono::seconds patience);

private:
    struct Member {
        os::UniqueFd socket;
        unsigned wants = 0;
        std::deque<Telling> waiting;
        std::size_t bytes = 0;
    };
    void admit();
    void take(int fd);
    void hear_from(Member& member);
    void flush(Member& member);
    void update(const Member& member);
    void remove(int fd);

    os::EventLoop& loop_;
    const Handlers handlers_;
    os::UniqueFd listener_;
    std::map<int, std::unique_ptr<Member>> members_;
    bool holds_input_ = false;
};

} // namespace joey::containers
