// A machine of the test's own, as far as the shim sees one: a mount namespace with an empty /run,
// in which what a shim leaves behind shows.
#pragma once

#include <string>
#include <vector>

#include <sys/types.h>

namespace shim_test {

inline constexpr const char* notes_folder = "/run/joey-test";

// Once per process. Whatever loses its parent becomes this process's child.
void enter_private_host();
// Of the calling process; children do not inherit it.
void adopt_orphans();
// The program that stands beside the test's own.
std::string program_beside(const char* name);
std::string content_of(const std::string& path);
void write_text(const std::string& path, const std::string& text);
std::vector<std::string> names_in(const std::string& directory);

// Runs the shim's program in the bundle, with no input. Its status; `output` is what it printed.
struct Call {
    std::vector<std::string> words;
    std::string bundle;
    std::string events; // TTRPC_ADDRESS
    unsigned hurry = 1;
};
pid_t begin_shim(const Call& call, int output);
int run_shim(const Call& call, std::string& output);

// Waits for the end of all children, and ends those that do not end. Their names.
std::vector<std::string> end_children();
// Mounts at or below the path.
bool is_mounted_below(const std::string& path);

} // namespace shim_test
