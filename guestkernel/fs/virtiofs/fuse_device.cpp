// /dev/fuse, and the file systems whose server has it open. fuse(4), mount.fuse(8).
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/fuse.h>

#include "guestkernel/fs/devices.hpp"
#include "guestkernel/fs/file_table.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/fs/virtiofs/fuse_connection.hpp"
#include "guestkernel/fs/virtiofs/virtiofs.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {
namespace {

constexpr u32 misc_major = 10, fuse_minor = 229;

struct FuseOptions {
    i64 fd = -1;
    u32 root_mode = 0;
    u32 user = 0, group = 0;
    bool has_mode = false, has_user = false, has_group = false;
    bool default_permissions = false, allow_other = false;
};

bool number_in(std::string_view text, unsigned radix, u64& out) {
    out = 0;
    for (const char c : text) {
        if (c < '0' || c >= static_cast<char>('0' + radix) || out > ~u32{0})
            return false;
        out = out * radix + static_cast<u64>(c - '0');
    }
    return !text.empty() && out <= ~u32{0};
}

bool parse_option(std::string_view item, FuseOptions& out) {
    const usize equals = item.find('=');
    const std::string_view name = item.substr(0, equals);
    if (equals == std::string_view::npos) {
        out.default_permissions = out.default_permissions || item == "default_permissions";
        out.allow_other = out.allow_other || item == "allow_other";
        return item.empty() || item == "default_permissions" || item == "allow_other";
    }
    const std::string_view value = item.substr(equals + 1);
    if (name == "subtype" || name == "source")
        return true;
    u64 number = 0;
    if (!number_in(value, name == "rootmode" ? 8 : 10, number))
        return false;
    const Credentials* who = current_task().credentials.get();
    const UserNamespace* space = who == nullptr ? nullptr : who->user_ns.get();
    if (name == "fd") {
        out.fd = static_cast<i64>(number);
    } else if (name == "rootmode") {
        out.root_mode = static_cast<u32>(number);
        out.has_mode = (out.root_mode & mode_type) != 0;
    } else if (name == "user_id") {
        out.user = to_global_id(space, false, static_cast<u32>(number));
        out.has_user = out.user != invalid_id;
    } else if (name == "group_id") {
        out.group = to_global_id(space, true, static_cast<u32>(number));
        out.has_group = out.group != invalid_id;
    } else {
        return name == "max_read" || name == "blksize"; // requests are small anyway
    }
    return true;
}

Result<Ref<File>> open_fuse(const Path& path, Ref<Inode> inode, u32 flags, u64 number) {
    if (device_minor(number) != fuse_minor)
        return fail(ENXIO);
    TRY(Ref<FuseConnection> connection, make_ref<FuseConnection>());
    TRY(auto file, make_ref<FuseDeviceFile>(path, std::move(inode), flags, std::move(connection)));
    return Ref<File>(std::move(file));
}

} // namespace

FuseDeviceFile::~FuseDeviceFile() {
    connection_->disconnect(false);
}

Result<usize> FuseDeviceFile::read(IoBuffer& out, u64) {
    return connection_->read(out, non_blocking());
}

Result<usize> FuseDeviceFile::write(IoBuffer& in, u64) {
    return connection_->write(in);
}

u32 FuseDeviceFile::poll(PollTable* table) {
    return connection_->poll(table);
}

void register_fuse_device() {
    static constinit base::Atomic<u32> done{0};
    if (done.exchange(1) == 0)
        register_char_device(misc_major, fuse_minor, 1, open_fuse);
}

Result<Ref<Superblock>> mount_fuse(std::string_view type, std::string_view options) {
    FuseOptions parsed;
    String shown;
    std::string_view subtype =
        type.substr(type.find('.') == std::string_view::npos ? type.size() : type.find('.') + 1);
    while (!options.empty()) {
        usize end = options.find(',');
        if (end == std::string_view::npos)
            end = options.size();
        const std::string_view item = options.substr(0, end);
        if (!parse_option(item, parsed))
            return fail(EINVAL);
        constexpr std::string_view named = "subtype=";
        if (item.starts_with(named))
            subtype = item.substr(named.size());
        // The descriptor and the mode are of no interest afterwards.
        if (!item.starts_with("fd=") && !item.starts_with("rootmode=") &&
            !item.starts_with("subtype=") && !item.starts_with("source=") && !item.empty()) {
            TRY(shown.push_back(','));
            TRY(shown.append(item));
        }
        options = end < options.size() ? options.substr(end + 1) : std::string_view();
    }
    if (parsed.fd < 0 || !parsed.has_mode || !parsed.has_user || !parsed.has_group)
        return fail(EINVAL);
    Task& task = current_task();
    auto file = task.files->get(static_cast<int>(parsed.fd));
    if (!file || file_as<FuseDeviceFile>(**file) == nullptr)
        return fail(EINVAL);
    FuseConnection& connection = file_as<FuseDeviceFile>(**file)->connection();
    VirtiofsSuperblock::UserServer server;
    server.owner_uid = parsed.user;
    server.owner_gid = parsed.group;
    server.root_mode = parsed.root_mode;
    server.default_permissions = parsed.default_permissions;
    server.allow_other = parsed.allow_other;
    TRY(server.type.append("fuse"));
    if (!subtype.empty()) {
        TRY(server.type.push_back('.'));
        TRY(server.type.append(subtype));
    }
    server.options = std::move(shown);
    TRY(auto fs, VirtiofsSuperblock::create_for_user(Ref<FuseConnection>::share(&connection),
                                                     std::move(server)));
    return Ref<Superblock>(std::move(fs));
}

} // namespace kernel
