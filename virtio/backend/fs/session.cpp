#include "virtio/backend/fs/session.hpp"

#include <algorithm>

namespace virtio::fs {

struct Session::Operation {
    Result<void> (Session::*run)(Request&, Reply&) = nullptr;
    std::uint32_t reply_size = 0; // that fits before anything is done
    bool modifies = false;        // EROFS on a read-only share
    bool replies = true;
};

namespace {

// INIT came before these matter: virtio-fs began with 7.31.
constexpr std::uint32_t oldest_minor = 31;
constexpr std::uint32_t max_pages = fs_max_transfer / 4096;
constexpr std::uint16_t max_background = 64;
// Pieces of a message may be the same memory again and again, so that its length is nobody's but
// the client's to choose: the most that there is sense in.
constexpr std::size_t longest_message = fs_max_transfer + 4096;
// FORGETs are served on the event loop, which has others to serve.
constexpr std::size_t longest_notice = std::size_t{64} << 10;
// struct fuse_init_in as it was before FUSE_INIT_EXT.
constexpr std::size_t short_init = offsetof(fuse_init_in, flags2);

} // namespace

const Session::Operation* Session::operation(std::uint32_t opcode) {
    static constexpr std::uint32_t last = FUSE_TMPFILE;
    static_assert(last < FsServer::operation_count);
    static constexpr bool changes = true;
    static const auto table = [] {
        std::array<Operation, last + 1> all{};
        constexpr auto attr = std::uint32_t{sizeof(fuse_attr_out)};
        constexpr auto entry = std::uint32_t{sizeof(fuse_entry_out)};
        constexpr auto opened = std::uint32_t{sizeof(fuse_open_out)};
        all[FUSE_INIT] = {&Session::op_init, 8};
        all[FUSE_DESTROY] = {&Session::op_destroy};
        all[FUSE_FORGET] = {&Session::op_forget, 0, false, false};
        all[FUSE_BATCH_FORGET] = {&Session::op_batch_forget, 0, false, false};
        all[FUSE_INTERRUPT] = {&Session::op_ignore, 0, false, false};
        all[FUSE_NOTIFY_REPLY] = {&Session::op_ignore, 0, false, false};
        all[FUSE_LOOKUP] = {&Session::op_lookup, entry};
        all[FUSE_GETATTR] = {&Session::op_getattr, attr};
        all[FUSE_SETATTR] = {&Session::op_setattr, attr, changes};
        all[FUSE_READLINK] = {&Session::op_readlink};
        all[FUSE_ACCESS] = {&Session::op_access};
        all[FUSE_STATFS] = {&Session::op_statfs, sizeof(fuse_statfs_out)};
        all[FUSE_MKNOD] = {&Session::op_mknod, entry, changes};
        all[FUSE_MKDIR] = {&Session::op_mkdir, entry, changes};
        all[FUSE_SYMLINK] = {&Session::op_symlink, entry, changes};
        all[FUSE_LINK] = {&Session::op_link, entry, changes};
        all[FUSE_UNLINK] = {&Session::op_unlink, 0, changes};
        all[FUSE_RMDIR] = {&Session::op_rmdir, 0, changes};
        all[FUSE_RENAME] = {&Session::op_rename, 0, changes};
        all[FUSE_RENAME2] = {&Session::op_rename2, 0, changes};
        all[FUSE_CREATE] = {&Session::op_create, entry + opened, changes};
        all[FUSE_TMPFILE] = {&Session::op_tmpfile, entry + opened, changes};
        all[FUSE_OPEN] = {&Session::op_open, opened};
        all[FUSE_READ] = {&Session::op_read};
        all[FUSE_WRITE] = {&Session::op_write, sizeof(fuse_write_out), changes};
        all[FUSE_FLUSH] = {&Session::op_flush};
        all[FUSE_RELEASE] = {&Session::op_release};
        all[FUSE_FSYNC] = {&Session::op_fsync};
        all[FUSE_SYNCFS] = {&Session::op_syncfs};
        all[FUSE_LSEEK] = {&Session::op_lseek, sizeof(fuse_lseek_out)};
        all[FUSE_FALLOCATE] = {&Session::op_fallocate, 0, changes};
        all[FUSE_COPY_FILE_RANGE] = {&Session::op_copy_file_range, sizeof(fuse_write_out), changes};
        all[FUSE_OPENDIR] = {&Session::op_opendir, opened};
        all[FUSE_READDIR] = {&Session::op_readdir};
        all[FUSE_READDIRPLUS] = {&Session::op_readdirplus};
        all[FUSE_RELEASEDIR] = {&Session::op_releasedir};
        all[FUSE_FSYNCDIR] = {&Session::op_fsyncdir};
        all[FUSE_GETXATTR] = {&Session::op_getxattr};
        all[FUSE_LISTXATTR] = {&Session::op_listxattr};
        all[FUSE_SETXATTR] = {&Session::op_setxattr, 0, changes};
        all[FUSE_REMOVEXATTR] = {&Session::op_removexattr, 0, changes};
        return all;
    }();
    return opcode <= last && table[opcode].run != nullptr ? &table[opcode] : nullptr;
}

Session::Session(Share share, ProcFds proc)
    : share_(std::move(share)), proc_(std::move(proc)), xattrs_(proc_, Xattrs::native_available()),
      inodes_(std::move(share_.directory), share_.root, share_.max_cached_fds, share_.max_fds,
              !share_.read_only),
      only_file_(share_.only_file ? std::make_shared<HostFd>(std::move(share_.only_file))
                                  : nullptr),
      files_(0, share_.max_handles), directories_(1, share_.max_handles) {}

std::array<std::uint64_t, FsServer::operation_count> Session::requests() const {
    std::array<std::uint64_t, FsServer::operation_count> out{};
    for (std::size_t i = 0; i < out.size(); ++i)
        out[i] = requests_[i].load(std::memory_order_relaxed);
    return out;
}

std::size_t Session::handle(std::span<const struct iovec> in, std::span<const struct iovec> out,
                            Accept accept) {
    IovCursor rest(in);
    fuse_in_header header{};
    if (!rest.read_object(header))
        return 0;
    const Operation* const found = operation(header.opcode);
    requests_[found != nullptr ? header.opcode : 0].fetch_add(1, std::memory_order_relaxed);

    IovCursor start(out);
    const bool wants_reply = found == nullptr || found->replies;
    IovCursor behind = start;
    if (wants_reply && !behind.skip(sizeof(fuse_out_header)))
        return 0;

    Reply reply(behind);
    const Result<void> outcome = [&]() -> Result<void> {
        const std::size_t longest = accept == Accept::Notices ? longest_notice : longest_message;
        if (header.len < sizeof header || header.len > longest ||
            header.len - sizeof header > rest.remaining())
            return fail(EINVAL);
        rest.limit(header.len - sizeof header);
        if (found == nullptr)
            return fail(ENOSYS);
        if (accept == Accept::Notices && found->replies)
            return fail(EINVAL);
        Request request(header, rest);
        return run(*found, request, reply);
    }();
    if (!wants_reply)
        return 0;

    fuse_out_header answer{sizeof(fuse_out_header), 0, header.unique};
    if (outcome)
        answer.len += static_cast<std::uint32_t>(reply.length());
    else
        answer.error = -outcome.error().code;
    start.write_object(answer);
    return answer.len;
}

Result<void> Session::run(const Operation& operation, Request& request, Reply& reply) {
    if (operation.modifies && share_.read_only)
        return fail(EROFS);
    if (!initialized_.load(std::memory_order_acquire) && request.header().opcode != FUSE_INIT)
        return fail(EIO);
    if (reply.room() < operation.reply_size)
        return fail(EINVAL);
    return (this->*operation.run)(request, reply);
}

void Session::reset() {
    initialized_.store(false, std::memory_order_release);
    files_.clear();
    directories_.clear();
    inodes_.clear();
}

Result<void> Session::op_init(Request& request, Reply& reply) {
    fuse_init_in in{};
    const std::size_t length = std::min(sizeof in, request.rest().remaining());
    if (length < short_init ||
        !request.rest().read(std::as_writable_bytes(std::span(&in, 1)).first(length)))
        return fail(EINVAL);
    if (in.major < FUSE_KERNEL_VERSION ||
        (in.major == FUSE_KERNEL_VERSION && in.minor < oldest_minor))
        return fail(EPROTO);

    fuse_init_out out{};
    out.major = FUSE_KERNEL_VERSION;
    out.minor = FUSE_KERNEL_MINOR_VERSION;
    // A client of a later major version asks again with ours.
    if (in.major > FUSE_KERNEL_VERSION)
        return reply.put(std::array{out.major, out.minor});

    std::uint64_t wanted = in.flags;
    if ((in.flags & FUSE_INIT_EXT) != 0)
        wanted |= std::uint64_t{in.flags2} << 32;
    std::uint64_t offered = FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_BIG_WRITES |
                            FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO |
                            FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES | FUSE_CACHE_SYMLINKS |
                            FUSE_INIT_EXT;
    if (!share_.read_only)
        offered |= FUSE_HANDLE_KILLPRIV_V2;
    if (share_.cache != Cache::Always)
        offered |= FUSE_AUTO_INVAL_DATA;
    if (share_.xattrs)
        offered |= FUSE_SETXATTR_EXT;
    if (share_.zero_message_opens)
        offered |= FUSE_NO_OPEN_SUPPORT | FUSE_NO_OPENDIR_SUPPORT;
    const std::uint64_t agreed = wanted & offered;

    out.max_readahead = std::min(in.max_readahead, fs_max_transfer);
    out.flags = static_cast<std::uint32_t>(agreed);
    out.flags2 = static_cast<std::uint32_t>(agreed >> 32);
    out.max_background = max_background;
    out.congestion_threshold = max_background / 4 * 3;
    out.max_write = fs_max_transfer;
    out.time_gran = 1;
    out.max_pages = max_pages;
    const bool short_reply = reply.room() < sizeof out;
    if (short_reply)
        return fail(EINVAL);
    // A client that starts anew knows nothing of what there was.
    reset();
    zero_open_.store((agreed & FUSE_NO_OPEN_SUPPORT) != 0, std::memory_order_relaxed);
    zero_opendir_.store((agreed & FUSE_NO_OPENDIR_SUPPORT) != 0, std::memory_order_relaxed);
    setxattr_ext_.store((agreed & FUSE_SETXATTR_EXT) != 0, std::memory_order_relaxed);
    initialized_.store(true, std::memory_order_release);
    return reply.put(out);
}

Result<void> Session::op_destroy(Request&, Reply&) {
    reset();
    return {};
}

Result<void> Session::op_ignore(Request&, Reply&) {
    return {};
}

Result<void> Session::op_forget(Request& request, Reply&) {
    TRY(const fuse_forget_in in, request.arguments<fuse_forget_in>());
    inodes_.forget(request.node(), in.nlookup);
    return {};
}

Result<void> Session::op_batch_forget(Request& request, Reply&) {
    TRY(const fuse_batch_forget_in in, request.arguments<fuse_batch_forget_in>());
    for (std::uint32_t i = 0; i < in.count; ++i) {
        TRY(const fuse_forget_one one, request.arguments<fuse_forget_one>());
        inodes_.forget(one.nodeid, one.nlookup);
    }
    return {};
}

} // namespace virtio::fs
