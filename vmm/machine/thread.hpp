// Thread: a joined-on-destruction thread that says so when it cannot be started (std::thread
// throws).
#pragma once

#include <csignal>
#include <cstdint>
#include <functional>
#include <memory>
#include <pthread.h>
#include <string>

#include "vmm/error.hpp"

namespace vmm {

class Thread {
public:
    Thread() = default;
    Thread(const Thread&) = delete;
    Thread& operator=(const Thread&) = delete;
    ~Thread() { join(); }

    // Starts `body` with all signals blocked; `name` (15 characters) is what ps and top show.
    // Requires: not started before.
    Result<void> start(const char* name, std::function<void()> body);
    void join();
    // Sends a signal to the thread. Requires: started and not joined.
    void signal(int number) { pthread_kill(handle_, number); }
    // What its CPU time was by now; 0 when it has ended.
    std::uint64_t cpu_ns() const;
    bool started() const { return start_ != nullptr; }

private:
    struct Start {
        std::string name;
        std::function<void()> body;
    };
    static void* main(void* start) noexcept;

    std::unique_ptr<Start> start_; // until joined
    pthread_t handle_{};
};

} // namespace vmm
