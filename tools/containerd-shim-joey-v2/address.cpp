#include "tools/containerd-shim-joey-v2/address.hpp"

#include <cerrno>
#include <cstring>
#include <string_view>
#include <unistd.h>

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "tools/image/digest.hpp"
#include "tools/pod/state_files.hpp"

namespace shim {

namespace {

constexpr std::string_view scheme = "unix://";

os::Result<sockaddr_un> name_of(const std::string& path) {
    sockaddr_un name{.sun_family = AF_UNIX, .sun_path = {}};
    if (path.empty() || path.size() >= sizeof name.sun_path)
        return os::fail(os::Code::InvalidArgument, "socket ", path,
                        ": its path is empty or longer than a socket's can be");
    std::memcpy(name.sun_path, path.data(), path.size());
    return name;
}

const sockaddr* generic(const sockaddr_un& name) {
    return reinterpret_cast<const sockaddr*>(&name);
}

} // namespace

std::string socket_address(const std::string& folder, const std::string& containerd,
                           const std::string& name_space, const std::string& group) {
    const auto digest = image::Hasher::of(os::text(containerd, "/", name_space, "/", group));
    return os::text(scheme, folder, "/", digest.hex());
}

std::string path_of(const std::string& address) {
    return address.starts_with(scheme) ? address.substr(scheme.size()) : std::string();
}

os::Result<os::UniqueFd> connect_to(const std::string& path) {
    TRY(const sockaddr_un name, name_of(path));
    os::UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!socket || ::connect(socket.get(), generic(name), sizeof name) != 0)
        return os::fail_errno(errno, "connect to ", path);
    return socket;
}

bool can_connect(const std::string& address) {
    return connect_to(path_of(address)).has_value();
}

os::Result<os::UniqueFd> listen_at(const std::string& address) {
    const std::string path = path_of(address);
    TRY(const sockaddr_un name, name_of(path));
    TRY(pod::make_directories(path.substr(0, path.rfind('/'))));
    os::UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket)
        return os::fail_errno(errno, "make a socket");
    // The file has its mode from the first moment.
    const mode_t before = ::umask(0177);
    const int bound = ::bind(socket.get(), generic(name), sizeof name);
    const int why = errno;
    ::umask(before);
    if (bound != 0 && why == EADDRINUSE)
        return os::fail(os::Code::AlreadyExists, "socket ", path, " is there already");
    if (bound != 0)
        return os::fail_errno(why, "socket ", path);
    constexpr int backlog = 64;
    if (::listen(socket.get(), backlog) != 0)
        return os::fail_errno(errno, "listen on ", path);
    return socket;
}

void remove_socket(const std::string& address) {
    if (const std::string path = path_of(address); !path.empty())
        ::unlink(path.c_str());
}

} // namespace shim
