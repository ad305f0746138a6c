// logs --vm, --kernel, --agent: what a container's VM says, which is kept as long as it runs, and
// of the last one after its end.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <deque>
#include <fcntl.h>
#include <poll.h>

#include <fmt/format.h>

#include "agent/os/files.hpp"
#include "tools/joey/containers/commands.hpp"
#include "tools/joey/containers/log_file.hpp"
#include "tools/joey/containers/vm_log.hpp"
#include "tools/pod/vm_log.hpp"

namespace joey::containers {

namespace {

constexpr std::array<std::string_view, 5> levels = {"error", "warning", "info", "debug", "trace"};
constexpr std::size_t largest = 4u << 20;

struct Choice {
    bool kernel = false;
    bool agent = false;
    bool all = false;
    std::size_t level = levels.size() - 1;
    Span span;
    std::size_t tail = ~std::size_t{0};
    bool json = false;

    bool takes(const pod::VmLogLine& line) const {
        if (!all && !(kernel && line.source == "kernel") && !(agent && line.source == "agent"))
            return false;
        const auto* known = std::find(levels.begin(), levels.end(), line.level);
        const auto rank = static_cast<std::size_t>(known - levels.begin());
        return rank <= level && span.has(nanoseconds_of(line.time));
    }
};

os::Result<Choice> read_choice(const Arguments& arguments) {
    Choice out;
    out.kernel = arguments.has("kernel");
    out.agent = arguments.has("agent");
    out.all = arguments.has("vm");
    const std::string level = arguments.value("level", "trace");
    const auto* known = std::find(levels.begin(), levels.end(), level);
    if (known == levels.end())
        return os::fail(os::Code::InvalidArgument, "--level ", level,
                        ": give error, warning, info, debug or trace");
    out.level = static_cast<std::size_t>(known - levels.begin());
    TRY(out.span, span_of(arguments));
    TRY(out.tail, tail_of(arguments));
    const std::string format = arguments.value("format", "text");
    if (format != "text" && format != "json")
        return os::fail(os::Code::InvalidArgument, "--format ", format, ": give text or json");
    out.json = format == "json";
    return out;
}

std::string shown(const pod::VmLogLine& line, bool json) {
    if (json)
        return pod::to_text(pod::Json{{"time", line.time},
                                      {"level", line.level},
                                      {"source", line.source},
                                      {"message", line.message}}) +
               "\n";
    std::string text;
    // A crash report has lines of its own; nothing in one drives a terminal.
    for (std::string_view rest = line.message; !rest.empty() || text.empty();) {
        const std::size_t end = std::min(rest.find('\n'), rest.size());
        text += text.empty() ? "" : "\n    ";
        text += printable(rest.substr(0, end));
        rest.remove_prefix(std::min(end + 1, rest.size()));
        if (rest.empty())
            break;
    }
    return fmt::format("{} {} {}: {}\n", printable(line.time), printable(line.source),
                       printable(line.level), text);
}

std::string text_of(const std::string& directory) {
    std::string out;
    for (const char* name : {"/log.1", "/log"}) {
        if (auto text = os::read_file(AT_FDCWD, (directory + name).c_str(), largest))
            out += *text;
    }
    return out;
}

std::string kept(const Registry& registry, const Container& container) {
    const auto running =
        registry.engine().pod(container.pod.empty() ? container.id : container.pod);
    if (running)
        return text_of(running->log.substr(0, running->log.rfind('/')));
    auto last =
        os::read_file(AT_FDCWD, (registry.directory(container) + "/vm.log").c_str(), largest);
    return last ? std::move(*last) : std::string();
}

} // namespace

void keep_vm_log(const Registry& registry, const Container& container) {
    const auto own = registry.engine().pod(container.id);
    if (!own || container.remove)
        return;
    const std::string text = text_of(own->log.substr(0, own->log.rfind('/')));
    if (!text.empty())
        static_cast<void>(
            pod::write_whole(registry.directory(container) + "/vm.log", text).has_value());
}

bool wants_vm_log(const Arguments& arguments) {
    return arguments.has("vm") || arguments.has("kernel") || arguments.has("agent");
}

os::Result<int> vm_log(Session& session, const Arguments& arguments) {
    TRY(const Container container, session.registry.find(arguments.words().front()));
    TRY(const Choice choice, read_choice(arguments));
    std::deque<std::string> lines;
    std::size_t seen = 0; // of those that are wanted, since the file began
    const auto collect = [&](std::size_t from) {
        std::size_t number = 0;
        pod::read_vm_log(kept(session.registry, container), [&](const pod::VmLogLine& line) {
            if (!choice.takes(line) || number++ < from)
                return;
            lines.push_back(shown(line, choice.json));
            if (lines.size() > choice.tail && from == 0)
                lines.pop_front();
        });
        // Fewer than before: the oldest went with their file.
        seen = number;
    };
    collect(0);
    for (;;) {
        for (const std::string& line : lines)
            TRY(print(line));
        lines.clear();
        if (!arguments.has("follow") || choice.span.until < now_nanoseconds() ||
            !session.registry.condition(container).is_live())
            return 0;
        constexpr int interval = 200; // milliseconds
        ::poll(nullptr, 0, interval);
        collect(seen);
    }
}

} // namespace joey::containers
