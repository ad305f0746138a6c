"""Programs that people use on a network: on Linux and inside with the same output, between this machine and a guest, and under an attack."""

import contextlib
import errno
import hashlib
import os
import random
import resource
import shlex
import socket
import struct
import subprocess
import sys
import time

from harness import PATIENCE, Failed, case as plain_case, equal, first_difference, holds, joey, read_until, run, scratch, started, wait_end
from own_network import on_tap, own_machine, tap, tool

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "network_programs")
WAIT = 60 * PATIENCE  # seconds that a socket may keep a case waiting
# An emulated machine: the same, with less of it, unless somebody asks for all.
SLOW = PATIENCE > 1 and "JOEY_TEST_WHOLE" not in os.environ
GUEST4, GUEST6 = "10.9.0.2", "fd00:9::2"


def case(name, **settings):
    def register(function):
        def inside():
            own_machine()
            function()
        return plain_case("network programs: " + name, **settings)(inside)
    return register


# ---- on Linux and inside, the same --------------------------------------------------------------

def script(name):
    return f"cd $(mktemp -d) && exec bash -ec '. {HERE}/common.sh; . {HERE}/{name}.sh'"


def same_as_linux(name, limit, memory="512M"):
    linux = run(["unshare", "--net", "--mount", "bash", "-c", script(name)], timeout=limit)
    equal(f"status on Linux ({linux.err.decode(errors='replace')[-500:]}; {linux.out.decode(errors='replace')[-500:]})", 0, linux.status)
    inside = joey("bash", "-c", script(name), options=("--net", "none", "--memory", memory), timeout=limit)
    if (inside.status, inside.out) != (0, linux.out):
        raise Failed(f"status {inside.status}, {first_difference(linux.out, inside.out) if inside.out != linux.out else 'the same output'}\n"
                     f"stderr: {inside.err.decode(errors='replace')[-1500:]}")


@case("ip, ping, traceroute, ss, nc, socat, tcpdump between three namespaces")
def tools():
    same_as_linux("tools", 60)


@case("dig and the C library ask a name server", long=True)
def names():
    same_as_linux("names", 60)


@case("nginx, curl, wget, wrk: HTTP/1.1, HTTP/2, TLS", long=True)
def web():
    same_as_linux("web", 200)


@case("ssh, scp, rsync", long=True)
def secure_shell():
    same_as_linux("secure_shell", 200)


@case("Redis, memcached and their clients", long=True)
def stores():
    same_as_linux("stores", 200)


@case("PostgreSQL by TCP and TLS, pgbench", long=True)
def postgresql():
    same_as_linux("postgresql", 400)


@case("HTTP servers of Node, Java, Python, Perl", long=True)
def servers():
    same_as_linux("servers", 400, "1G")


# ---- from this machine --------------------------------------------------------------------------

@contextlib.contextmanager
def guest(command, *options, **extra):
    """A guest on a TAP that has said "ready"; it ends with its input."""
    with started("bash", "-c", command, options=[*on_tap("tap0"), "--memory", "1G", *options], **extra) as process:
        # What it says on stderr shows with a failure.
        try:
            read_until(process.stdout, b"ready", 100)
            yield process
        except Failed as problem:
            process.kill()
            raise Failed(f"{problem}; the guest's stderr: {process.stderr.read().decode(errors='replace')[-1500:]}") from None
        process.stdin.close()
        equal("the guest's status", 0, wait_end(process))


def succeeds(command, limit=60):
    found = run(["bash", "-o", "pipefail", "-c", command], timeout=limit)
    equal(f"status of {command}: {found.err.decode(errors='replace')[-500:]}", 0, found.status)
    return found.out.decode()


@case("clients on this machine: curl, wrk, ssh, redis-benchmark, nc, iperf3", long=True)
def from_here():
    with scratch() as folder, tap("tap0"):
        tool("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{folder}/key")
        with open(f"{folder}/key.pub", encoding="ascii") as file:
            key = file.read().strip()
        wanted = hashlib.sha256("".join(f"{n}\n" for n in range(1, 300001)).encode()).hexdigest()
        with guest(f"export PUBLIC_KEY={shlex.quote(key)}; {script('serve')}"):
            for url in (f"http://{GUEST4}/large", f"http://[{GUEST6}]/large", f"--http2 https://{GUEST4}/large"):
                holds(url, wanted in succeeds(f"curl -sS -k -g {url} | sha256sum"))
            report = succeeds(f"wrk -t 2 -c 20 -d 3 http://{GUEST4}/small")
            holds("wrk", "Socket errors" not in report and "Non-2xx" not in report, report)
            ssh = (f"ssh -p 2222 -i {folder}/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
                   f" root@{GUEST4}")
            equal("ssh", "7\n", succeeds(f"{ssh} 'echo $((3 + 4))'"))
            holds("data by ssh", wanted in succeeds(f"seq 300000 | {ssh} cat | sha256sum"))
            for line in succeeds(f"redis-benchmark -h {GUEST4} -n 3000 -c 10 -t set,get --csv").splitlines()[1:]:
                holds("redis-benchmark", float(line.split(",")[1].strip('"')) > 0, line)
            equal("memcached", "STORED\nVALUE k 0 2\nok\nEND\n",
                  succeeds(f"printf 'set k 0 0 2\\r\\nok\\r\\nget k\\r\\nquit\\r\\n' | nc -N {GUEST4} 11211").replace("\r", ""))
            for way in ("", "-R"):
                holds(f"iperf3 {way}", "receiver" in succeeds(f"iperf3 -c {GUEST4} -t 2 {way}"))
            holds("iperf3 by UDP", "receiver" in succeeds(f"iperf3 -u -b 20M -c {GUEST6} -t 2"))


# ---- much of it, and what is hostile ------------------------------------------------------------

def answers(port=7, address=GUEST4):
    with socket.create_connection((address, port), timeout=WAIT) as client:
        client.sendall(b"still there")
        equal("an answer", b"still there", client.recv(100))


def echo_guest(*options):
    return guest(f"python3 {HERE}/echo_server.py 7 & cat >/dev/null; kill $!", *options)


@case("10,000 open connections, each of which is served", long=True)
def ten_thousand():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 12000), max(hard, 12000)))
    tool("sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 65000")
    with tap("tap0"), echo_guest():
        clients = []
        try:
            for _ in range(10000):
                clients.append(socket.create_connection((GUEST4, 7), timeout=WAIT))
            for turn in (b"a", b"b"):
                for client in clients:
                    client.sendall(turn)
                for client in clients:
                    equal("answer", turn, client.recv(10))
            answers()
        finally:
            for client in clients:
                client.close()
        answers()


@case("100,000 short connections in a row", long=True)
def short_connections():
    count = 10000 if SLOW else 100000
    tool("sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 65000", "net.ipv4.tcp_tw_reuse=1")
    with tap("tap0"), echo_guest():
        for number in range(count):
            with socket.create_connection((GUEST4, 7), timeout=WAIT) as client:
                if number % 3:  # the guest's end closes first every third time
                    client.sendall(b"x")
                    equal("answer", b"x", client.recv(10))
                else:
                    client.shutdown(socket.SHUT_WR)
                    equal("end", b"", client.recv(10))
        answers()


def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data[:len(data) // 2 * 2])) + (data[-1] << 8 if len(data) % 2 else 0)
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def tcp_frame(mac, source, sport, dport, flags, sequence=0):
    """An Ethernet frame with a TCP segment without options or data for the guest."""
    addresses = socket.inet_aton(source) + socket.inet_aton(GUEST4)
    segment = struct.pack(">HHIIBBHHH", sport, dport, sequence, 0, 0x50, flags, 0xffff, 0, 0)
    check = checksum(addresses + struct.pack(">HH", 6, len(segment)) + segment)
    segment = segment[:16] + struct.pack(">H", check) + segment[18:]
    head = struct.pack(">BBHHHBBH", 0x45, 0, 40, 0, 0x4000, 64, 6, 0) + addresses
    head = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
    return mac + b"\2\0\0\0\0\1" + b"\x08\0" + head + segment


@contextlib.contextmanager
def wire(name="tap0"):
    """(a raw socket, the guest's MAC): frames as they are."""
    answers()
    neighbour = tool("ip", "neigh", "show", GUEST4, "dev", name).split("lladdr ")[1].split()[0]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((name, 0))

        def send(frame):
            # A full queue says so: the guest is slower than this loop.
            while True:
                try:
                    return raw.send(frame)
                except (BlockingIOError, InterruptedError):
                    pass
                except OSError as problem:
                    if problem.errno != errno.ENOBUFS:
                        raise
                time.sleep(0.001)
        yield send, bytes.fromhex(neighbour.replace(":", ""))


@case("a SYN flood from many addresses leaves the server serving", long=True)
def syn_flood():
    dice = random.Random(1)
    with tap("tap0"), echo_guest():
        with wire() as (send, mac):
            for number in range(5000 if SLOW else 100000):
                source = f"10.{dice.randrange(20, 250)}.{dice.randrange(256)}.{dice.randrange(1, 255)}"
                send(tcp_frame(mac, source, dice.randrange(1024, 65536), 7, 2, dice.randrange(1 << 32)))
                if number % 1000 == 999:
                    answers()
        answers()
        answers(address=GUEST6)


@case("a scan of all ports finds the one that listens; odd flags do no harm", long=True)
def port_scan():
    with tap("tap0"), echo_guest():
        with wire() as (send, mac), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as sniffer:
            sniffer.bind(("tap0", 0x0800))
            sniffer.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
            sniffer.settimeout(WAIT)
            tool("ip", "address", "add", "10.9.0.9/32", "dev", "tap0")  # so that the guest's question who that is has an answer
            found, refused = set(), set()
            ports = [*range(1, 1000 if SLOW else 65536)]
            for start in range(0, len(ports), 200):
                batch = set(ports[start:start + 200])
                for port in batch:
                    send(tcp_frame(mac, "10.9.0.9", 40000, port, 2))
                    for flags in (0, 0x29, 0x3f):  # none, "Christmas tree", all
                        send(tcp_frame(mac, "10.9.0.9", 40001, port, flags))
                while batch - found - refused:
                    frame = sniffer.recv(2000)
                    if frame[6:12] != mac or frame[12:14] != b"\x08\0" or frame[23] != 6 or frame[30:34] != socket.inet_aton("10.9.0.9"):
                        continue
                    sport, dport, flags = *struct.unpack(">HH", frame[34:38]), frame[47]
                    if dport == 40000:
                        (found if flags & 0x12 == 0x12 else refused).add(sport)
            equal("ports that listen", {7}, found)
            equal("ports that refuse", len(ports) - 1, len(refused))
        answers()


@case("malformed frames: random bytes, and real packets with a bit of damage", long=True)
def malformed():
    dice = random.Random(2)
    with tap("tap0"), echo_guest():
        with wire() as (send, mac):
            six = socket.inet_pton(socket.AF_INET6, "fd00:9::1") + socket.inet_pton(socket.AF_INET6, GUEST6)
            four = socket.inet_aton("10.9.0.1") + socket.inet_aton(GUEST4)
            seeds = [tcp_frame(mac, "10.9.0.1", 5000, 7, flags)[14:] for flags in (2, 0x10, 0x18)]
            seeds += [struct.pack(">BBHHHBBH", 0x45, 0, 48, 1, fragment, 64, protocol, 0) + four + bytes(28)
                      for protocol in (1, 2, 6, 17, 50, 136) for fragment in (0, 0x2000, 0x1fff)]
            seeds += [struct.pack(">IHBB", 0x60000000, 40, header, 64) + six + dice.randbytes(40) for header in (0, 6, 17, 43, 44, 58, 60)]
            seeds += [struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation) + dice.randbytes(20) for operation in (1, 2)]
            kinds = [b"\x08\0"] * 21 + [b"\x86\xdd"] * 7 + [b"\x08\x06"] * 2
            for number in range(2000 if SLOW else 60000):
                if number % 4 == 0:
                    frame = dice.choice((mac, b"\xff" * 6)) + mac + dice.choice((b"\x08\0", b"\x86\xdd", b"\x08\x06", b"\x81\0")) + \
                        dice.randbytes(dice.randrange(0, 1400))
                else:
                    index = dice.randrange(len(seeds))
                    packet = bytearray(seeds[index])
                    for _ in range(dice.randrange(4)):
                        packet[dice.randrange(len(packet))] = dice.randrange(256)
                    frame = mac + b"\2\0\0\0\0\1" + kinds[index] + packet[:dice.randrange(1, len(packet) + 1)] + dice.randbytes(dice.choice((0, 0, 3, 900)))
                send(frame)
                if number % 1000 == 999:
                    answers()
        answers()
        answers(address=GUEST6)


@case("1 GB each way through a link that loses 2 % and reorders", long=True)
def lossy_link():
    size = (16 if SLOW else 1024) << 20
    block = random.Random(3).randbytes(1 << 20)
    wanted = hashlib.sha256()
    for _ in range(size >> 20):
        wanted.update(block)
    digest = ("import hashlib, socket, sys; h = hashlib.sha256(); n = 0\n"
              "s = socket.create_server(('', 9)); print('ready', flush=True); c = s.accept()[0]\n"
              "while True:\n d = c.recv(1 << 20)\n if not d: break\n h.update(d)\n"
              "b = __import__('random').Random(3).randbytes(1 << 20)\n"
              f"for _ in range({size >> 20}): c.sendall(b)\n"
              "c.sendall(h.digest()); c.close(); sys.stdin.read()")
    netem = ["netem", "limit", "10000", "delay", "1ms", "loss", "2%", "reorder", "5%"]
    # A network without a name, held by a process that ends with this one, however this one ends.
    with subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sh", "-c", "echo made; exec cat"],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder, tap("tap0"):
        equal("the network beyond", b"made\n", holder.stdout.readline())
        there = ["nsenter", "--net", "--target", str(holder.pid)]
        # This machine routes between the guest and what is beyond, and loses packets in both directions.
        tool("ip", "link", "add", "near", "type", "veth", "peer", "name", "far", "netns", str(holder.pid))
        tool("ip", "address", "add", "10.8.0.1/24", "dev", "near")
        tool("ip", "link", "set", "near", "up")
        tool(*there, "ip", "address", "add", "10.8.0.2/24", "dev", "far")
        tool(*there, "ip", "link", "set", "far", "up")
        tool(*there, "ip", "route", "add", "default", "via", "10.8.0.1")
        tool("sysctl", "-qw", "net.ipv4.ip_forward=1")
        for device in ("tap0", "near"):
            tool("tc", "qdisc", "add", "dev", device, "root", *netem)
        with guest(f"exec python3 -c {shlex.quote(digest)}", "--route", "default=10.9.0.1"):
            client = run([*there, sys.executable, "-c",
                          "import hashlib, random, socket\n"
                          f"c = socket.create_connection(('{GUEST4}', 9), timeout={WAIT})\n"
                          "b = random.Random(3).randbytes(1 << 20)\n"
                          f"for _ in range({size >> 20}): c.sendall(b)\n"
                          "c.shutdown(socket.SHUT_WR); h = hashlib.sha256(); left = "
                          f"{size}\n"
                          "while left:\n d = c.recv(min(left, 1 << 20))\n if not d: break\n h.update(d); left -= len(d)\n"
                          "print(h.hexdigest(), c.recv(32, socket.MSG_WAITALL).hex())"], timeout=3000)
            equal("what came back, and what the guest got: " + client.err.decode()[-500:],
                  f"{wanted.hexdigest()} {wanted.hexdigest()}\n", client.out.decode())
            lost = tool("tc", "-s", "qdisc", "show", "dev", "tap0")
            holds("the link lost packets", "dropped 0," not in lost, lost)
