// Mounts and their options, in the words of mount(8) as runc takes them.
#include <algorithm>
#include <array>

#include <linux/mount.h>

#include "agent/spec/parts.hpp"

namespace spec {

namespace {

// <sys/mount.h> does not stand beside <linux/mount.h> in one file.
constexpr std::uint64_t ms_unbindable = 1U << 17;
constexpr std::uint64_t ms_private = 1U << 18;
constexpr std::uint64_t ms_slave = 1U << 19;
constexpr std::uint64_t ms_shared = 1U << 20;
constexpr std::uint64_t ms_rec = 1U << 14;

struct Attribute {
    std::string_view name;
    std::uint64_t attribute;
    bool clears;
};
constexpr std::array attributes = {
    Attribute{"ro", MOUNT_ATTR_RDONLY, false},
    Attribute{"rw", MOUNT_ATTR_RDONLY, true},
    Attribute{"nosuid", MOUNT_ATTR_NOSUID, false},
    Attribute{"suid", MOUNT_ATTR_NOSUID, true},
    Attribute{"nodev", MOUNT_ATTR_NODEV, false},
    Attribute{"dev", MOUNT_ATTR_NODEV, true},
    Attribute{"noexec", MOUNT_ATTR_NOEXEC, false},
    Attribute{"exec", MOUNT_ATTR_NOEXEC, true},
    Attribute{"nodiratime", MOUNT_ATTR_NODIRATIME, false},
    Attribute{"diratime", MOUNT_ATTR_NODIRATIME, true},
    Attribute{"nosymfollow", MOUNT_ATTR_NOSYMFOLLOW, false},
    Attribute{"symfollow", MOUNT_ATTR_NOSYMFOLLOW, true},
    Attribute{"noatime", MOUNT_ATTR_NOATIME, false},
    Attribute{"atime", MOUNT_ATTR_NOATIME, true},
    Attribute{"relatime", MOUNT_ATTR_RELATIME, false},
    Attribute{"norelatime", MOUNT_ATTR_RELATIME, true},
    Attribute{"strictatime", MOUNT_ATTR_STRICTATIME, false},
    Attribute{"nostrictatime", MOUNT_ATTR_STRICTATIME, true},
};

struct Propagation {
    std::string_view name;
    std::uint64_t flags;
};
constexpr std::array propagations = {
    Propagation{"shared", ms_shared},         Propagation{"rshared", ms_shared | ms_rec},
    Propagation{"slave", ms_slave},           Propagation{"rslave", ms_slave | ms_rec},
    Propagation{"private", ms_private},       Propagation{"rprivate", ms_private | ms_rec},
    Propagation{"unbindable", ms_unbindable}, Propagation{"runbindable", ms_unbindable | ms_rec},
};

// Flags of the whole file system, which fsconfig(2) takes by name. The second of each pair is the
// default and says nothing.
constexpr std::array superblock_flags = {"sync", "dirsync", "lazytime", "mand"};
constexpr std::array superblock_defaults = {
    "async", "nolazytime", "nomand", "silent", "loud", "iversion", "noiversion", "defaults",
    "acl",   "noacl",      "auto",   "noauto", "user", "nouser",   "_netdev"};

// The kinds of access times are one field of the mount's attributes, not bits: setting one means
// clearing the field first, and MOUNT_ATTR_RELATIME is no bit at all.
void apply(std::uint64_t attribute, bool clears, std::uint64_t& set, std::uint64_t& clear) {
    if ((attribute & ~std::uint64_t{MOUNT_ATTR__ATIME}) == 0) {
        set &= ~std::uint64_t{MOUNT_ATTR__ATIME};
        clear |= MOUNT_ATTR__ATIME;
        if (!clears)
            set |= attribute;
        return;
    }
    if (clears) {
        set &= ~attribute;
        clear |= attribute;
    } else {
        set |= attribute;
        clear &= ~attribute;
    }
}

bool apply_attribute(std::string_view name, MountOptions& out) {
    const auto find = [](std::string_view wanted) {
        return std::find_if(attributes.begin(), attributes.end(),
                            [&](const Attribute& known) { return known.name == wanted; });
    };
    if (const auto* found = find(name); found != attributes.end()) {
        apply(found->attribute, found->clears, out.set, out.clear);
        return true;
    }
    // "rro", "rnosuid", ...: the same for the whole tree below.
    if (!name.starts_with('r'))
        return false;
    if (const auto* found = find(name.substr(1)); found != attributes.end()) {
        apply(found->attribute, found->clears, out.recursive_set, out.recursive_clear);
        return true;
    }
    return false;
}

template <std::size_t N>
bool holds(const std::array<const char*, N>& list, std::string_view name) {
    return std::find(list.begin(), list.end(), name) != list.end();
}

os::Result<void> parse_option(const std::string& option, const std::string& name,
                              MountOptions& out) {
    const auto refuse = [&](const char* why) {
        return os::fail(os::Code::InvalidArgument, name, ": the option ", quote(option), why);
    };
    const auto* propagation = std::find_if(propagations.begin(), propagations.end(),
                                           [&](const Propagation& p) { return p.name == option; });
    if (option == "bind") {
        out.bind = true;
    } else if (option == "rbind") {
        out.bind = out.recursive_bind = true;
    } else if (propagation != propagations.end()) {
        out.propagation.push_back(propagation->flags);
    } else if (option == "tmpcopyup") {
        out.copy_up = true;
    } else if (option == "remount" || option == "idmap" || option == "ridmap") {
        return refuse(" is not supported");
    } else if (holds(superblock_flags, option)) {
        out.data.push_back(option);
    } else if (!holds(superblock_defaults, option) && !apply_attribute(option, out) &&
               option != "notmpcopyup" && !option.empty()) {
        if (option.find(',') != std::string::npos)
            return refuse(" holds a comma");
        out.data.push_back(option);
    }
    return {};
}

os::Result<Mount> read_mount(const JsonView& view, const std::string& bundle) {
    Mount out{.path = view.path()};
    std::vector<std::string> options;
    TRY(view.read("destination", out.destination));
    TRY(view.read("type", out.type));
    TRY(view.read("source", out.source));
    TRY(view.read("options", options));
    for (const char* name : {"uidMappings", "gidMappings"}) {
        TRY(const JsonView mappings, view.member(name));
        TRY(const std::vector<JsonView> items, mappings.items());
        if (!items.empty())
            return mappings.wrong("mounts with mapped ids are not supported");
    }
    if (out.destination.empty())
        return view.wrong("destination is missing");
    // Older documents have relative ones; runc takes them from the root. Nobody who asks for "/dev"
    // or "/proc" shall be deceived by another way of writing it.
    out.destination = clean_path(out.destination);
    TRY(out.options, parse_mount_options(options, out.path + ".options"));
    if (out.type == "bind" || out.type == "rbind")
        out.options.bind = true;
    if (out.options.bind) {
        out.type = "bind";
        if (out.source.empty())
            return view.wrong("source is missing");
        if (out.source[0] != '/')
            out.source = bundle + "/" + out.source;
    } else if (out.type.empty()) {
        return view.wrong("type is missing, and no option says \"bind\"");
    }
    if (out.options.copy_up && out.type != "tmpfs")
        return view.wrong("tmpcopyup is for tmpfs");
    return out;
}

} // namespace

os::Result<MountOptions> parse_mount_options(const std::vector<std::string>& options,
                                             const std::string& name) {
    MountOptions out;
    for (const std::string& option : options)
        TRY(parse_option(option, name, out));
    return out;
}

os::Result<std::vector<Mount>> read_mounts(const JsonView& view, const std::string& bundle) {
    std::vector<Mount> out;
    TRY(const std::vector<JsonView> items, view.items());
    for (const JsonView& item : items) {
        TRY(Mount mount, read_mount(item, bundle));
        out.push_back(std::move(mount));
    }
    return out;
}

} // namespace spec
