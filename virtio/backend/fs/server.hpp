// FsServer: a FUSE server (linux/fuse.h) over one directory of the host. It knows nothing of
// virtio: a request comes in as bytes, the reply goes out as bytes.
//
//     TRY(auto server, FsServer::create({.path = "/", .read_only = true, .cache = Cache::Always}));
//     std::size_t length = server->handle(request_iovecs, reply_iovecs); // 0: no reply
//
// Threads: handle() may run on any number of threads at once.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include <sys/uio.h>

#include "base/result.hpp"
#include "virtio/backend/unique_fd.hpp"

namespace virtio {

namespace fs {
class Session;
}

// What could not be set up: an errno and the action that met it (a string literal).
struct FsError {
    int code = 0;
    const char* action = "";
};

// How long the guest may go on believing what it was told about names and attributes, and whether
// it keeps a file's pages across opens. The host's files can change under the guest at any time.
enum class Cache : std::uint8_t {
    None,   // not at all: every use asks again
    Auto,   // one second; pages stay if size and times are what they were at the last open
    Always, // a day, missing names too: the share may be treated as if nobody changed it
};

struct ShareConfig {
    // A directory, or a regular file. A file is shared as a directory that holds this one name and
    // in which no name can be made, removed or renamed (the file itself may be written).
    std::string path;
    // In place of `path`: an open directory.
    UniqueFd directory;
    bool read_only = false;
    Cache cache = Cache::Auto;
    // False: extended attributes are "not supported", which the guest asks only once.
    bool xattrs = true;
    // Only where read_only, and where this process may read every file: OPEN and OPENDIR are
    // answered once with ENOSYS, and the guest reads by node id without them.
    bool zero_message_opens = true;
    // Whether the guest may make character and block device nodes (as root on the host). They are
    // never opened by the server, but other programs of the host could.
    bool device_nodes = false;
    // Descriptors kept open for inodes besides open files; 0: a quarter of RLIMIT_NOFILE, at most
    // 4096. When it runs short, older ones are closed and opened again when needed.
    std::size_t max_cached_fds = 0;
    // Descriptors of all shares of this process together, open files included, from which on this
    // one opens no more; 0: seven eighths of RLIMIT_NOFILE.
    std::size_t max_fds = 0;
};

class FsServer {
public:
    // Opens the share; raises the soft RLIMIT_NOFILE to the hard one. For a writable share the
    // process's umask becomes 0: modes come from the guest, umask applied. Later on nothing but the
    // share's own descriptors is needed, and one of /proc/self/fd.
    static base::Result<std::unique_ptr<FsServer>, FsError> create(ShareConfig config);
    FsServer(const FsServer&) = delete;
    FsServer& operator=(const FsServer&) = delete;
    ~FsServer();

    // Serves one request. `in` and `out` may be memory that somebody else changes at the same time;
    // file data is moved between them and the host's files without a copy in between. Returns the
    // reply's length at the start of `out`; 0 if the request has no reply (or no room for one).
    enum class Accept : std::uint8_t {
        All,
        Notices, // only what has no reply and asks nothing of the host: FORGET and its like
    };
    std::size_t handle(std::span<const struct iovec> in, std::span<const struct iovec> out,
                       Accept accept = Accept::All) noexcept;

    // Forgets everything that the client knew: inodes, open files. Requires: no handle() is
    // running.
    void reset() noexcept;

    // How many requests of each operation there were, by FUSE_*; what has no name here is counted
    // as 0. From any thread.
    static constexpr std::size_t operation_count = 64;
    std::array<std::uint64_t, operation_count> requests() const;

    // For a share of one file: its name in the share's root; empty for a directory.
    const std::string& file_name() const;

private:
    explicit FsServer(std::unique_ptr<fs::Session> session);
    std::unique_ptr<fs::Session> session_;
};

// The most that one READ or WRITE moves; a whole message is a little longer.
inline constexpr std::uint32_t fs_max_transfer = 1u << 20;

} // namespace virtio
