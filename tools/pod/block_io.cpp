#include "tools/pod/block_io.hpp"

#include <array>
#include <fcntl.h>
#include <unistd.h>

#include "agent/os/files.hpp"
#include "tools/pod/host_cgroup.hpp"

namespace pod {

namespace {

constexpr std::int64_t least_weight = 10;
constexpr std::int64_t most_weight = 1000;

struct Throttle {
    const char* name; // in the configuration
    const char* key;  // in io.max
    const char* old;  // file of version 1
};
constexpr std::array throttles = {
    Throttle{"throttleReadBpsDevice", "rbps", "/blkio.throttle.read_bps_device"},
    Throttle{"throttleWriteBpsDevice", "wbps", "/blkio.throttle.write_bps_device"},
    Throttle{"throttleReadIOPSDevice", "riops", "/blkio.throttle.read_iops_device"},
    Throttle{"throttleWriteIOPSDevice", "wiops", "/blkio.throttle.write_iops_device"}};

os::Result<std::string> device_of(const Json& item, const std::string& name) {
    const std::int64_t major = int_of(item, "major");
    const std::int64_t minor = int_of(item, "minor");
    if (major < 0 || minor < 0)
        return os::fail(os::Code::InvalidArgument, name, ": a device's numbers are not negative");
    return os::text(major, ":", minor);
}

// 10 to 1000 in version 1 and of BFQ, 1 to 10000 of io.weight: as runc converts it.
os::Result<void> add_weight(BlockIo& out, std::int64_t weight, const std::string& device,
                            const std::string& name) {
    if (weight == 0)
        return {};
    if (weight < least_weight || weight > most_weight)
        return os::fail(os::Code::InvalidArgument, name, ": must lie between ", least_weight,
                        " and ", most_weight);
    const std::int64_t large = 1 + (weight - least_weight) * 9999 / (most_weight - least_weight);
    const bool whole = device.empty();
    const std::string on = whole ? std::string("default ") : device + " ";
    out.settings.push_back(
        {.files = {"/io.weight"}, .value = os::text(on, large), .old_value = {}, .name = name});
    // Which there are depends on the host's I/O scheduler.
    BlockIo::Setting& added = out.settings.back();
    added.files.emplace_back("/io.bfq.weight");
    added.files.emplace_back(whole ? "/blkio.weight" : "/blkio.weight_device");
    added.files.emplace_back(whole ? "/blkio.bfq.weight" : "/blkio.bfq.weight_device");
    added.old_value = whole ? std::to_string(weight) : os::text(device, " ", weight);
    return {};
}

bool write_first(const std::string& directory, const BlockIo::Setting& setting) {
    for (const std::string& file : setting.files) {
        const std::string path = directory + file;
        if (::access(path.c_str(), F_OK) != 0)
            continue;
        const bool is_new = file == "/io.weight" || file == "/io.max";
        const std::string& value = is_new ? setting.value : setting.old_value;
        if (os::write_file(AT_FDCWD, path.c_str(), value))
            return true;
    }
    return false;
}

} // namespace

os::Result<BlockIo> BlockIo::take(Json& resources) {
    BlockIo out;
    Json* given = resources.is_object() ? find(resources, "blockIO") : nullptr;
    if (given == nullptr)
        return out;
    const Json io = std::move(*given);
    resources.erase("blockIO");
    const std::string where = "linux.resources.blockIO.";
    TRY(add_weight(out, int_of(io, "weight"), {}, where + "weight"));
    const auto items = [&](const char* name) {
        const Json* list = find(io, name);
        return list != nullptr && list->is_array() ? *list : Json::array();
    };
    for (const Json& item : items("weightDevice")) {
        const std::string name = where + "weightDevice";
        TRY(const std::string device, device_of(item, name));
        TRY(add_weight(out, int_of(item, "weight"), device, name));
    }
    for (const Throttle& one : throttles) {
        for (const Json& item : items(one.name)) {
            const std::string name = where + one.name;
            TRY(const std::string device, device_of(item, name));
            const std::int64_t rate = int_of(item, "rate");
            if (rate < 0)
                return os::fail(os::Code::InvalidArgument, name, ": a rate is not negative");
            const std::string most = rate == 0 ? "max" : std::to_string(rate);
            out.settings.push_back({.files = {"/io.max", one.old},
                                    .value = os::text(device, " ", one.key, "=", most),
                                    .old_value = os::text(device, " ", rate),
                                    .name = name});
        }
    }
    return out;
}

std::vector<std::string> BlockIo::apply(const std::vector<std::string>& directories) const {
    std::vector<std::string> warnings;
    if (settings.empty())
        return warnings;
    for (const std::string& directory : directories)
        delegate_controller(directory, "+io");
    for (const Setting& setting : settings) {
        bool set = false;
        for (const std::string& directory : directories)
            set = write_first(directory, setting) || set;
        if (!set)
            warnings.push_back(os::text(setting.name,
                                        ": this machine's control groups do not take it, and the "
                                        "VM goes without"));
    }
    return warnings;
}

} // namespace pod
