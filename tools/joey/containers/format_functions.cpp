#include "tools/joey/containers/format_functions.hpp"

#include <algorithm>
#include <cctype>

namespace joey::containers {

using pod::Json;

os::Error format_error(std::string_view why) {
    return {os::Code::InvalidArgument, os::text("--format: ", why)};
}

namespace {

constexpr int deepest = 32;

os::Result<Json> index_of(const Json& value, const Json& key) {
    if (value.is_object() && key.is_string()) {
        const Json* found = pod::find(value, key.get<std::string>());
        return found != nullptr ? *found : Json("");
    }
    if (value.is_array() && key.is_number_integer() && key >= 0 && key < value.size())
        return value[key.get<std::size_t>()];
    return base::Failure(
        format_error(os::text("index ", pod::to_text(key), ": there is no such element")));
}

std::string changed(std::string text, int (*change)(int)) {
    std::transform(text.begin(), text.end(), text.begin(),
                   [change](unsigned char c) { return static_cast<char>(change(c)); });
    return text;
}

// Of a label whose value is a column: the last word of its name.
std::string heading_of_label(std::string name) {
    name.erase(0, name.rfind('.') + 1);
    std::replace_if(
        name.begin(), name.end(), [](char c) { return c == '-' || c == '_'; }, ' ');
    return name;
}

} // namespace

std::string printed(const Json& value, int depth) {
    if (value.is_string())
        return value.get<std::string>();
    if (value.is_null())
        return "<no value>";
    if (!value.is_structured() || depth > deepest)
        return pod::to_text(value);
    std::string out;
    for (const auto& [key, one] : value.items()) {
        out += out.empty() ? "" : " ";
        out += (value.is_object() ? key + ":" : "") + printed(one, depth + 1);
    }
    return value.is_object() ? "map[" + out + "]" : "[" + out + "]";
}

bool is_true(const Json& value) {
    if (value.is_string())
        return !value.get_ref<const std::string&>().empty();
    if (value.is_boolean())
        return value.get<bool>();
    return value.is_number() ? value != 0 : !value.empty();
}

os::Result<Json> call_function(const std::string& name, const std::vector<Json>& given) {
    const std::size_t count = given.size();
    const auto needs = [&](std::size_t least) { return count >= least; };
    if (name == "json" && count == 1)
        return Json(pod::to_text(given[0]));
    if (name == "len" && count == 1)
        return Json(given[0].is_string() ? printed(given[0]).size() : given[0].size());
    if (name == "index" && needs(1)) {
        Json out = given[0];
        for (std::size_t i = 1; i < count; ++i) {
            TRY(out, index_of(out, given[i]));
        }
        return out;
    }
    if (name == "join" && count == 2 && given[0].is_array()) {
        std::string out;
        for (std::size_t i = 0; i < given[0].size(); ++i)
            out += (i == 0 ? "" : printed(given[1])) + printed(given[0][i]);
        return Json(out);
    }
    if (name == "lower" && count == 1)
        return Json(changed(printed(given[0]), std::tolower));
    if (name == "upper" && count == 1)
        return Json(changed(printed(given[0]), std::toupper));
    if ((name == "print" || name == "println") && needs(1)) {
        std::string out;
        for (std::size_t i = 0; i < count; ++i)
            out += (i != 0 && name == "println" ? " " : "") + printed(given[i]);
        return Json(name == "println" ? out + "\n" : out);
    }
    if (name == "not" && count == 1)
        return Json(!is_true(given[0]));
    if (name == "eq" && needs(2)) // to any of the others
        return Json(std::find(given.begin() + 1, given.end(), given[0]) != given.end());
    if (name == "ne" && count == 2)
        return Json(given[0] != given[1]);
    return base::Failure(
        format_error(os::text("there is no function ", name, " of ", count, " values")));
}

os::Result<Json> call_method(const std::string& name, const Json& field,
                             const std::vector<Json>& given) {
    const bool one_name = given.size() == 1 && given[0].is_string();
    if (one_name && field.is_object())
        return index_of(field, given[0]);
    if (one_name && name == "Label" && field.is_string())
        return Json(heading_of_label(given[0].get<std::string>()));
    return base::Failure(
        format_error(os::text(name, " is no function of ", given.size(), " values")));
}

bool is_json_format(std::string_view format) {
    return format == "json" || format == "{{json .}}" || format == "{{ json . }}";
}

} // namespace joey::containers
