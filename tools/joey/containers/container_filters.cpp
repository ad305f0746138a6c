#include "tools/joey/containers/container_filters.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <regex.h>

#include "tools/joey/containers/variables.hpp"

namespace joey::containers {

namespace {

using pod::Json;

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

// "80", "80/udp", "8000-8010/tcp".
struct PortRange {
    unsigned first = 0;
    unsigned last = 0;
    std::string protocol = "tcp";

    bool has(std::string_view port, std::string_view port_protocol) const {
        unsigned number = 0;
        const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), number);
        return error == std::errc() && end == port.data() + port.size() && number >= first &&
               number <= last && port_protocol == protocol;
    }
};

std::optional<PortRange> port_range_of(std::string_view text) {
    PortRange out;
    const std::size_t slash = text.find('/');
    if (slash != std::string_view::npos)
        out.protocol = text.substr(slash + 1);
    text = text.substr(0, slash);
    const std::size_t dash = text.find('-');
    const auto number = [](std::string_view digits, unsigned& value) {
        const auto [end, error] =
            std::from_chars(digits.data(), digits.data() + digits.size(), value);
        return error == std::errc() && end == digits.data() + digits.size() && value > 0 &&
               value <= 65535;
    };
    if (!number(text.substr(0, dash), out.first))
        return std::nullopt;
    out.last = out.first;
    if (dash != std::string_view::npos && !number(text.substr(dash + 1), out.last))
        return std::nullopt;
    return out;
}

constexpr std::array<std::string_view, 14> known_names = {
    "ancestor", "before",  "exited", "expose",  "health", "id",     "label",
    "name",     "network", "pod",    "publish", "since",  "status", "volume"};
constexpr std::array<std::string_view, 7> known_states = {
    "created", "restarting", "running", "removing", "paused", "exited", "dead"};

template <std::size_t count>
bool is_in(const std::array<std::string_view, count>& all, std::string_view one) {
    return std::find(all.begin(), all.end(), one) != all.end();
}

} // namespace

struct ContainerFilters::Filter {
    std::string name;
    std::string value;
    std::optional<Expression> expression; // of id and name
    std::optional<PortRange> ports;       // of publish and expose
    std::string created;                  // of before and since: when that container was made

    bool fits(const ListedContainer& one) const;
    bool fits_ports(const Container& container) const;
    bool fits_image(const Container& container) const;
    bool fits_label(const Container& container) const;
    bool fits_volume(const Container& container) const;
};

bool ContainerFilters::Filter::fits_ports(const Container& container) const {
    // "0.0.0.0:8080->80/tcp"
    for (const std::string& text : container.published) {
        const std::size_t arrow = std::min(text.find("->"), text.size());
        const std::size_t slash = std::min(text.rfind('/'), text.size());
        if (slash < arrow)
            continue;
        const std::string_view whole = text;
        const std::string_view outer = whole.substr(0, arrow);
        const std::string_view port = name == "publish"
                                          ? outer.substr(outer.rfind(':') + 1)
                                          : whole.substr(arrow + 2, slash - arrow - 2);
        if (ports->has(port, whole.substr(slash + 1)))
            return true;
    }
    if (name == "publish")
        return false;
    return std::any_of(container.exposed.begin(), container.exposed.end(),
                       [&](const std::string& text) {
                           const std::size_t slash = std::min(text.find('/'), text.size());
                           const std::string_view whole = text;
                           return ports->has(whole.substr(0, slash),
                                             whole.substr(std::min(slash + 1, whole.size())));
                       });
}

bool ContainerFilters::Filter::fits_image(const Container& container) const {
    if (container.image == value || container.image + ":latest" == value ||
        container.image == value + ":latest" || container.image_id == value)
        return true;
    // By the beginning of its ID, as `joey images` shows it.
    constexpr std::string_view prefix = "sha256:";
    const std::string_view digits =
        value.starts_with(prefix) ? std::string_view(value).substr(prefix.size()) : value;
    constexpr std::size_t shortest = 4;
    return digits.size() >= shortest && container.image_id.starts_with(prefix) &&
           std::string_view(container.image_id).substr(prefix.size()).starts_with(digits);
}

bool ContainerFilters::Filter::fits_label(const Container& container) const {
    return has_label(container.labels, value);
}

bool ContainerFilters::Filter::fits_volume(const Container& container) const {
    return std::any_of(container.mounts.begin(), container.mounts.end(), [&](const Json& mount) {
        return pod::string_of(mount, "Source") == value || pod::string_of(mount, "Name") == value ||
               pod::string_of(mount, "Destination") == value;
    });
}

bool ContainerFilters::Filter::fits(const ListedContainer& one) const {
    const Container& container = one.container;
    // Docker's own names begin with a slash, which its users may write or leave out.
    if (name == "name")
        return expression->fits(container.name) || expression->fits("/" + container.name);
    if (name == "id")
        return expression->fits(container.id);
    if (name == "status")
        return state_of(one.now) == value;
    if (name == "exited")
        return one.now.phase == Phase::Exited && std::to_string(one.now.status) == value;
    if (name == "ancestor")
        return fits_image(container);
    if (name == "health")
        return (one.now.health.status.empty() ? "none" : one.now.health.status) == value;
    if (name == "pod")
        return container.pod == value;
    if (name == "volume")
        return fits_volume(container);
    if (name == "label")
        return fits_label(container);
    if (name == "network")
        return container.network == (value == "bridge" || value == "default" ? "user" : value);
    if (name == "before")
        return container.created < created;
    if (name == "since")
        return container.created > created;
    return fits_ports(container);
}

std::string state_of(const Condition& condition) {
    return std::string(condition.phase == Phase::Starting ? "created" : name_of(condition.phase));
}

os::Result<ContainerFilters> ContainerFilters::parse(const Registry& registry,
                                                     const std::vector<std::string>& texts) {
    ContainerFilters out;
    for (const std::string& text : texts) {
        const auto wrong = [&](const auto&... why) {
            return os::fail(os::Code::InvalidArgument, "--filter ", text.substr(0, 200), ": ",
                            why...);
        };
        const std::size_t equals = text.find('=');
        if (equals == std::string::npos)
            return wrong("give NAME=VALUE");
        const auto one = std::make_shared<Filter>();
        one->name = text.substr(0, equals);
        one->value = text.substr(equals + 1);
        if (!is_in(known_names, one->name))
            return wrong("give ancestor, before, exited, expose, health, id, label, name, network, "
                         "pod, publish, since, status or volume");
        if (one->name == "id" || one->name == "name") {
            one->expression.emplace(one->value);
            if (!one->expression->is_good())
                return wrong("is no regular expression");
        } else if (one->name == "status" && !is_in(known_states, one->value)) {
            return wrong("give created, restarting, running, paused or exited");
        } else if (one->name == "publish" || one->name == "expose") {
            one->ports = port_range_of(one->value);
            if (!one->ports)
                return wrong("give PORT[-PORT][/PROTOCOL]");
        } else if (one->name == "before" || one->name == "since") {
            TRY(const Container other, registry.find(one->value));
            one->created = other.created;
        }
        out.filters_.push_back(one);
    }
    return out;
}

bool ContainerFilters::fit(const ListedContainer& one) const {
    for (const auto& filter : filters_) {
        const bool any = std::any_of(filters_.begin(), filters_.end(), [&](const auto& other) {
            const bool is_alternative =
                filter->name == "label" ? other == filter : other->name == filter->name;
            return is_alternative && other->fits(one);
        });
        if (!any)
            return false;
    }
    return true;
}

bool ContainerFilters::ask_for_all() const {
    return std::any_of(filters_.begin(), filters_.end(), [](const auto& filter) {
        return filter->name == "status" || filter->name == "exited";
    });
}

} // namespace joey::containers
