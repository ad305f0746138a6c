// commit: an image of what a container has changed, upon its own image.
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <optional>
#include <unistd.h>
#include <utility>

#include <sys/socket.h>
#include <sys/wait.h>

#include "agent/os/files.hpp"
#include "tools/image/importer.hpp"
#include "tools/joey/containers/changes.hpp"
#include "tools/joey/containers/commands.hpp"

namespace joey::containers {

namespace {

using pod::Json;

// As long as it is there, the container stands still: its files are of one moment. A process of its
// own lets it stand still and go on again, when this one says so or has ended, however that was: a
// person who is tired of waiting leaves no container that stands still for ever.
class Pause {
public:
    static os::Result<Pause> of(Session& session, const Container& container, bool wanted) {
        const Phase phase = session.registry.condition(container).phase;
        if (!wanted || phase != Phase::Running)
            return Pause(-1, {});
        int ends[2] = {-1, -1};
        if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
            return os::fail_errno(errno, "socketpair");
        os::UniqueFd here(ends[0]);
        os::UniqueFd there(ends[1]);
        const pid_t child = ::fork();
        if (child < 0)
            return os::fail_errno(errno, "fork");
        if (child == 0) {
            here.reset();
            hold(session.registry.engine(), container.id, there.get());
        }
        there.reset();
        Pause out(child, std::move(here));
        TRY(out.await());
        return out;
    }
    Pause(Pause&& other) noexcept
        : child_(std::exchange(other.child_, -1)), socket_(std::move(other.socket_)) {}
    Pause& operator=(Pause&&) = delete;
    ~Pause() {
        socket_.reset();
        while (child_ > 0 && ::waitpid(child_, nullptr, 0) < 0 && errno == EINTR) {
        }
    }

private:
    Pause(pid_t child, os::UniqueFd socket) : child_(child), socket_(std::move(socket)) {}

    // The child. It answers "+", or "-" and what is wrong, and waits until the other end is closed:
    // nothing is ever sent to it.
    [[noreturn]] static void hold(pod::Engine& engine, const std::string& id, int socket) {
        sigset_t all;
        ::sigfillset(&all);
        ::sigprocmask(SIG_BLOCK, &all, nullptr);
        // A lock of the command is not kept by it.
        os::close_all_but({socket});
        const auto paused = engine.pause(id);
        const std::string wrong = paused ? std::string() : paused.error().message;
        const std::string answer = (paused ? "+" : "-") + wrong.substr(0, most_bytes - 1);
        static_cast<void>(::send(socket, answer.data(), answer.size(), MSG_NOSIGNAL));
        char nothing = 0;
        while (::recv(socket, &nothing, 1, 0) > 0) {
        }
        if (paused)
            static_cast<void>(engine.resume(id).has_value());
        ::_exit(0);
    }

    os::Result<void> await() const {
        std::string answer(most_bytes, '\0');
        ssize_t got = 0;
        do {
            got = ::recv(socket_.get(), answer.data(), answer.size(), 0);
        } while (got < 0 && errno == EINTR);
        answer.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
        if (answer == "+")
            return {};
        return os::fail(os::Code::FailedPrecondition, "pause: ",
                        answer.empty() ? "the process for it was killed" : answer.substr(1));
    }

    static constexpr std::size_t most_bytes = 4096;

    pid_t child_;
    os::UniqueFd socket_;
};

// Without a name: it is gone with this process.
os::Result<os::UniqueFd> nameless_file(const std::string& place) {
    os::UniqueFd file(::open(place.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    if (file)
        return file;
    if (errno != EOPNOTSUPP && errno != EISDIR)
        return os::fail_errno(errno, "a file for the layer in ", place);
    // Not every file system can, of those that layers are copied for neither.
    std::string path = place + "/layer-XXXXXX";
    file = os::UniqueFd(::mkostemp(path.data(), O_CLOEXEC));
    if (!file)
        return os::fail_errno(errno, "a file for the layer in ", place);
    ::unlink(path.c_str());
    return file;
}

// Beside the container.
os::Result<os::UniqueFd> layer_of(const Session& session, const Container& container) {
    const std::string place = session.registry.directory(container);
    TRY(os::UniqueFd file, nameless_file(place));
    TRY(const Changes changes, changes_of(container));
    TRY(write_layer(changes, file.get()));
    if (::lseek(file.get(), 0, SEEK_SET) != 0)
        return os::fail_errno(errno, "the layer");
    // Who removes a container takes its record first: with that, all that was read was there.
    if (!pod::exists(place + "/container.json"))
        return os::fail(os::Code::NotFound, "container ", container.name,
                        " was removed meanwhile: there is no image of it");
    return file;
}

// What the container was made with is what the new image says, as with Docker.
void set_config(const Container& container, Json& config) {
    for (const char* name : {"Cmd", "Entrypoint", "Env", "ExposedPorts", "StopSignal", "User",
                             "Volumes", "WorkingDir"}) {
        if (container.config.contains(name))
            config[name] = container.config[name];
    }
    if (!container.labels.empty())
        config["Labels"] = container.labels;
}

std::string joined(const Json& words) {
    std::string out;
    for (const Json& word : words.is_array() ? words : Json::array()) {
        if (word.is_string())
            out += (out.empty() ? "" : " ") + word.get<std::string>();
    }
    return out;
}

os::Result<std::string> config_of(const image::Store& store, const image::Image& base,
                                  const Container& container, const Arguments& arguments) {
    TRY(const std::string text, store.read_document(base.id));
    TRY(Json document, pod::parse_object(text, "the image's configuration"));
    Json& config = document["config"];
    if (!config.is_object())
        config = Json::object();
    set_config(container, config);
    TRY(apply_instructions(arguments.values("change"), config));
    const std::string now = pod::timestamp();
    Json step = {{"created", now}, {"created_by", joined(Json(container.command))}};
    if (arguments.has("author"))
        document["author"] = step["author"] = arguments.value("author");
    if (arguments.has("message"))
        step["comment"] = arguments.value("message");
    document["created"] = now;
    // Of the container that the base was made with, if anybody has written it down.
    document.erase("container");
    document.erase("container_config");
    if (!document["history"].is_array())
        document["history"] = Json::array();
    document["history"].push_back(std::move(step));
    return pod::to_text(document);
}

} // namespace

os::Result<int> commit(Session& session, const Arguments& arguments) {
    TRY(const Container container, session.registry.find(arguments.words()[0]));
    if (container.image_id.empty())
        return os::fail(os::Code::FailedPrecondition, "commit: container ", container.name,
                        " has a directory of this machine for its root, and no image; 'joey "
                        "export' and 'joey import' make one of it");
    std::vector<std::string> names(arguments.words().begin() + 1, arguments.words().end());
    for (const std::string& name : names) {
        TRY(image::Reference::parse(name));
    }
    TRY(const image::Store store, image::Store::open(container.store));
    TRY(const image::Image base, store.find(container.image_id));
    // Before the work: a mistake in it is told at once.
    TRY(const std::string config, config_of(store, base, container, arguments));
    os::UniqueFd layer;
    {
        // One that has ended neither starts nor goes meanwhile.
        std::optional<pod::Lock> lock;
        if (!session.registry.condition(container).is_live()) {
            TRY(lock, session.registry.lock(container));
        }
        TRY(const Pause held,
            Pause::of(session, container, arguments.value("pause", "true") == "true"));
        TRY(layer, layer_of(session, container));
    }
    TRY(const image::Imported made,
        image::add_layer(store, base, std::move(layer), config, std::move(names)));
    session.registry.note(container, "commit", {{"imageID", made.id.text()}});
    return print(made.id.text() + "\n");
}

} // namespace joey::containers
