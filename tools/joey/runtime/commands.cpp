// The life of a container.
#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <climits>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>

#include "agent/os/files.hpp"
#include "tools/joey/runtime/runtime.hpp"
#include "tools/joey/sizes.hpp"
#include "tools/pod/preserved.hpp"

namespace joey::runtime {

namespace {

os::Result<std::string> resolve(const std::string& path) {
    char resolved[PATH_MAX];
    if (::realpath(path.c_str(), resolved) == nullptr)
        return os::fail_errno(errno, path);
    return std::string(resolved);
}

// "KILL", "SIGKILL", "9".
os::Result<int> signal_of(const std::string& text) {
    int number = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
    if (parsed.ec == std::errc() && parsed.ptr == text.data() + text.size()) {
        if (number > 0 && number <= SIGRTMAX)
            return number;
        return os::fail(os::Code::InvalidArgument, "unknown signal \"", text, "\"");
    }
    std::string name = text;
    std::transform(name.begin(), name.end(), name.begin(),
                   [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
    if (name.starts_with("SIG"))
        name.erase(0, 3);
    for (number = 1; number < SIGRTMIN; ++number) {
        const char* abbreviation = ::sigabbrev_np(number);
        if (abbreviation != nullptr && name == abbreviation)
            return number;
    }
    return os::fail(os::Code::InvalidArgument, "unknown signal \"", text, "\"");
}

os::Result<std::string> flagless_id(Invocation& call) {
    TRY(const Flags flags, parse(call, {}));
    return only_id(call, flags);
}

// What the flag gives in the resources.
enum class Unit : std::uint8_t { Number, Text, Bytes }; // Bytes: with a unit, or -1 for no limit
struct Limit {
    const char* flag;
    const char* part;
    const char* name;
    Unit unit = Unit::Number;
};
constexpr std::array limits = {
    Limit{"blkio-weight", "blockIO", "weight"},
    Limit{"cpu-burst", "cpu", "burst"},
    Limit{"cpu-idle", "cpu", "idle"},
    Limit{"cpu-period", "cpu", "period"},
    Limit{"cpu-quota", "cpu", "quota"},
    Limit{"cpu-share", "cpu", "shares"},
    Limit{"cpu-rt-period", "cpu", "realtimePeriod"},
    Limit{"cpu-rt-runtime", "cpu", "realtimeRuntime"},
    Limit{"cpuset-cpus", "cpu", "cpus", Unit::Text},
    Limit{"cpuset-mems", "cpu", "mems", Unit::Text},
    Limit{"memory", "memory", "limit", Unit::Bytes},
    Limit{"memory-reservation", "memory", "reservation", Unit::Bytes},
    Limit{"memory-swap", "memory", "swap", Unit::Bytes},
    Limit{"pids-limit", "pids", "limit"},
};

os::Result<pod::Json> value_of(const Limit& limit, const std::string& text) {
    if (limit.unit == Unit::Text)
        return pod::Json(text);
    std::int64_t number = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
    if (parsed.ec == std::errc() && parsed.ptr == text.data() + text.size())
        return pod::Json(number);
    const auto bytes = limit.unit == Unit::Bytes ? parse_size(text) : std::nullopt;
    if (!bytes || *bytes > INT64_MAX)
        return os::fail(os::Code::InvalidArgument, "invalid value for ", limit.flag, ": ", text);
    return pod::Json(static_cast<std::int64_t>(*bytes));
}

os::Result<pod::Json> read_resources(const std::string& path) {
    const std::string place = path == "-" ? "/dev/stdin" : path;
    TRY(const std::string text, os::read_file(AT_FDCWD, place.c_str()));
    return pod::parse_object(text, path);
}

} // namespace

os::Result<int> create(Invocation& call) {
    constexpr std::array known = {
        Flag{"bundle", "b", true},         Flag{"console-socket", "", true},
        Flag{"pid-file", "", true},        Flag{"no-pivot", "", false},
        Flag{"no-new-keyring", "", false}, Flag{"preserve-fds", "", true}};
    TRY(const Flags flags, parse(call, known));
    TRY(const std::string id, only_id(call, flags));
    pod::CreateOptions options{.id = id, .vm_ends_with_programs = true};
    if (!call.privilege.empty())
        options.vm.privilege = call.privilege;
    TRY(options.bundle, resolve(flags.value("bundle", ".")));
    options.console_socket = flags.value("console-socket");
    options.pid_file = flags.value("pid-file");
    // Those of the service manager come first, as with runc.
    options.listen_fds = pod::passed_by_service_manager();
    TRY(const unsigned more, preserved_count(flags));
    options.preserve_fds = options.listen_fds + more;
    const auto made = call.engine.create(options);
    if (!made)
        return os::fail(made.error().code, "joey create failed: ", made.error().message);
    for (const std::string& warning : *made)
        call.log.warning(warning);
    return 0;
}

os::Result<int> start(Invocation& call) {
    TRY(const std::string id, flagless_id(call));
    TRY(call.engine.start(id));
    return 0;
}

os::Result<int> kill(Invocation& call) {
    constexpr std::array known = {Flag{"all", "a", false}};
    TRY(const Flags flags, parse(call, known));
    if (flags.rest().empty() || flags.rest().size() > 2)
        return os::fail(os::Code::InvalidArgument, "joey: \"kill\" requires 1 or 2 arguments");
    TRY(const int number, signal_of(flags.rest().size() == 2 ? flags.rest()[1] : "SIGTERM"));
    TRY(call.engine.kill(flags.rest()[0], number, flags.has("all")));
    return 0;
}

os::Result<int> remove(Invocation& call) {
    constexpr std::array known = {Flag{"force", "f", false}};
    TRY(const Flags flags, parse(call, known));
    TRY(const std::string id, only_id(call, flags));
    TRY(call.engine.remove(id, flags.has("force")));
    return 0;
}

os::Result<int> pause(Invocation& call) {
    TRY(const std::string id, flagless_id(call));
    TRY(call.engine.pause(id));
    return 0;
}

os::Result<int> resume(Invocation& call) {
    TRY(const std::string id, flagless_id(call));
    TRY(call.engine.resume(id));
    return 0;
}

os::Result<int> update(Invocation& call) {
    std::vector<Flag> known = {{"resources", "r", true}};
    for (const Limit& limit : limits)
        known.push_back({limit.flag, "", true});
    TRY(const Flags flags, parse(call, known));
    TRY(const std::string id, only_id(call, flags));
    pod::Json resources = pod::Json::object();
    if (flags.has("resources")) {
        TRY(resources, read_resources(flags.value("resources")));
    }
    for (const Limit& limit : limits) {
        if (!flags.has(limit.flag) || flags.has("resources"))
            continue;
        TRY(resources[limit.part][limit.name], value_of(limit, flags.value(limit.flag)));
    }
    TRY(call.engine.update(id, resources));
    return 0;
}

} // namespace joey::runtime
