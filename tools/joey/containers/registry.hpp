// Registry: the containers of this machine for people, on disk.
//
//   DATA/lock              held while a name is taken or given up
//   DATA/events.jsonl      what happened
//   DATA/ID/               container.json  condition.json  config.json (the bundle's)  lock  stop
//   keep
//                          attach (a socket)  log/  layer/  root/  volumes/  hosts ...
//
// Locks: a container's `lock` is held by who starts or removes it; after it, DATA/lock for a
// moment.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "tools/joey/containers/container.hpp"
#include "tools/pod/engine.hpp"

namespace joey::containers {

class Registry {
public:
    Registry(std::string data, pod::StateRoot root)
        : data_(std::move(data)), engine_(std::move(root)) {}

    const std::string& path() const { return data_; }
    // Where volumes with names are: they live longer than containers, beside them.
    std::string volumes() const { return data_.substr(0, data_.rfind('/')) + "/volumes"; }
    // Shared by who makes a container, until it has a record; taken by who removes a volume.
    std::string volumes_lock() const { return volumes() + ".lock"; }
    pod::Engine& engine() { return engine_; }
    const pod::Engine& engine() const { return engine_; }
    std::string directory(const Container& container) const { return data_ + "/" + container.id; }

    std::vector<Container> list() const;
    // By ID, by name, by the beginning of an ID.
    os::Result<Container> find(const std::string& word) const;
    bool has(const std::string& word) const { return find(word).has_value(); }

    // Makes the container's directory, under a name that is free: a generated one if it has none.
    os::Result<void> add(Container& container);
    // What is known of it. `lasts`: it outlives a crash of the machine.
    os::Result<void> write_record(const Container& container, bool lasts) const;
    // A name that is free, instead of the one it has.
    os::Result<void> rename(Container& container, const std::string& name) const;
    // Its files; it must have ended. Nothing of the engine's. A volume of its own stays as long as
    // another container has it (--volumes-from).
    os::Result<void> drop(const Container& container) const;
    os::Result<pod::Lock> lock(const Container& container) const;

    // How it is doing. Of one whose monitor was killed, what is left is cleared away first.
    Condition condition(const Container& container);
    // The same, with nothing done about it: for who has the container's lock.
    Condition peek(const Container& container) const;
    void store(const Container& container, const Condition& condition) const;

    // Somebody wants it to end for good: no policy starts it again.
    void set_stopped(const Container& container, bool stopped) const;
    bool is_stopped(const Container& container) const;
    // It is started again after its end: --rm does not remove it before.
    void set_kept(const Container& container, bool kept) const;
    bool is_kept(const Container& container) const;

    // Adds a line to the events.
    void note(const Container& container, std::string_view action,
              const std::map<std::string, std::string>& attributes = {}) const;

private:
    std::optional<Condition> read_condition(const Container& container) const;
    Condition clear_away(const Container& container);
    void remove_remains() const;
    bool lends_volumes(const std::string& id) const;
    base::Result<void, int> remove_files(int data, const std::string& id) const;

    std::string data_;
    pod::Engine engine_;
};

} // namespace joey::containers
