// joey's commands for people: `joey [--root DIR] [--data-root DIR] [--store DIR] COMMAND ...`.
#pragma once

#include <optional>
#include <span>
#include <string>

namespace joey::containers {

// Whether the words are for these commands. Some names are an OCI runtime's too: then it counts
// whose container is meant.
bool is_command(std::span<char* const> arguments);
// Why a command that Docker has is none here, and what there is instead; nothing: it has none such.
std::optional<std::string> why_refused(std::span<char* const> arguments);
// The exit status.
int run_command(std::span<char* const> arguments);

} // namespace joey::containers
