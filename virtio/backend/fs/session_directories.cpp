// Session: reading directories.
#include <algorithm>
#include <cstddef>
#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <sys/syscall.h>

#include "virtio/backend/fs/session.hpp"

namespace virtio::fs {

namespace {

// From getdents64 at a time. On the stack of whichever thread serves the request.
constexpr std::size_t batch_size = std::size_t{32} << 10;
constexpr std::size_t min_batch_size = 2048;

struct HostEntry {
    std::uint64_t number;
    std::uint64_t next; // position behind this entry
    std::uint8_t type;
    const char* name;
};

// The entry at the start of `batch`, and its length. The kernel wrote it, so it is whole.
std::size_t parse(std::span<const std::byte> batch, HostEntry& out) {
    std::uint16_t length = 0;
    std::memcpy(&out.number, batch.data() + offsetof(dirent64, d_ino), sizeof out.number);
    std::memcpy(&out.next, batch.data() + offsetof(dirent64, d_off), sizeof out.next);
    std::memcpy(&length, batch.data() + offsetof(dirent64, d_reclen), sizeof length);
    std::memcpy(&out.type, batch.data() + offsetof(dirent64, d_type), sizeof out.type);
    // SAFETY: bytes seen as the characters that they are.
    out.name = reinterpret_cast<const char*>(batch.data() + offsetof(dirent64, d_name));
    return length;
}

bool is_dots(std::string_view name) {
    return name == "." || name == "..";
}

} // namespace

// Entries on their way into a reply, as READDIR or READDIRPLUS wants them.
class Session::DirectoryReply {
public:
    DirectoryReply(Reply& reply, std::size_t limit, bool plus) : reply_(reply), plus_(plus) {
        reply_.limit(limit);
    }

    bool plus() const { return plus_; }
    std::size_t room() const { return reply_.room(); }
    bool empty() const { return reply_.length() == 0; }
    bool fits(std::string_view name) const { return size(name) <= room(); }

    // Requires: fits(name).
    void add(const fuse_entry_out& entry, std::uint64_t number, std::uint64_t next,
             std::uint8_t type, std::string_view name) {
        const std::size_t end = room() - size(name);
        if (plus_)
            reply_.body().write_object(entry);
        fuse_dirent head{};
        head.ino = number;
        head.off = next;
        head.namelen = static_cast<std::uint32_t>(name.size());
        head.type = type;
        reply_.body().write(std::as_bytes(std::span(&head, 1)).first(FUSE_NAME_OFFSET));
        reply_.body().write(std::as_bytes(std::span(name)));
        constexpr std::array<std::byte, sizeof(std::uint64_t)> padding{};
        reply_.body().write(std::span(padding).first(room() - end));
    }

private:
    std::size_t size(std::string_view name) const {
        return FUSE_DIRENT_ALIGN((plus_ ? FUSE_NAME_OFFSET_DIRENTPLUS : FUSE_NAME_OFFSET) +
                                 name.size());
    }

    Reply& reply_;
    const bool plus_;
};

Result<void> Session::op_opendir(Request& request, Reply& reply) {
    TRY(request.arguments<fuse_open_in>());
    if (zero_opendir_.load(std::memory_order_relaxed))
        return fail(ENOSYS);
    TRY(InodeRef inode, inodes_.find(request.node()));
    if (!inode->is_directory())
        return fail(ENOTDIR);
    auto open = std::make_shared<OpenDirectory>();
    if (has_stream(inode)) {
        TRY(FdRef stream, inodes_.open_readable(inode, proc_));
        open->stream.with([&](FdRef& fd) { fd = std::move(stream); });
        if (!share_.read_only) {
            TRY(open->path, inodes_.any_fd(inode));
        }
    }
    open->inode = std::move(inode);
    fuse_open_out out{};
    TRY(out.fh, directories_.insert(std::move(open)));
    if (share_.cache == Cache::Always)
        out.open_flags = FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR;
    return reply.put(out);
}

Result<void> Session::op_releasedir(Request& request, Reply&) {
    TRY(const fuse_release_in in, request.arguments<fuse_release_in>());
    if (in.fh == 0 && zero_opendir_.load(std::memory_order_relaxed))
        return {};
    return directories_.remove(in.fh) ? Result<void>() : fail(EBADF);
}

Result<void> Session::op_fsyncdir(Request& request, Reply&) {
    TRY(const fuse_fsync_in in, request.arguments<fuse_fsync_in>());
    if (share_.read_only)
        return {};
    const auto open = directories_.find(in.fh);
    if (!open || open->inode->id() != request.node())
        return fail(EBADF);
    const FdRef fd = open->stream.with([](const FdRef& stream) { return stream; });
    if (!fd)
        return {};
    return check((in.fsync_flags & FUSE_FSYNC_FDATASYNC) != 0 ? ::fdatasync(fd->get())
                                                              : ::fsync(fd->get()));
}

Result<void> Session::op_readdir(Request& request, Reply& reply) {
    return read_directory(request, reply, false);
}

Result<void> Session::op_readdirplus(Request& request, Reply& reply) {
    return read_directory(request, reply, true);
}

Result<void> Session::read_directory(Request& request, Reply& reply, bool plus) {
    TRY(const fuse_read_in in, request.arguments<fuse_read_in>());
    if (in.offset > static_cast<std::uint64_t>(std::numeric_limits<off_t>::max()))
        return fail(EINVAL);
    DirectoryReply out(reply, std::min(in.size, fs_max_transfer), plus);

    if (in.fh == 0 && zero_opendir_.load(std::memory_order_relaxed)) {
        TRY(const InodeRef inode, inodes_.find(request.node()));
        if (!inode->is_directory())
            return fail(ENOTDIR);
        FdRef stream;
        if (has_stream(inode)) {
            TRY(stream, inodes_.readable_fd(inode, proc_));
        }
        return stream_locks_[inode->id() / 32 % stream_locks_.size()].with(
            [&](Nothing&) { return fill(out, inode, stream, in.offset); });
    }
    const auto open = directories_.find(in.fh);
    if (!open || open->inode->id() != request.node())
        return fail(EBADF);
    return open->stream.with(
        [&](const FdRef& stream) { return fill(out, open->inode, stream, in.offset); });
}

// The one name of a share of one file, which ends the list.
Result<void> Session::fill_only_name(DirectoryReply& out, const InodeRef& inode) {
    const std::string& name = share_.only_name;
    if (inode != inodes_.root() || name.empty() || !out.fits(name))
        return {};
    TRY(const FdRef dir, inodes_.any_fd(inode));
    TRY(const struct statx found, stat_name(inode, dir->get(), name.c_str()));
    const auto type = static_cast<std::uint8_t>(IFTODT(found.stx_mode));
    if (!out.plus()) {
        out.add({}, inodes_.devices().guest_number(device_of(found), found.stx_ino), 3, type, name);
        return {};
    }
    TRY(const InodeRef child, look_up(found, inode, dir->get(), name.c_str()));
    out.add(entry(child, found), child->guest_number(), 3, type, name);
    return {};
}

Result<void> Session::fill(DirectoryReply& out, const InodeRef& inode, const FdRef& stream,
                           std::uint64_t offset) {
    const InodeRef above = inode == inodes_.root() ? inode : inodes_.parent(inode);
    const auto add_dots = [&](std::string_view name, std::uint64_t next) {
        // The real ".." of the share's root is none of the guest's business. Node 0: READDIRPLUS
        // does not count as a lookup of these two.
        const InodeRef& which = name == ".." && above ? above : inode;
        out.add({}, which->guest_number(), next, DT_DIR, name);
    };
    if (!stream) {
        for (std::uint64_t at = offset; at < 2; ++at) {
            const std::string_view name = at == 0 ? "." : "..";
            if (!out.fits(name))
                return {};
            add_dots(name, at + 1);
        }
        return offset <= 2 ? fill_only_name(out, inode) : Result<void>();
    }

    // The position on the descriptor may be anywhere: after an earlier batch that did not fit.
    TRY(check(::lseek(stream->get(), static_cast<off_t>(offset), SEEK_SET)));
    // As many as will fit: an entry of READDIRPLUS is about four times as long as the host's.
    alignas(dirent64) std::array<std::byte, batch_size> batch;
    const std::size_t wanted =
        std::clamp(out.plus() ? out.room() / 4 : out.room(), min_batch_size, batch.size());
    for (;;) {
        const long got = ::syscall(SYS_getdents64, stream->get(), batch.data(), wanted);
        if (got < 0 && out.empty())
            return fail_errno();
        if (got <= 0)
            return {};
        std::span<const std::byte> rest(batch.data(), static_cast<std::size_t>(got));
        while (!rest.empty()) {
            HostEntry host{};
            rest = rest.subspan(parse(rest, host));
            const std::string_view name = host.name;
            if (!out.fits(name)) {
                // A client whose buffer takes no entry at all would ask for ever.
                return out.empty() ? Result<void>(fail(EINVAL)) : Result<void>();
            }
            if (is_dots(name)) {
                add_dots(name, host.next);
                continue;
            }
            const std::uint64_t number =
                inodes_.devices().guest_number(inode->key().device, host.number);
            if (!out.plus()) {
                out.add({}, number, host.next, host.type, name);
                continue;
            }
            const auto found = stat_at(stream->get(), host.name);
            if (!found && found.error().code == ENOENT)
                continue; // gone in the meantime
            // What cannot be looked up is listed all the same, with node 0.
            Result<InodeRef> child = fail(EACCES);
            if (found)
                child = inodes_.look_up(*found, inode, stream->get(), host.name);
            if (!child) {
                out.add({}, number, host.next, host.type, name);
                continue;
            }
            const auto type = static_cast<std::uint8_t>(IFTODT(found->stx_mode));
            out.add(entry(*child, *found), (*child)->guest_number(), host.next, type, name);
        }
    }
}

} // namespace virtio::fs
