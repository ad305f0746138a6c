#include "tools/joey/streams.hpp"

#include <cerrno>
#include <fcntl.h>
#include <unistd.h>

#include <sys/stat.h>
#include <sys/sysmacros.h>

namespace joey {
namespace {

boot::StreamKind classify(int fd) {
    struct stat status {};
    if (::fstat(fd, &status) != 0)
        return boot::StreamKind::Closed;
    if (S_ISCHR(status.st_mode)) {
        if (status.st_rdev == makedev(1, 3)) // /dev/null, admin-guide/devices.txt
            return boot::StreamKind::Null;
        return ::isatty(fd) != 0 ? boot::StreamKind::Terminal : boot::StreamKind::Pipe;
    }
    return S_ISREG(status.st_mode) ? boot::StreamKind::File : boot::StreamKind::Pipe;
}

} // namespace

Streams classify_streams(bool force_terminal) {
    using boot::StreamKind;
    Streams streams;
    for (int fd = 0; fd < 3; ++fd) {
        StreamKind& kind = streams.kinds[static_cast<std::size_t>(fd)];
        kind = classify(fd);
        // open() returns the lowest free number, and those below `fd` are taken by now.
        if (kind == StreamKind::Closed)
            static_cast<void>(::open("/dev/null", O_RDWR));
    }
    auto& [in, out, err] = streams.kinds;
    streams.host_terminal = in == StreamKind::Terminal && out == StreamKind::Terminal;
    streams.guest_terminal = streams.host_terminal || force_terminal;
    if (streams.guest_terminal) {
        in = out = StreamKind::Terminal;
        return streams;
    }
    // Half a terminal (`joey do CMD | less`) stays with the host's line discipline: the guest sees
    // plain streams.
    for (StreamKind& kind : streams.kinds) {
        if (kind == StreamKind::Terminal)
            kind = StreamKind::Pipe;
    }
    return streams;
}

} // namespace joey
