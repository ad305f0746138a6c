#include <cstdio>

#include "tools/containerd-shim-joey-v2/commands.hpp"

namespace {

int print(const std::string& text) {
    return std::fwrite(text.data(), 1, text.size(), stdout) == text.size() &&
                   std::fflush(stdout) == 0
               ? 0
               : 1;
}

int fail(const os::Error& error) {
    std::fprintf(stderr, "containerd-shim-joey-v2: %s\n", error.message.c_str());
    return 1;
}

} // namespace

int main(int count, char* arguments[]) {
    const auto line = shim::CommandLine::parse(std::span(arguments + 1, arguments + count));
    if (!line)
        return fail(line.error());
    if (line->help)
        return print(shim::usage);
    if (line->version)
        return print(os::text(arguments[0], ":\n  Version:  ", JOEY_VERSION, "\n"));
    if (line->info)
        return print(shim::runtime_info());
    if (line->action.empty()) {
        const auto served = shim::serve(*line);
        return served ? 0 : fail(served.error());
    }
    const auto answer = line->action == "start" ? shim::start(*line) : shim::clean_up(*line);
    return answer ? print(*answer) : fail(answer.error());
}
