// JsonView: a place in a JSON document that somebody else wrote, and its name for error messages:
// "process.rlimits[0].type: must be a string". As in Go, which writes most of these documents, null
// and absent are one. Strings with a NUL in them are refused: all of them end up in system calls.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "agent/os/error.hpp"

namespace spec {

class JsonView {
public:
    JsonView(const nlohmann::json* value, std::string path)
        : value_(value), path_(std::move(path)) {}

    bool exists() const { return value_ != nullptr; }
    const std::string& path() const { return path_; }

    // The member `name`, which need not exist. An error if this exists and is no object.
    os::Result<JsonView> member(std::string_view name) const;
    // The elements; none if this does not exist.
    os::Result<std::vector<JsonView>> items() const;
    os::Result<std::map<std::string, JsonView>> members() const;

    // Requires: exists().
    os::Result<std::string> as_string() const;
    os::Result<bool> as_bool() const;
    os::Result<std::int64_t> as_int(std::int64_t least, std::int64_t most) const;
    os::Result<std::uint64_t> as_unsigned() const;
    os::Result<double> as_double() const;

    // Each leaves `out` alone when the member does not exist.
    os::Result<void> read(std::string_view name, std::string& out) const;
    os::Result<void> read(std::string_view name, bool& out) const;
    os::Result<void> read(std::string_view name, std::optional<bool>& out) const;
    os::Result<void> read(std::string_view name, std::uint32_t& out) const;
    os::Result<void> read(std::string_view name, std::optional<std::uint32_t>& out) const;
    os::Result<void> read(std::string_view name, std::optional<std::int64_t>& out) const;
    os::Result<void> read(std::string_view name, std::optional<std::uint64_t>& out) const;
    os::Result<void> read(std::string_view name, std::vector<std::string>& out) const;
    os::Result<void> read(std::string_view name, std::vector<std::uint32_t>& out) const;
    os::Result<void> read(std::string_view name, std::map<std::string, std::string>& out) const;

    template <typename... Parts>
    base::Failure<os::Error> wrong(const Parts&... parts) const {
        return os::fail(os::Code::InvalidArgument, path_.empty() ? "the document" : path_, ": ",
                        parts...);
    }

private:
    std::string path_of(std::string_view name) const;

    const nlohmann::json* value_;
    std::string path_;
};

class JsonDocument {
public:
    // `path` is what the messages call the root: empty, or "linux.resources".
    static os::Result<JsonDocument> parse(std::string_view text, std::string path);
    JsonDocument(JsonDocument&&) noexcept;
    JsonDocument& operator=(JsonDocument&&) noexcept;
    ~JsonDocument();
    JsonView root() const { return {value_.get(), path_}; }

private:
    JsonDocument(std::unique_ptr<nlohmann::json> value, std::string path);
    std::unique_ptr<nlohmann::json> value_;
    std::string path_;
};

// `text` as a JSON string, quotes included.
std::string quote(std::string_view text);

} // namespace spec
