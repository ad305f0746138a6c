// Which containers share a shim, and so a VM.
#pragma once

#include <map>
#include <string>

#include "tools/pod/json.hpp"

namespace shim {

// The pod's name by CRI's annotations; the group by runc's shim's; or the container's own id.
// A name that could not be a container's is an error: it comes from whoever wrote the annotations.
os::Result<std::string> group_of(const std::map<std::string, std::string>& annotations,
                                 const std::string& id);
// The same from BUNDLE/config.json.
os::Result<std::string> group_of_bundle(const std::string& bundle, const std::string& id);

} // namespace shim
