// metrics: what VMs and containers count, for Prometheus and its like.
#include <algorithm>

#include "tools/joey/containers/commands.hpp"
#include "tools/joey/metrics/exposition.hpp"

namespace joey::containers {

namespace {

constexpr auto counter = MetricKind::Counter;
constexpr auto gauge = MetricKind::Gauge;

struct Watched {
    std::string id;
    std::string name; // empty: an engine's
    std::string pod;
    pod::proto::StatsResponse stats;
};

// The pod that a word means: a container's, or one by its own name.
os::Result<std::string> pod_of_word(const Session& session, const std::string& word) {
    if (const auto container = session.registry.find(word))
        return container->pod.empty() ? container->id : container->pod;
    if (pod::check_id(word) && session.registry.engine().pod(word))
        return word;
    return os::fail(os::Code::NotFound, "metrics: no pod and no container is called ", word);
}

os::Result<std::vector<std::string>> wanted_pods(const Session& session,
                                                 const Arguments& arguments) {
    std::vector<std::string> out;
    for (const std::string& word : arguments.words()) {
        TRY(std::string one, pod_of_word(session, word));
        if (std::find(out.begin(), out.end(), one) == out.end())
            out.push_back(std::move(one));
    }
    if (!arguments.words().empty())
        return out;
    for (const pod::PodState& one : session.registry.engine().pods()) {
        if (one.running)
            out.push_back(one.id);
    }
    return out;
}

std::vector<Watched> containers_in(Session& session, const std::vector<std::string>& pods) {
    std::map<std::string, std::string> names;
    for (const Container& one : session.registry.list())
        names[one.id] = one.name;
    std::vector<Watched> out;
    for (const pod::ContainerState& one : session.registry.engine().list()) {
        const bool is_wanted = std::find(pods.begin(), pods.end(), one.record.pod) != pods.end();
        if (!is_wanted || one.status == pod::ContainerStatus::Stopped)
            continue;
        if (auto stats = session.registry.engine().stats(one.record.id))
            out.push_back({one.record.id, names[one.record.id], one.record.pod, std::move(*stats)});
    }
    return out;
}

template <typename Value>
void each(Exposition& out, const std::vector<Watched>& containers, const char* name,
          MetricKind kind, const char* help, Value value) {
    out.family(name, kind, help);
    for (const Watched& one : containers)
        out.sample({{"pod", one.pod}, {"container", one.id}, {"name", one.name}}, value(one.stats));
}

double seconds(std::uint64_t microseconds) {
    return static_cast<double>(microseconds) / 1e6;
}

void write_containers(Exposition& out, const std::vector<Watched>& containers) {
    using Stats = pod::proto::StatsResponse;
    each(out, containers, "joey_container_cpu_seconds_total", counter,
         "CPU time of a container, in its VM.",
         [](const Stats& stats) { return seconds(stats.cpu().usage_usec()); });
    each(out, containers, "joey_container_cpu_user_seconds_total", counter,
         "Of that, in its programs.",
         [](const Stats& stats) { return seconds(stats.cpu().user_usec()); });
    each(out, containers, "joey_container_cpu_throttled_seconds_total", counter,
         "For how long a container's limit of CPU time has held it.",
         [](const Stats& stats) { return seconds(stats.cpu().throttled_usec()); });
    each(out, containers, "joey_container_memory_bytes", gauge, "Memory that a container uses.",
         [](const Stats& stats) { return std::uint64_t{stats.memory().usage()}; });
    each(out, containers, "joey_container_oom_kills_total", counter,
         "Programs of a container that were ended for want of memory.", [](const Stats& stats) {
             const auto found = stats.memory().events().find("oom_kill");
             return found == stats.memory().events().end() ? std::uint64_t{0}
                                                           : std::uint64_t{found->second};
         });
    each(out, containers, "joey_container_pids", gauge, "Processes and threads of a container.",
         [](const Stats& stats) { return std::uint64_t{stats.pids().current()}; });
    out.family("joey_container_memory_limit_bytes", gauge, "A container's limit of memory.");
    for (const Watched& one : containers) {
        if (one.stats.memory().limit() != 0 && one.stats.memory().limit() != ~std::uint64_t{0})
            out.sample({{"pod", one.pod}, {"container", one.id}, {"name", one.name}},
                       std::uint64_t{one.stats.memory().limit()});
    }
    for (const auto& [field, direction] : {std::pair{"rbytes", "read"}, {"wbytes", "write"}}) {
        out.family("joey_container_io_bytes_total", counter, "Bytes of files, by direction.");
        for (const Watched& one : containers) {
            std::uint64_t sum = 0;
            for (const auto& device : one.stats.io()) {
                const auto found = device.counters().find(field);
                sum += found == device.counters().end() ? 0 : found->second;
            }
            out.sample({{"pod", one.pod},
                        {"container", one.id},
                        {"name", one.name},
                        {"direction", direction}},
                       sum);
        }
    }
}

} // namespace

os::Result<int> metrics(Session& session, const Arguments& arguments) {
    TRY(const std::vector<std::string> pods, wanted_pods(session, arguments));
    Exposition out;
    int status = 0;
    for (const std::string& one : pods) {
        const auto text = session.registry.engine().vm_metrics(one);
        if (text) {
            out.add(*text, "pod", one);
            continue;
        }
        complain(printable(text.error().message));
        status = 1;
    }
    write_containers(out, containers_in(session, pods));
    TRY(print(out.text()));
    return status;
}

} // namespace joey::containers
