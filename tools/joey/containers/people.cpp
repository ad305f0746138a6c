#include "tools/joey/containers/people.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <unistd.h>

#include "tools/image/store.hpp"
#include "tools/joey/containers/commands.hpp"
#include "tools/joey/control_characters.hpp"
#include "tools/joey/outcome.hpp"

namespace joey::containers {

namespace {

constexpr const char* usual_root = "/run/joey";
constexpr const char* usual_data = "/var/lib/joey/containers";

struct Words {
    std::string root;
    std::string data;
    std::string store;
    std::vector<std::string> rest; // the command first
    bool all_known = true;
};

// Docker's names in two words: "container ls", "system df", "volume rm"; and "help run".
void shorten(std::vector<std::string>& rest) {
    if (rest.size() == 2 && rest[0] == "help" && find_command(rest[1]) != nullptr)
        rest = {rest[1], "--help"};
    constexpr std::array<std::string_view, 3> groups = {"container", "system", "volume"};
    if (rest.size() < 2 || std::find(groups.begin(), groups.end(), rest[0]) == groups.end())
        return;
    std::string name = rest[1] == "list" ? "ls" : rest[1] == "remove" ? "rm" : rest[1];
    // Of containers alone: images and volumes may have the name, too.
    if (rest[0] == "container" && name == "inspect")
        rest.insert(rest.begin() + 2, {"--type", "container"});
    if (rest[0] == "container" && name == "ls")
        name = "ps";
    else if (rest[0] == "volume" || (rest[0] == "system" && name == "prune"))
        name = rest[0] + "-" + name;
    if (find_command(name) == nullptr)
        return;
    rest.erase(rest.begin());
    rest.front() = std::move(name);
}

Words read_words(std::span<char* const> arguments) {
    Words out;
    std::size_t at = 0;
    for (; at < arguments.size(); ++at) {
        const std::string_view word = arguments[at];
        if (!word.starts_with("--"))
            break;
        const std::size_t equals = std::min(word.find('='), word.size());
        const std::string_view name = word.substr(2, equals - 2);
        std::string* value = name == "root"        ? &out.root
                             : name == "data-root" ? &out.data
                             : name == "store"     ? &out.store
                                                   : nullptr;
        if (value == nullptr) {
            out.all_known = false;
            return out;
        }
        if (equals < word.size())
            *value = word.substr(equals + 1);
        else if (at + 1 < arguments.size())
            *value = arguments[++at];
    }
    for (; at < arguments.size(); ++at)
        out.rest.emplace_back(arguments[at]);
    shorten(out.rest);
    return out;
}

std::string data_of(const Words& words) {
    if (!words.data.empty())
        return pod::absolute_path(words.data);
    return words.root.empty() ? usual_data : pod::absolute_path(words.root) + "/people";
}

std::string root_of(const Words& words) {
    return words.root.empty() ? usual_root : pod::absolute_path(words.root);
}

// Names that the runtime has too, and of these those that mean all containers without an argument.
constexpr std::array<std::string_view, 9> shared_names = {
    "exec", "kill", "pause", "resume", "events", "start", "ps", "create", "update"};
bool lists_without_argument(std::string_view name) {
    return name == "ps" || name == "events";
}

// Options that only the runtime has.
bool is_for_engines(const std::string& word) {
    constexpr std::array<std::string_view, 10> options = {
        "--pid-file", "--console-socket", "--process", "--preserve-fds", "--all", "--bundle", "-b",
        "--no-pivot", "--resources",      "-r"};
    return std::any_of(options.begin(), options.end(),
                       [&](std::string_view option) { return word.starts_with(option); });
}

// An engine's `create ID` takes its bundle from an option or from where it stands.
bool is_image(const Words& words, const std::vector<std::string>& rest,
              const os::Result<Arguments>& arguments) {
    if (std::any_of(rest.begin(), rest.end(), is_for_engines))
        return false;
    if (arguments && arguments->has("rootfs"))
        return !pod::exists("config.json");
    // With a mistake: only engines name a root.
    if (!arguments || arguments->words().empty())
        return words.root.empty() && !pod::exists("config.json");
    std::string path = words.store;
    if (path.empty()) {
        auto usual = image::Store::default_path();
        path = usual ? std::move(*usual) : std::string();
    }
    const auto store = image::Store::open(path);
    return (store && store->find(arguments->words().front())) || !pod::exists("config.json");
}

bool is_ours(const Words& words, const Command& command) {
    const std::vector<std::string> rest(words.rest.begin() + 1, words.rest.end());
    Command loose = command;
    loose.least = 0;
    loose.most = ~0U;
    const auto arguments = Arguments::parse(loose, rest);
    if (arguments && arguments->wants_help())
        return true;
    if (command.run == create)
        return is_image(words, rest, arguments);
    if (lists_without_argument(command.name))
        return arguments && arguments->words().empty();
    const bool is_default = words.root.empty();
    // The runtime's limits have more names.
    if (command.run == update && !rest.empty() && pod::check_id(rest.back()) &&
        pod::exists(pod::StateRoot(root_of(words)).container(rest.back())) &&
        !Registry(data_of(words), pod::StateRoot(root_of(words))).has(rest.back()))
        return false;
    // With a mistake, they are whose options they look like.
    if (!arguments || arguments->words().empty())
        return is_default && std::none_of(rest.begin(), rest.end(), is_for_engines);
    const pod::StateRoot root(root_of(words));
    const Registry registry(data_of(words), root);
    const std::string& container = arguments->words().front();
    if (registry.has(container))
        return true;
    return is_default && !(pod::check_id(container) && pod::exists(root.container(container)));
}

struct OfDocker {
    const char* name;
    const char* instead;
};
constexpr const char* no_registry =
    "there is no registry here: bring images by 'joey image import', "
    "from what 'docker save', 'podman save' or 'skopeo copy' wrote";
constexpr const char* no_builds = "images are not built here: by 'joey commit' or another program, "
                                  "and 'joey image import'";
constexpr const char* no_daemon = "there is no daemon that would have these";
constexpr std::array of_docker = {
    OfDocker{"pull", no_registry},
    OfDocker{"push", no_registry},
    OfDocker{"search", no_registry},
    OfDocker{"login", no_registry},
    OfDocker{"logout", no_registry},
    OfDocker{"manifest", no_registry},
    OfDocker{"build", no_builds},
    OfDocker{"builder", no_builds},
    OfDocker{"buildx", no_builds},
    OfDocker{"compose", "there is no compose; 'joey run --pod NAME' puts containers into one VM"},
    OfDocker{"network", "there are no networks to look after; see --net, --pod and --publish of "
                        "'joey run'"},
    OfDocker{"context", no_daemon},
    OfDocker{"plugin", no_daemon},
    OfDocker{"secret", no_daemon},
    OfDocker{"config", no_daemon},
    OfDocker{"service", no_daemon},
    OfDocker{"stack", no_daemon},
    OfDocker{"swarm", no_daemon},
    OfDocker{"node", no_daemon},
    OfDocker{"trust", no_registry}};

} // namespace

bool is_command(std::span<char* const> arguments) {
    const Words words = read_words(arguments);
    if (!words.all_known || words.rest.empty())
        return false;
    const Command* command = find_command(words.rest.front());
    if (command == nullptr)
        return false;
    // The runtime knows neither of these two: to it they would be an unknown command.
    const bool only_ours = !words.data.empty() || !words.store.empty();
    const bool shared = std::find(shared_names.begin(), shared_names.end(), words.rest.front()) !=
                        shared_names.end();
    return !shared || only_ours || is_ours(words, *command);
}

std::optional<std::string> why_refused(std::span<char* const> arguments) {
    const Words words = read_words(arguments);
    if (!words.all_known || words.rest.empty())
        return std::nullopt;
    const bool of_images = words.rest[0] == "image" && words.rest.size() > 1;
    const std::string& name = words.rest[of_images ? 1 : 0];
    const auto* const known = std::find_if(of_docker.begin(), of_docker.end(),
                                           [&](const OfDocker& one) { return name == one.name; });
    if (known == of_docker.end() ||
        (of_images && known->instead != no_registry && known->instead != no_builds))
        return std::nullopt;
    return os::text("'", of_images ? "image " : "", name, "': ", known->instead);
}

int run_command(std::span<char* const> arguments) {
    const Words words = read_words(arguments);
    // Requires: is_command(), so that it is there.
    const Command* command = find_command(words.rest.front());
    const auto parsed = Arguments::parse(
        *command, std::vector<std::string>(words.rest.begin() + 1, words.rest.end()));
    const bool runs = command->run == run || command->run == create;
    const auto failed = [&](const os::Error& error) {
        complain(printable(error.message));
        return runs ? exit_joey_failed : 1;
    };
    if (!parsed)
        return failed(parsed.error());
    if (parsed->wants_help()) {
        const auto shown = print(help_of(*command));
        return shown ? 0 : failed(shown.error());
    }
    if (::geteuid() != 0 && command->run != completion && command->run != version)
        return failed({os::Code::PermissionDenied,
                       os::text(command->name, ": containers need root's rights (mounts, network "
                                               "namespaces); 'joey do' needs none")});
    std::string store = words.store;
    if (store.empty()) {
        auto usual = image::Store::default_path();
        if (!usual)
            return failed(usual.error());
        store = std::move(*usual);
    }
    Session session{Registry(data_of(words), pod::StateRoot(root_of(words))),
                    pod::absolute_path(store)};
    const auto status = command->run(session, *parsed);
    return status ? *status : failed(status.error());
}

os::Result<int> print(std::string_view text) {
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
        return os::fail(os::Code::Internal, "cannot write to stdout");
    return 0;
}

void complain(std::string_view text) {
    const std::string line = os::text("joey: ", text, "\n");
    static_cast<void>(!::write(STDERR_FILENO, line.data(), line.size()));
}

std::string printable(std::string_view text) {
    std::string out = with_controls_as(text, ' ');
    while (out.ends_with(' '))
        out.pop_back();
    return out;
}

} // namespace joey::containers
