#include "tools/joey/containers/prune_filters.hpp"

#include <algorithm>

#include "tools/joey/containers/log_file.hpp"

namespace joey::containers {

namespace {

struct Given {
    std::string name; // "label!" for "label!=a"
    std::string value;
};

Given split(const std::string& text) {
    const std::size_t equals = std::min(text.find('='), text.size());
    return {text.substr(0, equals), text.substr(std::min(equals + 1, text.size()))};
}

base::Failure<os::Error> wrong(const std::string& text, const char* known) {
    return os::fail(os::Code::InvalidArgument, "--filter ", text.substr(0, 200), ": give ", known);
}

} // namespace

bool PruneFilters::take_label(const std::string& name, const std::string& value) {
    if (value.empty() || (name != "label" && name != "label!"))
        return false;
    (name == "label" ? with_ : without_).push_back(value);
    return true;
}

os::Result<PruneFilters> PruneFilters::of_containers(const Arguments& arguments) {
    PruneFilters out;
    for (const std::string& text : arguments.values("filter")) {
        const Given given = split(text);
        if (out.take_label(given.name, given.value))
            continue;
        const auto until = parse_time(given.value);
        if (given.name != "until" || !until)
            return wrong(text, "label=NAME[=VALUE], label!=NAME[=VALUE] or until=TIME: a date, or "
                               "how long ago, such as 24h");
        out.until_ = *until;
    }
    return out;
}

os::Result<PruneFilters> PruneFilters::of_volumes(const Arguments& arguments) {
    PruneFilters out;
    for (const std::string& text : arguments.values("filter")) {
        const Given given = split(text);
        if (out.take_label(given.name, given.value))
            continue;
        const bool is_true = given.value == "true" || given.value == "1";
        if (given.name != "all" || (!is_true && given.value != "false" && given.value != "0"))
            return wrong(text, "label=NAME[=VALUE], label!=NAME[=VALUE] or all=true");
        out.all_ = is_true;
    }
    return out;
}

bool PruneFilters::fits(const Labels& labels) const {
    const auto has = [&](const std::string& wanted) { return has_label(labels, wanted); };
    return std::all_of(with_.begin(), with_.end(), has) &&
           std::none_of(without_.begin(), without_.end(), has);
}

bool PruneFilters::fits(const Labels& labels, std::int64_t created) const {
    return fits(labels) && (!until_ || created < *until_);
}

} // namespace joey::containers
