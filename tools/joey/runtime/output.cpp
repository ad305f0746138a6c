// What there is to see of containers.
#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <pwd.h>
#include <thread>

#include <sys/stat.h>

#include <fmt/format.h>

#include "tools/joey/runtime/runtime.hpp"

namespace joey::runtime {

namespace {

using pod::Json;

// In runc's order, which an engine does not need but a person compares.
nlohmann::ordered_json describe(const pod::ContainerState& state, const std::string& owner) {
    const bool stopped = state.status == pod::ContainerStatus::Stopped;
    nlohmann::ordered_json out = {
        {"ociVersion", state.record.oci_version},
        {"id", state.record.id},
        {"pid", stopped ? 0 : state.record.process.pid},
        {"status", pod::name_of(state.status)},
        {"bundle", state.record.bundle},
        {"rootfs", state.record.rootfs},
        {"created", state.record.created},
    };
    if (!state.record.annotations.empty())
        out["annotations"] = state.record.annotations;
    out["owner"] = owner;
    return out;
}

std::string to_text(const nlohmann::ordered_json& value, int indent) {
    return value.dump(indent, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

std::string owner_of(const std::string& path) {
    struct stat about {};
    if (::stat(path.c_str(), &about) != 0)
        return {};
    struct passwd entry {};
    struct passwd* found = nullptr;
    std::array<char, 4096> buffer{};
    if (::getpwuid_r(about.st_uid, &entry, buffer.data(), buffer.size(), &found) == 0 &&
        found != nullptr)
        return found->pw_name;
    return "#" + std::to_string(about.st_uid);
}

// Columns as wide as their widest cell, three blanks apart.
std::string table(const std::vector<std::vector<std::string>>& rows) {
    std::vector<std::size_t> widths;
    for (const auto& row : rows) {
        widths.resize(std::max(widths.size(), row.size()));
        for (std::size_t i = 0; i < row.size(); ++i)
            widths[i] = std::max(widths[i], row[i].size());
    }
    constexpr std::size_t narrowest = 9;
    constexpr std::size_t gap = 3;
    std::string out;
    for (const auto& row : rows) {
        for (std::size_t i = 0; i < row.size(); ++i)
            out += i + 1 == row.size()
                       ? row[i] + "\n"
                       : fmt::format("{:<{}}", row[i], std::max(widths[i], narrowest) + gap);
    }
    return out;
}

} // namespace

os::Result<int> state(Invocation& call) {
    TRY(const Flags flags, parse(call, {}));
    TRY(const std::string id, only_id(call, flags));
    TRY(const pod::ContainerState found, call.engine.state(id));
    TRY(print(to_text(describe(found, ""), 2) + "\n"));
    return 0;
}

os::Result<int> list(Invocation& call) {
    constexpr std::array known = {Flag{"format", "f", true}, Flag{"quiet", "q", false}};
    TRY(const Flags flags, parse(call, known));
    const std::string format = flags.value("format", "table");
    if (format != "table" && format != "json")
        return os::fail(os::Code::InvalidArgument, "invalid format option");
    std::string names;
    nlohmann::ordered_json all = nlohmann::ordered_json::array();
    std::vector<std::vector<std::string>> rows = {
        {"ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"}};
    for (const pod::ContainerState& one : call.engine.list()) {
        const std::string owner = owner_of(call.engine.root().container(one.record.id));
        const bool stopped = one.status == pod::ContainerStatus::Stopped;
        names += one.record.id + "\n";
        all.push_back(describe(one, owner));
        rows.push_back({one.record.id, std::to_string(stopped ? 0 : one.record.process.pid),
                        std::string(pod::name_of(one.status)), one.record.bundle,
                        one.record.created, owner});
    }
    TRY(print(flags.has("quiet") ? names
              : format == "json" ? (all.empty() ? "null" : to_text(all, -1)) + "\n"
                                 : table(rows)));
    return 0;
}

os::Result<int> processes(Invocation& call) {
    constexpr std::array known = {Flag{"format", "f", true}};
    TRY(const Flags flags, parse(call, known));
    if (flags.rest().empty())
        return os::fail(os::Code::InvalidArgument,
                        "joey: \"ps\" requires a minimum of 1 argument(s)");
    const std::string format = flags.value("format", "table");
    if (format != "table" && format != "json")
        return os::fail(os::Code::InvalidArgument, "invalid format option");
    TRY(const std::vector<std::uint32_t> pids, call.engine.processes(flags.rest().front()));
    if (format == "json") {
        TRY(print(pod::to_text(Json(pids)) + "\n"));
        return 0;
    }
    // Numbers of the guest's kernel, whose processes no ps of the host can see.
    std::string out = "PID\n";
    for (const std::uint32_t pid : pids)
        out += std::to_string(pid) + "\n";
    TRY(print(out));
    return 0;
}

namespace {

// In runc's words; nanoseconds and bytes.
Json stats_json(const pod::proto::StatsResponse& stats) {
    constexpr std::uint64_t nanoseconds = 1000;
    const auto& cpu = stats.cpu();
    const auto& memory = stats.memory();
    Json data = {
        {"cpu",
         {{"usage",
           {{"total", cpu.usage_usec() * nanoseconds},
            {"kernel", cpu.system_usec() * nanoseconds},
            {"user", cpu.user_usec() * nanoseconds}}},
          {"throttling",
           {{"periods", cpu.periods()},
            {"throttledPeriods", cpu.throttled_periods()},
            {"throttledTime", cpu.throttled_usec() * nanoseconds}}}}},
        {"memory",
         {{"usage", {{"limit", memory.limit()}, {"usage", memory.usage()}}},
          {"swap", {{"limit", memory.swap_limit()}, {"usage", memory.swap_usage()}}},
          {"raw",
           std::map<std::string, std::uint64_t>(memory.stat().begin(), memory.stat().end())}}},
        {"pids", {{"current", stats.pids().current()}}},
    };
    // No limit is no number, as in runc.
    if (stats.pids().limit() != ~std::uint64_t{0})
        data["pids"]["limit"] = stats.pids().limit();
    return data;
}

// "5s", "500ms", "1m": one number and a unit.
os::Result<std::chrono::milliseconds> interval_of(const std::string& text) {
    std::int64_t number = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
    const std::string unit(parsed.ptr,
                           static_cast<std::size_t>(text.data() + text.size() - parsed.ptr));
    constexpr std::int64_t longest = 1'000'000;
    const std::int64_t scale = unit == "ms" ? 1 : unit == "s" ? 1000 : unit == "m" ? 60'000 : 0;
    if (parsed.ec != std::errc() || scale == 0 || number < 0 || number > longest)
        return os::fail(os::Code::InvalidArgument, "invalid interval: ", text);
    if (number == 0)
        return os::fail(os::Code::InvalidArgument, "duration interval must be greater than 0");
    return std::chrono::milliseconds(number * scale);
}

} // namespace

os::Result<int> events(Invocation& call) {
    constexpr std::array known = {Flag{"interval", "", true}, Flag{"stats", "", false}};
    TRY(const Flags flags, parse(call, known));
    TRY(const std::string id, only_id(call, flags));
    TRY(const std::chrono::milliseconds interval, interval_of(flags.value("interval", "5s")));
    for (;;) {
        const auto stats = call.engine.stats(id);
        if (!stats) {
            // The end of the container is the end of its events.
            const auto now = call.engine.state(id);
            if (!flags.has("stats") && now && now->status == pod::ContainerStatus::Stopped)
                return 0;
            return base::Failure(stats.error());
        }
        TRY(print(pod::to_text(Json{{"type", "stats"}, {"id", id}, {"data", stats_json(*stats)}}) +
                  "\n"));
        if (flags.has("stats"))
            return 0;
        std::this_thread::sleep_for(interval);
    }
}

} // namespace joey::runtime
