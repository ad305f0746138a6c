// Session: what every command for people works with.
#pragma once

#include <string>

#include "tools/joey/containers/command_line.hpp"
#include "tools/joey/containers/registry.hpp"

namespace joey::containers {

struct Session {
    Registry registry;
    std::string store; // of images
};

os::Result<int> print(std::string_view text);
void complain(std::string_view text); // one line on stderr, with "joey: " before it
// What others chose (names, labels, errors of a guest) must not drive the terminal.
std::string printable(std::string_view text);

// One after the other; what fails is told, and the rest is done all the same.
template <typename Each>
int for_each_container(Session& session, const std::vector<std::string>& words, Each each) {
    int status = 0;
    for (const std::string& word : words) {
        auto container = session.registry.find(word);
        os::Result<void> done;
        if (container)
            done = each(*container, word);
        else
            done = base::Failure(container.error());
        if (!done) {
            complain(done.error().message);
            status = 1;
        }
    }
    return status;
}

} // namespace joey::containers
