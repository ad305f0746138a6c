#!/usr/bin/env python3
"""What rules do to packets: drop, reject, masquerade, translated destinations. Passes on Linux and inside alike
(cases_netfilter.py); to be run in network and mount namespaces of its own."""

import contextlib
import ctypes
import os
import re
import socket
import subprocess

CLONE_NEWNET = 0x40000000
WAIT = 100  # seconds; nothing here takes long, where the machine is not slow


def tool(*words, rules=None):
    done = subprocess.run(words, input=rules, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout


def equal(what, wanted, found):
    if wanted != found:
        raise SystemExit(f"{what}: expected {wanted!r}, found {found!r}")


@contextlib.contextmanager
def inside(name):
    """Sockets that are made in here belong to that network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/ns/net", "rb") as before, open(f"/run/netns/{name}", "rb") as there:
        equal("setns", 0, libc.setns(there.fileno(), CLONE_NEWNET))
        try:
            yield
        finally:
            equal("setns", 0, libc.setns(before.fileno(), CLONE_NEWNET))


def listening(address, port):
    out = socket.create_server((address, port))
    out.settimeout(WAIT)
    return out


def connect(address, port):
    return socket.create_connection((address, port), timeout=WAIT)


def talk(client, server):
    """One connection's two ends, checked by a word in each direction; what the server sees of the client."""
    with client, server.accept()[0] as accepted:
        accepted.settimeout(WAIT)
        client.sendall(b"question")
        equal("question", b"question", accepted.recv(100))
        accepted.sendall(b"answer")
        equal("answer", b"answer", client.recv(100))
        return accepted.getpeername()[0]


def drops():
    tool("nft", "-f", "-", rules="table ip t { chain in { type filter hook input priority 0; udp dport 4444 counter drop; }; }")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        receiver.bind(("127.0.0.1", 4444))
        receiver.settimeout(WAIT)
        sender.sendto(b"dropped", ("127.0.0.1", 4444))
        told = tool("nft", "list", "table", "ip", "t")
        equal("counted", "packets 1 bytes 35", re.search(r"packets \d+ bytes \d+", told).group())
        tool("nft", "flush", "ruleset")
        sender.sendto(b"arrives", ("127.0.0.1", 4444))
        equal("what arrives", b"arrives", receiver.recv(100))


def machines():
    """Two machines, a and b, with this one between them."""
    for name, number in (("a", 9), ("b", 8)):
        near, far = f"near-{name}", f"far-{name}"
        tool("ip", "netns", "add", name)
        tool("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", name)
        tool("ip", "address", "add", f"10.{number}.0.1/24", "dev", near)
        tool("ip", "link", "set", near, "up")
        tool("ip", "-n", name, "address", "add", f"10.{number}.0.2/24", "dev", far)
        tool("ip", "-n", name, "link", "set", far, "up")
    tool("ip", "-n", "a", "route", "add", "default", "via", "10.9.0.1")
    with open("/proc/sys/net/ipv4/ip_forward", "w", encoding="ascii") as file:
        file.write("1")


def translates():
    with inside("b"):
        server = listening("10.8.0.2", 80)
    tool("iptables", "-t", "nat", "-A", "POSTROUTING", "-s", "10.9.0.0/24", "-o", "near-b", "-j", "MASQUERADE")
    for chain in ("PREROUTING", "OUTPUT"):
        tool("iptables", "-t", "nat", "-A", chain, "-p", "tcp", "--dport", "7777", "-j", "DNAT", "--to-destination", "10.8.0.2:80")
    with server:
        # b has no way back to a: only the translated source can be answered.
        with inside("a"):
            client = connect("10.8.0.2", 80)
        equal("masqueraded", "10.8.0.1", talk(client, server))
        with inside("a"):
            client = connect("10.9.0.1", 7777)
            equal("the client knows nothing of it", ("10.9.0.1", 7777), client.getpeername())
        equal("both translated", "10.8.0.1", talk(client, server))
        equal("of this machine's own", "10.8.0.1", talk(connect("10.8.0.1", 7777), server))
        for number in (1, 2, 3):
            with inside("a"):
                equal(f"connection {number}", "10.8.0.1", talk(connect("10.8.0.2", 80), server))
    tool("ip", "netns", "exec", "a", "ping", "-c", "1", "-W", str(WAIT), "10.8.0.2")


def redirects():
    tool("iptables", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "--dport", "7778", "-j", "REDIRECT", "--to-ports", "7779")
    with listening("127.0.0.1", 7779) as server:
        equal("redirected", "127.0.0.1", talk(connect("127.0.0.1", 7778), server))


def rejects():
    tool("iptables", "-A", "INPUT", "-p", "tcp", "--dport", "9999", "-j", "REJECT", "--reject-with", "tcp-reset")
    tool("iptables", "-A", "INPUT", "-p", "udp", "--dport", "9999", "-j", "REJECT")
    with listening("127.0.0.1", 9999):
        try:
            connect("127.0.0.1", 9999)
            raise SystemExit("a rejected connection was made")
        except ConnectionRefusedError:
            pass
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(WAIT)
        one.connect(("127.0.0.1", 9999))
        one.send(b"x")
        try:
            one.recv(1)
            raise SystemExit("a rejected datagram was answered")
        except ConnectionRefusedError:
            pass


def main():
    tool("ip", "link", "set", "lo", "up")
    os.makedirs("/run/netns", exist_ok=True)
    tool("mount", "-t", "tmpfs", "none", "/run/netns")  # names of its own
    drops()
    machines()
    translates()
    redirects()
    rejects()
    print("all as it should be")


main()
