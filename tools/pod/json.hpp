// JSON on the host's side: configurations that others wrote and records that this program wrote
// itself, read without exceptions and without trust. A null counts as absent, as in Go.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "agent/os/error.hpp"

namespace pod {

using Json = nlohmann::json;

// InvalidArgument, with `what` in front, unless it is one object.
os::Result<Json> parse_object(std::string_view text, std::string_view what);
// As one line; bytes that are no UTF-8 are replaced.
std::string to_text(const Json& value);

// The member, or null if `value` is no object or has none such.
const Json* find(const Json& value, std::string_view name);
Json* find(Json& value, std::string_view name);
// What is absent, or of another type, is the default.
std::string string_of(const Json& value, std::string_view name);
bool bool_of(const Json& value, std::string_view name);
std::int64_t int_of(const Json& value, std::string_view name);
std::vector<std::string> strings_of(const Json& value, std::string_view name);
std::map<std::string, std::string> string_map_of(const Json& value, std::string_view name);

} // namespace pod
