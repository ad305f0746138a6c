// ps: the containers there are.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <regex.h>

#include <fmt/format.h>

#include "tools/joey/containers/commands.hpp"
#include "tools/joey/containers/format_functions.hpp"
#include "tools/joey/containers/format_template.hpp"
#include "tools/joey/containers/log_file.hpp"
#include "tools/joey/containers/table.hpp"

namespace joey::containers {

namespace {

using pod::Json;

struct Row {
    Container container;
    Condition now;
};

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

std::string state_of(const Condition& condition) {
    return std::string(condition.phase == Phase::Starting ? "created" : name_of(condition.phase));
}

// Cut, unless all is wanted; what others chose does not drive the terminal.
std::string command_of(const Container& container, bool whole) {
    std::string out;
    for (const std::string& word : container.command)
        out += (out.empty() ? "" : " ") + word;
    out = printable(out);
    constexpr std::size_t longest = 20;
    if (!whole && out.size() > longest)
        out = out.substr(0, longest - 1) + "\u2026";
    return "\"" + out + "\"";
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

Json row_json(const Row& row, std::int64_t now, bool whole) {
    std::string mounts;
    for (const Json& mount : row.container.mounts)
        mounts += (mounts.empty() ? "" : ",") + pod::string_of(mount, "Source");
    return Json{
        {"ID", whole ? row.container.id : row.container.short_id()},
        {"Image", image_of(row.container)},
        {"Command", command_of(row.container, whole)},
        {"CreatedAt", row.container.created},
        {"RunningFor", length_of_time(now - nanoseconds_of(row.container.created)) + " ago"},
        {"Ports", ports_of(row)},
        {"State", state_of(row.now)},
        {"Status", status_of(row, now)},
        {"Names", row.container.name},
        {"Labels", labels_of(row.container)},
        {"Mounts", mounts},
        {"Networks", row.container.network},
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
                {"Mounts", "MOUNTS"},
                {"Networks", "NETWORKS"},
                {"Pod", "POD"}};
}

// A regular expression, found anywhere, as with Docker: "^web$" is one name alone.
class Expression {
public:
    explicit Expression(const std::string& text)
        : error_(::regcomp(&compiled_, text.c_str(), REG_EXTENDED | REG_NOSUB)) {}
    Expression(const Expression&) = delete;
    Expression& operator=(const Expression&) = delete;
    ~Expression() {
        if (is_good())
            ::regfree(&compiled_);
    }
    bool is_good() const { return error_ == 0; }
    bool fits(const std::string& text) const {
        return ::regexec(&compiled_, text.c_str(), 0, nullptr, 0) == 0;
    }

private:
    regex_t compiled_{};
    const int error_;
};

// Of one --filter: NAME=VALUE.
os::Result<bool> fits(const Row& row, const std::string& filter) {
    const std::size_t equals = std::min(filter.find('='), filter.size());
    const std::string name = filter.substr(0, equals);
    const std::string value = filter.substr(std::min(equals + 1, filter.size()));
    const Container& container = row.container;
    if (name == "id" || name == "name") {
        const Expression expression(value);
        if (!expression.is_good())
            return os::fail(os::Code::InvalidArgument, "--filter ", filter,
                            ": is no regular expression");
        // Docker's own names begin with a slash, which its users may write or leave out.
        return name == "id"
                   ? expression.fits(container.id)
                   : expression.fits(container.name) || expression.fits("/" + container.name);
    }
    if (name == "status")
        return state_of(row.now) == value;
    if (name == "exited")
        return row.now.phase == Phase::Exited && std::to_string(row.now.status) == value;
    if (name == "ancestor")
        return container.image == value || container.image + ":latest" == value ||
               container.image == value + ":latest" || container.image_id == value;
    if (name == "health")
        return (row.now.health.status.empty() ? "none" : row.now.health.status) == value;
    if (name == "pod")
        return container.pod == value;
    if (name == "volume")
        return std::any_of(container.mounts.begin(), container.mounts.end(), [&](const Json& one) {
            return pod::string_of(one, "Source") == value || pod::string_of(one, "Name") == value ||
                   pod::string_of(one, "Destination") == value;
        });
    if (name == "label") {
        const std::size_t cut = value.find('=');
        const auto found = container.labels.find(value.substr(0, cut));
        return found != container.labels.end() &&
               (cut == std::string::npos || found->second == value.substr(cut + 1));
    }
    return os::fail(os::Code::InvalidArgument, "--filter ", filter,
                    ": give id, name, status, exited, ancestor, health, pod, volume or label, "
                    "with '=' and a value");
}

std::string name_of_filter(const std::string& filter) {
    return filter.substr(0, filter.find('='));
}

// Filters of one name are alternatives, labels apart; those of several must all fit.
os::Result<bool> fits_all(const Row& row, const std::vector<std::string>& filters) {
    for (const std::string& filter : filters) {
        bool any = false;
        for (const std::string& other : filters) {
            const bool same = name_of_filter(filter) == "label"
                                  ? other == filter
                                  : name_of_filter(other) == name_of_filter(filter);
            if (!same)
                continue;
            TRY(const bool one, fits(row, other));
            any |= one;
        }
        if (!any)
            return false;
    }
    return true;
}

os::Result<std::vector<Row>> wanted_rows(Session& session, const Arguments& arguments) {
    const std::vector<std::string> filters = arguments.values("filter");
    const bool has_status = std::any_of(filters.begin(), filters.end(), [](const std::string& one) {
        const std::string name = name_of_filter(one);
        return name == "status" || name == "exited";
    });
    std::size_t most = ~std::size_t{0};
    if (arguments.has("last"))
        most = std::strtoull(arguments.value("last").c_str(), nullptr, 10);
    if (arguments.has("latest"))
        most = 1;
    const bool all = arguments.has("all") || has_status || most != ~std::size_t{0};
    std::vector<Row> out;
    for (Container& container : session.registry.list()) {
        Row row{std::move(container), {}};
        row.now = session.registry.condition(row.container);
        if (!all && (!row.now.is_live() || row.now.phase == Phase::Starting))
            continue;
        TRY(const bool fit, fits_all(row, filters));
        if (fit && out.size() < most)
            out.push_back(std::move(row));
    }
    return out;
}

} // namespace

os::Result<int> ps(Session& session, const Arguments& arguments) {
    const std::string format = arguments.value("format", "table");
    const bool is_json = is_json_format(format);
    const bool is_template = !is_json && FormatTemplate::is_template(format);
    if (format != "table" && !is_json && !is_template)
        return os::fail(os::Code::InvalidArgument, "ps: --format ", format,
                        ": give table, json or a template such as {{.Names}}");
    const bool whole = arguments.has("no-trunc");
    TRY(const std::vector<Row> rows, wanted_rows(session, arguments));
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
    for (const Row& row : rows)
        cells.push_back({whole ? row.container.id : row.container.short_id(),
                         image_of(row.container), command_of(row.container, whole),
                         length_of_time(now - nanoseconds_of(row.container.created)) + " ago",
                         status_of(row, now), ports_of(row), row.container.name});
    return print(table(cells));
}

} // namespace joey::containers
