// Pods as a whole: what there is of them, what they cost, and their end.
#include <algorithm>
#include <charconv>
#include <fcntl.h>
#include <unistd.h>

#include "agent/os/files.hpp"
#include "tools/pod/engine.hpp"

namespace pod {

namespace {

// Field `wanted` of /proc/PID/stat, counted as in proc(5); the second is in parentheses and may
// hold anything.
std::uint64_t stat_field(std::string_view stat, int wanted) {
    std::size_t at = stat.rfind(')');
    constexpr int in_parentheses = 2;
    for (int field = in_parentheses; field < wanted && at != std::string_view::npos; ++field)
        at = stat.find(' ', at + 1);
    std::uint64_t out = 0;
    if (at != std::string_view::npos && at + 1 < stat.size())
        std::from_chars(stat.data() + at + 1, stat.data() + stat.size(), out);
    return out;
}

} // namespace

os::Result<PodState> Engine::pod(const std::string& id) const {
    TRY(const Pod found, Pod::open(root_, id));
    PodState out{.id = id,
                 .vm = found.vm(),
                 .running = found.is_running(),
                 .log = found.directory() + "/log",
                 .containers = {}};
    for (const std::string& name : root_.containers()) {
        const auto record = ContainerRecord::load(root_, name);
        if (record && record->pod == id)
            out.containers.push_back(name);
    }
    return out;
}

std::vector<PodState> Engine::pods() const {
    std::vector<PodState> out;
    for (const std::string& id : root_.pods()) {
        if (auto one = pod(id))
            out.push_back(std::move(*one));
    }
    return out;
}

os::Result<VmStats> Engine::vm_stats(const std::string& id) const {
    TRY(const Pod found, Pod::open(root_, id));
    const std::string proc = os::text("/proc/", found.vm().pid);
    const auto stat = os::read_file(AT_FDCWD, (proc + "/stat").c_str());
    const auto statm = os::read_file(AT_FDCWD, (proc + "/statm").c_str());
    if (!stat || !statm || !found.is_running())
        return os::fail(os::Code::Unavailable, "the VM of pod ", id, " has ended");
    constexpr int user_field = 14;
    constexpr int system_field = 15;
    constexpr int threads_field = 20;
    const auto nanoseconds = [](std::uint64_t ticks) {
        return ticks * (1'000'000'000 / static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK)));
    };
    VmStats out;
    out.user_ns = nanoseconds(stat_field(*stat, user_field));
    out.system_ns = nanoseconds(stat_field(*stat, system_field));
    out.threads = stat_field(*stat, threads_field);
    std::uint64_t pages = 0;
    if (const std::size_t blank = statm->find(' '); blank != std::string::npos)
        std::from_chars(statm->data() + blank + 1, statm->data() + statm->size(), pages);
    out.memory = pages * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    return out;
}

os::Result<void> Engine::remove_pod(const std::string& id) {
    TRY(check_id(id));
    // The pod's own container last: its end is the VM's.
    std::vector<std::string> names = root_.containers();
    std::stable_partition(names.begin(), names.end(),
                          [&](const std::string& name) { return name != id; });
    os::Result<void> result;
    for (const std::string& name : names) {
        const auto record = ContainerRecord::load(root_, name);
        const auto begun = ContainerRecord::load_begun(root_, name);
        if ((record && record->pod == id) || (begun && begun->pod == id) || name == id) {
            auto removed = remove(name, true);
            if (!removed)
                result = base::Failure(removed.error());
        }
    }
    if (const auto left = Pod::open(root_, id))
        left->remove();
    return result;
}

os::Result<std::unique_ptr<AgentLink>> Engine::agent(const std::string& pod,
                                                     os::EventLoop& loop) const {
    TRY(const Pod found, Pod::open(root_, pod));
    return found.connect(loop);
}

} // namespace pod
