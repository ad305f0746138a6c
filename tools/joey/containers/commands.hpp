// The commands for people. Their table is command_table.cpp; what each does is in files by theme.
#pragma once

#include <span>

#include "tools/joey/containers/prune_filters.hpp"
#include "tools/joey/containers/session.hpp"

namespace joey::containers {

std::span<const Command> all_commands();
const Command* find_command(std::string_view name);

// run_command.cpp
os::Result<int> run(Session& session, const Arguments& arguments);
os::Result<int> create(Session& session, const Arguments& arguments);
os::Result<int> start(Session& session, const Arguments& arguments);
os::Result<int> attach(Session& session, const Arguments& arguments);
// life_commands.cpp
os::Result<int> stop(Session& session, const Arguments& arguments);
os::Result<int> restart(Session& session, const Arguments& arguments);
os::Result<int> kill(Session& session, const Arguments& arguments);
os::Result<int> remove(Session& session, const Arguments& arguments);
os::Result<int> pause(Session& session, const Arguments& arguments);
os::Result<int> unpause(Session& session, const Arguments& arguments);
os::Result<int> wait(Session& session, const Arguments& arguments);
// exec_command.cpp
os::Result<int> exec(Session& session, const Arguments& arguments);
os::Result<int> top(Session& session, const Arguments& arguments);
// ps_command.cpp
os::Result<int> ps(Session& session, const Arguments& arguments);
// What a container has written, and what is in its image: bytes.
struct Sizes {
    std::uint64_t own = 0;
    std::uint64_t image = 0;
};
Sizes sizes_of(const Session& session, const Container& container);
// inspect_command.cpp
os::Result<int> inspect(Session& session, const Arguments& arguments);
// logs_command.cpp
os::Result<int> logs(Session& session, const Arguments& arguments);
os::Result<int> events(Session& session, const Arguments& arguments);
// stats_command.cpp
os::Result<int> stats(Session& session, const Arguments& arguments);
// With `force` whatever it does: killed first, if it runs.
os::Result<void> remove_container(Session& session, const Container& container, bool force);
// manage_commands.cpp
// Asks, as Docker does; without an answer, it is no.
bool may_go_on(const Arguments& arguments, std::string_view what);
// Bytes on disk; a file with several names counts once, at the last of them.
std::uint64_t disk_bytes(const std::string& path);
os::Result<int> rename(Session& session, const Arguments& arguments);
os::Result<int> port(Session& session, const Arguments& arguments);
os::Result<int> export_container(Session& session, const Arguments& arguments);
os::Result<int> prune(Session& session, const Arguments& arguments);
os::Result<int> system_prune(Session& session, const Arguments& arguments);
os::Result<int> disk_usage(Session& session, const Arguments& arguments);
os::Result<int> info(Session& session, const Arguments& arguments);
os::Result<int> version(Session& session, const Arguments& arguments);
// update_command.cpp
os::Result<int> update(Session& session, const Arguments& arguments);
// diff_command.cpp
os::Result<int> diff(Session& session, const Arguments& arguments);
// commit_command.cpp
os::Result<int> commit(Session& session, const Arguments& arguments);
// volume_commands.cpp
os::Result<int> volume(Session& session, const Arguments& arguments);
os::Result<int> volume_list(Session& session, const Arguments& arguments);
os::Result<int> volume_create(Session& session, const Arguments& arguments);
os::Result<int> volume_inspect(Session& session, const Arguments& arguments);
os::Result<int> volume_remove(Session& session, const Arguments& arguments);
os::Result<int> volume_prune(Session& session, const Arguments& arguments);
// Removes those that no container uses, `all` or those without a chosen name, and says which; the
// bytes that are free now.
os::Result<std::uint64_t> prune_volumes(const Session& session, bool all,
                                        const PruneFilters& filters);
os::Result<pod::Json> describe_volume(const Session& session, const std::string& name);
bool mounts_volume(const Container& container, const std::string& volume);
os::Result<void> remove_volume(const Session& session, const std::string& name);
// metrics_command.cpp
os::Result<int> metrics(Session& session, const Arguments& arguments);
// logs_command.cpp: what --since and --until say
struct Span {
    std::int64_t since = 0;
    std::int64_t until = INT64_MAX;
    bool has(std::int64_t time) const { return time >= since && time <= until; }
};
os::Result<Span> span_of(const Arguments& arguments);
// The last lines that are wanted: all, without --tail or with a negative number.
os::Result<std::size_t> tail_of(const Arguments& arguments);
// vm_log_command.cpp: `logs --vm`, `--kernel`, `--agent`
bool wants_vm_log(const Arguments& arguments);
os::Result<int> vm_log(Session& session, const Arguments& arguments);
// cp_command.cpp
os::Result<int> cp(Session& session, const Arguments& arguments);
// completion.cpp
os::Result<int> completion(Session& session, const Arguments& arguments);

// The root directory of a container, as the host sees it, running or not: without volumes.
struct OpenRoot {
    os::UniqueFd directory;
    // Of one that has ended, whose overlay is mounted here: nobody starts it, and with that mounts
    // the same layer a second time, before this goes.
    std::optional<pod::Lock> held;
};
os::Result<OpenRoot> open_root(Registry& registry, const Container& container);

} // namespace joey::containers
