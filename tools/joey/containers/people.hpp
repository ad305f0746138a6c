// joey's commands for people: `joey [--root DIR] [--data-root DIR] [--store DIR] COMMAND ...`.
#pragma once

#include <span>

namespace joey::containers {

// Whether the words are for these commands. Some names are an OCI runtime's too: then it counts
// whose container is meant.
bool is_command(std::span<char* const> arguments);
// The exit status.
int run_command(std::span<char* const> arguments);

} // namespace joey::containers
