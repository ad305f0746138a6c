// linux.resources, which the specification wrote for control groups version 1, as files of
// version 2.
#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include <linux/bpf.h>

#include "agent/spec/parts.hpp"

namespace spec {

namespace {

class Settings {
public:
    explicit Settings(Resources& out) : out_(out) {}
    void add(std::string file, std::string value, const JsonView& view) {
        out_.settings.push_back({std::move(file), std::move(value), view.path()});
    }
    void warn(const JsonView& view, const char* what) {
        out_.warnings.push_back(os::text(view.path(), ": ", what));
    }

    void add(const DeviceRule& rule) { out_.devices.push_back(rule); }
    void check_usage(bool wanted) { out_.check_usage = wanted; }

private:
    Resources& out_;
};

std::string limit_text(std::int64_t value) {
    return value < 0 ? "max" : std::to_string(value);
}

os::Result<std::optional<std::int64_t>> read_int(const JsonView& view, std::string_view name) {
    std::optional<std::int64_t> value;
    TRY(view.read(name, value));
    if (value && *value < -1) {
        TRY(const JsonView member, view.member(name));
        return member.wrong("must be -1 (no limit) or more");
    }
    return value;
}

os::Result<void> read_memory(const JsonView& memory, Settings& out) {
    TRY(const auto limit, read_int(memory, "limit"));
    TRY(const auto swap, read_int(memory, "swap"));
    TRY(const auto reservation, read_int(memory, "reservation"));
    TRY(const JsonView limit_view, memory.member("limit"));
    TRY(const JsonView swap_view, memory.member("swap"));
    TRY(const JsonView reservation_view, memory.member("reservation"));
    // 0 says nothing, as with runc: the Go structures cannot tell it from absent.
    if (limit.value_or(0) != 0)
        out.add("memory.max", limit_text(*limit), limit_view);
    // Memory without a limit takes that of swap along unless there is a word about it, as with
    // runc.
    if (limit.value_or(0) < 0 && swap.value_or(0) == 0)
        out.add("memory.swap.max", "max", limit_view);
    if (swap.value_or(0) != 0) {
        // Version 1 counts memory and swap together, version 2 swap alone.
        std::string value = limit_text(*swap);
        if (*swap > 0 && limit.value_or(0) >= 0) {
            if (limit.value_or(0) == 0)
                return swap_view.wrong("a limit of memory and swap needs one of memory");
            if (*swap < *limit)
                return swap_view.wrong("memory and swap together are less than memory alone");
            value = std::to_string(*swap - *limit);
        }
        out.add("memory.swap.max", value, swap_view);
    }
    if (reservation.value_or(0) != 0)
        out.add("memory.low", limit_text(*reservation), reservation_view);
    bool check = false;
    TRY(memory.read("checkBeforeUpdate", check));
    out.check_usage(check);
    // What version 2 has no word for is passed over, as runc does on such systems.
    for (const char* name : {"kernel", "kernelTCP", "swappiness", "disableOOMKiller"}) {
        TRY(const JsonView member, memory.member(name));
        if (member.exists())
            out.warn(member, "control groups version 2 do not have it");
    }
    return {};
}

os::Result<void> read_cpu_weight(const JsonView& cpu, Settings& out) {
    std::optional<std::uint64_t> shares;
    TRY(cpu.read("shares", shares));
    TRY(const JsonView view, cpu.member("shares"));
    if (shares.value_or(0) == 0)
        return {};
    if (*shares < 2 || *shares > 262144)
        return view.wrong("must lie between 2 and 262144");
    out.add("cpu.weight", std::to_string(1 + ((*shares - 2) * 9999) / 262142), view);
    return {};
}

os::Result<void> read_cpu_bandwidth(const JsonView& cpu, Settings& out) {
    std::optional<std::int64_t> quota;
    std::optional<std::uint64_t> period;
    std::optional<std::uint64_t> burst;
    TRY(cpu.read("quota", quota));
    TRY(cpu.read("period", period));
    TRY(cpu.read("burst", burst));
    TRY(const JsonView quota_view, cpu.member(quota ? "quota" : "period"));
    if (quota.value_or(0) != 0 || period.value_or(0) != 0) {
        const std::uint64_t every = period.value_or(0) != 0 ? *period : 100'000;
        const std::int64_t some = quota.value_or(0);
        // The kernel's own bounds, which it answers with EINVAL.
        if (every < 1000 || every > 1'000'000)
            return quota_view.wrong("the period must lie between 1000 and 1000000 microseconds");
        if (some > 0 && some < 1000)
            return quota_view.wrong("the quota must be 1000 microseconds or more");
        out.add("cpu.max", os::text(some > 0 ? std::to_string(some) : "max", " ", every),
                quota_view);
    }
    if (burst) {
        TRY(const JsonView view, cpu.member("burst"));
        out.add("cpu.max.burst", std::to_string(*burst), view);
    }
    return {};
}

os::Result<void> read_cpu(const JsonView& cpu, Settings& out) {
    TRY(read_cpu_weight(cpu, out));
    TRY(read_cpu_bandwidth(cpu, out));
    std::optional<std::int64_t> idle;
    TRY(cpu.read("idle", idle));
    if (idle) {
        TRY(const JsonView view, cpu.member("idle"));
        out.add("cpu.idle", std::to_string(*idle), view);
    }
    for (const auto& [name, file] :
         {std::pair("cpus", "cpuset.cpus"), std::pair("mems", "cpuset.mems")}) {
        std::string value;
        TRY(cpu.read(name, value));
        TRY(const JsonView view, cpu.member(name));
        if (!value.empty())
            out.add(file, value, view);
    }
    for (const char* name : {"realtimeRuntime", "realtimePeriod"}) {
        std::optional<std::int64_t> value;
        TRY(cpu.read(name, value));
        TRY(const JsonView view, cpu.member(name));
        if (value.value_or(0) != 0)
            return view.wrong("control groups version 2 do not have it");
    }
    return {};
}

os::Result<std::string> read_device_number(const JsonView& view) {
    std::uint32_t major = 0;
    std::uint32_t minor = 0;
    TRY(view.read("major", major));
    TRY(view.read("minor", minor));
    return os::text(major, ":", minor);
}

// The weights of block devices: 10 to 1000 in version 1, 1 to 10000 in version 2.
os::Result<std::string> convert_weight(const JsonView& view, std::uint32_t weight) {
    if (weight < 10 || weight > 1000)
        return view.wrong("must lie between 10 and 1000");
    return std::to_string(1 + (weight - 10) * 9999 / 990);
}

os::Result<void> read_io_weights(const JsonView& io, Settings& out) {
    std::uint32_t weight = 0;
    TRY(io.read("weight", weight));
    if (weight != 0) {
        TRY(const JsonView view, io.member("weight"));
        TRY(const std::string value, convert_weight(view, weight));
        out.add("io.weight", "default " + value, view);
    }
    TRY(const JsonView devices, io.member("weightDevice"));
    TRY(const std::vector<JsonView> device_items, devices.items());
    for (const JsonView& item : device_items) {
        std::uint32_t device_weight = 0;
        TRY(item.read("weight", device_weight));
        TRY(const std::string number, read_device_number(item));
        if (device_weight == 0)
            continue;
        TRY(const std::string value, convert_weight(item, device_weight));
        out.add("io.weight", os::text(number, " ", value), item);
    }
    return {};
}

os::Result<void> read_block_io(const JsonView& io, Settings& out) {
    TRY(read_io_weights(io, out));
    TRY(const JsonView leaf, io.member("leafWeight"));
    if (leaf.exists())
        out.warn(leaf, "control groups version 2 do not have it");
    constexpr std::array throttles = {std::pair("throttleReadBpsDevice", "rbps"),
                                      std::pair("throttleWriteBpsDevice", "wbps"),
                                      std::pair("throttleReadIOPSDevice", "riops"),
                                      std::pair("throttleWriteIOPSDevice", "wiops")};
    for (const auto& [name, key] : throttles) {
        TRY(const JsonView list, io.member(name));
        TRY(const std::vector<JsonView> items, list.items());
        for (const JsonView& item : items) {
            std::optional<std::uint64_t> rate;
            TRY(item.read("rate", rate));
            TRY(const std::string number, read_device_number(item));
            const std::string value = rate.value_or(0) == 0 ? "max" : std::to_string(*rate);
            out.add("io.max", os::text(number, " ", key, "=", value), item);
        }
    }
    return {};
}

os::Result<void> read_unified(const JsonView& resources, Settings& out) {
    std::map<std::string, std::string> unified;
    TRY(resources.read("unified", unified));
    TRY(const JsonView view, resources.member("unified"));
    for (const auto& [file, value] : unified) {
        // Only files of controllers: "cgroup.procs" and its like are the agent's own business.
        if (file.find('/') != std::string::npos || file.find('.') == std::string::npos ||
            file.starts_with(".") || file.starts_with("cgroup."))
            return view.wrong(quote(file), " is no file of a controller");
        // A line is a setting of its own (io.max, by device): the kernel takes one at a time.
        std::string_view rest = value;
        do {
            const std::string_view line = rest.substr(0, rest.find('\n'));
            rest.remove_prefix(std::min(line.size() + 1, rest.size()));
            out.add(file, std::string(line), view);
        } while (!rest.empty());
    }
    return {};
}

os::Result<void> read_pids(const JsonView& pids, Settings& out) {
    TRY(const auto limit, read_int(pids, "limit"));
    TRY(const JsonView limit_view, pids.member("limit"));
    if (limit.value_or(0) != 0)
        out.add("pids.max", limit_text(*limit), limit_view);
    return {};
}

// -1, which engines write too, is as absent.
os::Result<std::optional<std::uint32_t>> read_rule_number(const JsonView& rule,
                                                          std::string_view name) {
    std::optional<std::uint32_t> out;
    TRY(const JsonView member, rule.member(name));
    if (!member.exists())
        return out;
    TRY(const std::int64_t number, member.as_int(-1, std::numeric_limits<std::int32_t>::max()));
    if (number >= 0)
        out = static_cast<std::uint32_t>(number);
    return out;
}

os::Result<std::uint32_t> read_accesses(const JsonView& rule) {
    std::string text;
    TRY(rule.read("access", text));
    constexpr std::array<std::pair<char, std::uint32_t>, 3> letters = {
        {{'r', BPF_DEVCG_ACC_READ}, {'w', BPF_DEVCG_ACC_WRITE}, {'m', BPF_DEVCG_ACC_MKNOD}}};
    std::uint32_t out = 0;
    for (const char letter : text.empty() ? std::string("rwm") : text) {
        const auto* found = std::find_if(letters.begin(), letters.end(),
                                         [letter](const auto& it) { return it.first == letter; });
        if (found == letters.end()) {
            TRY(const JsonView member, rule.member("access"));
            return member.wrong(quote(text), " must be made of r, w and m");
        }
        out |= found->second;
    }
    return out;
}

constexpr std::size_t most_device_rules = 512; // far below what a program may have instructions for

os::Result<void> read_devices(const JsonView& devices, Settings& out) {
    TRY(const std::vector<JsonView> items, devices.items());
    if (items.size() > most_device_rules)
        return devices.wrong("more than ", most_device_rules, " rules");
    for (const JsonView& item : items) {
        DeviceRule rule;
        std::string type;
        TRY(item.read("allow", rule.allow));
        TRY(item.read("type", type));
        if (type.size() > 1 || (type.size() == 1 && !strchr("acb", type[0]))) {
            TRY(const JsonView member, item.member("type"));
            return member.wrong(quote(type), " must be \"a\", \"c\" or \"b\"");
        }
        rule.type = type.empty() ? 'a' : type[0];
        TRY(rule.major, read_rule_number(item, "major"));
        TRY(rule.minor, read_rule_number(item, "minor"));
        TRY(rule.accesses, read_accesses(item));
        out.add(rule);
    }
    return {};
}

os::Result<void> read_network(const JsonView& network, Settings& out) {
    if (network.exists())
        out.warn(network, "control groups version 2 do not have it");
    return {};
}

os::Result<void> refuse(const JsonView& member, Settings&) {
    if (!member.exists())
        return {};
    return member.wrong("is not supported: the kernel has no such controller");
}

// 0, which the kubelet writes for every size of page that the host has, is what there is.
os::Result<void> read_huge_pages(const JsonView& list, Settings& out) {
    TRY(const std::vector<JsonView> items, list.items());
    for (const JsonView& item : items) {
        std::optional<std::uint64_t> limit;
        TRY(item.read("limit", limit));
        if (limit.value_or(0) != 0)
            return refuse(list, out);
    }
    return {};
}

constexpr std::array<std::pair<const char*, os::Result<void> (*)(const JsonView&, Settings&)>, 8>
    parts = {{{"memory", read_memory},
              {"cpu", read_cpu},
              {"pids", read_pids},
              {"blockIO", read_block_io},
              {"devices", read_devices},
              {"network", read_network},
              {"hugepageLimits", read_huge_pages},
              {"rdma", refuse}}};

} // namespace

os::Result<Resources> read_resources(const JsonView& view) {
    Resources resources;
    Settings out(resources);
    for (const auto& [name, read] : parts) {
        TRY(const JsonView member, view.member(name));
        TRY(read(member, out));
    }
    // Last: what it names outranks what was converted.
    TRY(read_unified(view, out));
    return resources;
}

os::Result<Resources> parse_resources(std::string_view resources) {
    TRY(const JsonDocument document, JsonDocument::parse(resources, "linux.resources"));
    return read_resources(document.root());
}

} // namespace spec
