// The parsers of the parts of a configuration, for each other and for tests.
#pragma once

#include "agent/spec/json_view.hpp"
#include "agent/spec/spec.hpp"

namespace spec {

os::Result<Process> read_process(const JsonView& view);
os::Result<Linux> read_linux(const JsonView& view);
os::Result<Resources> read_resources(const JsonView& view);
os::Result<Seccomp> read_seccomp(const JsonView& view);
os::Result<Hooks> read_hooks(const JsonView& view);
os::Result<std::vector<Mount>> read_mounts(const JsonView& view, const std::string& bundle);

// Options as runc knows them.
os::Result<MountOptions> parse_mount_options(const std::vector<std::string>& options,
                                             const std::string& name);

// What only the whole configuration shows.
os::Result<void> validate(const Spec& spec);

// Absolute, and nowhere "..": for places that the agent makes itself.
bool is_clean_absolute(std::string_view path);
// Absolute, without ".", ".." and empty parts.
std::string clean_path(std::string_view path);

} // namespace spec
