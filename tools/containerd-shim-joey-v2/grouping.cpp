#include "tools/containerd-shim-joey-v2/grouping.hpp"

#include "tools/pod/state_files.hpp"

namespace shim {

namespace {

constexpr const char* group_annotations[] = {
    "io.containerd.runc.v2.group",
    "io.kubernetes.cri.sandbox-id",
};

} // namespace

os::Result<std::string> group_of(const std::map<std::string, std::string>& annotations,
                                 const std::string& id) {
    for (const char* name : group_annotations) {
        const auto found = annotations.find(name);
        if (found == annotations.end() || found->second.empty())
            continue;
        if (!pod::check_id(found->second))
            return os::fail(os::Code::InvalidArgument, "annotation ", name, ": ", found->second,
                            " is no valid id");
        return found->second;
    }
    return id;
}

os::Result<std::string> group_of_bundle(const std::string& bundle, const std::string& id) {
    TRY(const pod::Json config, pod::read_json(bundle + "/config.json"));
    return group_of(pod::string_map_of(config, "annotations"), id);
}

} // namespace shim
