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
using Labels = std::map<std::string, std::string>;

// --label-file, then --label.
os::Result<Labels> read_labels(const Arguments& arguments);
// `wanted`, of a filter: "NAME" or "NAME=VALUE".
bool has_label(const Labels& labels, const std::string& wanted);

} // namespace joey::containers
