// ps: the containers there are.
#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <ctime>

#include <fmt/format.h>

#include "tools/image/store.hpp"
#include "tools/joey/containers/commands.hpp"
#include "tools/joey/containers/container_filters.hpp"
#include "tools/joey/containers/format_functions.hpp"
#include "tools/joey/containers/format_template.hpp"
#include "tools/joey/containers/log_file.hpp"
#include "tools/joey/containers/table.hpp"

namespace joey::containers {

namespace {

using pod::Json;

using Row = ListedContainer;

std::string status_of(const Row& row, std::int64_t now) {
    const Condition& condition = row.now;
    const auto since = [now](const std::string& time) {
        return length_of_time(now - nanoseconds_of(time));
    };
    const std::string health =
        condition.health.status.empty()
            ? ""
            : fmt::format(" ({})", condition.health.status == "starting" ? "health: starting"
                                                                         : condition.health.status);
    switch (condition.phase) {
    case Phase::Created:
    case Phase::Starting:
        return "Created";
    case Phase::Running:
        return fmt::format("Up {}{}", since(condition.started), health);
    case Phase::Paused:
        return fmt::format("Up {} (Paused)", since(condition.started));
    case Phase::Restarting:
        return fmt::format("Restarting ({}) {} ago", condition.status, since(condition.finished));
    case Phase::Exited:
        break;
    }
    return fmt::format("Exited ({}) {} ago", condition.status, since(condition.finished));
}

// Cut as Docker does it, before the middle of a character.
std::string shortened(std::string text, std::size_t longest) {
    if (text.size() <= longest)
        return text;
    std::size_t end = longest - 1;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80)
        --end;
    return text.substr(0, end) + "\u2026";
}

// Cut, unless all is wanted; what others chose does not drive the terminal.
std::string command_of(const Container& container, bool whole) {
    std::string out;
    for (const std::string& word : container.command)
        out += (out.empty() ? "" : " ") + word;
    out = printable(out);
    constexpr std::size_t longest = 20;
    return "\"" + (whole ? out : shortened(out, longest)) + "\"";
}

std::string joined(const std::vector<std::string>& words) {
    std::string out;
    for (const std::string& word : words)
        out += (out.empty() ? "" : ", ") + word;
    return out;
}

std::string ports_of(const Row& row) {
    std::vector<std::string> out;
    if (row.now.is_live())
        out = row.container.published;
    for (const std::string& exposed : row.container.exposed) {
        const bool published = std::any_of(out.begin(), out.end(), [&](const std::string& port) {
            return port.ends_with("->" + exposed);
        });
        if (row.now.is_live() && !published)
            out.push_back(exposed);
    }
    return joined(out);
}

std::string image_of(const Container& container) {
    return printable(container.image.empty() ? container.root : container.image);
}

std::string labels_of(const Container& container) {
    std::string out;
    for (const auto& [name, value] : container.labels)
        out += os::text(out.empty() ? "" : ",", name, "=", value);
    return out;
}

std::string mounts_of(const Container& container, bool whole) {
    std::string out;
    for (const Json& mount : container.mounts) {
        const std::string name = pod::string_of(mount, "Name");
        const std::string shown = name.empty() ? pod::string_of(mount, "Source") : name;
        constexpr std::size_t longest = 15;
        out += (out.empty() ? "" : ",") + (whole ? shown : shortened(shown, longest));
    }
    return out;
}

std::size_t local_volumes_of(const Container& container) {
    return static_cast<std::size_t>(
        std::count_if(container.mounts.begin(), container.mounts.end(),
                      [](const Json& mount) { return pod::string_of(mount, "Type") == "volume"; }));
}

// "2024-05-01 12:00:00 +0200 CEST", as Go writes a time of here.
std::string local_time(const std::string& rfc3339) {
    constexpr std::int64_t second = 1'000'000'000;
    const std::time_t time = nanoseconds_of(rfc3339) / second;
    tm parts{};
    char text[64] = {};
    if (::localtime_r(&time, &parts) == nullptr ||
        std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S %z %Z", &parts) == 0)
        return rfc3339;
    return text;
}

Json row_json(const Row& row, std::int64_t now, bool whole) {
    return Json{
        {"ID", whole ? row.container.id : row.container.short_id()},
        {"Image", image_of(row.container)},
        {"Command", command_of(row.container, whole)},
        {"CreatedAt", local_time(row.container.created)},
        {"RunningFor", length_of_time(now - nanoseconds_of(row.container.created)) + " ago"},
        {"Ports", ports_of(row)},
        {"State", state_of(row.now)},
        {"Status", status_of(row, now)},
        {"Names", row.container.name},
        {"Labels", labels_of(row.container)},
        {"LocalVolumes", std::to_string(local_volumes_of(row.container))},
        {"Mounts", mounts_of(row.container, whole)},
        {"Networks", row.container.network},
        {"Size", row.size},
        {"Pod", row.container.pod}};
}

// What a template can ask besides: {{.Label "key"}}.
Json row_for_template(const Row& row, std::int64_t now, bool whole) {
    Json out = row_json(row, now, whole);
    out["Label"] = row.container.labels;
    return out;
}

// Of a table whose columns somebody chose.
Json heading() {
    return Json{{"ID", "CONTAINER ID"},
                {"Image", "IMAGE"},
                {"Command", "COMMAND"},
                {"CreatedAt", "CREATED AT"},
                {"RunningFor", "CREATED"},
                {"Ports", "PORTS"},
                {"State", "STATE"},
                {"Status", "STATUS"},
                {"Names", "NAMES"},
                {"Labels", "LABELS"},
                {"Label", ""},
                {"LocalVolumes", "LOCAL VOLUMES"},
                {"Mounts", "MOUNTS"},
                {"Networks", "NETWORKS"},
                {"Size", "SIZE"},
                {"Pod", "POD"}};
}

os::Result<std::size_t> most_rows(const Arguments& arguments) {
    if (arguments.has("latest"))
        return std::size_t{1};
    const std::string text = arguments.value("last", "-1");
    std::int64_t most = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), most);
    if (text.empty() || error != std::errc() || end != text.data() + text.size())
        return os::fail(os::Code::InvalidArgument, "--last ", text, ": give a number");
    return most < 0 ? ~std::size_t{0} : static_cast<std::size_t>(most); // as Docker: all
}

os::Result<std::vector<Row>> wanted_rows(Session& session, const Arguments& arguments) {
    TRY(const ContainerFilters filters,
        ContainerFilters::parse(session.registry, arguments.values("filter")));
    TRY(const std::size_t most, most_rows(arguments));
    const bool all = arguments.has("all") || filters.ask_for_all() || most != ~std::size_t{0};
    std::vector<Row> out;
    for (Container& container : session.registry.list()) {
        Row row{std::move(container), {}, "0 B"};
        row.now = session.registry.condition(row.container);
        if (!all && (!row.now.is_live() || row.now.phase == Phase::Starting))
            continue;
        if (out.size() < most && filters.fit(row))
            out.push_back(std::move(row));
    }
    return out;
}

void measure(const Session& session, std::vector<Row>& rows) {
    for (Row& row : rows) {
        const Sizes sizes = sizes_of(session, row.container);
        if (sizes.own + sizes.image != 0)
            row.size = fmt::format("{} (virtual {})", image::human_size(sizes.own),
                                   image::human_size(sizes.own + sizes.image));
    }
}

} // namespace

Sizes sizes_of(const Session& session, const Container& container) {
    Sizes out;
    // A directory of this machine was there before it.
    if (container.image_id.empty())
        return out;
    if (const auto store = image::Store::open(session.store)) {
        if (const auto image = store->find(container.image_id))
            out.image = image->unpacked_bytes;
    }
    if (!container.lower.empty())
        out.own = disk_bytes(container.layer + "/upper");
    else if (const std::uint64_t all = disk_bytes(container.root); all > out.image)
        out.own = all - out.image;
    return out;
}

os::Result<int> ps(Session& session, const Arguments& arguments) {
    const std::string format = arguments.value("format", "table");
    const bool is_json = is_json_format(format);
    const bool is_template = !is_json && FormatTemplate::is_template(format);
    if (format != "table" && !is_json && !is_template)
        return os::fail(os::Code::InvalidArgument, "ps: --format ", format,
                        ": give table, json or a template such as {{.Names}}");
    const bool whole = arguments.has("no-trunc");
    TRY(std::vector<Row> rows, wanted_rows(session, arguments));
    // It takes its time, so that it is asked for.
    const bool sizes = arguments.has("size") || format.find(".Size") != std::string::npos;
    if (sizes && !arguments.has("quiet"))
        measure(session, rows);
    const std::int64_t now = now_nanoseconds();
    std::string out;
    if (arguments.has("quiet")) {
        for (const Row& row : rows)
            out += (whole ? row.container.id : row.container.short_id()) + "\n";
        return print(out);
    }
    if (is_json || is_template) {
        std::vector<Json> documents;
        documents.reserve(rows.size());
        for (const Row& row : rows)
            documents.push_back(is_template ? row_for_template(row, now, whole)
                                            : row_json(row, now, whole));
        if (is_template) {
            TRY(out, format_all(format, documents, heading()));
            return print(out);
        }
        for (const Json& document : documents)
            out += pod::to_text(document) + "\n";
        return print(out);
    }
    std::vector<std::vector<std::string>> cells = {
        {"CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"}};
    if (sizes)
        cells.front().emplace_back("SIZE");
    for (const Row& row : rows) {
        cells.push_back({whole ? row.container.id : row.container.short_id(),
                         image_of(row.container), command_of(row.container, whole),
                         length_of_time(now - nanoseconds_of(row.container.created)) + " ago",
                         status_of(row, now), ports_of(row), row.container.name});
        if (sizes)
            cells.back().push_back(row.size);
    }
    return print(table(cells));
}

} // namespace joey::containers
