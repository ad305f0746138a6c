// ContainerFilters: which containers `ps --filter` lists, as Docker's users ask for them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tools/joey/containers/registry.hpp"

namespace joey::containers {

struct ListedContainer {
    Container container;
    Condition now;
    std::string size; // as ps shows it
};

// As it is called where people see it: one that is just starting is not running yet.
std::string state_of(const Condition& condition);

class ContainerFilters {
public:
    // NAME=VALUE each. Filters of one name are alternatives, labels apart; those of several must
    // all fit.
    static os::Result<ContainerFilters> parse(const Registry& registry,
                                              const std::vector<std::string>& texts);

    bool fit(const ListedContainer& one) const;
    // Those that do not run, too.
    bool ask_for_all() const;

    struct Filter;

private:
    std::vector<std::shared_ptr<const Filter>> filters_;
};

} // namespace joey::containers
