// tcp_round serve PORT: echoes, to whoever connects.
// tcp_round ask ADDRESS PORT: prints the nanoseconds that a byte takes there and back over TCP.
#include <cstdlib>
#include <cstring>
#include <unistd.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "tests/bench/bench.hpp"

namespace {

[[noreturn]] void die(const char* what) {
    std::perror(what);
    std::exit(1);
}

sockaddr_in place(const char* address, const char* port) {
    sockaddr_in where{};
    where.sin_family = AF_INET;
    where.sin_port = htons(static_cast<std::uint16_t>(std::strtoul(port, nullptr, 10)));
    if (inet_pton(AF_INET, address, &where.sin_addr) != 1)
        die(address);
    return where;
}

int no_delay(int fd) {
    const int on = 1;
    if (fd < 0 || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0)
        die("TCP_NODELAY");
    return fd;
}

int serve(const char* port) {
    const sockaddr_in where = place("0.0.0.0", port);
    const int listener = socket(AF_INET, SOCK_STREAM, 0);
    const int on = 1;
    if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        bind(listener, reinterpret_cast<const sockaddr*>(&where), sizeof where) != 0 ||
        listen(listener, 8) != 0)
        die("listen");
    for (;;) {
        const int fd = no_delay(accept(listener, nullptr, nullptr));
        char byte = 0;
        while (read(fd, &byte, 1) == 1) {
            if (write(fd, &byte, 1) != 1)
                break;
        }
        close(fd);
    }
}

int ask(const char* address, const char* port) {
    const sockaddr_in where = place(address, port);
    const int fd = no_delay(socket(AF_INET, SOCK_STREAM, 0));
    if (connect(fd, reinterpret_cast<const sockaddr*>(&where), sizeof where) != 0)
        die("connect");
    constexpr int turns = 100;
    bench::report(7, turns, [fd] {
        char byte = 'x';
        for (int i = 0; i < turns; ++i) {
            if (write(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 1)
                die("round trip");
        }
    });
    return 0;
}

} // namespace

int main(int argc, char** argv) {
    if (argc == 3 && std::strcmp(argv[1], "serve") == 0)
        return serve(argv[2]);
    if (argc == 4 && std::strcmp(argv[1], "ask") == 0)
        return ask(argv[2], argv[3]);
    std::fprintf(stderr, "usage: tcp_round serve PORT | ask ADDRESS PORT\n");
    return 2;
}
