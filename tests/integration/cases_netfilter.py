"""Debian's nft and iptables inside: rules are told as Linux tells them, and do to packets what they do there."""

import os

from harness import PATIENCE, case, equal, holds, joey, run

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "netfilter")
OWN = ["unshare", "--net", "--mount"]
VM = ("--net", "none", "--memory", "512M")


def on_linux(*command):
    return run([*OWN, *command], timeout=400 * PATIENCE)


def compared(linux, inside):
    """The first line in which they differ."""
    for number, (wanted, found) in enumerate(zip(linux.split(b"\n"), inside.split(b"\n")), 1):
        equal(f"line {number}", wanted, found)
    equal("lines", linux.count(b"\n"), inside.count(b"\n"))


@case("netfilter: rules of every kind, changes and errors are told as Linux tells them")
def rules():
    linux = on_linux("sh", os.path.join(HERE, "rules.sh"))
    holds("rules load on Linux", b"loaded: 0\n" in linux.out, linux.out[-3000:])
    inside = joey("sh", os.path.join(HERE, "rules.sh"), options=VM, timeout=400 * PATIENCE)
    compared(linux.out, inside.out)


@case("netfilter: drop, reject, masquerade and translated destinations, on Linux and inside")
def packets():
    for where, done in (("on Linux", lambda: on_linux("python3", os.path.join(HERE, "packets.py"))),
                        ("inside", lambda: joey("python3", os.path.join(HERE, "packets.py"), options=VM, timeout=400 * PATIENCE))):
        found = done()
        equal(f"{where}: {found.err.decode(errors='replace')}", (0, b"all as it should be\n"), (found.status, found.out))
