// What concerns the whole sandbox: mounts for containers to be built on, names, sysctls. The client
// is the pod's owner; what is checked here is checked for clear errors, not for protection.
#include <algorithm>
#include <cerrno>
#include <fcntl.h>

#include <sys/mount.h>
#include <sys/stat.h>

#include "agent/container/mount_calls.hpp"
#include "agent/os/files.hpp"
#include "agent/service/agent.hpp"
#include "agent/spec/parts.hpp"

namespace service {

namespace {

os::Result<void> check_path(const char* field, const std::string& path) {
    if (!spec::is_clean_absolute(path) || path.find('\0') != std::string::npos)
        return os::fail(os::Code::InvalidArgument, field,
                        ": must be an absolute path free of \"..\"");
    return {};
}

os::Result<os::UniqueFd> make_mount(const proto::MountRequest& request,
                                    const spec::MountOptions& options) {
    if (!options.bind)
        return container::new_filesystem(
            request.type(), request.source().empty() ? request.type() : request.source(),
            options.data, options.set_when_new());
    TRY(os::UniqueFd tree,
        container::clone_tree(AT_FDCWD, request.source().c_str(), options.recursive_bind));
    TRY(container::set_attributes(
        tree.get(),
        {.set = options.recursive_set, .clear = options.recursive_clear, .recursive = true}));
    TRY(container::set_attributes(tree.get(), {.set = options.set, .clear = options.clear}));
    return tree;
}

} // namespace

os::Result<void> mount_for_sandbox(const proto::MountRequest& request) {
    TRY(check_path("target", request.target()));
    TRY(spec::MountOptions options,
        spec::parse_mount_options({request.options().begin(), request.options().end()}, "options"));
    if (request.type() == "bind")
        options.bind = true;
    if (options.bind) {
        TRY(check_path("source", request.source()));
    } else if (request.type().empty() || request.type().find('\0') != std::string::npos ||
               request.source().find('\0') != std::string::npos) {
        return os::fail(os::Code::InvalidArgument,
                        "type, source: a name is missing or has a NUL byte");
    }
    TRY(const os::UniqueFd mount, make_mount(request, options));
    TRY(const os::UniqueFd root, os::open_path(AT_FDCWD, "/", O_PATH | O_DIRECTORY));
    struct stat about {};
    const bool directory = fstat(mount.get(), &about) == 0 && S_ISDIR(about.st_mode);
    TRY(const os::UniqueFd target,
        directory ? container::make_directory_in_root(root.get(), request.target(), 0755)
                  : container::make_file_in_root(root.get(), request.target()));
    TRY(container::attach(mount.get(), target.get()));
    for (const std::uint64_t flags : options.propagation)
        TRY(container::set_attributes(mount.get(), {.propagation = flags & ~std::uint64_t{MS_REC},
                                                    .recursive = (flags & MS_REC) != 0}));
    return {};
}

os::Result<void> unmount_for_sandbox(const proto::UnmountRequest& request) {
    TRY(check_path("target", request.target()));
    if (umount2(request.target().c_str(), UMOUNT_NOFOLLOW) != 0)
        return os::fail_errno(errno, "unmount ", request.target());
    return {};
}

os::Result<void> set_hostname(const proto::SetHostnameRequest& request) {
    constexpr std::size_t longest = 64;
    if (request.hostname().empty() || request.hostname().size() > longest)
        return os::fail(os::Code::InvalidArgument, "hostname: must have 1 to 64 bytes");
    if (sethostname(request.hostname().data(), request.hostname().size()) != 0)
        return os::fail_errno(errno, "hostname");
    return {};
}

os::Result<void> set_sysctls(const proto::SetSysctlsRequest& request) {
    for (const auto& [key, value] : request.sysctls()) {
        std::string path = key;
        if (key.find('/') == std::string::npos)
            std::replace(path.begin(), path.end(), '.', '/');
        path.insert(0, "/proc/sys/");
        TRY(check_path("sysctls", path));
        const auto written = os::write_file(AT_FDCWD, path.c_str(), value);
        if (!written)
            return os::fail(written.error().code, "sysctls[\"", key,
                            "\"]: ", written.error().message);
    }
    return {};
}

} // namespace service
