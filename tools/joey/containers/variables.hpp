// Variables and labels as people give them: on the command line, in files.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "tools/joey/containers/command_line.hpp"

namespace joey::containers {

// What lines of --env-file and --label-file say, by Docker's rules: NAME=VALUE, blanks before it
// and lines that begin with '#' apart. A name alone has the caller's value if `inherits`; what is
// without a value then is not there. `what`: the file, for messages.
os::Result<std::vector<std::string>> key_values(std::string_view text, const std::string& what,
                                                bool inherits);

// --env-file, then --env. A name alone has the caller's value; if the caller has none, it is left
// as it is, and means that the variable goes.
os::Result<std::vector<std::string>> read_variables(const Arguments& arguments);
// --label-file, then --label.
os::Result<std::map<std::string, std::string>> read_labels(const Arguments& arguments);

} // namespace joey::containers
