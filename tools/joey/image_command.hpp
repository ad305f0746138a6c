// `joey image ...`: the store of images, from the command line.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "tools/joey/outcome.hpp"

namespace joey {

// The words after `joey image`; the exit status.
Outcome<int> run_image_command(std::span<char* const> arguments);
// Those after `joey images`, which is `joey image ls`.
Outcome<int> run_images_command(std::span<char* const> arguments);

// Docker's names for some of them: load, import, save, tag, rmi, history. Nothing: the word is none
// of these.
std::optional<Outcome<int>> run_image_alias(std::span<char* const> arguments);

} // namespace joey
