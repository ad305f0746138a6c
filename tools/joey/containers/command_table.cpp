// Every command for people, with its options: what parsing, help, completion and the manual go by.
#include <algorithm>
#include <array>

#include "tools/joey/containers/commands.hpp"

namespace joey::containers {

namespace {

// clang-format off
constexpr auto nothing = Takes::Nothing;
constexpr auto value = Takes::Value;
constexpr auto values = Takes::Values;

constexpr Option run_options[] = {
    {"add-host", '\0', values, "NAME:ADDRESS", "a line for /etc/hosts; host-gateway: this machine's address"},
    {"annotation", '\0', values, "NAME=VALUE", "an annotation of its OCI configuration"},
    {"attach", 'a', values, "STREAM", "attach to stdin, stdout or stderr only", Offer::Words, "stdin stdout stderr"},
    {"blkio-weight", '\0', value, "N", "weight of its VM for this machine's block devices, 10 to 1000"},
    {"blkio-weight-device", '\0', values, "PATH:N", "the same for one of them, such as /dev/sda:200"},
    {"cap-add", '\0', values, "CAP", "grant a capability, or ALL"},
    {"cap-drop", '\0', values, "CAP", "take a capability away, or ALL"},
    {"cgroup-parent", '\0', value, "GROUP", "control group of this machine that its VM goes below; default: /joey"},
    {"cgroupns", '\0', value, "KIND", "private", Offer::Words, "private"},
    {"cidfile", '\0', value, "FILE", "write the ID to a new file", Offer::Files},
    {"cpu-period", '\0', value, "MICROSECONDS", "of the limit of CPU time"},
    {"cpu-quota", '\0', value, "MICROSECONDS", "CPU time in a period"},
    {"cpu-shares", 'c', value, "N", "weight among containers of one pod"},
    {"cpus", '\0', value, "N", "limit of CPU time, such as 1.5"},
    {"cpuset-cpus", '\0', value, "LIST", "CPUs of the VM to run on, such as 0-1"},
    {"cpuset-mems", '\0', value, "LIST", "memory nodes of the VM"},
    {"detach", 'd', nothing, "", "leave it in the background, and print its ID"},
    {"detach-keys", '\0', value, "KEYS", "keys that detach; default: ctrl-p,ctrl-q"},
    {"device", '\0', values, "PATH[:PATH[:rwm]]", "a device that the guest's kernel has, such as /dev/fuse"},
    {"device-cgroup-rule", '\0', values, "RULE", "refused: the devices that there are, the guest's kernel has; see --device"},
    {"device-read-bps", '\0', values, "PATH:RATE", "bytes a second that its VM reads of a block device of this machine, such as /dev/sda:10mb"},
    {"device-read-iops", '\0', values, "PATH:RATE", "requests a second that its VM reads of it"},
    {"device-write-bps", '\0', values, "PATH:RATE", "bytes a second that its VM writes to it"},
    {"device-write-iops", '\0', values, "PATH:RATE", "requests a second that its VM writes to it"},
    {"disable-content-trust", '\0', nothing, "on", "accepted: nothing is pulled"},
    {"dns", '\0', values, "ADDRESS", "a name server of its own"},
    {"dns-option", '\0', values, "OPTION", "options in /etc/resolv.conf", Offer::Nothing, "", "dns-opt"},
    {"dns-search", '\0', values, "DOMAIN", "domains that names are looked for in"},
    {"domainname", '\0', value, "NAME", "its NIS domain name"},
    {"entrypoint", '\0', value, "PROGRAM", "instead of the image's"},
    {"env", 'e', values, "NAME[=VALUE]", "a variable; without a value, the caller's"},
    {"env-file", '\0', values, "FILE", "variables from a file", Offer::Files},
    {"expose", '\0', values, "PORT", "say that a port is listened on"},
    {"gpus", '\0', value, "WHICH", "refused: devices of this machine are not in the VM"},
    {"group-add", '\0', values, "GROUP", "one more group of its user, by name in the image or by number"},
    {"health-cmd", '\0', value, "LINE", "a shell line that checks whether it does its work"},
    {"health-interval", '\0', value, "TIME", "time between checks; default: 30s"},
    {"health-retries", '\0', value, "N", "failures in a row that make it unhealthy; default: 3"},
    {"health-start-interval", '\0', value, "TIME", "time between checks in the start period; default: 5s"},
    {"health-start-period", '\0', value, "TIME", "time in which failures do not count"},
    {"health-timeout", '\0', value, "TIME", "longest time of a check; default: 30s"},
    {"hostname", 'h', value, "NAME", "its host name; default: its ID"},
    {"init", '\0', nothing, "", "a first process that reaps and passes signals on"},
    {"interactive", 'i', nothing, "", "keep stdin open"},
    {"ip", '\0', value, "ADDRESS", "refused: the network gives its address"},
    {"ip6", '\0', value, "ADDRESS", "refused, too"},
    {"ipc", '\0', value, "KIND", "private, or container:NAME"},
    {"isolation", '\0', value, "KIND", "default: each is in a VM", Offer::Words, "default"},
    {"kernel-memory", '\0', value, "SIZE", "accepted: control groups version 2 do not have it"},
    {"label", 'l', values, "NAME[=VALUE]", "a label"},
    {"label-file", '\0', values, "FILE", "labels from a file", Offer::Files},
    {"link", '\0', values, "CONTAINER", "refused: containers of one --pod reach each other by localhost"},
    {"link-local-ip", '\0', values, "ADDRESS", "refused: the network gives its address"},
    {"log-driver", '\0', value, "DRIVER", "json-file or none", Offer::Words, "json-file none"},
    {"log-opt", '\0', values, "NAME=VALUE", "max-size (default: 64m) and max-file (default: 2) of its log"},
    {"mac-address", '\0', value, "MAC", "of the VM's network interface"},
    {"memory", 'm', value, "SIZE", "limit of memory, such as 512m"},
    {"memory-reservation", '\0', value, "SIZE", "memory that is not taken from it while there is other"},
    {"memory-swap", '\0', value, "SIZE", "memory and swap together; the VM has no swap"},
    {"memory-swappiness", '\0', value, "N", "accepted: the VM has no swap"},
    {"mount", '\0', values, "SPEC", "type=bind|volume|tmpfs,source=...,target=...[,readonly]"},
    {"name", '\0', value, "NAME", "its name; default: one is made up"},
    {"net", '\0', value, "KIND", "user (the default), none, or container:NAME", Offer::Words, "user none"},
    {"network", '\0', value, "KIND", "the same as --net", Offer::Words, "user none"},
    {"network-alias", '\0', values, "NAME", "refused: containers of one --pod reach each other by localhost"},
    {"no-healthcheck", '\0', nothing, "", "without the image's check"},
    {"oom-kill-disable", '\0', nothing, "", "accepted: control groups version 2 do not have it"},
    {"oom-score-adj", '\0', value, "N", "who is ended first when memory is short"},
    {"pid", '\0', value, "KIND", "private, or container:NAME"},
    {"pids-limit", '\0', value, "N", "limit of processes and threads"},
    {"platform", '\0', value, "PLATFORM", "linux/amd64", Offer::Words, "linux/amd64"},
    {"pod", '\0', value, "NAME", "share a VM and its network with the containers of that pod"},
    {"privilege", '\0', value, "MODE", "where the guest's kernel runs: auto, ring0, ring3", Offer::Words, "auto ring0 ring3"},
    {"privileged", '\0', nothing, "", "all capabilities, no filter of system calls, nothing masked"},
    {"publish", 'p', values, "[[ADDRESS:]PORT:]PORT[/udp]", "a port of this machine leads to one of the container"},
    {"publish-all", 'P', nothing, "", "free ports lead to all exposed ones"},
    {"pull", '\0', value, "WHEN", "missing or never: images are not pulled", Offer::Words, "missing never"},
    {"quiet", 'q', nothing, "", "accepted: nothing is pulled"},
    {"read-only", '\0', nothing, "", "a root directory that cannot be written to"},
    {"restart", '\0', value, "POLICY", "no, on-failure[:N], always, unless-stopped", Offer::Words, "no on-failure always unless-stopped"},
    {"rm", '\0', nothing, "", "remove it when it ends"},
    {"rootfs", '\0', value, "DIR", "this directory is the root, not an image's", Offer::Files},
    {"runtime", '\0', value, "RUNTIME", "joey", Offer::Words, "joey"},
    {"security-opt", '\0', values, "OPTION", "seccomp=FILE, seccomp=unconfined, systempaths=unconfined, no-new-privileges"},
    {"shm-size", '\0', value, "SIZE", "of /dev/shm; default: 64m"},
    {"sig-proxy", '\0', nothing, "on", "pass signals on to it; on by default"},
    {"stop-signal", '\0', value, "SIGNAL", "what asks it to end"},
    {"stop-timeout", '\0', value, "SECONDS", "time it has to end; default: 10"},
    {"storage-opt", '\0', values, "NAME=VALUE", "refused: a container's files take what this machine's file system has"},
    {"sysctl", '\0', values, "NAME=VALUE", "a kernel parameter"},
    {"tmpfs", '\0', values, "DIR[:OPTIONS]", "memory mounted there"},
    {"tty", 't', nothing, "", "give it a terminal"},
    {"ulimit", '\0', values, "NAME=SOFT[:HARD]", "a resource limit, such as nofile=1024"},
    {"user", 'u', value, "USER[:GROUP]", "by name in the image, or by number"},
    {"userns", '\0', value, "KIND", "private or host, which is the VM's", Offer::Words, "private host"},
    {"uts", '\0', value, "KIND", "private", Offer::Words, "private"},
    {"vm-cpus", '\0', value, "N", "virtual CPUs of its VM"},
    {"vm-memory", '\0', value, "SIZE", "memory of its VM"},
    {"volume", 'v', values, "[SOURCE:]DIR[:ro]", "a directory of this machine, or a volume by name"},
    {"volume-driver", '\0', value, "DRIVER", "local", Offer::Words, "local"},
    {"volumes-from", '\0', values, "CONTAINER[:ro]", "all volumes of another container"},
    {"workdir", 'w', value, "DIR", "where it runs"},
};
constexpr Option update_options[] = {
    {"cpu-period", '\0', value, "MICROSECONDS", "of the limit of CPU time"},
    {"cpu-quota", '\0', value, "MICROSECONDS", "CPU time in a period"},
    {"cpu-shares", 'c', value, "N", "weight among containers of one pod"},
    {"cpus", '\0', value, "N", "limit of CPU time, such as 1.5"},
    {"cpuset-cpus", '\0', value, "LIST", "CPUs of the VM to run on, such as 0-1"},
    {"cpuset-mems", '\0', value, "LIST", "memory nodes of the VM"},
    {"memory", 'm', value, "SIZE", "limit of memory; while it runs, no more than its VM has"},
    {"memory-reservation", '\0', value, "SIZE", "memory that is not taken from it while there is other"},
    {"memory-swap", '\0', value, "SIZE", "memory and swap together; the VM has no swap"},
    {"pids-limit", '\0', value, "N", "limit of processes and threads; -1: none"},
    {"restart", '\0', value, "POLICY", "no, on-failure[:N], always, unless-stopped", Offer::Words, "no on-failure always unless-stopped"},
};
constexpr Option keys = {"detach-keys", '\0', value, "KEYS", "keys that detach; default: ctrl-p,ctrl-q"};
constexpr Option start_options[] = {
    {"attach", 'a', nothing, "", "show its output, and end with its status"},
    keys,
    {"interactive", 'i', nothing, "", "attach to its stdin too"},
};
constexpr Option attach_options[] = {
    keys,
    {"no-stdin", '\0', nothing, "", "only watch"},
    {"sig-proxy", '\0', nothing, "on", "pass signals on to it; on by default"},
};
constexpr Option exec_options[] = {
    {"detach", 'd', nothing, "", "leave it in the background"},
    keys,
    {"env", 'e', values, "NAME[=VALUE]", "a variable; without a value, the caller's"},
    {"env-file", '\0', values, "FILE", "variables from a file", Offer::Files},
    {"interactive", 'i', nothing, "", "keep stdin open"},
    {"privileged", '\0', nothing, "", "with all capabilities"},
    {"tty", 't', nothing, "", "give it a terminal"},
    {"user", 'u', value, "USER[:GROUP]", "by name in the container, or by number"},
    {"workdir", 'w', value, "DIR", "where it runs"},
};
constexpr Option filter = {"filter", 'f', values, "NAME=VALUE", "only what fits"};
constexpr Option format = {"format", '\0', value, "FORMAT", "table or json", Offer::Words, "table json"};
constexpr Option ps_options[] = {
    {"all", 'a', nothing, "", "those that do not run, too"},
    filter,
    {"format", '\0', value, "FORMAT", "table, json, or a template such as {{.Names}}", Offer::Words, "table json"},
    {"last", 'n', value, "N", "the last N that were made"},
    {"latest", 'l', nothing, "", "the last one that was made"},
    {"no-trunc", '\0', nothing, "", "whole IDs and commands"},
    {"quiet", 'q', nothing, "", "IDs only"},
    {"size", 's', nothing, "", "what each has written, and that with its image"},
};
constexpr Option logs_options[] = {
    {"agent", '\0', nothing, "", "of its VM, what the agent that manages containers says"},
    {"details", '\0', nothing, "", "accepted: lines have no labels and variables with them"},
    {"follow", 'f', nothing, "", "go on as it writes"},
    {"format", '\0', value, "FORMAT", "of a VM's log: text or json", Offer::Words, "text json"},
    {"kernel", '\0', nothing, "", "of its VM, what the guest's kernel says"},
    {"level", '\0', value, "LEVEL", "of a VM's log, this and worse: error, warning, info, debug or trace", Offer::Words, "error warning info debug trace"},
    {"since", '\0', value, "TIME", "from then on: a date, or how long ago, such as 10m"},
    {"tail", 'n', value, "N", "the last N lines"},
    {"timestamps", 't', nothing, "", "when each line was written"},
    {"until", '\0', value, "TIME", "up to then"},
    {"vm", '\0', nothing, "", "of its VM, all: joey, the guest's kernel, the agent"},
};
constexpr Option stop_options[] = {
    {"signal", 's', value, "SIGNAL", "instead of its stop signal"},
    {"timeout", 't', value, "SECONDS", "before it is killed; -1: never", Offer::Nothing, "", "time"},
};
constexpr Option kill_options[] = {{"signal", 's', value, "SIGNAL", "default: KILL"}};
constexpr Option rm_options[] = {
    {"force", 'f', nothing, "", "kill it first, if it runs"},
    {"volumes", 'v', nothing, "", "volumes without a name, too; these always go with it"},
};
constexpr Option stats_options[] = {
    {"all", 'a', nothing, "", "those that do not run, too"},
    {"format", '\0', value, "FORMAT", "table, json, or a template such as {{.Name}} {{.CPUPerc}}", Offer::Words, "table json"},
    {"no-stream", '\0', nothing, "", "once"},
    {"no-trunc", '\0', nothing, "", "whole IDs"},
};
constexpr Option inspect_options[] = {
    {"format", 'f', value, "FORMAT", "json, or a template such as {{.State.Status}}"},
    {"size", 's', nothing, "", "what containers have written, too"},
    {"type", '\0', value, "TYPE", "container, image or volume, instead of whichever has the name", Offer::Words, "container image volume"},
};
constexpr Option events_options[] = {
    filter,
    {"format", '\0', value, "FORMAT", "json: one object a line; or a template such as {{.Action}} {{.Actor.ID}}", Offer::Words, "json"},
    {"since", '\0', value, "TIME", "from then on"},
    {"until", '\0', value, "TIME", "up to then, and no longer"},
};
constexpr Option cp_options[] = {
    {"archive", 'a', nothing, "", "keep owners"},
    {"follow-link", 'L', nothing, "", "if the source is a symbolic link, what it leads to"},
    {"quiet", 'q', nothing, "", "accepted: nothing is said of the progress"},
};

constexpr Option commit_options[] = {
    {"author", 'a', value, "AUTHOR", "who made it"},
    {"change", 'c', values, "INSTRUCTION", "of a Dockerfile, done to the image: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR"},
    {"message", 'm', value, "TEXT", "what its history says of it"},
    {"pause", 'p', nothing, "on", "let the container stand still meanwhile; on by default"},
};
constexpr Option export_options[] = {{"output", 'o', value, "FILE", "write there; default: stdout", Offer::Files}};
constexpr Option prune_options[] = {
    {"filter", '\0', values, "NAME=VALUE", "only what fits: label=NAME[=VALUE], label!=NAME[=VALUE], until=TIME"},
    {"force", 'f', nothing, "", "without asking"},
};
constexpr Option system_prune_options[] = {
    {"all", 'a', nothing, "", "every image that no container uses"},
    {"force", 'f', nothing, "", "without asking"},
    {"volumes", '\0', nothing, "", "volumes without a chosen name that no container uses, too"},
};
constexpr Option df_options[] = {format};
constexpr Option info_options[] = {
    {"format", 'f', value, "FORMAT", "text, json, or a template such as {{.ServerVersion}}", Offer::Words, "text json"},
};
constexpr Option version_options[] = {
    {"format", 'f', value, "FORMAT", "text, json, or a template such as {{.Server.Version}}", Offer::Words, "text json"},
};
constexpr Option volume_list_options[] = {
    {"filter", 'f', values, "NAME=VALUE", "only what fits: dangling=true, label=NAME[=VALUE], name=PART, driver=local"},
    {"format", '\0', value, "FORMAT", "table, json, or a template such as {{.Name}}", Offer::Words, "table json"},
    {"quiet", 'q', nothing, "", "names only"},
};
constexpr Option volume_create_options[] = {
    {"driver", 'd', value, "DRIVER", "local", Offer::Words, "local"},
    {"label", '\0', values, "NAME[=VALUE]", "a label"},
    {"name", '\0', value, "NAME", "its name, as the argument"},
    {"opt", 'o', values, "NAME=VALUE", "refused: a volume is a directory of this machine"},
};
constexpr Option volume_inspect_options[] = {{"format", 'f', value, "FORMAT", "json, or a template such as {{.Mountpoint}}"}};
constexpr Option volume_remove_options[] = {{"force", 'f', nothing, "", "no error if there is none"}};
constexpr Option volume_prune_options[] = {
    {"all", 'a', nothing, "", "those with a chosen name, too"},
    {"filter", '\0', values, "NAME=VALUE", "only what fits: label=NAME[=VALUE], label!=NAME[=VALUE], all=true"},
    {"force", 'f', nothing, "", "without asking"},
};
constexpr auto containers = Offer::Containers;
constexpr unsigned many = ~0U;
constexpr Command commands[] = {
    {"run", "IMAGE [COMMAND] [ARG...]", "Make a container of an image (or --rootfs DIR), and run a command in it.", run_options, 0, many, true, Offer::Images, run},
    {"create", "IMAGE [COMMAND] [ARG...]", "Make a container as run does, and leave it to start.", run_options, 0, many, true, Offer::Images, create},
    {"start", "CONTAINER...", "Start containers that have ended.", start_options, 1, many, false, containers, start},
    {"attach", "CONTAINER", "Attach to the streams of a container that runs.", attach_options, 1, 1, false, containers, attach},
    {"exec", "CONTAINER COMMAND [ARG...]", "Run a command in a container that runs.", exec_options, 2, many, true, containers, exec},
    {"ps", "", "List containers.", ps_options, 0, 0, false, Offer::Nothing, ps},
    {"logs", "CONTAINER", "Print what a container has written, or what its VM says.", logs_options, 1, 1, false, containers, logs},
    {"stop", "CONTAINER...", "Ask containers to end, and kill those that do not.", stop_options, 1, many, false, containers, stop},
    {"restart", "CONTAINER...", "Stop containers, and start them again.", stop_options, 1, many, false, containers, restart},
    {"kill", "CONTAINER...", "Send containers a signal.", kill_options, 1, many, false, containers, kill},
    {"rm", "CONTAINER...", "Remove containers.", rm_options, 1, many, false, containers, remove},
    {"pause", "CONTAINER...", "Let containers stand still.", {}, 1, many, false, containers, pause},
    {"unpause", "CONTAINER...", "Let paused containers go on.", {}, 1, many, false, containers, unpause},
    {"resume", "CONTAINER...", "The same as unpause.", {}, 1, many, false, containers, unpause},
    {"wait", "CONTAINER...", "Wait until containers end, and print their statuses.", {}, 1, many, false, containers, wait},
    {"stats", "[CONTAINER...]", "Show what containers use.", stats_options, 0, many, false, containers, stats},
    {"top", "CONTAINER [PS-OPTIONS]", "List a container's processes.", {}, 1, many, true, containers, top},
    {"inspect", "CONTAINER|IMAGE|VOLUME...", "Print all that is known of containers, images and volumes, as JSON.", inspect_options, 1, many, false, containers, inspect},
    {"cp", "CONTAINER:PATH PATH|- or PATH|- CONTAINER:PATH", "Copy files between a container and this machine; -: a tar archive.", cp_options, 2, 2, false, Offer::Files, cp},
    {"events", "", "Print what happens to containers, as it happens.", events_options, 0, 0, false, Offer::Nothing, events},
    {"metrics", "[POD|CONTAINER...]", "Print what VMs and containers count, in Prometheus's text format.", {}, 0, many, false, containers, metrics},
    {"rename", "CONTAINER NAME", "Give a container another name.", {}, 2, 2, false, containers, rename},
    {"update", "CONTAINER...", "Change limits and the restart policy of containers, running or not.", update_options, 1, many, false, containers, update},
    {"port", "CONTAINER [PORT[/PROTOCOL]]", "List the ports of this machine that lead to a container.", {}, 1, 2, false, containers, port},
    {"diff", "CONTAINER", "List what a container has added (A), changed (C) and deleted (D) of its image's files.", {}, 1, 1, false, containers, diff},
    {"commit", "CONTAINER [NAME[:TAG]]", "Make an image of what a container has changed, upon its own image.", commit_options, 1, 2, false, containers, commit},
    {"export", "CONTAINER", "Write a container's root directory as a tar archive.", export_options, 1, 1, false, containers, export_container},
    {"prune", "", "Remove all containers that have ended.", prune_options, 0, 0, false, Offer::Nothing, prune},
    {"system-prune", "", "Remove containers that have ended and images without a name.", system_prune_options, 0, 0, false, Offer::Nothing, system_prune},
    {"df", "", "Show what images, containers and volumes take of the disk.", df_options, 0, 0, false, Offer::Nothing, disk_usage},
    {"info", "", "Show what is known of this machine and of joey on it.", info_options, 0, 0, false, Offer::Nothing, info},
    {"version", "", "Show joey's version.", version_options, 0, 0, false, Offer::Nothing, version},
    {"volume", "ls|create|inspect|rm|prune [OPTIONS] [NAME...]", "Look after volumes that have names.", {}, 1, many, true, Offer::Words, volume},
    {"volume-ls", "", "List volumes: joey volume ls.", volume_list_options, 0, 0, false, Offer::Nothing, volume_list},
    {"volume-create", "[NAME]", "Make a volume: joey volume create.", volume_create_options, 0, 1, false, Offer::Nothing, volume_create},
    {"volume-inspect", "NAME...", "Print what is known of volumes, as JSON: joey volume inspect.", volume_inspect_options, 1, many, false, Offer::Nothing, volume_inspect},
    {"volume-rm", "NAME...", "Remove volumes: joey volume rm.", volume_remove_options, 1, many, false, Offer::Nothing, volume_remove},
    {"volume-prune", "", "Remove volumes that no container uses: joey volume prune.", volume_prune_options, 0, 0, false, Offer::Nothing, volume_prune},
    {"completion", "bash|zsh|fish", "Print a script that teaches a shell these commands.", {}, 1, 1, false, Offer::Words, completion},
};
// clang-format on

} // namespace

std::span<const Command> all_commands() {
    return commands;
}

const Command* find_command(std::string_view name) {
    const auto* found = std::find_if(std::begin(commands), std::end(commands),
                                     [&](const Command& one) { return name == one.name; });
    return found == std::end(commands) ? nullptr : found;
}

} // namespace joey::containers
