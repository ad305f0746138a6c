#include "tools/joey/image_report.hpp"

#include <algorithm>
#include <array>
#include <ctime>
#include <fnmatch.h>
#include <nlohmann/json.hpp>
#include <vector>

#include <fmt/format.h>

#include "tools/joey/containers/format_template.hpp"
#include "tools/joey/containers/log_file.hpp"
#include "tools/joey/control_characters.hpp"

namespace joey {
namespace {

using nlohmann::json;

// What hostile images say must not drive the terminal.
std::string printable(std::string_view text) {
    return with_controls_as(text, '?');
}

std::string dump(const json& value, int indent = -1) {
    return value.dump(indent, ' ', false, json::error_handler_t::replace);
}

struct Row {
    std::string repository = "<none>";
    std::string tag = "<none>";
    const image::Image* image = nullptr;
};

// As Docker: a pattern of the shell, of the repository or with the tag.
bool fits_reference(const image::Reference& name, const std::string& pattern) {
    return pattern == name.full() ||
           ::fnmatch(pattern.c_str(), name.familiar().c_str(), FNM_PATHNAME) == 0 ||
           ::fnmatch(pattern.c_str(), name.familiar_repository().c_str(), FNM_PATHNAME) == 0;
}

struct Filter {
    std::string name;
    std::string value;
    std::int64_t created = 0; // of before and since: when that image was made
};

const image::Image* find_image(const image::ImageList& list, const std::string& text) {
    constexpr std::size_t shortest = 4;
    constexpr std::string_view prefix = "sha256:";
    const std::string_view digits =
        text.starts_with(prefix) ? std::string_view(text).substr(prefix.size()) : text;
    const auto name = image::Reference::parse(text);
    for (const image::Image& image : list.images) {
        const bool is_named = name && std::any_of(image.names.begin(), image.names.end(),
                                                  [&](const image::Reference& other) {
                                                      return other.full() == name->full();
                                                  });
        if (is_named || (digits.size() >= shortest && image.id.hex().starts_with(digits)))
            return &image;
    }
    return nullptr;
}

os::Result<std::vector<Filter>> read_filters(const image::ImageList& list,
                                             const std::vector<std::string>& texts) {
    std::vector<Filter> out;
    for (const std::string& text : texts) {
        const std::size_t equals = text.find('=');
        Filter one{text.substr(0, equals),
                   equals == std::string::npos ? std::string() : text.substr(equals + 1)};
        const auto wrong = [&](const char* why) {
            return os::fail(os::Code::InvalidArgument, "--filter ", text.substr(0, 200), ": ", why);
        };
        if (equals == std::string::npos)
            return wrong("give NAME=VALUE");
        if (one.name == "before" || one.name == "since") {
            const image::Image* other = find_image(list, one.value);
            if (other == nullptr)
                return wrong("there is no such image");
            one.created = containers::nanoseconds_of(other->config.created);
        } else if (one.name == "dangling") {
            if (one.value != "true" && one.value != "false" && one.value != "1" && one.value != "0")
                return wrong("give true or false");
        } else if (one.name != "label" && one.name != "reference") {
            return wrong("give reference, label, dangling, before or since");
        }
        out.push_back(std::move(one));
    }
    return out;
}

// Patterns are each name's; see make_rows().
bool fits(const image::Image& image, const Filter& filter) {
    if (filter.name == "dangling")
        return image.names.empty() == (filter.value == "true" || filter.value == "1");
    if (filter.name == "before")
        return containers::nanoseconds_of(image.config.created) < filter.created;
    if (filter.name == "since")
        return containers::nanoseconds_of(image.config.created) > filter.created;
    if (filter.name != "label")
        return true;
    const std::size_t cut = filter.value.find('=');
    const auto found = image.config.labels.find(filter.value.substr(0, cut));
    return found != image.config.labels.end() &&
           (cut == std::string::npos || found->second == filter.value.substr(cut + 1));
}

// A line for each name, as Docker has it.
os::Result<std::vector<Row>> make_rows(const image::ImageList& list, const ListStyle& style) {
    TRY(const std::vector<Filter> filters, read_filters(list, style.filters));
    std::vector<std::string> patterns;
    if (!style.only.empty())
        patterns.push_back(style.only);
    for (const Filter& filter : filters) {
        if (filter.name == "reference")
            patterns.push_back(filter.value);
    }
    std::vector<Row> rows;
    for (const image::Image& image : list.images) {
        if (!std::all_of(filters.begin(), filters.end(),
                         [&](const Filter& filter) { return fits(image, filter); }))
            continue;
        for (const image::Reference& name : image.names) {
            const bool fits_one =
                patterns.empty() ||
                std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) {
                    return fits_reference(name, pattern);
                });
            if (fits_one)
                rows.push_back({name.familiar_repository(), name.tag(), &image});
        }
        if (image.names.empty() && patterns.empty())
            rows.push_back({.image = &image});
    }
    return rows;
}

std::string make_table(const std::vector<std::vector<std::string>>& rows) {
    std::vector<std::size_t> widths(rows.front().size());
    for (const auto& row : rows) {
        for (std::size_t i = 0; i < row.size(); ++i)
            widths[i] = std::max(widths[i], row[i].size());
    }
    std::string out;
    for (const auto& row : rows) {
        std::string line;
        for (std::size_t i = 0; i < row.size(); ++i)
            line += fmt::format("{:<{}}   ", row[i], widths[i]);
        line.erase(line.find_last_not_of(' ') + 1);
        out += line + "\n";
    }
    return out;
}

json row_json(const Row& row, std::int64_t now) {
    const image::Image& image = *row.image;
    return json{{"Repository", row.repository},
                {"Tag", row.tag},
                {"ID", image.id.text()},
                {"Digest", image.manifest_descriptor.digest.text()},
                {"Platform", image.config.platform.text()},
                {"CreatedAt", image.config.created},
                {"CreatedSince", time_since(image.config.created, now)},
                {"Size", image::human_size(image.unpacked_bytes)},
                {"VirtualSize", image::human_size(image.unpacked_bytes)},
                {"SharedSize", "N/A"},
                {"UniqueSize", "N/A"},
                {"Containers", "N/A"},
                {"Bytes", image.unpacked_bytes}};
}

std::string id_of(const image::Image& image, const ListStyle& style) {
    return style.whole ? image.id.text() : image.id.short_id();
}

// As Docker's users write it, with its headings.
os::Result<std::string> by_template(const std::vector<Row>& rows, const ListStyle& style,
                                    std::int64_t now) {
    std::vector<json> documents;
    for (const Row& row : rows) {
        documents.push_back(row_json(row, now));
        documents.back()["ID"] = id_of(*row.image, style);
    }
    return containers::format_all(style.format, documents,
                                  json{{"Repository", "REPOSITORY"},
                                       {"Tag", "TAG"},
                                       {"ID", "IMAGE ID"},
                                       {"Digest", "DIGEST"},
                                       {"Platform", "PLATFORM"},
                                       {"CreatedAt", "CREATED AT"},
                                       {"CreatedSince", "CREATED"},
                                       {"Size", "SIZE"},
                                       {"VirtualSize", "SIZE"},
                                       {"SharedSize", "SHARED SIZE"},
                                       {"UniqueSize", "UNIQUE SIZE"},
                                       {"Containers", "CONTAINERS"},
                                       {"Bytes", "BYTES"}});
}

} // namespace

std::string time_since(std::string_view rfc3339, std::int64_t now) {
    tm parts{};
    const std::string text(rfc3339.substr(0, 40));
    const char* rest = ::strptime(text.c_str(), "%Y-%m-%dT%H:%M:%S", &parts);
    if (rest == nullptr)
        return "-";
    // Fractions and zones change nothing that "weeks ago" could show.
    const std::int64_t seconds = now - static_cast<std::int64_t>(::timegm(&parts));
    struct Unit {
        std::int64_t seconds;
        std::string_view name;
    };
    constexpr std::array units = {
        Unit{365 * 86400, "year"}, Unit{30 * 86400, "month"}, Unit{7 * 86400, "week"},
        Unit{86400, "day"},        Unit{3600, "hour"},        Unit{60, "minute"},
    };
    for (const Unit& unit : units) {
        if (const std::int64_t count = seconds / unit.seconds; count >= 1)
            return fmt::format("{} {}{} ago", count, unit.name, count == 1 ? "" : "s");
    }
    return "just now";
}

os::Result<std::string> describe_list(const image::ImageList& list, const ListStyle& style,
                                      std::int64_t now) {
    TRY(const std::vector<Row> rows, make_rows(list, style));
    std::string out;
    if (style.quiet) {
        const image::Image* last = nullptr;
        for (const Row& row : rows) {
            if (row.image != last)
                out += id_of(*row.image, style) + "\n";
            last = row.image;
        }
        return out;
    }
    if (style.json) {
        for (const Row& row : rows)
            out += dump(row_json(row, now)) + "\n";
        return out;
    }
    if (!style.format.empty())
        return by_template(rows, style, now);
    std::vector<std::vector<std::string>> cells = {
        {"REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"}};
    if (style.digests)
        cells.front().insert(cells.front().begin() + 2, "DIGEST");
    for (const Row& row : rows) {
        const image::Image& image = *row.image;
        cells.push_back({row.repository, row.tag, id_of(image, style),
                         time_since(image.config.created, now),
                         image::human_size(image.unpacked_bytes)});
        if (style.digests)
            cells.back().insert(cells.back().begin() + 2, image.manifest_descriptor.digest.text());
    }
    return make_table(cells);
}

os::Result<std::string> describe_image(const image::Store& store, const image::Image& image) {
    TRY(const std::string config_text, store.read_document(image.id));
    json config = json::parse(config_text, nullptr, false);
    if (!config.is_object())
        return os::fail(os::Code::Internal, "image ", image.id.short_id(), " is damaged");
    json names = json::array();
    json digests = json::array();
    for (const image::Reference& name : image.names) {
        names.push_back(name.familiar());
        digests.push_back(name.familiar_repository() + "@" +
                          image.manifest_descriptor.digest.text());
    }
    json layers = json::array();
    for (const image::Digest& diff_id : image.config.diff_ids)
        layers.push_back(diff_id.text());
    const auto part = [&config](const char* name) {
        return config.contains(name) ? config[name] : json();
    };
    const std::string root =
        store.path() + "/" + image::rootfs_path(image::chain_id(image.config.diff_ids)) + "/fs";
    const json out = {{"Id", image.id.text()},
                      {"RepoTags", names},
                      {"RepoDigests", digests},
                      {"Created", printable(image.config.created)},
                      {"Author", image.config.author},
                      {"Architecture", image.config.platform.architecture},
                      {"Os", image.config.platform.os},
                      {"Variant", image.config.platform.variant},
                      {"Size", image.unpacked_bytes},
                      {"Config", part("config")},
                      {"History", part("history")},
                      {"RootFS", {{"Type", "layers"}, {"Layers", layers}, {"Path", root}}}};
    return dump(out, 4);
}

namespace {

struct Step {
    std::string created;
    std::string by;
    std::string comment;
    std::uint64_t bytes = 0; // of its layer, as it is stored
};

// The configuration is somebody else's: what has another type than it should counts as not there.
std::vector<Step> steps_of(const json& config, const image::Image& image) {
    std::vector<Step> out;
    const auto found = config.find("history");
    if (found == config.end() || !found->is_array())
        return out;
    std::size_t layer = 0;
    for (const json& item : *found) {
        const auto text = [&](const char* name) {
            const auto member = item.is_object() ? item.find(name) : item.end();
            return member != item.end() && member->is_string() ? member->get<std::string>()
                                                               : std::string();
        };
        const auto empty = item.is_object() ? item.find("empty_layer") : item.end();
        const bool has_layer = empty == item.end() || !empty->is_boolean() || !empty->get<bool>();
        Step step{text("created"), text("created_by"), text("comment"), 0};
        if (has_layer && layer < image.manifest.layers.size())
            step.bytes = image.manifest.layers[layer++].size;
        out.push_back(std::move(step));
    }
    std::reverse(out.begin(), out.end());
    return out;
}

} // namespace

namespace {

// As Docker cuts it, before the middle of a character.
std::string shortened(std::string text) {
    constexpr std::size_t longest = 45;
    if (text.size() <= longest)
        return text;
    std::size_t end = longest - 3;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80)
        --end;
    return text.substr(0, end) + "...";
}

json step_json(const Step& step, const std::string& id, const HistoryStyle& style,
               std::int64_t now) {
    const std::string by = printable(step.by);
    return json{
        {"ID", id},
        {"CreatedAt", printable(step.created)},
        {"CreatedSince", style.human ? time_since(step.created, now) : printable(step.created)},
        {"CreatedBy", style.whole ? by : shortened(by)},
        {"Size", style.human ? image::human_size(step.bytes) : std::to_string(step.bytes)},
        {"Comment", printable(step.comment)}};
}

json history_heading(bool human) {
    return json{{"ID", "IMAGE"},
                {"CreatedAt", "CREATED AT"},
                {"CreatedSince", human ? "CREATED" : "CREATED AT"},
                {"CreatedBy", "CREATED BY"},
                {"Size", "SIZE"},
                {"Comment", "COMMENT"}};
}

} // namespace

os::Result<std::string> describe_history(std::string_view config_text, const image::Image& image,
                                         const HistoryStyle& style, std::int64_t now) {
    const json config = json::parse(config_text, nullptr, false);
    if (!config.is_object())
        return os::fail(os::Code::Internal, "image ", image.id.short_id(), " is damaged");
    std::string id = style.whole ? image.id.text() : image.id.short_id();
    std::string out;
    std::vector<json> rows;
    for (const Step& step : steps_of(config, image)) {
        if (style.quiet)
            out += id + "\n";
        else if (style.json)
            out += dump({{"ID", id},
                         {"CreatedAt", step.created},
                         {"CreatedSince", time_since(step.created, now)},
                         {"CreatedBy", step.by},
                         {"Size", step.bytes},
                         {"Comment", step.comment}}) +
                   "\n";
        else
            rows.push_back(step_json(step, id, style, now));
        // Those below it have none of their own.
        id = "<missing>";
    }
    if (style.quiet || style.json)
        return out;
    if (!style.format.empty())
        return containers::format_all(style.format, rows, history_heading(style.human));
    rows.insert(rows.begin(), history_heading(style.human));
    std::vector<std::vector<std::string>> cells;
    for (const json& row : rows) {
        std::vector<std::string>& line = cells.emplace_back();
        for (const char* column : {"ID", "CreatedSince", "CreatedBy", "Size", "Comment"})
            line.push_back(row[column].get<std::string>());
    }
    return make_table(cells);
}

} // namespace joey
