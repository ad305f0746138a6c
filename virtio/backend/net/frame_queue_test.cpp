#include <deque>
#include <random>

#include <catch2/catch.hpp>

#include "virtio/backend/net/frame_queue.hpp"

using virtio::FrameQueue;

TEST_CASE("frame queue: frames come out as they went in, whatever their sizes") {
    FrameQueue queue(4096);
    std::deque<std::vector<std::byte>> expected;
    std::mt19937 random(1);
    unsigned refused = 0;
    for (unsigned step = 0; step < 20000; ++step) {
        if (random() % 2 == 0) {
            std::vector<std::byte> frame(random() % 1500, static_cast<std::byte>(step));
            if (queue.push(frame))
                expected.push_back(std::move(frame));
            else
                ++refused;
        } else if (!expected.empty()) {
            const auto front = queue.front();
            REQUIRE(std::vector(front.begin(), front.end()) == expected.front());
            queue.pop();
            expected.pop_front();
        }
        REQUIRE(queue.empty() == expected.empty());
    }
    CHECK(refused > 0);
}

TEST_CASE("frame queue: one frame may fill it, none may burst it") {
    FrameQueue queue(100);
    CHECK_FALSE(queue.push(std::vector<std::byte>(97)));
    CHECK(queue.push(std::vector<std::byte>(96)));
    CHECK_FALSE(queue.push({}));
    queue.pop();
    CHECK(queue.push(std::vector<std::byte>(96)));
}
