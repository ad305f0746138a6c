# Read before each script: bash -e, in an empty directory, root, a network namespace of its own.
set -u -o pipefail
ip link set lo up
mount -t tmpfs tmpfs /run
stop_all() { for job in $(jobs -p); do kill "$job" 2>/dev/null || true; done; wait; }
trap stop_all EXIT

# eventually COMMAND...: until it succeeds. The case that runs the script has the limit.
eventually() { until "$@" >/dev/null 2>&1; do sleep 0.1; done; }
# listening PORT: a TCP server listens on it.
listening() { ss -Htln "sport = :$1" | grep -q LISTEN; }
# Three namespaces in a row, client - router - server, with both protocols: 10.1.0.2, 10.1.0.1 and 10.2.0.1, 10.2.0.2.
three_hosts() {
    local name
    for name in client router server; do
        ip netns add $name
        ip -n $name link set lo up
        ip netns exec $name sysctl -qw net.ipv6.conf.all.forwarding=0 net.ipv6.conf.default.accept_dad=0
    done
    ip netns exec router sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
    ip link add to-router netns client type veth peer name to-client netns router
    ip link add to-router netns server type veth peer name to-server netns router
    ip -n client address add 10.1.0.2/24 dev to-router
    ip -n router address add 10.1.0.1/24 dev to-client
    ip -n router address add 10.2.0.1/24 dev to-server
    ip -n server address add 10.2.0.2/24 dev to-router
    ip -n client address add fd00:1::2/64 dev to-router nodad
    ip -n router address add fd00:1::1/64 dev to-client nodad
    ip -n router address add fd00:2::1/64 dev to-server nodad
    ip -n server address add fd00:2::2/64 dev to-router nodad
    for name in client server; do ip -n $name link set to-router up; done
    for name in client server; do ip -n router link set to-$name up; done
    ip -n client route add default via 10.1.0.1
    ip -n server route add default via 10.2.0.1
    ip -n client route add default via fd00:1::1
    ip -n server route add default via fd00:2::1
}
