"""The network: user mode with published ports and names, TAPs, two VMs on a bridge. In a network namespace of this program's own."""

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import http.server
import os
import random
import socket
import struct
import threading
import time
import urllib.request
import zlib

from harness import (JOEY, PATIENCE, Failed, case as plain_case, equal, holds, joey, one_line_failure, read_until, run, scratch,
                     started, wait_end)
from own_network import on_tap, tap, tool

PEER = os.environ.get("NETWORK_PEER", os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(JOEY))),
                                                  "tests/integration/network_peer"))
# What the guest finds "outside": addresses of this namespace that are not its loopback's.
HOST4, HOST6 = "192.0.2.1", "2001:db8::1"
GATEWAY4, GATEWAY6 = "10.0.2.2", "fd6a:6f65:7900::2"
RESOLV_CONF = "search example.test\nnameserver 127.0.0.1\n"
WAIT = 60 * PATIENCE  # seconds that a socket may keep a case waiting
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000
MEBI = 1 << 20
BULK = 8 * MEBI


# ---- the namespace ------------------------------------------------------------------------------

def unshare(flags):
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.unshare(flags) == 0


@functools.cache
def own_machine():
    """Once: a network and mounts of our own, with a loopback, addresses and a resolver. Root can, or users who may make user namespaces."""
    user, group = os.getuid(), os.getgid()
    if not unshare(CLONE_NEWNET | CLONE_NEWNS):
        if not unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS):
            raise Failed("this user may not make network namespaces; run this as root")
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    tool("mount", "--make-rprivate", "/")
    resolv_conf = os.path.realpath("/etc/resolv.conf")
    with scratch() as folder:
        path = os.path.join(folder, "resolv.conf")
        with open(path, "w", encoding="ascii") as file:
            file.write(RESOLV_CONF)
        tool("mount", "--bind", path, resolv_conf)  # it outlives its name
    tool("ip", "link", "set", "lo", "up")
    tool("ip", "address", "add", HOST4 + "/24", "dev", "lo")
    tool("ip", "address", "add", HOST6 + "/64", "dev", "lo", "nodad")
    in_background(answer_names)
    return True


def case(name, **settings):
    def register(function):
        @functools.wraps(function)
        def inside():
            own_machine()
            function()
        return plain_case("network: " + name, **settings)(inside)
    return register


def in_background(function, *arguments):
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread


# ---- this side ----------------------------------------------------------------------------------

def answer_names():
    """The machine's resolver: files.test, by both protocols."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 53))
        while True:
            question, client = server.recvfrom(2000)
            end = 12 + len("\5files\4test\0") + 4
            known = question[12:end - 4].lower() == b"\5files\4test\0"
            data = {1: socket.inet_pton(socket.AF_INET, HOST4), 28: socket.inet_pton(socket.AF_INET6, HOST6)}
            kind = struct.unpack(">H", question[end - 4:end - 2])[0] if known else 0
            answer = struct.pack(">HHHIH", 0xc00c, kind, 1, 60, len(data[kind])) + data[kind] if kind in data else b""
            head = question[:2] + struct.pack(">HHHHH", 0x8180 if known else 0x8183, 1, 1 if answer else 0, 0, 0)
            server.sendto(head + (question[12:end] if known else question[12:]) + answer, client)


def listen(address, port=0, backlog=512):
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    listener.settimeout(WAIT)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen(backlog)
    return listener


@contextlib.contextmanager
def echoing(address, count=1):
    """A TCP server for so many connections, which sends each what came first."""
    with listen(address) as listener:
        def serve():
            connections = [listener.accept()[0] for _ in range(count)]
            for connection in connections:
                with connection:
                    connection.settimeout(WAIT)
                    connection.sendall(connection.recv(MEBI))
        thread = in_background(serve)
        yield listener.getsockname()[1]
        thread.join(WAIT)


@contextlib.contextmanager
def turning_round(address):
    """A UDP server that sends datagrams back, the other way round."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((address, 0))

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    data, client = server.recvfrom(70000)
                    if data == b"end":
                        return
                    server.sendto(data[::-1], client)
        thread = in_background(serve)
        yield server.getsockname()[1]
        server.sendto(b"end", server.getsockname())
        thread.join(WAIT)


def connect(address, port):
    """A connection to what a guest serves, as soon as it does."""
    deadline = time.monotonic() + WAIT
    while True:
        try:
            connection = socket.create_connection((address, port), timeout=WAIT)
            return connection
        except OSError:
            holds(f"{address} port {port} takes connections", time.monotonic() < deadline)
            time.sleep(0.1)


def ask(address, port, text):
    with connect(address, port) as connection:
        connection.sendall(text)
        return connection.recv(100)


def ask_datagram(address, port, text):
    """The answer; a datagram may be lost, so the question is repeated."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        for _ in range(10):
            client.sendto(text, (address, port))
            with contextlib.suppress(TimeoutError):
                return client.recvfrom(70000)[0]
    raise Failed(f"no answer from {address} port {port}")


def carry_both_ways(address, options, timeout=120):
    """Bulk data from the guest and to it, each compared by its sum."""
    with listen(address) as listener:
        port = listener.getsockname()[1]
        found, block = [], random.Random(1).randbytes(MEBI)

        def exchange():
            taken, _ = listener.accept()
            with taken:
                taken.settimeout(WAIT)
                total, check = 0, 1
                while data := taken.recv(MEBI):
                    total, check = total + len(data), zlib.adler32(data, check)
                found.append((total, check))
            given, _ = listener.accept()
            with given:
                given.settimeout(WAIT)
                for _ in range(BULK // MEBI):
                    given.sendall(block)
        thread = in_background(exchange)
        script = f"{PEER} source {address} {port} {BULK} && {PEER} sink {address} {port}"
        result = joey("sh", "-c", script, options=options, timeout=timeout)
        thread.join(WAIT)
    equal("stderr", b"", result.err)
    equal("status", 0, result.status)
    sent, received = result.out.decode().splitlines()
    equal("from the guest", [(BULK, int(sent))], found)
    check = 1
    for _ in range(BULK // MEBI):
        check = zlib.adler32(block, check)
    equal("to the guest", f"{BULK} {check}", received)


@contextlib.contextmanager
def serving(options):
    with started(PEER, "serve", "7", options=options) as process:
        read_until(process.stdout, b"serving", 60)
        yield process


# ---- user mode ----------------------------------------------------------------------------------

@case("address, names and files are there when the program starts, without an option")
def set_up():
    script = f"{PEER} show; cat /etc/resolv.conf; cat /etc/hosts; getent hosts joey"
    result = joey("sh", "-c", script)
    equal("stderr", b"", result.err)
    lines = result.out.decode().splitlines()
    holds("the interface", lines[0].endswith(" mtu 65520 10.0.2.15/24") and lines[0].startswith("52:54:00:"), lines[0])
    equal("resolv.conf", ["search example.test", "nameserver 10.0.2.3"], lines[1:3])
    with open("/etc/hosts", encoding="utf-8") as file:
        host = file.read().splitlines()
    equal("hosts", host + ["10.0.2.15\tjoey", "fd6a:6f65:7900::15\tjoey"], lines[3:-1])
    equal("its own name", ["fd6a:6f65:7900::15", "joey"], lines[-1].split())
    given = joey("sh", "-c", f"{PEER} show; cat /etc/resolv.conf", options=[
        "--dns", "192.0.2.53", "--dns", HOST6, "--mac", "52:54:00:aa:bb:cc", "--mtu", "1500", "--net", "user"])
    equal("as wished", "52:54:00:aa:bb:cc mtu 1500 10.0.2.15/24\nsearch example.test\nnameserver 192.0.2.53\n"
          f"nameserver {HOST6}\n", given.out.decode())


# Sockets of each kind, then what ss and ip say of them. The last line is what became of the connection that ss ended.
SOCKETS_SHOWN = r"""
import os, socket, subprocess
def say(*words):
    found = subprocess.run(words, capture_output=True, text=True)
    print("##", *words, "->", found.returncode, found.stderr.strip(), flush=True)
    print(found.stdout)
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
served = socket.create_server(("127.0.0.1", 8080), backlog=5)
client = socket.create_connection(("127.0.0.1", 8080))
accepted, _ = served.accept()
six = socket.create_server(("::", 8081), family=socket.AF_INET6)
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("127.0.0.1", 5353))
frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
name = socket.socket(socket.AF_UNIX)
name.bind("\0by-name")
name.listen(9)
say("ss", "-Htlnp")
say("ss", "-Hanp")
say("ss", "-Htin", "state", "established", "sport", "=", ":8080")
say("ss", "-Hxlp")
say("ip", "-br", "address", "show", "lo")
say("genl", "ctrl", "list")
say("ss", "-HKn", "dst", "127.0.0.1", "dport", "=", "8080")
try:
    client.send(b"x")
    print("still there")
except OSError as error:
    print(type(error).__name__)
"""


@case("ss and ip show sockets and interfaces inside; ss ends a connection", long=True)
def sockets_shown():
    result = joey("python3", "-c", SOCKETS_SHOWN, options=["--net", "none"], timeout=180)
    shown = result.out.decode()
    for text in ("127.0.0.1:8080", 'users:(("python3",', "[::]:8081", "127.0.0.1:5353", "@by-name", "cubic", "127.0.0.1/8", "nlctrl",
                 "ConnectionAbortedError"):
        holds(f"{text} is shown", text in shown, shown + result.err.decode())
    asked = [line for line in shown.splitlines() if line.startswith("## ")]
    equal("commands that ran", 7, len([line for line in asked if line.endswith("-> 0 ")]))


@case("without one there is no interface, and this machine's files are seen")
def none():
    result = joey("sh", "-c", f"{PEER} show; cat /etc/resolv.conf", options=["--net", "none"])
    equal("output", "no eth0\n" + RESOLV_CONF, result.out.decode())


@case("with --rw the files of this machine stay as they are")
def writable_root():
    with scratch() as root:
        os.mkdir(os.path.join(root, "etc"))
        for name in ("resolv.conf", "hosts"):
            with open(os.path.join(root, "etc", name), "w", encoding="ascii") as file:
                file.write("# the host's\n")
        tool("cp", PEER, os.path.join(root, "peer"))
        result = joey("/peer", "cat", "/etc/resolv.conf", options=["--rw", "--rootfs", root])
        equal("inside", ("search example.test\nnameserver 10.0.2.3\n", b""), (result.out.decode(), result.err))
        with open(os.path.join(root, "etc/resolv.conf"), encoding="ascii") as file:
            equal("outside", "# the host's\n", file.read())


@case("a root directory without /etc is no matter for a warning")
def bare_root():
    with scratch() as root:
        tool("cp", PEER, os.path.join(root, "peer"))
        for options in ([], ["--rw"]):
            result = joey("/peer", "show", options=[*options, "--rootfs", root])
            equal("stderr", b"", result.err)
            holds("the interface", b"10.0.2.15/24" in result.out, result.out)


@case("the gateway answers pings; a ping beyond by IPv6 has no answer and does no harm")
def ping():
    result = joey("sh", "-c", f"ping -c 2 -W 30 {GATEWAY4} && ping -c 2 -W 30 {GATEWAY6} && ! ping -c 1 -W 1 {HOST6} && "
                  f"ping -c 1 -W 30 {GATEWAY4}")
    equal("status", 0, result.status)
    equal("answers", [2, 2, 0, 1], [int(line.split(", ")[1].split()[0]) for line in result.out.decode().splitlines()
                                    if "transmitted" in line])


@case("names are asked of this machine's resolver")
def names():
    result = joey("sh", "-c", "getent ahostsv4 files.test; getent ahostsv6 files.test; getent hosts none.test || echo unknown")
    found = {line.split()[0] for line in result.out.decode().splitlines()}
    equal("addresses", {HOST4, HOST6, "unknown"}, found)


@case("a resolver of this machine's link, named with its interface, is one of several")
def link_local_resolver():
    with scratch() as folder:
        path = os.path.join(folder, "resolv.conf")
        with open(path, "w", encoding="ascii") as file:
            file.write("nameserver fe80::1%lo\n" + RESOLV_CONF)
        # In mounts of its own: the other cases keep theirs, which is of a file without a name, where nothing can be mounted.
        resolv_conf = os.path.realpath("/etc/resolv.conf")
        script = f"umount {resolv_conf} && mount --bind {path} {resolv_conf} && exec {JOEY} do -- getent ahostsv4 files.test"
        result = run(["unshare", "--mount", "sh", "-c", script])
    equal("stderr", b"", result.err)
    equal("status", 0, result.status)
    equal("addresses", {HOST4}, {line.split()[0] for line in result.out.decode().splitlines()})


@case("a client inside fetches files by name, by IPv4 and by IPv6")
def http_client():
    content = random.Random(2).randbytes(2 * MEBI)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    class Server6(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6

    with http.server.ThreadingHTTPServer((HOST4, 8000), Handler) as four, Server6((HOST6, 8000), Handler) as six:
        in_background(four.serve_forever)
        in_background(six.serve_forever)
        program = ("import urllib.request, hashlib\n"
                   f"for name in ('files.test', '{HOST4}', '[{HOST6}]'):\n"
                   "    print(hashlib.sha256(urllib.request.urlopen(f'http://{name}:8000/').read()).hexdigest())")
        result = joey("/usr/bin/python3", "-c", program, timeout=120)
        four.shutdown()
        six.shutdown()
    equal("stderr", b"", result.err)
    equal("content", [hashlib.sha256(content).hexdigest()] * 3, result.out.decode().split())


@case("a server inside is reached by its published port")
def http_server():
    with scratch() as folder:
        content = random.Random(3).randbytes(MEBI)
        with open(os.path.join(folder, "data"), "wb") as file:
            file.write(content)
        with started("/usr/bin/python3", "-m", "http.server", "-d", folder, "80", options=["--publish", "8080:80"]) as process:
            deadline = time.monotonic() + WAIT
            while True:  # until Python listens, connections are taken and closed
                try:
                    found = urllib.request.urlopen("http://127.0.0.1:8080/data", timeout=WAIT).read()
                    break
                except OSError:
                    holds("the server answers", time.monotonic() < deadline and process.poll() is None)
                    time.sleep(0.2)
            holds("content", found == content)
            found = urllib.request.urlopen(f"http://{HOST4}:8080/data", timeout=WAIT).read()
            holds("content, by another address", found == content)


@case("published ports: TCP and UDP, one address or all, IPv6; answers come to clients on this machine as well")
def publish():
    options = ["--publish", "7001:7", "--publish", f"[{HOST6}]:7002:7", "--publish", "127.0.0.1:7003:7",
               "--publish", "7001:7/udp", "--publish", f"[{HOST6}]:7002:7/udp", "--publish", f"{HOST4}:7004:7/tcp"]
    with serving(options) as process:
        for address, port in ((HOST4, 7001), ("127.0.0.1", 7001), (HOST6, 7002), ("127.0.0.1", 7003), (HOST4, 7004)):
            equal(f"{address} port {port}", b"hello", ask(address, port, b"hello"))
        for address, port in ((HOST4, 7001), ("127.0.0.1", 7001), (HOST6, 7002)):
            equal(f"UDP, {address} port {port}", b"olleh", ask_datagram(address, port, b"hello"))
        for address, port in ((HOST4, 7003), ("127.0.0.1", 7004), ("::1", 7002)):
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection((address, port), timeout=WAIT).close()
                raise Failed(f"{address} port {port} is open, which was not asked for")
        with connect("127.0.0.1", 7001) as connection:
            connection.sendall(b"quit")
            equal("status", 0, wait_end(process))
    with listen("0.0.0.0", 7001):
        pass  # the ports are free again


@case("what listens on this machine's loopback is out of reach, and told so at once")
def loopback():
    with listen("127.0.0.1") as four, listen("::1") as six:
        four_port, six_port = four.getsockname()[1], six.getsockname()[1]
        result = joey("sh", "-c", f"{PEER} refused {GATEWAY4} {four_port}; {PEER} refused {GATEWAY6} {six_port}; "
                      f"{PEER} refused {HOST4} {four_port}; {PEER} refused 127.0.0.1 {four_port}")
        equal("answers", b"ECONNREFUSED\n" * 4, result.out)
        for listener in (four, six):
            listener.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                listener.accept()
                raise Failed("the guest reached the loopback")


@case("large data both ways arrives unchanged, whatever the MTU")
def bulk():
    carry_both_ways(HOST4, [])
    carry_both_ways(HOST6, ["--mtu", "1400"])


@case("a hundred connections at once, and datagrams of all sizes")
def crowd():
    with echoing(HOST4, 100) as port, turning_round(HOST4) as four, turning_round(HOST6) as six:
        result = joey("sh", "-c", f"{PEER} storm {HOST4} {port} 100; {PEER} datagrams {HOST4} {four} 1 1400 9000 60000; "
                      f"{PEER} datagrams {HOST6} {six} 1 1400 9000 60000", timeout=120)
    equal("answers", b"100\n1 1400 9000 60000\n1 1400 9000 60000\n", result.out)


@case("a limit of the rate holds in both directions, and everything arrives", long=True)
def rate_limits():
    rate = f"{BULK // 4}/64K"
    for options, least in (["--net-out", rate], 3.5), (["--net-in", rate], 3.5), (["--net-in", "1G,20000p/100", "--net-out", "1G"], 0):
        start = time.monotonic()
        carry_both_ways(HOST4, options)
        took = time.monotonic() - start
        holds(f"{options}: took {took:.2f} s", took >= least)


@case("what cannot be is told in a line")
def bad_options():
    def refuse(options, *words):
        one_line_failure(run([JOEY, "do", *options, "--", "true"]), *words)
    refuse(["--net", "bogus"], "--net bogus", "user", "tap=NAME", "none")
    refuse(["--net", "tap=nope"], "tap=nope", "no such interface", "ip tuntap add")
    refuse(["--net", "tap=lo"], "tap=lo", "not a TAP")
    refuse(["--net", "tap=" + "x" * 40], "not the name of an interface")
    refuse(["--net", "tap-fd=99"], "tap-fd=99")
    refuse(["--net", "tap-fd=1"], "tap-fd=1", "descriptors")
    refuse(["--net", "tap-fd=5,5"], "descriptors")
    refuse(["--publish", "99999:1"], "--publish 99999:1", "PORT")
    refuse(["--publish", "80"], "--publish 80", "PORT")
    refuse(["--publish", "198.51.100.1:8080:80"], "--publish 198.51.100.1:8080:80", "cannot assign")
    refuse(["--net", "none", "--publish", "8080:80"], "--publish", "--net user")
    refuse(["--ip", "10.0.0.2/24"], "--ip", "tap")
    refuse(["--net", "tap=lo", "--ip", "10.0.0.2"], "--ip 10.0.0.2", "PREFIX")
    refuse(["--net", "tap=lo", "--route", "default"], "--route default", "GATEWAY")
    refuse(["--mac", "01:00:00:00:00:01"], "--mac")
    refuse(["--mtu", "100"], "--mtu 100", "1280")
    for rate in ("0", "10X", "10M/0", "1M,2M", "5p,5p", "10M,"):
        refuse(["--net-in", rate], f"--net-in {rate}", "10M", "5000p")
    refuse(["--net", "none", "--net-out", "1M"], "--net-out", "--net")
    refuse(["--dns", "localhost"], "--dns localhost")
    refuse(["--net", "none", "--dns", "192.0.2.1"], "--dns", "--net")
    with listen("0.0.0.0") as taken:
        port = taken.getsockname()[1]
        refuse(["--publish", f"{port}:80"], f"--publish {port}:80", "in use")


# ---- TAPs ---------------------------------------------------------------------------------------

def packets(name, direction):
    with open(f"/proc/net/dev", encoding="ascii") as file:
        for line in file:
            if line.split(":")[0].strip() == name:
                return int(line.split(":")[1].split()[{"from the guest": 1, "to the guest": 9}[direction]])
    raise Failed(f"no interface {name}")


@case("a TAP by name: addresses, routes, resolver, MAC and MTU are as given")
def tap_by_name():
    with tap("tap0") as name:
        tool("ip", "address", "add", "198.51.100.1/32", "dev", "lo")
        with echoing("198.51.100.1") as port, echoing("fd00:9::1") as six:
            result = joey("sh", "-c", f"{PEER} show; cat /etc/resolv.conf; {PEER} ask 198.51.100.1 {port} far; "
                          f"{PEER} ask fd00:9::1 {six} six; ping -c 1 -W 30 10.9.0.1 | grep -c ' 0% packet loss'",
                          options=on_tap(name, "--route", "default=10.9.0.1", "--dns", "10.9.0.1", "--mac", "52:54:00:00:00:09",
                                         "--mtu", "1400"))
        tool("ip", "address", "delete", "198.51.100.1/32", "dev", "lo")
    equal("stderr", b"", result.err)
    equal("output", "52:54:00:00:00:09 mtu 1400 10.9.0.2/24\nsearch example.test\nnameserver 10.9.0.1\nfarsix1\n",
          result.out.decode())


@case("a TAP: large data both ways arrives unchanged, in segments that nobody has cut")
def tap_bulk():
    with tap("tap0") as name:
        for address in ("10.9.0.1", "fd00:9::1"):
            before = {way: packets(name, way) for way in ("from the guest", "to the guest")}
            carry_both_ways(address, on_tap(name))
            for way, count in before.items():
                # Of 1448 bytes there would be 5800, and as many acknowledgements the other way.
                holds(f"offloads {way}", packets(name, way) - count < 5800, f"{packets(name, way) - count} packets")
        with turning_round("10.9.0.1") as port:
            result = joey(PEER, "datagrams", "10.9.0.1", str(port), "1", "1472", "1473", "9000", "60000", options=on_tap(name))
            equal("datagrams", b"1 1472 1473 9000 60000\n", result.out)


@case("a TAP of several queues serves several virtual CPUs")
def tap_queues():
    with tap("tap0", "multi_queue") as name, echoing("10.9.0.1", 100) as port:
        result = joey(PEER, "storm", "10.9.0.1", str(port), "100", options=["--cpus", "2", *on_tap(name)], timeout=120)
        equal("answers", b"100\n", result.out)
    with tap("tap0", "multi_queue") as name:
        carry_both_ways("10.9.0.1", ["--cpus", "2", *on_tap(name)])


@case("a TAP by descriptors, one for each queue")
def tap_by_descriptor():
    with tap("tap0", "multi_queue") as name, contextlib.ExitStack() as open_files:
        queues = []
        for _ in range(2):
            queue = open_files.enter_context(open("/dev/net/tun", "r+b", buffering=0))
            # TUNSETIFF; IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_MULTI_QUEUE
            fcntl.ioctl(queue, 0x400454ca, struct.pack("16sH22x", name.encode(), 0x0002 | 0x1000 | 0x4000 | 0x0100))
            queues.append(queue.fileno())
        with echoing("10.9.0.1", 50) as port:
            options = ["--cpus", "2", "--net", "tap-fd=" + ",".join(map(str, queues)), "--ip", "10.9.0.2/24"]
            result = joey(PEER, "storm", "10.9.0.1", str(port), "50", options=options, pass_fds=queues, timeout=120)
            equal("answers", b"50\n", result.out)
    with open("/dev/null", "rb") as file:
        one_line_failure(run([JOEY, "do", "--net", f"tap-fd={file.fileno()}", "--", "true"], pass_fds=[file.fileno()]),
                         "not a descriptor of a TAP")


@case("a TAP that is taken away leaves a VM that runs on; one in use is not shared")
def tap_goes():
    with tap("tap0") as name, started("sh", "-c", "echo up; read line; ping -c 1 -W 1 10.9.0.1 >/dev/null || echo $line",
                                      options=on_tap(name)) as process:
        read_until(process.stdout, b"up")
        one_line_failure(run([JOEY, "do", "--net", f"tap={name}", "--", "true"]), "in use")
        tool("ip", "link", "delete", name)
        process.stdin.write(b"alone\n")
        process.stdin.close()
        read_until(process.stdout, b"alone")
        equal("status", 0, wait_end(process))


@case("two VMs on a bridge talk, by IPv4 and IPv6")
def two_machines():
    tool("ip", "link", "add", "br0", "type", "bridge", "forward_delay", "0")
    tool("ip", "link", "set", "br0", "up")
    try:
        with tap("tap0", addresses=False), tap("tap1", addresses=False):
            for name in ("tap0", "tap1"):
                tool("ip", "link", "set", name, "master", "br0")
            with serving(on_tap("tap0", host=2)) as process:
                script = (f"{PEER} ask 10.9.0.2 7 four; {PEER} ask fd00:9::2 7 six; {PEER} datagrams 10.9.0.2 7 1 1000 4000; "
                          f"{PEER} datagrams fd00:9::2 7 1 1000 4000; {PEER} storm 10.9.0.2 7 30; {PEER} ask 10.9.0.2 7 quit")
                result = joey("sh", "-c", script, options=on_tap("tap1", host=3), timeout=120)
                equal("answers", b"foursix1 1000 4000\n1 1000 4000\n30\n", result.out)
                equal("status", 0, wait_end(process))
    finally:
        tool("ip", "link", "delete", "br0")
