#include <charconv>
#include <limits>

#include "agent/service/agent.hpp"

namespace service {

namespace {

constexpr std::uint64_t no_limit = std::numeric_limits<std::uint64_t>::max();

std::uint64_t number(std::string_view text) {
    std::uint64_t value = 0;
    std::from_chars(text.data(), text.data() + text.size(), value);
    return value;
}

std::uint64_t limit(const std::string& text) {
    return text.empty() || text == "max" ? no_limit : number(text);
}

std::string_view next_word(std::string_view& rest, char end) {
    const std::string_view word = rest.substr(0, rest.find(end));
    rest.remove_prefix(std::min(word.size() + 1, rest.size()));
    return word;
}

// "8:0 rbytes=1 wbytes=2 ...", a line per device.
void read_io(std::string_view text, proto::StatsResponse& out) {
    while (!text.empty()) {
        std::string_view line = next_word(text, '\n');
        std::string_view device = next_word(line, ' ');
        if (device.find(':') == std::string_view::npos)
            continue;
        proto::IoStats& io = *out.add_io();
        io.set_major(static_cast<std::uint32_t>(number(next_word(device, ':'))));
        io.set_minor(static_cast<std::uint32_t>(number(device)));
        while (!line.empty()) {
            std::string_view pair = next_word(line, ' ');
            const std::string name(next_word(pair, '='));
            (*io.mutable_counters())[name] = number(pair);
        }
    }
}

} // namespace

proto::StatsResponse read_stats(const container::Cgroup& cgroup) {
    proto::StatsResponse out;
    out.set_taken_at(now());
    auto cpu = cgroup.read_pairs("cpu.stat");
    if (!cpu.empty()) {
        proto::CpuStats& stats = *out.mutable_cpu();
        stats.set_usage_usec(cpu["usage_usec"]);
        stats.set_user_usec(cpu["user_usec"]);
        stats.set_system_usec(cpu["system_usec"]);
        stats.set_periods(cpu["nr_periods"]);
        stats.set_throttled_periods(cpu["nr_throttled"]);
        stats.set_throttled_usec(cpu["throttled_usec"]);
    }
    if (const std::string usage = cgroup.read("memory.current"); !usage.empty()) {
        proto::MemoryStats& stats = *out.mutable_memory();
        stats.set_usage(number(usage));
        stats.set_limit(limit(cgroup.read("memory.max")));
        stats.set_swap_usage(number(cgroup.read("memory.swap.current")));
        stats.set_swap_limit(limit(cgroup.read("memory.swap.max")));
        for (const auto& [name, value] : cgroup.read_pairs("memory.stat"))
            (*stats.mutable_stat())[name] = value;
        for (const auto& [name, value] : cgroup.read_pairs("memory.events"))
            (*stats.mutable_events())[name] = value;
    }
    if (const std::string current = cgroup.read("pids.current"); !current.empty()) {
        out.mutable_pids()->set_current(number(current));
        out.mutable_pids()->set_limit(limit(cgroup.read("pids.max")));
    }
    read_io(cgroup.read("io.stat"), out);
    return out;
}

} // namespace service
