#include "agent/container/namespaces.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <fcntl.h>
#include <sched.h>

#include <linux/nsfs.h>
#include <linux/sched.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "agent/os/files.hpp"

namespace container {

namespace {

struct NamespaceFile {
    int flag;
    const char* file;
};
// The user namespace comes last: its owner's rights over the others are needed until then.
constexpr std::array namespace_files = {
    NamespaceFile{CLONE_NEWCGROUP, "cgroup"}, NamespaceFile{CLONE_NEWIPC, "ipc"},
    NamespaceFile{CLONE_NEWUTS, "uts"},       NamespaceFile{CLONE_NEWNET, "net"},
    NamespaceFile{CLONE_NEWPID, "pid"},       NamespaceFile{CLONE_NEWTIME, "time"},
    NamespaceFile{CLONE_NEWNS, "mnt"},        NamespaceFile{CLONE_NEWUSER, "user"},
};

bool same_file(int one, int other) {
    struct stat a {};
    struct stat b {};
    return fstat(one, &a) == 0 && fstat(other, &b) == 0 && a.st_ino == b.st_ino &&
           a.st_dev == b.st_dev;
}

const char* file_of(int flag) {
    // What children are born into is a file of its own.
    if (flag == CLONE_NEWPID)
        return "pid_for_children";
    if (flag == CLONE_NEWTIME)
        return "time_for_children";
    for (const NamespaceFile& entry : namespace_files) {
        if (entry.flag == flag)
            return entry.file;
    }
    return "";
}

} // namespace

os::Result<std::vector<OpenNamespace>> open_namespaces_of(pid_t pid) {
    std::vector<OpenNamespace> out;
    for (const NamespaceFile& entry : namespace_files) {
        auto own =
            os::open_path(AT_FDCWD, os::text("/proc/self/ns/", entry.file).c_str(), O_RDONLY);
        // A kind that this kernel lacks.
        if (!own && own.error().code == os::Code::NotFound)
            continue;
        if (!own)
            return base::Failure(std::move(own.error()));
        TRY(os::UniqueFd theirs,
            os::open_path(AT_FDCWD, os::text("/proc/", pid, "/ns/", entry.file).c_str(), O_RDONLY));
        if (!same_file(own->get(), theirs.get()))
            out.push_back({entry.flag, std::move(theirs)});
    }
    return out;
}

os::Result<std::vector<OpenNamespace>> open_named(const spec::Linux& part) {
    std::vector<OpenNamespace> out;
    for (const spec::Namespace& entry : part.namespaces) {
        if (entry.path.empty())
            continue;
        auto fd = os::open_path(AT_FDCWD, entry.path.c_str(), O_RDONLY);
        const std::string_view kind = spec::namespace_name(entry.flag);
        if (!fd)
            return os::fail(fd.error().code, "linux.namespaces: the ", kind,
                            " namespace: ", fd.error().message);
        if (ioctl(fd->get(), NS_GET_NSTYPE) != entry.flag)
            return os::fail(os::Code::InvalidArgument, "linux.namespaces: ", entry.path, " is no ",
                            kind, " namespace");
        out.push_back({entry.flag, std::move(*fd)});
    }
    return out;
}

bool is_own(const OpenNamespace& entry) {
    const auto found = std::find_if(namespace_files.begin(), namespace_files.end(),
                                    [&](const auto& file) { return file.flag == entry.flag; });
    const auto own =
        os::open_path(AT_FDCWD, os::text("/proc/self/ns/", found->file).c_str(), O_RDONLY);
    return own && same_file(own->get(), entry.fd.get());
}

os::Result<void> join(const OpenNamespace& entry) {
    if (setns(entry.fd.get(), entry.flag) != 0)
        return os::fail_errno(errno, "join the ", spec::namespace_name(entry.flag), " namespace");
    return {};
}

os::Result<void> TemporaryStay::remember(int flag) {
    TRY(os::UniqueFd own,
        os::open_path(AT_FDCWD, os::text("/proc/self/ns/", file_of(flag)).c_str(), O_RDONLY));
    back_.push_back({flag, std::move(own)});
    return {};
}

os::Result<void> TemporaryStay::enter(const OpenNamespace& entry) {
    TRY(remember(entry.flag));
    return join(entry);
}

TemporaryStay::~TemporaryStay() {
    for (const OpenNamespace& entry : back_)
        static_cast<void>(join(entry));
}

os::Result<pid_t> clone_sibling(int namespaces) {
    clone_args args{};
    args.flags = static_cast<std::uint64_t>(namespaces) | CLONE_PARENT;
    const long pid = syscall(SYS_clone3, &args, sizeof args);
    if (pid < 0)
        return os::fail_errno(errno, "linux.namespaces: make a process in new namespaces");
    return static_cast<pid_t>(pid);
}

} // namespace container
