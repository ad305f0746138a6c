// The calls that mount in steps: open_tree(2), move_mount(2), fsopen(2), fsconfig(2), fsmount(2),
// fspick(2), mount_setattr(2).
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/mount.h>

#include "guestkernel/core/log.hpp"
#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/fs/file_table.hpp"
#include "guestkernel/fs/procfs/mount_options.hpp"
#include "guestkernel/fs/tmpfs.hpp"
#include "guestkernel/syscalls/file_calls.hpp"
#include "guestkernel/syscalls/mount_helpers.hpp"
#include "guestkernel/syscalls/namespace_calls.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

constexpr usize longest_value = 256;
constexpr usize longest_options = page_size;
constexpr int largest_blob = 1024 * 1024;

// A place (as of O_PATH) that keeps the anonymous namespace of its mounts alive.
class TreeFile final : public File {
public:
    TreeFile(Path path, Ref<Inode> inode, Ref<MountNamespace> space)
        : File(std::move(path), std::move(inode), O_PATH), space_(std::move(space)) {}
    const char* type_name() const override { return "path"; }

private:
    const Ref<MountNamespace> space_;
};

// A file system in the making (fsopen) or in change (fspick).
class ConfigFile final : public File {
public:
    static constexpr char file_type[] = "fscontext";
    using File::File;
    const char* type_name() const override { return file_type; }
    bool is_stream() const override { return true; }
    bool describe(String& out) override {
        return static_cast<bool>(out.append("anon_inode:[fscontext]"));
    }
    // The oldest message that has not been read: what was wrong with a parameter.
    Result<usize> read(IoBuffer& out, u64 offset) override;

    enum class Phase : u8 { Parameters, Made, Mounted, Failed, Reconfigure };
    Mutex mutex;
    Phase phase = Phase::Parameters;
    String type, source, options;
    u32 flags = 0;
    Ref<Superblock> superblock;
    Path picked;

    Result<void> set_flag(std::string_view name);
    Result<void> set_value(std::string_view name, std::string_view value);
    Result<void> set_descriptor(std::string_view name, int fd);
    Result<void> create();
    Result<void> reconfigure();

private:
    static constexpr usize most_messages = 8;
    Result<void> add_option(std::string_view name, std::string_view value, bool with_value);
    Result<void> check_option(std::string_view option);
    Vector<String> messages_; // without more memory the newest are lost
};

Result<usize> ConfigFile::read(IoBuffer& out, u64) {
    MutexGuard guard(mutex);
    if (messages_.empty())
        return fail(ENODATA);
    const std::string_view oldest = messages_[0].view();
    if (out.remaining() < oldest.size())
        return fail(EMSGSIZE);
    const usize done = out.copy_out(oldest.data(), oldest.size());
    if (done < oldest.size())
        return fail(EFAULT);
    messages_.erase(0);
    return done;
}

Result<void> ConfigFile::check_option(std::string_view option) {
    const std::string_view made = picked.mount() == nullptr
                                      ? type.view()
                                      : std::string_view(picked.mount()->superblock().type());
    if (made != "tmpfs" && made != "proc")
        return {};
    String message;
    TRY(message.append("e "));
    auto fine =
        made == "proc" ? check_proc_option(option, message) : check_tmpfs_option(option, message);
    if (fine)
        return fine;
    if (messages_.size() == most_messages)
        messages_.erase(0);
    if (message.push_back('\n'))
        (void)messages_.push_back(std::move(message));
    return fine;
}

Result<void> ConfigFile::add_option(std::string_view name, std::string_view value,
                                    bool with_value) {
    if (options.size() + name.size() + value.size() + 2 > longest_options)
        return fail(E2BIG);
    String option;
    TRY(option.append(name));
    if (with_value) {
        TRY(option.push_back('='));
        TRY(option.append(value));
    }
    TRY(check_option(option.view()));
    if (!options.empty())
        TRY(options.push_back(','));
    return options.append(option.view());
}

Result<void> ConfigFile::set_flag(std::string_view name) {
    static constexpr struct {
        std::string_view name;
        u32 set, clear;
    } known[] = {{"ro", MS_RDONLY, 0},          {"rw", 0, MS_RDONLY},
                 {"sync", MS_SYNCHRONOUS, 0},   {"async", 0, MS_SYNCHRONOUS},
                 {"dirsync", MS_DIRSYNC, 0},    {"lazytime", MS_LAZYTIME, 0},
                 {"nolazytime", 0, MS_LAZYTIME}};
    for (const auto& flag : known)
        if (name == flag.name) {
            flags = (flags & ~flag.clear) | flag.set;
            return {};
        }
    return add_option(name, {}, false);
}

Result<void> ConfigFile::set_value(std::string_view name, std::string_view value) {
    if (name != "source")
        return add_option(name, value, true);
    if (!source.empty())
        return fail(EINVAL);
    return source.append(value);
}

// A descriptor of /dev/fuse by its number; directories, which overlays take, by the name that leads
// to the same place.
Result<void> ConfigFile::set_descriptor(std::string_view name, int fd) {
    TRY(usable_file(current_task(), fd));
    const bool directory = name == "lowerdir+" || name == "upperdir" || name == "workdir";
    if (name != "fd" && !(directory && type == "overlay"))
        return fail(EINVAL);
    char text[40];
    const usize length = directory ? log::format(text, sizeof text, "/proc/self/fd/{}", fd)
                                   : log::format(text, sizeof text, "{}", fd);
    return add_option(name, {text, length}, true);
}

Result<void> ConfigFile::create() {
    if (phase != Phase::Parameters)
        return fail(EBUSY);
    auto made = make_checked_filesystem(type.view(), source.view(), options.view(), flags);
    if (!made) {
        phase = Phase::Failed;
        return fail(made.error().code);
    }
    superblock = std::move(*made);
    superblock->take_flags(flags);
    phase = Phase::Made;
    return {};
}

Result<void> ConfigFile::reconfigure() {
    if (phase != Phase::Reconfigure)
        return fail(EBUSY);
    Superblock& target = picked.mount()->superblock();
    if (!capable_over(target.user_ns.get(), 21)) // CAP_SYS_ADMIN
        return fail(EPERM);
    TRY(target.reconfigure(options.view()));
    options.clear();
    return MountTree::reconfigure(picked, flags);
}

Result<Ref<ConfigFile>> make_config() {
    TRY(Ref<Inode> inode, make_anonymous_inode(0600));
    return make_ref<ConfigFile>(Path(), std::move(inode), u32{O_RDWR});
}

Result<Ref<File>> config_file(Task& task, int fd) {
    TRY(Ref<File> file, usable_file(task, fd));
    if (file_as<ConfigFile>(*file) == nullptr)
        return fail(EINVAL);
    return file;
}

Result<Path> lookup_for(int directory, u64 name, u32 flags) {
    TRY(String text, copy_path(name));
    return lookup_path(directory, text.view(), flags);
}

Result<u32> mount_attributes(u64 attributes) {
    constexpr u64 known = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
                          MOUNT_ATTR_NOEXEC | MOUNT_ATTR__ATIME | MOUNT_ATTR_NODIRATIME |
                          MOUNT_ATTR_NOSYMFOLLOW;
    if ((attributes & ~known) != 0)
        return fail(EINVAL);
    u32 flags = 0;
    const auto take = [&](u64 attribute, u32 flag) {
        flags |= (attributes & attribute) != 0 ? flag : 0;
    };
    take(MOUNT_ATTR_RDONLY, MS_RDONLY);
    take(MOUNT_ATTR_NOSUID, MS_NOSUID);
    take(MOUNT_ATTR_NODEV, MS_NODEV);
    take(MOUNT_ATTR_NOEXEC, MS_NOEXEC);
    take(MOUNT_ATTR_NODIRATIME, MS_NODIRATIME);
    take(MOUNT_ATTR_NOSYMFOLLOW, MS_NOSYMFOLLOW);
    switch (attributes & MOUNT_ATTR__ATIME) {
    case MOUNT_ATTR_RELATIME:
        return flags | MS_RELATIME;
    case MOUNT_ATTR_NOATIME:
        return flags | MS_NOATIME;
    case MOUNT_ATTR_STRICTATIME:
        return flags | MS_STRICTATIME;
    default:
        return fail(EINVAL);
    }
}

} // namespace

Result<long> sys_fsopen(Task& task, u64 type, u32 flags) {
    TRY(require_mount_rights());
    if ((flags & ~u32{FSOPEN_CLOEXEC}) != 0)
        return fail(EINVAL);
    TRY(String name, copy_in_string(type, page_size));
    bool known = is_fuse(name.view());
    for (const char* const* each = filesystem_types(); *each != nullptr; each++)
        known = known || name.view() == *each;
    if (!known)
        return fail(ENODEV);
    TRY(Ref<ConfigFile> file, make_config());
    file->type = std::move(name);
    TRY(const int fd, task.files->install(std::move(file), (flags & FSOPEN_CLOEXEC) != 0));
    return fd;
}

Result<long> sys_fspick(Task& task, int directory, u64 name, u32 flags) {
    TRY(require_mount_rights());
    if ((flags & ~u32{FSPICK_CLOEXEC | FSPICK_SYMLINK_NOFOLLOW | FSPICK_NO_AUTOMOUNT |
                      FSPICK_EMPTY_PATH}) != 0)
        return fail(EINVAL);
    u32 lookup = (flags & FSPICK_SYMLINK_NOFOLLOW) != 0 ? 0u : u32{lookup_follow};
    lookup |= (flags & FSPICK_EMPTY_PATH) != 0 ? u32{lookup_empty_path} : 0u;
    TRY(Path place, lookup_for(directory, name, lookup));
    if (place.dentry() != &place.mount()->root())
        return fail(EINVAL);
    TRY(Ref<ConfigFile> file, make_config());
    file->phase = ConfigFile::Phase::Reconfigure;
    file->flags = place.mount()->superblock().flags &
                  u32{MS_RDONLY | MS_SYNCHRONOUS | MS_DIRSYNC | MS_LAZYTIME};
    file->picked = std::move(place);
    TRY(const int fd, task.files->install(std::move(file), (flags & FSPICK_CLOEXEC) != 0));
    return fd;
}

Result<long> sys_fsconfig(Task& task, int fd, u32 command, u64 key, u64 value, int auxiliary) {
    if (fd < 0)
        return fail(EINVAL);
    // fsconfig(2): which arguments each command has.
    const bool keyed = command == FSCONFIG_SET_FLAG || command == FSCONFIG_SET_STRING ||
                       command == FSCONFIG_SET_FD;
    switch (command) {
    case FSCONFIG_SET_FLAG:
        if (key == 0 || value != 0 || auxiliary != 0)
            return fail(EINVAL);
        break;
    case FSCONFIG_SET_STRING:
        if (key == 0 || value == 0 || auxiliary != 0)
            return fail(EINVAL);
        break;
    case FSCONFIG_CMD_CREATE:
    case FSCONFIG_CMD_RECONFIGURE:
        if (key != 0 || value != 0 || auxiliary != 0)
            return fail(EINVAL);
        break;
    case FSCONFIG_SET_FD:
        if (key == 0 || value != 0 || auxiliary < 0)
            return fail(EINVAL);
        break;
    case FSCONFIG_SET_BINARY:
        if (key == 0 || value == 0 || auxiliary <= 0 || auxiliary > largest_blob)
            return fail(EINVAL);
        break;
    case FSCONFIG_SET_PATH:
    case FSCONFIG_SET_PATH_EMPTY:
        if (key == 0 || value == 0 || (auxiliary < 0 && auxiliary != at_fdcwd))
            return fail(EINVAL);
        break;
    default:
        return fail(EOPNOTSUPP);
    }
    TRY(Ref<File> opened, config_file(task, fd));
    auto& file = static_cast<ConfigFile&>(*opened);
    String name, text;
    if (keyed) {
        TRY(name, copy_in_string(key, longest_value));
        if (command == FSCONFIG_SET_STRING) {
            TRY(text, copy_in_string(value, longest_value));
        }
    }
    MutexGuard guard(file.mutex);
    using Phase = ConfigFile::Phase;
    if (keyed && file.phase != Phase::Parameters && file.phase != Phase::Reconfigure)
        return fail(EBUSY);
    switch (command) {
    case FSCONFIG_SET_BINARY:
    case FSCONFIG_SET_PATH:
    case FSCONFIG_SET_PATH_EMPTY:
        // No file system here has parameters that are blobs or paths.
        return fail(EINVAL);
    case FSCONFIG_SET_FLAG:
        TRY(file.set_flag(name.view()));
        return 0;
    case FSCONFIG_SET_STRING:
        TRY(file.set_value(name.view(), text.view()));
        return 0;
    case FSCONFIG_SET_FD:
        TRY(file.set_descriptor(name.view(), auxiliary));
        return 0;
    case FSCONFIG_CMD_CREATE:
        TRY(file.create());
        return 0;
    default:
        TRY(file.reconfigure());
        return 0;
    }
}

namespace {

// A descriptor for the top of an anonymous namespace.
Result<long> install_tree(Task& task, Ref<MountNamespace> space, bool close_on_exec) {
    Path top = space->root();
    Ref<Inode> inode = Ref<Inode>::share(top.dentry()->inode());
    TRY(Ref<TreeFile> file, make_ref<TreeFile>(std::move(top), std::move(inode), std::move(space)));
    TRY(const int fd, task.files->install(std::move(file), close_on_exec));
    return fd;
}

} // namespace

Result<long> sys_fsmount(Task& task, int fd, u32 flags, u32 attributes) {
    TRY(require_mount_rights());
    if ((flags & ~u32{FSMOUNT_CLOEXEC}) != 0)
        return fail(EINVAL);
    TRY(const u32 mount_flags, mount_attributes(attributes));
    TRY(Ref<File> opened, config_file(task, fd));
    auto& file = static_cast<ConfigFile&>(*opened);
    MutexGuard guard(file.mutex);
    if (file.phase == ConfigFile::Phase::Mounted)
        return fail(EBUSY);
    if (file.phase != ConfigFile::Phase::Made)
        return fail(EINVAL);
    TRY(const u32 locked, check_revealing(file.superblock->type(), mount_flags));
    TRY(Ref<Dentry> root, Dentry::make_root(*file.superblock, file.superblock->root()));
    TRY(Ref<Mount> mount,
        MountTree::make(file.superblock, std::move(root), mount_flags,
                        file.source.empty() ? "none" : file.source.view(), locked));
    TRY(Ref<MountNamespace> space, MountTree::alone(std::move(mount)));
    TRY(const long number, install_tree(task, std::move(space), (flags & FSMOUNT_CLOEXEC) != 0));
    file.superblock = nullptr;
    file.phase = ConfigFile::Phase::Mounted;
    return number;
}

Result<long> sys_open_tree(Task& task, int directory, u64 name, u32 flags) {
    constexpr u32 known = AT_EMPTY_PATH | AT_NO_AUTOMOUNT | AT_RECURSIVE | AT_SYMLINK_NOFOLLOW |
                          OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC;
    if ((flags & ~known) != 0 || ((flags & AT_RECURSIVE) != 0 && (flags & OPEN_TREE_CLONE) == 0))
        return fail(EINVAL);
    const bool copy = (flags & OPEN_TREE_CLONE) != 0;
    if (copy)
        TRY(require_mount_rights());
    u32 lookup = (flags & AT_SYMLINK_NOFOLLOW) != 0 ? 0u : u32{lookup_follow};
    lookup |= (flags & AT_EMPTY_PATH) != 0 ? u32{lookup_empty_path} : 0u;
    TRY(Path place, lookup_for(directory, name, lookup));
    const bool close_on_exec = (flags & OPEN_TREE_CLOEXEC) != 0;
    if (!copy) {
        TRY(Ref<File> file, open_path(place, O_PATH));
        TRY(const int fd, task.files->install(std::move(file), close_on_exec));
        return fd;
    }
    if (place.mount()->superblock().type() != std::string_view("nsfs"))
        TRY(require_own(place));
    TRY(Ref<MountNamespace> space, MountTree::clone_tree(place, (flags & AT_RECURSIVE) != 0));
    return install_tree(task, std::move(space), close_on_exec);
}

Result<long> sys_move_mount(Task&, int from_directory, u64 from_name, int to_directory, u64 to_name,
                            u32 flags) {
    TRY(require_mount_rights());
    if ((flags & ~u32{MOVE_MOUNT__MASK}) != 0)
        return fail(EINVAL);
    u32 lookup = (flags & MOVE_MOUNT_F_SYMLINKS) != 0 ? u32{lookup_follow} : 0u;
    lookup |= (flags & MOVE_MOUNT_F_EMPTY_PATH) != 0 ? u32{lookup_empty_path} : 0u;
    TRY(Path from, lookup_for(from_directory, from_name, lookup));
    lookup = (flags & MOVE_MOUNT_T_SYMLINKS) != 0 ? u32{lookup_follow} : 0u;
    lookup |= (flags & MOVE_MOUNT_T_EMPTY_PATH) != 0 ? u32{lookup_empty_path} : 0u;
    TRY(Path to, lookup_for(to_directory, to_name, lookup));
    if ((flags & MOVE_MOUNT_SET_GROUP) != 0) {
        TRY(MountTree::share_group(from, to));
        return 0;
    }
    TRY(require_own(to));
    if (!MountTree::in_reach(*from.mount()))
        return fail(EINVAL);
    TRY(MountTree::move_from(from, to));
    return 0;
}

namespace {

Result<mount_attr> copy_in_attr(u64 address, u64 size) {
    mount_attr out{};
    if (size > page_size)
        return fail(E2BIG);
    if (size < MOUNT_ATTR_SIZE_VER0)
        return fail(EINVAL);
    for (u64 at = sizeof out; at < size; at++) {
        TRY(const u8 byte, UserPtr<const u8>(address + at).copy_in());
        if (byte != 0)
            return fail(E2BIG);
    }
    TRY(copy_in_bytes(&out, address, size < sizeof out ? size : sizeof out));
    return out;
}

} // namespace

Result<long> sys_mount_setattr(Task&, int directory, u64 name, u32 flags, u64 attributes,
                               u64 size) {
    if ((flags & ~u32{AT_EMPTY_PATH | AT_RECURSIVE | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT}) != 0)
        return fail(EINVAL);
    TRY(const mount_attr wanted, copy_in_attr(attributes, size));
    TRY(require_mount_rights());
    if (wanted.attr_set == 0 && wanted.attr_clr == 0 && wanted.propagation == 0)
        return 0;
    const u64 type = wanted.propagation;
    constexpr u64 types = MS_SHARED | MS_PRIVATE | MS_SLAVE | MS_UNBINDABLE;
    if ((type & ~types) != 0 || (type & (type - 1)) != 0)
        return fail(EINVAL);
    // The times are one setting: to change it, all of it is cleared.
    const u64 cleared_times = wanted.attr_clr & MOUNT_ATTR__ATIME;
    if ((wanted.attr_set & MOUNT_ATTR__ATIME) != 0 && cleared_times != MOUNT_ATTR__ATIME)
        return fail(EINVAL);
    if (cleared_times != 0 && cleared_times != MOUNT_ATTR__ATIME)
        return fail(EINVAL);
    if (((wanted.attr_set | wanted.attr_clr) & MOUNT_ATTR_IDMAP) != 0)
        return fail(EINVAL); // no file system here maps ids
    TRY(u32 set, mount_attributes(wanted.attr_set));
    TRY(u32 clear, mount_attributes(wanted.attr_clr & ~u64{MOUNT_ATTR__ATIME}));
    constexpr u32 times = MS_NOATIME | MS_RELATIME | MS_STRICTATIME;
    clear = (clear & ~times) | (cleared_times != 0 ? times : 0);
    if (cleared_times == 0)
        set &= ~times;
    u32 lookup = (flags & AT_SYMLINK_NOFOLLOW) != 0 ? 0u : u32{lookup_follow};
    lookup |= (flags & AT_EMPTY_PATH) != 0 ? u32{lookup_empty_path} : 0u;
    TRY(Path place, lookup_for(directory, name, lookup));
    if (!MountTree::in_reach(*place.mount()) || place.dentry() != &place.mount()->root())
        return fail(EINVAL);
    const bool recursive = (flags & AT_RECURSIVE) != 0;
    TRY(MountTree::change_flags(place, set, clear, recursive));
    if (type != 0)
        TRY(MountTree::change_propagation(place, static_cast<u32>(type), recursive));
    return 0;
}

} // namespace kernel
