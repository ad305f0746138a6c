#include "tools/pod/json.hpp"

#include <cstdio>
#include <limits>

namespace pod {

os::Result<Json> parse_object(std::string_view text, std::string_view what) {
    // The parser descends for each bracket, and the stack is finite.
    constexpr int deepest = 200;
    bool too_deep = false;
    const auto watch = [&too_deep](int depth, Json::parse_event_t, Json&) {
        too_deep = too_deep || depth > deepest;
        return depth <= deepest;
    };
    Json value = Json::parse(text, watch, false);
    if (value.is_discarded() || too_deep)
        return os::fail(os::Code::InvalidArgument, what, ": is not valid JSON");
    if (!value.is_object())
        return os::fail(os::Code::InvalidArgument, what, ": is not a JSON object");
    return value;
}

std::string to_text(const Json& value) {
    std::string out = value.dump(-1, ' ', false, Json::error_handler_t::replace);
    // Of what drives a terminal the library writes DEL and C1 (U+0080 to U+009F) as they are; they
    // are in strings, where any character may be written by its number.
    for (std::size_t at = out.find_first_of("\x7f\xc2"); at != std::string::npos;
         at = out.find_first_of("\x7f\xc2", at + 1)) {
        const bool is_delete = out[at] == '\x7f';
        const unsigned code = static_cast<unsigned char>(out[is_delete ? at : at + 1]);
        if (!is_delete && code >= 0xa0)
            continue;
        char number[8];
        std::snprintf(number, sizeof number, "\\u%04x", code);
        out.replace(at, is_delete ? 1 : 2, number);
    }
    return out;
}

const Json* find(const Json& value, std::string_view name) {
    if (!value.is_object())
        return nullptr;
    const auto found = value.find(name);
    return found == value.end() || found->is_null() ? nullptr : &*found;
}

Json* find(Json& value, std::string_view name) {
    return const_cast<Json*>(find(std::as_const(value), name));
}

std::string string_of(const Json& value, std::string_view name) {
    const Json* found = find(value, name);
    return found != nullptr && found->is_string() ? found->get<std::string>() : std::string();
}

bool bool_of(const Json& value, std::string_view name) {
    const Json* found = find(value, name);
    return found != nullptr && found->is_boolean() && found->get<bool>();
}

std::int64_t int_of(const Json& value, std::string_view name) {
    const Json* found = find(value, name);
    if (found == nullptr || !found->is_number_integer())
        return 0;
    if (found->is_number_unsigned() &&
        found->get<std::uint64_t>() >
            static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
        return 0;
    return found->get<std::int64_t>();
}

std::vector<std::string> strings_of(const Json& value, std::string_view name) {
    std::vector<std::string> out;
    const Json* found = find(value, name);
    if (found == nullptr || !found->is_array())
        return out;
    for (const Json& item : *found) {
        if (item.is_string())
            out.push_back(item.get<std::string>());
    }
    return out;
}

std::map<std::string, std::string> string_map_of(const Json& value, std::string_view name) {
    std::map<std::string, std::string> out;
    const Json* found = find(value, name);
    if (found == nullptr || !found->is_object())
        return out;
    for (const auto& [key, item] : found->items()) {
        if (item.is_string())
            out[key] = item.get<std::string>();
    }
    return out;
}

} // namespace pod
