// The configuration as a whole.
#include "agent/spec/spec.hpp"

#include <iterator>

#include "agent/spec/parts.hpp"

namespace spec {

namespace {

os::Result<std::vector<Hook>> read_hook_list(const JsonView& hooks, const char* name) {
    std::vector<Hook> out;
    TRY(const JsonView list, hooks.member(name));
    TRY(const std::vector<JsonView> items, list.items());
    for (const JsonView& item : items) {
        Hook hook{.name = item.path()};
        TRY(item.read("path", hook.path));
        TRY(item.read("args", hook.args));
        TRY(item.read("env", hook.env));
        TRY(const JsonView timeout, item.member("timeout"));
        if (timeout.exists()) {
            TRY(const std::int64_t seconds, timeout.as_int(1, 86400));
            hook.timeout = static_cast<std::uint32_t>(seconds);
        }
        if (hook.path.empty() || hook.path[0] != '/')
            return item.wrong("path must be absolute");
        if (hook.args.empty())
            hook.args.push_back(hook.path);
        out.push_back(std::move(hook));
    }
    return out;
}

// "1.0.2", "1.2.0-dev": what this code was written for is major version 1.
os::Result<void> check_version(const JsonView& root, std::string& version) {
    TRY(root.read("ociVersion", version));
    if (version.empty())
        return root.wrong("ociVersion is missing");
    if (!version.starts_with("1."))
        return root.wrong("ociVersion ", quote(version), " is not supported, versions 1.x are");
    return {};
}

os::Result<void> read_root(const JsonView& document, const std::string& bundle, Spec& out) {
    TRY(const JsonView root, document.member("root"));
    TRY(root.read("path", out.rootfs));
    TRY(root.read("readonly", out.readonly_root));
    if (out.rootfs.empty())
        return root.wrong("path is missing");
    if (out.rootfs[0] != '/')
        out.rootfs = bundle + "/" + out.rootfs;
    return {};
}

os::Result<void> refuse_other_systems(const JsonView& root) {
    for (const char* other : {"windows", "solaris", "vm", "zos", "freebsd"}) {
        TRY(const JsonView member, root.member(other));
        if (member.exists())
            return member.wrong("this is no configuration for Linux");
    }
    return {};
}

os::Result<void> read_linux_parts(const JsonView& root, Spec& out) {
    TRY(const JsonView hooks, root.member("hooks"));
    TRY(out.hooks, read_hooks(hooks));
    TRY(const JsonView linux_view, root.member("linux"));
    TRY(out.linux_part, read_linux(linux_view));
    return {};
}

} // namespace

os::Result<Hooks> read_hooks(const JsonView& view) {
    Hooks out;
    TRY(out.create_runtime, read_hook_list(view, "prestart"));
    TRY(std::vector<Hook> create_runtime, read_hook_list(view, "createRuntime"));
    out.create_runtime.insert(out.create_runtime.end(),
                              std::make_move_iterator(create_runtime.begin()),
                              std::make_move_iterator(create_runtime.end()));
    TRY(out.create_container, read_hook_list(view, "createContainer"));
    TRY(out.start_container, read_hook_list(view, "startContainer"));
    TRY(out.poststart, read_hook_list(view, "poststart"));
    TRY(out.poststop, read_hook_list(view, "poststop"));
    return out;
}

os::Result<Spec> parse_spec(std::string_view config, const std::string& bundle) {
    TRY(const JsonDocument document, JsonDocument::parse(config, ""));
    const JsonView root = document.root();
    Spec out;
    TRY(check_version(root, out.oci_version));
    TRY(read_root(root, bundle, out));
    TRY(root.read("hostname", out.hostname));
    TRY(root.read("domainname", out.domainname));
    TRY(root.read("annotations", out.annotations));
    TRY(const JsonView process, root.member("process"));
    if (process.exists()) {
        TRY(out.process, read_process(process));
    }
    TRY(const JsonView mounts, root.member("mounts"));
    TRY(out.mounts, read_mounts(mounts, bundle));
    TRY(read_linux_parts(root, out));
    TRY(refuse_other_systems(root));
    TRY(validate(out));
    out.warnings = out.linux_part.resources.warnings;
    return out;
}

} // namespace spec
