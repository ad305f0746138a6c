// What the shim starts in place of joey: no VM, but a process that looks like one from outside. It
// takes connections on "vsock" in its working directory as a VM's device does, says over
// "vsock_1025" that its agent listens, and is a Guest behind both.
//
// /run/joey-test/POD holds lines "METHOD MANNER", which are read again for each request; CONNECT
// and READY are methods too, * is all others. /run/joey-test/POD.log is what was asked.
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <unistd.h>

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "tests/shim/guest.hpp"

namespace {

std::string directory() {
    char path[PATH_MAX];
    return ::getcwd(path, sizeof path) == nullptr ? std::string() : std::string(path);
}

std::string notes() {
    const std::string here = directory();
    return "/run/joey-test/" + here.substr(here.rfind('/') + 1);
}

std::string manner_of(const std::string& method) {
    std::ifstream file(notes());
    std::string name;
    std::string manner;
    while (file >> name >> manner) {
        if (name == method || (name == "*" && method != "CONNECT" && method != "READY"))
            return manner;
    }
    return {};
}

os::UniqueFd socket_at(const char* path, bool listens) {
    os::UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un name{.sun_family = AF_UNIX, .sun_path = {}};
    std::strncpy(name.sun_path, path, sizeof name.sun_path - 1);
    const auto* generic = reinterpret_cast<const sockaddr*>(&name);
    const int done = listens ? ::bind(socket.get(), generic, sizeof name)
                             : ::connect(socket.get(), generic, sizeof name);
    constexpr int backlog = 64;
    if (done != 0 || (listens && ::listen(socket.get(), backlog) != 0))
        socket.reset();
    return socket;
}

// "CONNECT <port>\n", byte by byte: what follows is the agent's.
bool take_request(int socket) {
    constexpr std::size_t longest = 64;
    std::string line;
    char byte = 0;
    while (line.size() < longest && ::read(socket, &byte, 1) == 1) {
        if (byte == '\n')
            return line == "CONNECT 1024";
        line += byte;
    }
    return false;
}

// Whether a guest gets it.
bool answer_request(int socket) {
    const std::string manner = manner_of("CONNECT");
    if (manner == "dies")
        ::_exit(1);
    std::string answer = "OK 1073741824\n";
    if (manner == "nonsense")
        answer = "NO\n";
    else if (manner == "noise")
        answer = std::string(100, '\x81');
    else if (manner == "half")
        answer = "OK 10";
    else if (!manner.empty() && manner != "late")
        return false;
    if (manner == "late")
        ::usleep(150'000);
    return ::write(socket, answer.data(), answer.size()) == static_cast<ssize_t>(answer.size()) &&
           (manner.empty() || manner == "late");
}

void accept_one(int listener, shim_test::Guest& guest, std::vector<os::UniqueFd>& kept) {
    os::UniqueFd socket(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    if (!socket || !take_request(socket.get()))
        return;
    if (answer_request(socket.get()))
        guest.serve(std::move(socket));
    else if (manner_of("CONNECT") == "never")
        kept.push_back(std::move(socket));
}

} // namespace

int main() {
    std::signal(SIGPIPE, SIG_IGN);
    const auto loop = os::EventLoop::create();
    const os::UniqueFd listener = socket_at("vsock", true);
    if (!loop || !listener)
        return 1;
    const std::string ready = manner_of("READY");
    if (ready == "dies") {
        std::printf("the kernel has given up\n");
        return 3;
    }
    if (ready != "never")
        socket_at("vsock_1025", false).reset();
    shim_test::Guest guest(**loop, manner_of);
    std::vector<os::UniqueFd> kept;
    const auto watched = (*loop)->watch(
        listener.get(), EPOLLIN, [&](std::uint32_t) { accept_one(listener.get(), guest, kept); });
    if (!watched)
        return 1;
    std::size_t logged = 0;
    const os::UniqueFd log(
        ::open((notes() + ".log").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
    while (!guest.ended()) {
        (*loop)->run_once(std::chrono::milliseconds(-1));
        const std::string fresh = guest.log().substr(logged);
        logged = guest.log().size();
        static_cast<void>(!::write(log.get(), fresh.data(), fresh.size()));
    }
    (*loop)->run_once(std::chrono::milliseconds(10));
    return 0;
}
