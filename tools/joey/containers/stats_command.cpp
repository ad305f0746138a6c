// stats: what containers use.
#include <poll.h>

#include <fmt/format.h>

#include "tools/joey/containers/commands.hpp"
#include "tools/joey/containers/format_functions.hpp"
#include "tools/joey/containers/format_template.hpp"
#include "tools/joey/containers/log_file.hpp"
#include "tools/joey/containers/table.hpp"

namespace joey::containers {

namespace {

using pod::Json;

struct Sample {
    std::int64_t at = 0; // nanoseconds
    pod::proto::StatsResponse stats;
};

struct Usage {
    double cpu = 0; // percent of one CPU
    double memory = 0;
    std::uint64_t used = 0;
    std::uint64_t limit = 0;
    std::uint64_t read = 0;
    std::uint64_t written = 0;
    std::uint64_t pids = 0;
};

constexpr std::uint64_t unlimited = ~std::uint64_t{0};

Usage usage_of(const Sample& before, const Sample& now) {
    Usage out;
    const std::int64_t elapsed = now.at - before.at;
    const std::uint64_t from = before.stats.cpu().usage_usec();
    const std::uint64_t to = now.stats.cpu().usage_usec();
    constexpr double nanoseconds = 1000;
    if (elapsed > 0 && to >= from)
        out.cpu = static_cast<double>(to - from) * nanoseconds * 100 / static_cast<double>(elapsed);
    out.used = now.stats.memory().usage();
    // Without files that are only remembered, as Docker's.
    const auto cache = now.stats.memory().stat().find("inactive_file");
    if (cache != now.stats.memory().stat().end() && cache->second < out.used)
        out.used -= cache->second;
    out.limit = now.stats.memory().limit();
    if (out.limit != unlimited && out.limit != 0)
        out.memory = static_cast<double>(out.used) * 100 / static_cast<double>(out.limit);
    for (const auto& device : now.stats.io()) {
        const auto counter = [&](const char* name) {
            const auto found = device.counters().find(name);
            return found == device.counters().end() ? 0 : found->second;
        };
        out.read += counter("rbytes");
        out.written += counter("wbytes");
    }
    out.pids = now.stats.pids().current();
    return out;
}

std::string limit_text(std::uint64_t limit) {
    return limit == unlimited ? "none" : size_in_binary(limit);
}

os::Result<std::vector<Container>> wanted(Session& session, const Arguments& arguments) {
    std::vector<Container> out;
    for (const std::string& word : arguments.words()) {
        TRY(Container one, session.registry.find(word));
        out.push_back(std::move(one));
    }
    if (!arguments.words().empty())
        return out;
    for (Container& one : session.registry.list()) {
        if (arguments.has("all") || session.registry.condition(one).phase == Phase::Running)
            out.push_back(std::move(one));
    }
    return out;
}

std::vector<std::string> row_of(const Container& container, const Usage& usage, bool whole) {
    return {whole ? container.id : container.short_id(),
            container.name,
            fmt::format("{:.2f}%", usage.cpu),
            fmt::format("{} / {}", size_in_binary(usage.used), limit_text(usage.limit)),
            fmt::format("{:.2f}%", usage.memory),
            fmt::format("{} / {}", size_in_binary(usage.read), size_in_binary(usage.written)),
            std::to_string(usage.pids)};
}

constexpr const char* headings[] = {"CONTAINER ID", "NAME",      "CPU %", "MEM USAGE / LIMIT",
                                    "MEM %",        "BLOCK I/O", "PIDS"};
constexpr const char* keys[] = {"ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "BlockIO", "PIDs"};

Json named(const std::vector<std::string>& row) {
    Json out;
    for (std::size_t i = 0; i < row.size(); ++i)
        out[keys[i]] = row[i];
    return out;
}

// What Docker's users may ask for besides. A VM's network is its pod's, not a container's.
Json for_template(const std::vector<std::string>& row, const char* container, const char* network) {
    Json out = named(row);
    out["Container"] = container == nullptr ? row[1] : container;
    out["NetIO"] = network;
    return out;
}

os::Result<std::string> report(const std::vector<std::vector<std::string>>& rows,
                               const std::string& format) {
    if (is_json_format(format)) {
        std::string out;
        for (const auto& row : rows)
            out += pod::to_text(named(row)) + "\n";
        return out;
    }
    const std::vector<std::string> heading(std::begin(headings), std::end(headings));
    if (FormatTemplate::is_template(format)) {
        std::vector<Json> documents;
        documents.reserve(rows.size());
        for (const auto& row : rows)
            documents.push_back(for_template(row, nullptr, "-- / --"));
        return format_all(format, documents, for_template(heading, "CONTAINER", "NET I/O"));
    }
    std::vector<std::vector<std::string>> cells = {heading};
    cells.insert(cells.end(), rows.begin(), rows.end());
    return table(cells);
}

} // namespace

os::Result<int> stats(Session& session, const Arguments& arguments) {
    const std::string format = arguments.value("format", "table");
    const bool is_json = is_json_format(format);
    if (format != "table" && !is_json && !FormatTemplate::is_template(format))
        return os::fail(os::Code::InvalidArgument, "stats: --format ", format,
                        ": give table, json or a template such as {{.Name}} {{.CPUPerc}}");
    TRY(report({}, format)); // what is wrong with it is said at once
    const bool once = arguments.has("no-stream");
    constexpr int second = 1000;
    std::map<std::string, Sample> samples;
    for (unsigned round = 0;; ++round) {
        TRY(const std::vector<Container> containers, wanted(session, arguments));
        std::vector<std::vector<std::string>> rows;
        for (const Container& container : containers) {
            // Of all that run, one whose guest says nothing is not to keep the others' figures
            // back.
            const bool is_named = !arguments.words().empty();
            auto stats = is_named ? session.registry.engine().stats(container.id)
                                  : session.registry.engine().stats(
                                        container.id, pod::patience(std::chrono::seconds(2)));
            if (!stats && is_named)
                return os::fail(stats.error().code, container.name, ": ", stats.error().message);
            if (!stats && arguments.has("all"))
                rows.push_back(row_of(container, {}, arguments.has("no-trunc")));
            if (!stats)
                continue; // it has just ended
            const Sample now{now_nanoseconds(), std::move(*stats)};
            const auto before = samples.find(container.id);
            rows.push_back(row_of(container,
                                  usage_of(before == samples.end() ? now : before->second, now),
                                  arguments.has("no-trunc")));
            samples[container.id] = now;
        }
        // How fast the CPU is used shows with the second sample.
        if (round > 0) {
            const bool clears = !once && !is_json && ::isatty(STDOUT_FILENO) == 1;
            TRY(const std::string text, report(rows, format));
            TRY(print((clears ? "\x1b[2J\x1b[H" : "") + text));
        }
        if (round > 0 && once)
            return 0;
        ::poll(nullptr, 0, second);
    }
}

} // namespace joey::containers
