// linux.resources.blockIO: weights and rates of the host's block devices. The guest has none of
// these devices; its files are read and written by the VM's process, so that is what is limited.
#pragma once

#include <string>
#include <vector>

#include "agent/os/error.hpp"
#include "tools/pod/json.hpp"

namespace pod {

struct BlockIo {
    struct Setting {
        std::vector<std::string> files; // of control groups version 2, then 1: what there may be
        std::string value;              // for version 2
        std::string old_value;          // for version 1
        std::string name;               // in the configuration
    };
    std::vector<Setting> settings;

    // Takes it out of a configuration's linux.resources.
    static os::Result<BlockIo> take(Json& resources);
    // Upon groups in which the VM's process is to run; those that could not be set, as warnings.
    std::vector<std::string> apply(const std::vector<std::string>& directories) const;
};

} // namespace pod
