// `--filter` of what removes all that is not used.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tools/joey/containers/variables.hpp"

namespace joey::containers {

class PruneFilters {
public:
    // Of containers: until=TIME, label=..., label!=...; of volumes, which have no time that counts:
    // all=true beside the labels.
    static os::Result<PruneFilters> of_containers(const Arguments& arguments);
    static os::Result<PruneFilters> of_volumes(const Arguments& arguments);

    // As Docker: all labels that are asked for, none of those that are not wanted.
    bool fits(const Labels& labels) const;
    bool fits(const Labels& labels, std::int64_t created) const; // nanoseconds since 1970
    bool wants_all() const { return all_; }

private:
    // False: it is no filter for labels.
    bool take_label(const std::string& name, const std::string& value);

    std::vector<std::string> with_;
    std::vector<std::string> without_;
    std::optional<std::int64_t> until_;
    bool all_ = false;
};

} // namespace joey::containers
