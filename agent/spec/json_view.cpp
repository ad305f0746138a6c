#include "agent/spec/json_view.hpp"

#include <limits>
#include <nlohmann/json.hpp>

namespace spec {

namespace {

using nlohmann::json;

// Takes nothing but the complaint: the parser proper says only that there is one.
class Complaint : public nlohmann::json_sax<json> {
public:
    bool null() override { return true; }
    bool boolean(bool) override { return true; }
    bool number_integer(number_integer_t) override { return true; }
    bool number_unsigned(number_unsigned_t) override { return true; }
    bool number_float(number_float_t, const string_t&) override { return true; }
    bool string(string_t&) override { return true; }
    bool binary(binary_t&) override { return true; }
    bool start_object(std::size_t) override { return true; }
    bool key(string_t&) override { return true; }
    bool end_object() override { return true; }
    bool start_array(std::size_t) override { return true; }
    bool end_array() override { return true; }
    bool parse_error(std::size_t position, const std::string&, const json::exception&) override {
        position_ = position;
        return false;
    }
    std::size_t position() const { return position_; }

private:
    std::size_t position_ = 0;
};

// Every level costs the parser memory, and no configuration has more than a dozen.
constexpr int max_depth = 64;

bool is_too_deep(std::string_view text) {
    int depth = 0;
    bool in_string = false;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (c == '"')
            in_string = !in_string;
        else if (in_string)
            i += c == '\\' ? 1 : 0;
        else if (c == '[' || c == '{')
            ++depth;
        else if (c == ']' || c == '}')
            --depth;
        if (depth > max_depth)
            return true;
    }
    return false;
}

} // namespace

os::Result<JsonDocument> JsonDocument::parse(std::string_view text, std::string path) {
    if (is_too_deep(text))
        return os::fail(os::Code::InvalidArgument, path.empty() ? "the document" : path,
                        ": is nested more than ", max_depth, " levels deep");
    auto value = std::make_unique<json>(json::parse(text, nullptr, false));
    if (!value->is_discarded())
        return JsonDocument(std::move(value), std::move(path));
    Complaint complaint;
    json::sax_parse(text, &complaint);
    return os::fail(os::Code::InvalidArgument, path.empty() ? "the document" : path,
                    ": no valid JSON at byte ", complaint.position());
}

JsonDocument::JsonDocument(std::unique_ptr<nlohmann::json> value, std::string path)
    : value_(std::move(value)), path_(std::move(path)) {}
JsonDocument::JsonDocument(JsonDocument&&) noexcept = default;
JsonDocument& JsonDocument::operator=(JsonDocument&&) noexcept = default;
JsonDocument::~JsonDocument() = default;

std::string JsonView::path_of(std::string_view name) const {
    return path_.empty() ? std::string(name) : os::text(path_, ".", name);
}

os::Result<JsonView> JsonView::member(std::string_view name) const {
    if (value_ == nullptr || value_->is_null())
        return JsonView(nullptr, path_of(name));
    if (!value_->is_object())
        return wrong("must be an object");
    const auto found = value_->find(name);
    const bool exists = found != value_->end() && !found->is_null();
    return JsonView(exists ? &*found : nullptr, path_of(name));
}

os::Result<std::vector<JsonView>> JsonView::items() const {
    std::vector<JsonView> out;
    if (value_ == nullptr || value_->is_null())
        return out;
    if (!value_->is_array())
        return wrong("must be an array");
    out.reserve(value_->size());
    for (const json& item : *value_)
        out.emplace_back(&item, os::text(path_, "[", out.size(), "]"));
    return out;
}

os::Result<std::map<std::string, JsonView>> JsonView::members() const {
    std::map<std::string, JsonView> out;
    if (value_ == nullptr || value_->is_null())
        return out;
    if (!value_->is_object())
        return wrong("must be an object");
    for (auto entry = value_->begin(); entry != value_->end(); ++entry) {
        if (entry.key().find('\0') != std::string::npos)
            return wrong("has a name with a NUL byte");
        out.emplace(entry.key(),
                    JsonView(&entry.value(), os::text(path_, "[", quote(entry.key()), "]")));
    }
    return out;
}

os::Result<std::string> JsonView::as_string() const {
    const auto* string = value_->get_ptr<const json::string_t*>();
    if (string == nullptr)
        return wrong("must be a string");
    if (string->find('\0') != std::string::npos)
        return wrong("must not contain a NUL byte");
    return *string;
}

os::Result<bool> JsonView::as_bool() const {
    const auto* value = value_->get_ptr<const json::boolean_t*>();
    if (value == nullptr)
        return wrong("must be true or false");
    return *value;
}

os::Result<std::int64_t> JsonView::as_int(std::int64_t least, std::int64_t most) const {
    if (!value_->is_number_integer())
        return wrong("must be an integer");
    // get_ptr() never converts; the unsigned kind holds what is positive.
    if (const auto* value = value_->get_ptr<const json::number_unsigned_t*>()) {
        if (*value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()) ||
            static_cast<std::int64_t>(*value) > most || static_cast<std::int64_t>(*value) < least)
            return wrong("must lie between ", least, " and ", most);
        return static_cast<std::int64_t>(*value);
    }
    const std::int64_t value = *value_->get_ptr<const json::number_integer_t*>();
    if (value < least || value > most)
        return wrong("must lie between ", least, " and ", most);
    return value;
}

os::Result<std::uint64_t> JsonView::as_unsigned() const {
    if (const auto* value = value_->get_ptr<const json::number_unsigned_t*>())
        return *value;
    return wrong("must be an integer and not negative");
}

os::Result<double> JsonView::as_double() const {
    if (const auto* value = value_->get_ptr<const json::number_float_t*>())
        return *value;
    if (!value_->is_number())
        return wrong("must be a number");
    if (const auto* value = value_->get_ptr<const json::number_unsigned_t*>())
        return static_cast<double>(*value);
    return static_cast<double>(*value_->get_ptr<const json::number_integer_t*>());
}

os::Result<void> JsonView::read(std::string_view name, std::string& out) const {
    TRY(const JsonView view, member(name));
    if (view.exists()) {
        TRY(out, view.as_string());
    }
    return {};
}

os::Result<void> JsonView::read(std::string_view name, bool& out) const {
    TRY(const JsonView view, member(name));
    if (view.exists()) {
        TRY(out, view.as_bool());
    }
    return {};
}

os::Result<void> JsonView::read(std::string_view name, std::optional<bool>& out) const {
    TRY(const JsonView view, member(name));
    if (view.exists()) {
        TRY(out, view.as_bool());
    }
    return {};
}

os::Result<void> JsonView::read(std::string_view name, std::uint32_t& out) const {
    std::optional<std::uint32_t> value;
    TRY(read(name, value));
    out = value.value_or(out);
    return {};
}

os::Result<void> JsonView::read(std::string_view name, std::optional<std::uint32_t>& out) const {
    TRY(const JsonView view, member(name));
    if (!view.exists())
        return {};
    TRY(const std::int64_t value, view.as_int(0, std::numeric_limits<std::uint32_t>::max()));
    out = static_cast<std::uint32_t>(value);
    return {};
}

os::Result<void> JsonView::read(std::string_view name, std::optional<std::int64_t>& out) const {
    TRY(const JsonView view, member(name));
    if (view.exists()) {
        TRY(out, view.as_int(std::numeric_limits<std::int64_t>::min(),
                             std::numeric_limits<std::int64_t>::max()));
    }
    return {};
}

os::Result<void> JsonView::read(std::string_view name, std::optional<std::uint64_t>& out) const {
    TRY(const JsonView view, member(name));
    if (view.exists()) {
        TRY(out, view.as_unsigned());
    }
    return {};
}

os::Result<void> JsonView::read(std::string_view name, std::vector<std::string>& out) const {
    TRY(const JsonView view, member(name));
    if (!view.exists())
        return {};
    out.clear();
    TRY(const std::vector<JsonView> items, view.items());
    for (const JsonView& item : items) {
        TRY(std::string value, item.as_string());
        out.push_back(std::move(value));
    }
    return {};
}

os::Result<void> JsonView::read(std::string_view name, std::vector<std::uint32_t>& out) const {
    TRY(const JsonView view, member(name));
    if (!view.exists())
        return {};
    out.clear();
    TRY(const std::vector<JsonView> items, view.items());
    for (const JsonView& item : items) {
        TRY(const std::int64_t value, item.as_int(0, std::numeric_limits<std::uint32_t>::max()));
        out.push_back(static_cast<std::uint32_t>(value));
    }
    return {};
}

os::Result<void> JsonView::read(std::string_view name,
                                std::map<std::string, std::string>& out) const {
    TRY(const JsonView view, member(name));
    if (!view.exists())
        return {};
    out.clear();
    TRY(const auto entries, view.members());
    for (const auto& [key, entry] : entries) {
        TRY(out[key], entry.as_string());
    }
    return {};
}

std::string quote(std::string_view text) {
    return json(text).dump(-1, ' ', false, json::error_handler_t::replace);
}

} // namespace spec
