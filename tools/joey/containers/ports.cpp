// Ports of the host that lead to a container.
#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

#include <arpa/inet.h>
#include <sys/socket.h>

#include "tools/joey/containers/run_request.hpp"

namespace joey::containers {

namespace {

struct Range {
    std::uint16_t first = 0;
    std::uint16_t last = 0;
};

std::optional<std::uint16_t> port_in(std::string_view text) {
    std::uint16_t port = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
    if (text.empty() || error != std::errc() || end != text.data() + text.size() || port == 0)
        return std::nullopt;
    return port;
}

std::optional<Range> range_in(std::string_view text) {
    const std::size_t dash = text.find('-');
    const auto first = port_in(text.substr(0, dash));
    const auto last = dash == std::string_view::npos ? first : port_in(text.substr(dash + 1));
    if (!first || !last || *last < *first)
        return std::nullopt;
    return Range{*first, *last};
}

bool is_address(std::string_view text) {
    if (text.starts_with('[') && text.ends_with(']'))
        text = text.substr(1, text.size() - 2);
    const std::string copy(text);
    in6_addr parsed{}; // either fits
    return ::inet_pton(AF_INET, copy.c_str(), &parsed) == 1 ||
           ::inet_pton(AF_INET6, copy.c_str(), &parsed) == 1;
}

// One that nobody listens on. Somebody may take it before the VM does; then that says so.
os::Result<std::uint16_t> free_port(const Port& port) {
    const int kind = port.protocol == "udp" ? SOCK_DGRAM : SOCK_STREAM;
    const os::UniqueFd socket(::socket(AF_INET, kind | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    socklen_t length = sizeof address;
    if (!socket ||
        ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
        ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0)
        return os::fail_errno(errno, "find a free port");
    return ntohs(address.sin_port);
}

} // namespace

os::Result<std::vector<Port>> parse_ports(std::string_view text) {
    const auto wrong = [&] {
        return os::fail(os::Code::InvalidArgument, "--publish ", text.substr(0, 100),
                        ": give [[ADDRESS:]PORT:]CONTAINER-PORT[/udp]");
    };
    Port port;
    std::string_view rest = text;
    if (const std::size_t slash = rest.find('/'); slash != std::string_view::npos) {
        port.protocol = rest.substr(slash + 1);
        if (port.protocol != "tcp" && port.protocol != "udp")
            return wrong();
        rest = rest.substr(0, slash);
    }
    const std::size_t last = rest.rfind(':');
    const auto guest = range_in(last == std::string_view::npos ? rest : rest.substr(last + 1));
    if (!guest)
        return wrong();
    Range host;
    if (last != std::string_view::npos) {
        rest = rest.substr(0, last);
        const std::size_t before = rest.rfind(':');
        const bool has_address = before != std::string_view::npos;
        const std::string_view digits = has_address ? rest.substr(before + 1) : rest;
        if (has_address) {
            port.address = rest.substr(0, before);
            if (!is_address(port.address))
                return wrong();
        }
        if (!digits.empty()) {
            const auto given = range_in(digits);
            if (!given || given->last - given->first != guest->last - guest->first)
                return wrong();
            host = *given;
        }
    }
    std::vector<Port> out;
    for (unsigned i = 0; i <= static_cast<unsigned>(guest->last - guest->first); ++i) {
        port.guest = static_cast<std::uint16_t>(guest->first + i);
        port.host = host.first == 0 ? std::uint16_t{0} : static_cast<std::uint16_t>(host.first + i);
        out.push_back(port);
    }
    return out;
}

os::Result<std::vector<Port>> parse_exposed(std::string_view text) {
    auto parsed = parse_ports(text);
    if (!parsed || text.find(':') != std::string_view::npos)
        return os::fail(os::Code::InvalidArgument, "--expose ", text.substr(0, 100),
                        ": give PORT[-PORT][/udp]");
    return parsed;
}

os::Result<void> add_ports(const Arguments& arguments, RunRequest& request) {
    std::vector<Port> ports;
    for (const std::string& text : arguments.values("publish")) {
        TRY(const std::vector<Port> some, parse_ports(text));
        ports.insert(ports.end(), some.begin(), some.end());
    }
    std::vector<Port> exposed;
    for (const std::string& text : arguments.values("expose")) {
        TRY(const std::vector<Port> some, parse_exposed(text));
        exposed.insert(exposed.end(), some.begin(), some.end());
    }
    for (const image::ExposedPort& range : request.process.exposed_ports) {
        for (unsigned number = range.first; number <= range.last; ++number) {
            Port port;
            port.guest = static_cast<std::uint16_t>(number);
            port.protocol = range.protocol;
            exposed.push_back(port);
        }
    }
    Container& container = request.container;
    for (const Port& port : exposed) {
        container.exposed.push_back(os::text(port.guest, "/", port.protocol));
        const bool taken = std::any_of(ports.begin(), ports.end(), [&](const Port& one) {
            return one.guest == port.guest && one.protocol == port.protocol;
        });
        if (arguments.has("publish-all") && !taken && port.protocol != "sctp")
            ports.push_back(port);
    }
    if (!ports.empty() && container.network != "user")
        return os::fail(os::Code::InvalidArgument, "--publish: goes with --net user");
    for (Port& port : ports) {
        if (port.host == 0) {
            TRY(port.host, free_port(port));
        }
        container.vm_options.emplace_back("--publish");
        container.vm_options.push_back(
            os::text(port.address, ":", port.host, ":", port.guest, "/", port.protocol));
        container.published.push_back(
            os::text(port.address, ":", port.host, "->", port.guest, "/", port.protocol));
    }
    for (const std::string& server : container.dns) {
        container.vm_options.emplace_back("--dns");
        container.vm_options.push_back(server);
    }
    return {};
}

} // namespace joey::containers
