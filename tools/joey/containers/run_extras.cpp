// What `docker run` has besides: namespaces shared with another container, devices, groups; and
// what cannot be had behind a VM, told in one line each.
#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <fcntl.h>
#include <utility>

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "tools/image/beneath.hpp"
#include "tools/joey/containers/run_request.hpp"
#include "tools/joey/sizes.hpp"

namespace joey::containers {

namespace {

using pod::Json;

// Devices that the guest's kernel has by itself; the machine's own are not in the VM.
struct GuestDevice {
    std::string_view path;
    int major;
    int minor;
};
constexpr std::array guest_devices = {
    GuestDevice{"/dev/null", 1, 3},    GuestDevice{"/dev/zero", 1, 5},
    GuestDevice{"/dev/full", 1, 7},    GuestDevice{"/dev/random", 1, 8},
    GuestDevice{"/dev/urandom", 1, 9}, GuestDevice{"/dev/kmsg", 1, 11},
    GuestDevice{"/dev/tty", 5, 0},     GuestDevice{"/dev/fuse", 10, 229},
};

// The container in whose VM another is to be, by "container:NAME".
os::Result<Container> owner_of(const Session& session, const char* option, std::string_view text) {
    constexpr std::string_view prefix = "container:";
    TRY(Container other, session.registry.find(std::string(text.substr(prefix.size()))));
    if (!other.pod.empty())
        return os::fail(os::Code::InvalidArgument, "--", option, " ", text, ": ", other.name,
                        " is in the VM of another; name that one");
    return other;
}

bool names_container(std::string_view text) {
    return text.starts_with("container:");
}

// "host" is the machine's namespace, which is not in the VM.
os::Result<void> read_namespace(const Session& session, const Arguments& arguments,
                                const char* option, Container& out) {
    const std::string text = arguments.value(option);
    if (text.empty() || text == "private" || text == "shareable" || text == "none")
        return {};
    if (text == "host")
        return os::fail(os::Code::InvalidArgument, "--", option,
                        " host: this machine's is not in the VM; --", option,
                        " container:NAME shares another container's");
    if (!names_container(text))
        return os::fail(os::Code::InvalidArgument, "--", option, " ", text,
                        ": give private or container:NAME");
    TRY(const Container other, owner_of(session, option, text));
    if (!out.pod.empty() && out.pod != other.id)
        return os::fail(os::Code::InvalidArgument, "--", option, " ", text,
                        ": one container can be in one VM only");
    out.pod = other.id;
    out.shared_namespaces.emplace_back(option);
    return {};
}

os::Result<std::uint32_t> group_of(const std::string& word, int root) {
    std::uint32_t number = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
    if (error == std::errc() && end == word.data() + word.size())
        return number;
    const auto account = image::find_account_in("0:" + word, root);
    if (!account)
        return os::fail(os::Code::InvalidArgument, "--group-add ", word.substr(0, 100),
                        ": the image has no such group");
    return account->gid;
}

os::Result<void> add_groups(const Arguments& arguments, RunRequest& request) {
    for (const std::string& word : arguments.values("group-add")) {
        TRY(const std::uint32_t group, group_of(word, request.base.directory.get()));
        request.config["process"]["user"]["additionalGids"].push_back(group);
    }
    return {};
}

// PATH[:PATH[:rwm]]
os::Result<void> add_device(const std::string& text, RunRequest& request) {
    const std::size_t first = std::min(text.find(':'), text.size());
    const std::size_t second = std::min(text.find(':', first + 1), text.size());
    const std::string source = text.substr(0, first);
    std::string target = first < text.size() ? text.substr(first + 1, second - first - 1) : source;
    std::string access = second < text.size() ? text.substr(second + 1) : "rwm";
    if (!target.starts_with('/') && second == text.size()) {
        access = std::exchange(target, source); // PATH:rwm
    }
    const auto* known = std::find_if(guest_devices.begin(), guest_devices.end(),
                                     [&](const GuestDevice& one) { return one.path == source; });
    if (known == guest_devices.end())
        return os::fail(os::Code::InvalidArgument, "--device ", text.substr(0, 200),
                        ": devices of this machine are not in the VM; it has /dev/fuse and the "
                        "usual ones of its own");
    if (!target.starts_with('/') || access.empty() ||
        access.find_first_not_of("rwm") != std::string::npos)
        return os::fail(os::Code::InvalidArgument, "--device ", text.substr(0, 200),
                        ": give PATH[:PATH[:rwm]]");
    Json& linux_part = request.config["linux"];
    constexpr int mode = 0666;
    linux_part["devices"].push_back(Json{{"path", target},
                                         {"type", "c"},
                                         {"major", known->major},
                                         {"minor", known->minor},
                                         {"fileMode", mode},
                                         {"uid", 0},
                                         {"gid", 0}});
    linux_part["resources"]["devices"].push_back(Json{{"allow", true},
                                                      {"type", "c"},
                                                      {"major", known->major},
                                                      {"minor", known->minor},
                                                      {"access", access}});
    return {};
}

struct DeviceRate {
    const char* option;
    const char* name;  // in the configuration
    const char* shown; // by inspect
    bool bytes;
};
constexpr std::array device_rates = {
    DeviceRate{"device-read-bps", "throttleReadBpsDevice", "BlkioDeviceReadBps", true},
    DeviceRate{"device-write-bps", "throttleWriteBpsDevice", "BlkioDeviceWriteBps", true},
    DeviceRate{"device-read-iops", "throttleReadIOPSDevice", "BlkioDeviceReadIOps", false},
    DeviceRate{"device-write-iops", "throttleWriteIOPSDevice", "BlkioDeviceWriteIOps", false}};

struct DeviceFigure {
    std::string path;
    Json numbers; // major, minor
    std::uint64_t figure = 0;
};

// PATH:FIGURE of a block device of this machine.
os::Result<DeviceFigure> read_device_figure(const std::string& option, const std::string& text,
                                            bool bytes) {
    const std::size_t colon = text.rfind(':');
    const std::string figure = colon == std::string::npos ? std::string() : text.substr(colon + 1);
    DeviceFigure out{.path = text.substr(0, colon)};
    const bool digits = figure.find_first_not_of("0123456789") == std::string::npos;
    constexpr std::uint64_t none = UINT64_MAX;
    const std::uint64_t number = bytes || digits ? parse_size(figure).value_or(none) : none;
    if (!out.path.starts_with("/dev/") || number > INT64_MAX)
        return os::fail(os::Code::InvalidArgument, "--", option, " ", text.substr(0, 200),
                        ": give PATH:NUMBER", bytes ? ", such as /dev/sda:10mb" : "");
    struct stat about {};
    if (::stat(out.path.c_str(), &about) != 0)
        return os::fail_errno(errno, "--", option, " ", out.path);
    if (!S_ISBLK(about.st_mode))
        return os::fail(os::Code::InvalidArgument, "--", option, " ", out.path,
                        ": is no block device");
    out.numbers = Json{{"major", major(about.st_rdev)}, {"minor", minor(about.st_rdev)}};
    out.figure = number;
    return out;
}

os::Result<void> add_weights(const Arguments& arguments, RunRequest& request) {
    constexpr std::uint64_t least = 10;
    constexpr std::uint64_t most = 1000;
    const auto fits = [](std::uint64_t weight) {
        return weight == 0 || (weight >= least && weight <= most);
    };
    Json& io = request.config["linux"]["resources"]["blockIO"];
    if (arguments.has("blkio-weight")) {
        const std::string text = arguments.value("blkio-weight");
        const auto weight = parse_size(text);
        if (!weight || !fits(*weight) || text.find_first_not_of("0123456789") != std::string::npos)
            return os::fail(os::Code::InvalidArgument, "--blkio-weight ", text,
                            ": give a number from 10 to 1000");
        request.container.limits["BlkioWeight"] = io["weight"] = *weight;
    }
    for (const std::string& text : arguments.values("blkio-weight-device")) {
        TRY(DeviceFigure one, read_device_figure("blkio-weight-device", text, false));
        if (!fits(one.figure))
            return os::fail(os::Code::InvalidArgument, "--blkio-weight-device ", text,
                            ": the weight lies between 10 and 1000");
        request.container.limits["BlkioWeightDevice"].push_back(
            Json{{"Path", one.path}, {"Weight", one.figure}});
        one.numbers["weight"] = one.figure;
        io["weightDevice"].push_back(std::move(one.numbers));
    }
    return {};
}

// The VM's process reads and writes the container's files: it is what has these (tools/pod).
os::Result<void> add_block_io(const Arguments& arguments, RunRequest& request) {
    Json& resources = request.config["linux"]["resources"];
    TRY(add_weights(arguments, request));
    for (const DeviceRate& rate : device_rates) {
        for (const std::string& text : arguments.values(rate.option)) {
            TRY(DeviceFigure one, read_device_figure(rate.option, text, rate.bytes));
            request.container.limits[rate.shown].push_back(
                Json{{"Path", one.path}, {"Rate", one.figure}});
            one.numbers["rate"] = one.figure;
            resources["blockIO"][rate.name].push_back(std::move(one.numbers));
        }
    }
    if (resources["blockIO"].is_null())
        resources.erase("blockIO");
    return {};
}

// What Docker has, and what takes its place here.
struct Refused {
    const char* option;
    const char* why;
};
constexpr const char* no_address = "the VM's network gives its address; --net none and a pod of a "
                                   "CNI engine are the other choices";
constexpr const char* no_names = "there is no network of several VMs; containers with one --pod "
                                 "reach each other by localhost";
constexpr std::array refused = {
    Refused{"device-cgroup-rule", "the guest's kernel has no other devices than --device gives"},
    Refused{"gpus", "devices of this machine are not in the VM"},
    Refused{"ip", no_address},
    Refused{"ip6", no_address},
    Refused{"link", no_names},
    Refused{"link-local-ip", no_address},
    Refused{"network-alias", no_names},
    Refused{"storage-opt",
            "a container's files may take what this machine's file system has left"}};
constexpr std::array only_values = {std::pair("isolation", "default"), std::pair("runtime", "joey"),
                                    std::pair("volume-driver", "local")};

// What would ask something of a VM or a registry that there is not.
os::Result<void> check_refused(const Arguments& arguments) {
    if (const std::string pull = arguments.value("pull", "missing");
        pull != "missing" && pull != "never")
        return os::fail(os::Code::InvalidArgument, "--pull ", pull,
                        ": there is no registry to ask; give missing or never, and bring images by "
                        "'joey image import'");
    const std::string platform = arguments.value("platform", "linux/amd64");
    if (platform != "linux/amd64" && platform != "amd64" && platform != "linux/x86_64")
        return os::fail(os::Code::InvalidArgument, "--platform ", platform,
                        ": this machine runs linux/amd64");
    for (const Refused& one : refused) {
        if (arguments.has(one.option))
            return os::fail(os::Code::InvalidArgument, "--", one.option, ": ", one.why);
    }
    for (const auto& [option, only] : only_values) {
        const std::string text = arguments.value(option, only);
        if (text != only)
            return os::fail(os::Code::InvalidArgument, "--", option, " ", text.substr(0, 200),
                            ": there is ", only, " only");
    }
    for (const char* option : {"uts", "cgroupns", "userns"}) {
        const std::string text = arguments.value(option);
        const bool is_userns = std::string_view(option) == "userns";
        if (!text.empty() && text != "private" && !(is_userns && text == "host"))
            return os::fail(os::Code::InvalidArgument, "--", option, " ", text, ": give private",
                            is_userns ? " or host, which is the VM's" : "",
                            "; this machine's is not in the VM");
    }
    return {};
}

} // namespace

os::Result<void> read_sharing(const Session& session, const Arguments& arguments, Container& out) {
    TRY(check_refused(arguments));
    const std::string network = arguments.value("net", arguments.value("network"));
    if (names_container(network)) {
        if (!out.pod.empty())
            return os::fail(os::Code::InvalidArgument, "--network ", network,
                            " and --pod do not go together");
        TRY(const Container other, owner_of(session, "network", network));
        out.pod = other.id;
        out.network = "container:" + other.id;
    }
    TRY(read_namespace(session, arguments, "pid", out));
    return read_namespace(session, arguments, "ipc", out);
}

os::Result<void> add_extras(const Arguments& arguments, RunRequest& request) {
    TRY(add_groups(arguments, request));
    TRY(add_block_io(arguments, request));
    for (const std::string& text : arguments.values("device"))
        TRY(add_device(text, request));
    for (const std::string& text : arguments.values("annotation")) {
        const std::size_t equals = text.find('=');
        if (equals == std::string::npos || equals == 0)
            return os::fail(os::Code::InvalidArgument, "--annotation ", text, ": give NAME=VALUE");
        request.config["annotations"][text.substr(0, equals)] = text.substr(equals + 1);
    }
    // A path says: the namespace of the VM's first container (tools/pod).
    for (Json& one : request.config["linux"]["namespaces"]) {
        const std::string type = pod::string_of(one, "type");
        const auto& shared = request.container.shared_namespaces;
        if (std::find(shared.begin(), shared.end(), type) != shared.end())
            one["path"] = "/proc/self/ns/" + type;
    }
    return {};
}

// Those of another container, as they are mounted there.
os::Result<std::vector<Volume>> volumes_from(const Session& session, const Arguments& arguments) {
    std::vector<Volume> out;
    for (std::string word : arguments.values("volumes-from")) {
        bool read_only = false;
        if (word.ends_with(":ro") || word.ends_with(":rw")) {
            read_only = word.ends_with(":ro");
            word.resize(word.size() - 3);
        }
        TRY(const Container other, session.registry.find(word));
        for (const Json& mount : other.mounts) {
            if (pod::string_of(mount, "Type") == "tmpfs")
                continue;
            Volume volume;
            volume.kind =
                pod::string_of(mount, "Name").empty() ? Volume::Kind::Bind : Volume::Kind::Named;
            volume.source = volume.kind == Volume::Kind::Named ? pod::string_of(mount, "Name")
                                                               : pod::string_of(mount, "Source");
            volume.target = pod::string_of(mount, "Destination");
            volume.read_only = read_only || !pod::bool_of(mount, "RW");
            out.push_back(std::move(volume));
        }
    }
    return out;
}

} // namespace joey::containers
