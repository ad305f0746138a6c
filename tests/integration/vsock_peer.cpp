// What the vsock cases run inside the VM: a static program that talks to the host, in one way each.
//   cid                       the guest's CID
//   refused PORT              how a connection to the host fails
//   inside PORT               whether who listens within the guest keeps a connection
//   ask PORT TEXT             sends TEXT, ends its direction, prints what comes back
//   source PORT BYTES         sends a pattern to the host; prints its adler32
//   sink PORT                 reads from the host to the end; prints bytes and adler32
//   storm PORT COUNT          so many connections to the host at once, each with a question of its
//   own hold PORT                 connects, and does nothing packets PORT              echoes
//   sequenced packets of the host until it ends serve PORT [seqpacket]    echoes to those who
//   connect from the host, until one sends "quit"
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <map>
#include <string>
#include <unistd.h>
#include <vector>

#include <linux/vm_sockets.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "tests/integration/peer.hpp"

namespace {

using peer::give_up;
using peer::write_all;

sockaddr_vm address(unsigned cid, unsigned port) {
    sockaddr_vm out{};
    out.svm_family = AF_VSOCK;
    out.svm_cid = cid;
    out.svm_port = port;
    return out;
}

int try_host(unsigned port, int type = SOCK_STREAM) {
    const int fd = socket(AF_VSOCK, type, 0);
    if (fd < 0)
        give_up("socket");
    const sockaddr_vm where = address(VMADDR_CID_HOST, port);
    if (connect(fd, reinterpret_cast<const sockaddr*>(&where), sizeof where) != 0) {
        const int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

int connect_to_host(unsigned port, int type = SOCK_STREAM) {
    const int fd = try_host(port, type);
    if (fd < 0)
        give_up("connect");
    return fd;
}

int show_cid() {
    const int fd = open("/dev/vsock", O_RDONLY);
    unsigned cid = 0;
    if (fd < 0 || ioctl(fd, IOCTL_VM_SOCKETS_GET_LOCAL_CID, &cid) != 0)
        give_up("/dev/vsock");
    std::printf("%u\n", cid);
    return 0;
}

int refused(unsigned port) {
    if (try_host(port) >= 0)
        std::puts("connected");
    else
        std::puts(errno == ECONNRESET ? "ECONNRESET" : std::strerror(errno));
    return 0;
}

int inside(unsigned port) {
    sockaddr_vm address{};
    address.svm_family = AF_VSOCK;
    address.svm_cid = VMADDR_CID_LOCAL;
    address.svm_port = port;
    const int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const timeval patience{5, 0};
    char byte = 0;
    const bool open =
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0 &&
        connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 &&
        read(fd, &byte, 1) < 0 && errno == EAGAIN;
    std::puts(open ? "open" : "closed");
    return 0;
}

int ask(unsigned port, const char* text) {
    const int fd = connect_to_host(port);
    write_all(fd, text, std::strlen(text));
    if (shutdown(fd, SHUT_WR) != 0)
        give_up("shutdown");
    char block[4096];
    for (ssize_t got = 0; (got = read(fd, block, sizeof block)) > 0;)
        std::fwrite(block, 1, static_cast<std::size_t>(got), stdout);
    return 0;
}

int source(unsigned port, std::size_t bytes) {
    return peer::send_pattern(connect_to_host(port), bytes);
}

int sink(unsigned port) {
    return peer::sum_up(connect_to_host(port));
}

int storm(unsigned port, int count) {
    std::vector<int> all;
    for (int i = 0; i < count; ++i)
        all.push_back(connect_to_host(port));
    for (int i = 0; i < count; ++i) {
        const std::string text = "question " + std::to_string(i) + "\n";
        write_all(all[static_cast<std::size_t>(i)], text.data(), text.size());
    }
    int right = 0;
    for (int i = 0; i < count; ++i) {
        const std::string expected = "question " + std::to_string(i) + "\n";
        std::string got;
        char block[64];
        while (got.size() < expected.size()) {
            const ssize_t some = read(all[static_cast<std::size_t>(i)], block, sizeof block);
            if (some <= 0)
                break;
            got.append(block, static_cast<std::size_t>(some));
        }
        right += got == expected ? 1 : 0;
    }
    std::printf("%d\n", right);
    return 0;
}

int hold(unsigned port) {
    connect_to_host(port);
    std::puts("holding");
    std::fflush(stdout);
    pause();
    return 0;
}

int echo_packets(unsigned port) {
    const int fd = connect_to_host(port, SOCK_SEQPACKET);
    std::vector<char> block(std::size_t{1} << 19);
    for (ssize_t got = 0; (got = recv(fd, block.data(), block.size(), 0)) > 0;) {
        if (send(fd, block.data(), static_cast<std::size_t>(got), 0) != got)
            give_up("send");
    }
    return 0;
}

// Echoes to all at once; an end that comes in goes back when everything else has.
int serve(unsigned port, int type) {
    const int listener = socket(AF_VSOCK, type, 0);
    const sockaddr_vm where = address(VMADDR_CID_ANY, port);
    if (listener < 0 ||
        bind(listener, reinterpret_cast<const sockaddr*>(&where), sizeof where) != 0 ||
        listen(listener, 512) != 0)
        give_up("listen");
    std::puts("serving");
    std::fflush(stdout);
    struct Peer {
        std::string waiting;
        bool ended = false;
    };
    std::map<int, Peer> peers;
    const int watcher = epoll_create1(0);
    const auto watch = [&](int operation, int fd, unsigned events) {
        epoll_event event{};
        event.events = events;
        event.data.fd = fd;
        if (epoll_ctl(watcher, operation, fd, &event) != 0)
            give_up("epoll_ctl");
    };
    watch(EPOLL_CTL_ADD, listener, EPOLLIN);
    std::vector<char> block(std::size_t{1} << 18);
    for (;;) {
        epoll_event event{};
        if (epoll_wait(watcher, &event, 1, -1) != 1)
            give_up("epoll_wait");
        const int fd = event.data.fd;
        if (fd == listener) {
            const int peer = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK);
            if (peer < 0)
                give_up("accept");
            peers[peer];
            watch(EPOLL_CTL_ADD, peer, EPOLLIN);
            continue;
        }
        Peer& peer = peers[fd];
        bool gone = false;
        if (peer.waiting.empty() && !peer.ended) {
            const ssize_t got = read(fd, block.data(), block.size());
            if (got == 4 && std::memcmp(block.data(), "quit", 4) == 0)
                return 0;
            if (got > 0)
                peer.waiting.assign(block.data(), static_cast<std::size_t>(got));
            peer.ended = got == 0;
            gone = got < 0 && errno != EAGAIN;
        }
        if (!peer.waiting.empty()) {
            const ssize_t sent = send(fd, peer.waiting.data(), peer.waiting.size(), MSG_NOSIGNAL);
            if (sent > 0)
                peer.waiting.erase(0, static_cast<std::size_t>(sent));
            gone = gone || (sent < 0 && errno != EAGAIN);
        }
        if (gone || (peer.ended && peer.waiting.empty())) {
            peers.erase(fd);
            close(fd);
        } else {
            watch(EPOLL_CTL_MOD, fd, peer.waiting.empty() ? EPOLLIN : EPOLLOUT);
        }
    }
}

} // namespace

int main(int argc, char** argv) {
    const std::string what = argc > 1 ? argv[1] : "";
    const unsigned port = argc > 2 ? static_cast<unsigned>(std::strtoul(argv[2], nullptr, 10)) : 0;
    const char* more = argc > 3 ? argv[3] : "";
    if (what == "cid")
        return show_cid();
    if (what == "refused")
        return refused(port);
    if (what == "inside")
        return inside(port);
    if (what == "ask")
        return ask(port, more);
    if (what == "source")
        return source(port, std::strtoull(more, nullptr, 10));
    if (what == "sink")
        return sink(port);
    if (what == "storm")
        return storm(port, std::atoi(more));
    if (what == "hold")
        return hold(port);
    if (what == "packets")
        return echo_packets(port);
    if (what == "serve")
        return serve(port, std::strcmp(more, "seqpacket") == 0 ? SOCK_SEQPACKET : SOCK_STREAM);
    std::fprintf(stderr, "vsock_peer: what?\n");
    return 2;
}
