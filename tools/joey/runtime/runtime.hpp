// joey as an OCI runtime: `joey [GLOBAL OPTIONS] COMMAND [OPTIONS] [ARGUMENTS]`.
#pragma once

#include <span>
#include <string>

#include "tools/joey/runtime/flags.hpp"
#include "tools/joey/runtime/log.hpp"
#include "tools/pod/engine.hpp"

namespace joey::runtime {

// Whether the words are for these commands.
bool is_runtime_command(std::span<char* const> arguments);
// The exit status.
int run_command(std::span<char* const> arguments);

// What a command gets.
struct Invocation {
    std::string name;
    std::vector<std::string> words; // after the name
    pod::Engine& engine;
    const Log& log;
    std::string privilege; // --privilege; empty: as joey do chooses it
};
// The exit status; an error is logged, and is status 1.
using Command = os::Result<int> (*)(Invocation&);

os::Result<Flags> parse(const Invocation& call, std::span<const Flag> known);
// The container that the arguments name, which are no others.
os::Result<std::string> only_id(const Invocation& call, const Flags& flags);
// Of --preserve-fds.
os::Result<unsigned> preserved_count(const Flags& flags);
os::Result<void> print(const std::string& text);

// commands.cpp
os::Result<int> create(Invocation& call);
os::Result<int> start(Invocation& call);
os::Result<int> kill(Invocation& call);
os::Result<int> remove(Invocation& call);
os::Result<int> pause(Invocation& call);
os::Result<int> resume(Invocation& call);
os::Result<int> update(Invocation& call);
// processes.cpp
os::Result<int> exec(Invocation& call);
// output.cpp
os::Result<int> state(Invocation& call);
os::Result<int> list(Invocation& call);
os::Result<int> processes(Invocation& call);
os::Result<int> events(Invocation& call);
// documents.cpp
os::Result<int> spec(Invocation& call);
os::Result<int> features(Invocation& call);

} // namespace joey::runtime
