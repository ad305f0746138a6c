#include "tools/joey/containers/registry.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <ctime>
#include <fcntl.h>

#include <sys/file.h>
#include <sys/stat.h>

#include "agent/os/files.hpp"
#include "tools/image/beneath.hpp"
#include "tools/image/store.hpp"
#include "tools/joey/containers/pod_network.hpp"

namespace joey::containers {

namespace {

constexpr std::size_t most_bytes = 4U << 20;
constexpr off_t most_events = 4 << 20;

bool is_hexadecimal(std::string_view text) {
    return text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

} // namespace

std::vector<Container> Registry::list() const {
    std::vector<Container> out;
    for (const std::string& id : pod::names_in(data_)) {
        const std::string path = os::text(data_, "/", id, "/container.json");
        const auto text = os::read_file(AT_FDCWD, path.c_str(), most_bytes);
        // Without the file: one that is being made or removed just now.
        auto one = text ? Container::parse(*text, path) : os::fail(os::Code::NotFound, id);
        if (one && one->id == id)
            out.push_back(std::move(*one));
    }
    std::sort(out.begin(), out.end(),
              [](const Container& a, const Container& b) { return a.created > b.created; });
    return out;
}

os::Result<Container> Registry::find(const std::string& word) const {
    std::vector<Container> all = list();
    std::vector<Container*> fitting;
    for (Container& one : all) {
        if (one.id == word || one.name == word)
            return std::move(one);
        if (!word.empty() && is_hexadecimal(word) && one.id.starts_with(word))
            fitting.push_back(&one);
    }
    if (fitting.size() == 1)
        return std::move(*fitting.front());
    if (fitting.empty())
        return os::fail(os::Code::NotFound, "No such container: ", word.substr(0, 200));
    return os::fail(os::Code::InvalidArgument, "several containers begin with ", word,
                    "; give more of the ID");
}

// Another container has what was a volume of this one's own.
bool Registry::lends_volumes(const std::string& id) const {
    const std::string place = os::text(data_, "/", id, "/volumes/");
    const std::vector<Container> all = list();
    return std::any_of(all.begin(), all.end(), [&](const Container& one) {
        return one.id != id &&
               std::any_of(one.mounts.begin(), one.mounts.end(), [&](const pod::Json& mount) {
                   return pod::string_of(mount, "Source").starts_with(place);
               });
    });
}

// All that belongs to a container, but volumes that somebody else has: those go with what is left
// of removals, when nobody has them any more.
base::Result<void, int> Registry::remove_files(int data, const std::string& id) const {
    if (!lends_volumes(id))
        return image::remove_tree(data, id);
    const os::UniqueFd place(
        ::openat(data, id.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!place)
        return base::Failure(errno);
    TRY(const std::vector<std::string> names, image::list_names(place.get()));
    for (const std::string& name : names) {
        if (name != "volumes")
            TRY(image::remove_tree(place.get(), name));
    }
    return {};
}

// What somebody left who was killed while he removed a container, or made one. Requires: the lock
// of names, under which a container gets its record and loses it.
void Registry::remove_remains() const {
    const os::UniqueFd data(::open(data_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    for (const std::string& id : pod::names_in(data_)) {
        constexpr std::size_t length_of_id = 64;
        const std::string place = os::text(data_, "/", id);
        if (id.size() != length_of_id || !is_hexadecimal(id) ||
            pod::exists(place + "/container.json"))
            continue;
        // Held: somebody is just removing it.
        const os::UniqueFd lock(
            ::open((place + "/lock").c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
        if (!lock || ::flock(lock.get(), LOCK_EX | LOCK_NB) == 0)
            static_cast<void>(remove_files(data.get(), id).has_value());
    }
}

os::Result<void> Registry::add(Container& container) {
    TRY(pod::make_directories(data_));
    TRY(const pod::Lock held, pod::Lock::take(data_ + "/lock"));
    remove_remains();
    const std::vector<Container> all = list();
    const auto holder = [&all](const std::string& name) {
        return std::find_if(all.begin(), all.end(),
                            [&](const Container& one) { return one.name == name; });
    };
    if (!container.name.empty()) {
        TRY(check_name(container.name));
        if (const auto other = holder(container.name); other != all.end())
            return os::fail(os::Code::AlreadyExists, "the name '", container.name,
                            "' is already in use by container ", other->short_id(),
                            "; remove that with 'joey rm', or choose another name");
    } else {
        container.name = fresh_name();
        for (unsigned number = 2; holder(container.name) != all.end(); ++number)
            container.name = os::text(fresh_name(), "_", number);
    }
    const std::string place = directory(container);
    TRY(pod::make_directories(place + "/log"));
    store(container, {});
    // Last: with this file, there is the container. It is written once more when all of it is made.
    return write_record(container, false);
}

// One that is too long to be read again would hide the container from every command, also from
// those that end it; its labels are the image's to choose.
os::Result<void> Registry::write_record(const Container& container, bool lasts) const {
    const std::string text = container.to_text();
    if (text.size() > most_bytes)
        return os::fail(os::Code::ResourceExhausted, "container ", container.name,
                        ": its labels, ports, volumes and words are more than ", most_bytes,
                        " bytes, the image's included");
    const std::string path = directory(container) + "/container.json";
    return lasts ? pod::write_whole(path, text) : pod::write_quickly(path, text);
}

os::Result<void> Registry::rename(Container& container, const std::string& name) const {
    TRY(check_name(name));
    TRY(const pod::Lock held, pod::Lock::take(data_ + "/lock"));
    for (const Container& other : list()) {
        if (other.name == name && other.id != container.id)
            return os::fail(os::Code::AlreadyExists, "the name '", name,
                            "' is already in use by container ", other.short_id());
    }
    const std::string record = directory(container) + "/container.json";
    if (!pod::exists(record))
        return os::fail(os::Code::NotFound, "No such container: ", container.name);
    container.name = name;
    return write_record(container, true);
}

os::Result<void> Registry::drop(const Container& container) const {
    const os::UniqueFd data(::open(data_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!data)
        return os::fail_errno(errno, data_);
    {
        TRY(const pod::Lock held, pod::Lock::take(data_ + "/lock"));
        // First: without this file, there is no container, whatever becomes of the rest.
        const std::string record = directory(container) + "/container.json";
        if (::unlink(record.c_str()) != 0 && errno != ENOENT)
            return os::fail_errno(errno, record);
    }
    if (!container.image_id.empty()) {
        if (const auto store = image::Store::open(container.store))
            store->release(container.id);
    }
    if (!container.layer.empty() && !container.layer.starts_with(directory(container) + "/")) {
        const std::size_t slash = container.layer.rfind('/');
        const std::string folder = container.layer.substr(0, slash);
        const os::UniqueFd place(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (place)
            static_cast<void>(
                image::remove_tree(place.get(), container.layer.substr(slash + 1)).has_value());
    }
    const auto removed = remove_files(data.get(), container.id);
    if (!removed)
        return os::fail_errno(removed.error(), "remove ", directory(container));
    return {};
}

os::Result<pod::Lock> Registry::lock(const Container& container) const {
    if (!pod::exists(directory(container) + "/container.json"))
        return os::fail(os::Code::NotFound, "No such container: ", container.name);
    return pod::Lock::take(directory(container) + "/lock");
}

std::optional<Condition> Registry::read_condition(const Container& container) const {
    const std::string path = directory(container) + "/condition.json";
    const auto text = os::read_file(AT_FDCWD, path.c_str(), most_bytes);
    if (!text)
        return std::nullopt;
    auto condition = Condition::parse(*text, path);
    if (!condition)
        return std::nullopt;
    return std::move(*condition);
}

namespace {

bool is_lost(const Condition& condition) {
    return condition.is_live() && (condition.boot != boot_id() || !condition.monitor.is_alive());
}

} // namespace

Condition Registry::peek(const Container& container) const {
    Condition now = read_condition(container).value_or(Condition());
    if (is_lost(now))
        now.phase = Phase::Exited;
    return now;
}

Condition Registry::condition(const Container& container) {
    const auto known = read_condition(container);
    if (!known)
        return {};
    Condition now = *known;
    if (!now.is_live())
        return now;
    if (is_lost(now))
        return clear_away(container);
    if (now.phase == Phase::Running) {
        const auto state = engine_.state(container.id);
        if (state && state->status == pod::ContainerStatus::Paused)
            now.phase = Phase::Paused;
    }
    return now;
}

// Whoever killed the monitor left the container's VM behind, or it ended with the host.
Condition Registry::clear_away(const Container& container) {
    constexpr int killed = 137;
    const auto held = lock(container);
    auto now = read_condition(container);
    if (!now)
        return {};
    // Another may have been faster.
    if (!is_lost(*now))
        return *now;
    static_cast<void>(engine_.remove(container.id, true).has_value());
    now->phase = Phase::Exited;
    now->status = killed;
    now->error = "its monitor was killed";
    now->finished = pod::timestamp();
    now->health.status.clear();
    store(container, *now);
    note(container, "die", {{"exitCode", std::to_string(killed)}});
    // What its monitor would have done at the end.
    if (!container.pod.empty())
        leave_pod(*this, container);
    if (container.remove && !is_kept(container) && held) {
        note(container, "destroy");
        static_cast<void>(drop(container).has_value());
    }
    return *now;
}

void Registry::store(const Container& container, const Condition& condition) const {
    // If it cannot be written, the last one stands; the next change tries again. Only an end is to
    // outlive a crash of the machine: what ran then has ended all the same.
    const std::string path = directory(container) + "/condition.json";
    const bool lasts = condition.phase == Phase::Exited && !container.remove;
    const auto written = lasts ? pod::write_whole(path, condition.to_text())
                               : pod::write_quickly(path, condition.to_text());
    static_cast<void>(written.has_value());
}

namespace {

// A file that says it by being there.
void set_mark(const std::string& path, bool wanted) {
    if (wanted)
        os::UniqueFd(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    else
        ::unlink(path.c_str());
}

} // namespace

void Registry::set_stopped(const Container& container, bool stopped) const {
    set_mark(directory(container) + "/stop", stopped);
}

bool Registry::is_stopped(const Container& container) const {
    return pod::exists(directory(container) + "/stop");
}

void Registry::set_kept(const Container& container, bool kept) const {
    set_mark(directory(container) + "/keep", kept);
}

bool Registry::is_kept(const Container& container) const {
    return pod::exists(directory(container) + "/keep");
}

void Registry::note(const Container& container, std::string_view action,
                    const std::map<std::string, std::string>& attributes) const {
    pod::Json all = container.labels;
    for (const auto& [name, value] : attributes)
        all[name] = value;
    all["name"] = container.name;
    all["image"] = container.image;
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    const std::string line =
        pod::to_text(pod::Json{{"Type", "container"},
                               {"Action", action},
                               {"Actor", {{"ID", container.id}, {"Attributes", all}}},
                               {"time", now.tv_sec},
                               {"timeNano", now.tv_sec * 1'000'000'000 + now.tv_nsec}}) +
        "\n";
    const std::string path = data_ + "/events.jsonl";
    const os::UniqueFd file(
        ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!file || ::flock(file.get(), LOCK_EX) != 0)
        return;
    // One write: lines of several commands do not mix. Full, it begins again; one that is behind is
    // kept.
    struct stat about {};
    if (::fstat(file.get(), &about) == 0 && about.st_size > most_events)
        static_cast<void>(std::rename(path.c_str(), (path + ".1").c_str()));
    static_cast<void>(!::write(file.get(), line.data(), line.size()));
}

} // namespace joey::containers
