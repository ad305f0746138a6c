// What a FormatTemplate computes with: the functions of Go's templates and Docker's, and how values
// are printed.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tools/pod/json.hpp"

namespace joey::containers {

os::Error format_error(std::string_view why);

// As Go prints a value.
std::string printed(const pod::Json& value, int depth = 0);
bool is_true(const pod::Json& value);
os::Result<pod::Json> call_function(const std::string& name, const std::vector<pod::Json>& given);
// Of a field with values behind it, as in {{.Label "key"}}: an object gives its member, or nothing;
// a heading, which has a string in the object's place, what a column of it is called.
os::Result<pod::Json> call_method(const std::string& name, const pod::Json& field,
                                  const std::vector<pod::Json>& given);
// Whether it asks for a whole document: "json", or the template that says the same.
bool is_json_format(std::string_view format);

} // namespace joey::containers
