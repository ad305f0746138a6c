// The shim, which waits less long for others if JOEY_TEST_HURRY says so.
#include <cstdio>
#include <cstdlib>

#include "tools/containerd-shim-joey-v2/commands.hpp"
#include "tools/pod/patience.hpp"

int main(int count, char* arguments[]) {
    if (const char* times = std::getenv("JOEY_TEST_HURRY"))
        pod::set_hurry(static_cast<unsigned>(std::max(std::atoi(times), 1)));
    const auto line = shim::CommandLine::parse(std::span(arguments + 1, arguments + count));
    if (!line)
        return 2;
    if (line->action.empty())
        return shim::serve(*line) ? 0 : 1;
    const auto answer = line->action == "start" ? shim::start(*line) : shim::clean_up(*line);
    if (!answer) {
        std::fprintf(stderr, "%s\n", answer.error().message.c_str());
        return 1;
    }
    return std::fwrite(answer->data(), 1, answer->size(), stdout) == answer->size() ? 0 : 1;
}
