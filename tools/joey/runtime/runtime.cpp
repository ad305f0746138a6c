#include "tools/joey/runtime/runtime.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <unistd.h>

namespace joey::runtime {

namespace {

struct Known {
    const char* name;
    Command run;
};
constexpr std::array commands = {
    Known{"create", create}, Known{"start", start},       Known{"state", state},
    Known{"kill", kill},     Known{"delete", remove},     Known{"exec", exec},
    Known{"ps", processes},  Known{"pause", pause},       Known{"resume", resume},
    Known{"update", update}, Known{"events", events},     Known{"list", list},
    Known{"spec", spec},     Known{"features", features},
};

constexpr std::array global_flags = {
    Flag{"root", "", true},
    Flag{"log", "", true},
    Flag{"log-format", "", true},
    Flag{"debug", "", false},
    // Control groups are made without systemd's help, wherever the path says.
    Flag{"systemd-cgroup", "", false},
    Flag{"rootless", "", true},
    Flag{"criu", "", true},
    // joey's own.
    Flag{"privilege", "", true},
};

const Known* find_command(const std::string& name) {
    const auto* found = std::find_if(commands.begin(), commands.end(),
                                     [&](const Known& one) { return name == one.name; });
    return found == commands.end() ? nullptr : found;
}

// As runc: below /run for root, else where the user's own things are.
std::string default_root() {
    const char* runtime_directory = std::getenv("XDG_RUNTIME_DIR");
    if (::geteuid() != 0 && runtime_directory != nullptr && *runtime_directory == '/')
        return os::text(runtime_directory, "/joey");
    return "/run/joey";
}

} // namespace

bool is_runtime_command(std::span<char* const> arguments) {
    const std::vector<std::string> words(arguments.begin(), arguments.end());
    const auto flags = Flags::parse(words, global_flags);
    return flags && !flags->rest().empty() && find_command(flags->rest().front()) != nullptr;
}

int run_command(std::span<char* const> arguments) {
    const std::vector<std::string> words(arguments.begin(), arguments.end());
    // Requires: is_runtime_command(), so that both are there.
    const auto flags = Flags::parse(words, global_flags);
    const Known* command = find_command(flags->rest().front());
    const auto log =
        Log::open(flags->value("log"), flags->value("log-format", "text"), flags->has("debug"));
    if (!log) {
        std::fprintf(stderr, "joey: %s\n", log.error().message.c_str());
        return 1;
    }
    pod::Engine engine{pod::StateRoot(pod::absolute_path(flags->value("root", default_root())))};
    Invocation call{command->name,
                    {flags->rest().begin() + 1, flags->rest().end()},
                    engine,
                    *log,
                    flags->value("privilege")};
    const auto status = command->run(call);
    if (status)
        return *status;
    log->error(status.error().message);
    return call.name == "exec" ? 255 : 1;
}

os::Result<Flags> parse(const Invocation& call, std::span<const Flag> known) {
    auto flags = Flags::parse(call.words, known);
    if (!flags)
        return os::fail(flags.error().code, "joey ", call.name, ": ", flags.error().message);
    return flags;
}

os::Result<std::string> only_id(const Invocation& call, const Flags& flags) {
    if (flags.rest().size() != 1)
        return os::fail(os::Code::InvalidArgument, "joey: \"", call.name,
                        "\" requires exactly 1 argument(s)");
    return flags.rest().front();
}

os::Result<unsigned> preserved_count(const Flags& flags) {
    const std::string text = flags.value("preserve-fds", "0");
    unsigned count = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), count);
    constexpr unsigned most = 1U << 16; // no more can be open; the engine takes fewer
    if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size() || count > most)
        return os::fail(os::Code::InvalidArgument, "invalid value for --preserve-fds: ", text);
    return count;
}

os::Result<void> print(const std::string& text) {
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
        return os::fail_errno(errno, "write to stdout");
    return {};
}

} // namespace joey::runtime
