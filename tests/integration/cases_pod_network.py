"""What CNI plugins set up in a pod's network namespace is what the pod sees: addresses, routes, neighbours, MAC, MTU."""

import contextlib
import functools
import json
import os
import re

from harness import case as plain_case
from harness import equal, holds, run, short
from oci_runtime import refused, runtime
from own_network import ask, own_machine, tool

PLUGINS = "/usr/lib/cni"


def case(name):
    def register(function):
        @functools.wraps(function)
        def inside():
            own_machine()
            function()
        return plain_case("pod network: " + name)(inside)
    return register


def plugin(name, command, config, space, container, previous=None):
    """A CNI plugin's run, by the CNI specification: variables, the configuration on stdin, the result on stdout."""
    words = {"cniVersion": "0.4.0", "name": "joey-test", **config}
    if previous is not None:
        words["prevResult"] = previous
    done = run([os.path.join(PLUGINS, name)], stdin=json.dumps(words).encode(), env={
        "PATH": f"{PLUGINS}:{os.environ['PATH']}", "CNI_COMMAND": command, "CNI_CONTAINERID": container,
        "CNI_NETNS": space, "CNI_IFNAME": "eth0", "CNI_PATH": PLUGINS})
    equal(f"status of {name} {command}: {short(done.out)} {short(done.err)}", 0, done.status)
    return json.loads(done.out) if done.out.strip() else None


def bridge(directory):
    return {"type": "bridge", "bridge": "cni-test", "isGateway": True, "mtu": 1400,
            "ipam": {"type": "host-local", "dataDir": os.path.join(directory, "ipam"), "routes": [{"dst": "0.0.0.0/0"}],
                     "ranges": [[{"subnet": "10.88.7.0/24"}], [{"subnet": "fd00:88::/64"}]]}}


@contextlib.contextmanager
def space(name):
    tool("ip", "netns", "add", name)
    try:
        tool("ip", "-n", name, "link", "set", "lo", "up")
        yield f"/run/netns/{name}"
    finally:
        tool("ip", "netns", "del", name)


def in_space(path):
    def patch(config):
        for namespace in config["linux"]["namespaces"]:
            if namespace["type"] == "network":
                namespace["path"] = path
    return patch


def started(joey, name, script, path):
    joey.create(name, joey.bundle("bundle-" + name, script, in_space(path)))
    joey.must("start", name)
    joey.until_output(name, b"up\n")


def inside(joey, name, *words):
    return joey.must("exec", name, *words).out.decode()


@case("a CNI bridge: the pod has the interface as it was set up, and pods reach each other and the host")
def cni_bridge():
    with runtime() as joey, space("one") as one, space("two") as two:
        config = bridge(joey.directory)
        results = [plugin("bridge", "ADD", config, path, name) for name, path in (("one", one), ("two", two))]
        first = [ip["address"] for ip in results[0]["ips"]]
        mac = next(link["mac"] for link in results[0]["interfaces"] if link.get("sandbox"))
        tool("ip", "-n", "one", "neigh", "add", "10.88.7.99", "lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "permanent")
        for name, path in (("one", one), ("two", two)):
            started(joey, name, "echo up; exec busybox nc -ll -p 7000 -e echo hello from " + name, path)
        shown = inside(joey, "one", "busybox", "ip", "addr", "show", "eth0")
        for address in first:
            holds(f"address {address}", f" {address} " in shown, shown)
        holds("MAC and MTU", mac in shown and "mtu 1400" in shown, shown)
        routes = inside(joey, "one", "busybox", "ip", "route")
        holds("routes", "default via 10.88.7.1" in routes and "10.88.7.0/24 dev eth0" in routes, routes)
        neighbours = inside(joey, "one", "busybox", "ip", "neigh")
        holds("neighbours", re.search(r"10\.88\.7\.99 .*02:00:00:00:00:99 .*PERMANENT", neighbours), neighbours)
        for address in (first[0].split("/")[0], first[1].split("/")[0]):
            equal("from pod to pod", "hello from one\n", inside(joey, "two", "sh", "-c", f"nc {address} 7000 </dev/null"))
            equal("from the host", b"hello from one\n", ask(address, 7000))
        joey.must("exec", "--cap", "CAP_NET_RAW", "one", "busybox", "ping", "-c", "1", "10.88.7.1")
        for name in ("one", "two"):
            joey.must("delete", "--force", name)
        holds("no TAP stays", "joey" not in tool("ip", "-n", "one", "link", "show"))
        # The namespace can have another pod, as after a pod's restart.
        started(joey, "again", "echo up; exec busybox nc -ll -p 7000 -e echo hello again", one)
        equal("from the host", b"hello again\n", ask(first[0].split("/")[0], 7000))
        joey.must("delete", "--force", "again")
        for name, path in (("one", one), ("two", two)):
            plugin("bridge", "DEL", config, path, name)
        joey.nothing_is_left()


@case("portmap: a port of the host leads into the pod")
def cni_portmap():
    with runtime() as joey, space("one") as one:
        config = bridge(joey.directory)
        result = plugin("bridge", "ADD", config, one, "one")
        mapping = {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True,
                   "runtimeConfig": {"portMappings": [{"hostPort": 7777, "containerPort": 7000, "protocol": "tcp"}]}}
        plugin("portmap", "ADD", mapping, one, "one", result)
        started(joey, "one", "echo up; exec busybox nc -ll -p 7000 -e echo mapped", one)
        tool("ip", "addr", "add", "192.0.2.1/32", "dev", "lo")
        equal("by the host's address", b"mapped\n", ask("192.0.2.1", 7777))
        joey.must("delete", "--force", "one")
        plugin("portmap", "DEL", mapping, one, "one", result)
        plugin("bridge", "DEL", config, one, "one")
        joey.nothing_is_left()


@case("ptp: a gateway that is on the link, and no network around the address")
def cni_ptp():
    with runtime() as joey, space("one") as one:
        config = {"type": "ptp", "ipam": {"type": "host-local", "dataDir": os.path.join(joey.directory, "ipam"),
                                          "ranges": [[{"subnet": "10.89.7.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}
        result = plugin("ptp", "ADD", config, one, "one")
        started(joey, "one", "echo up; exec busybox nc -ll -p 7000 -e echo direct", one)
        equal("from the host", b"direct\n", ask(result["ips"][0]["address"].split("/")[0], 7000))
        routes = inside(joey, "one", "busybox", "ip", "route")
        holds("the gateway's own route", re.search(r"10\.89\.7\.1 dev eth0", routes), routes)
        joey.must("delete", "--force", "one")
        plugin("ptp", "DEL", config, one, "one")
        joey.nothing_is_left()


@case("a namespace without an interface, and a new one: loopback only; one that is not there is refused")
def loopback_only():
    with runtime() as joey, space("empty") as empty:
        for name, patch in (("joined", in_space(empty)), ("new", None)):
            joey.create(name, joey.bundle("bundle-" + name, "echo up; exec sleep 1000", patch))
            joey.must("start", name)
            links = inside(joey, name, "busybox", "ip", "-o", "link")
            holds("loopback only", "lo:" in links and "eth0" not in links, links)
            joey.must("exec", "--cap", "CAP_NET_RAW", name, "busybox", "ping", "-c", "1", "127.0.0.1")
            joey.must("delete", "--force", name)
        refused(joey.run("create", "--bundle", joey.bundle("none", "true", in_space("/run/netns/nonesuch")), "none"),
                "network namespace /run/netns/nonesuch")
        joey.nothing_is_left()
