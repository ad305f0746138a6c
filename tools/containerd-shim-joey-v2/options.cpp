#include "tools/containerd-shim-joey-v2/options.hpp"

#include "tools/containerd-shim-joey-v2/protocol/runc_options.pb.h"
#include "tools/containerd-shim-joey-v2/protocol/runtime_options.pb.h"

namespace shim {

namespace {

// Behind a host, if there is one.
bool is_of(const wellknown::Any& options, const char* name) {
    return options.type_url().substr(options.type_url().rfind('/') + 1) == name;
}

constexpr const char* of_runc = "containerd.runc.v1.Options";
constexpr const char* of_any_runtime = "runtimeoptions.v1.Options";

} // namespace

os::Result<Settings> settings_of(const wellknown::Any& options, const Log& log) {
    std::string path;
    if (is_of(options, of_any_runtime)) {
        runtimeoptions::v1::Options parsed;
        if (!parsed.ParseFromString(options.value()))
            return os::fail(os::Code::InvalidArgument, "the runtime's options are no ",
                            of_any_runtime);
        path = parsed.config_path();
    } else if (!options.type_url().empty() && !is_of(options, of_runc)) {
        log.warning(
            os::text("runtime options of an unknown type are passed over: ", options.type_url()));
    }
    return Settings::load(path);
}

os::Result<std::string> cgroup_of(const wellknown::Any& options) {
    containerd::runc::v1::Options parsed;
    if (!is_of(options, of_runc))
        return std::string();
    if (!parsed.ParseFromString(options.value()))
        return os::fail(os::Code::InvalidArgument, "the runtime's options are no ", of_runc);
    return parsed.shim_cgroup();
}

} // namespace shim
