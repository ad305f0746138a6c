#include "tools/joey/image_report.hpp"

#include <algorithm>
#include <array>
#include <ctime>
#include <nlohmann/json.hpp>
#include <vector>

#include <fmt/format.h>

#include "tools/joey/containers/format_template.hpp"
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

// A line for each name, as Docker has it.
std::vector<Row> make_rows(const image::ImageList& list, const ListStyle& style) {
    std::vector<Row> rows;
    for (const image::Image& image : list.images) {
        for (const image::Reference& name : image.names) {
            const std::string repository = name.familiar_repository();
            if (style.only.empty() || style.only == repository || style.only == name.familiar() ||
                style.only == name.full())
                rows.push_back({repository, name.tag(), &image});
        }
        if (image.names.empty() && style.only.empty())
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
    const std::vector<Row> rows = make_rows(list, style);
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

os::Result<std::string> describe_history(const image::Store& store, const image::Image& image,
                                         bool as_json, bool whole) {
    TRY(const std::string text, store.read_document(image.id));
    const json config = json::parse(text, nullptr, false);
    if (!config.is_object())
        return os::fail(os::Code::Internal, "image ", image.id.short_id(), " is damaged");
    std::vector<std::vector<std::string>> cells = {
        {"IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"}};
    std::string out;
    for (const Step& step : steps_of(config, image)) {
        const std::string id = cells.size() == 1 ? image.id.short_id() : "<missing>";
        if (as_json) {
            out += dump({{"ID", id},
                         {"CreatedAt", step.created},
                         {"CreatedBy", step.by},
                         {"Size", step.bytes},
                         {"Comment", step.comment}}) +
                   "\n";
            continue;
        }
        constexpr std::size_t longest = 45;
        std::string by = printable(step.by);
        if (!whole && by.size() > longest)
            by = by.substr(0, longest - 3) + "...";
        cells.push_back({id, time_since(step.created, ::time(nullptr)), by,
                         image::human_size(step.bytes), printable(step.comment)});
    }
    return as_json ? out : make_table(cells);
}

} // namespace joey
