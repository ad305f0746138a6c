"""A network of the cases' own: bridges, rules and namespaces may be made in it."""

import ctypes
import functools
import socket
import time

from harness import PATIENCE, Failed, equal, holds, run, short

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000


@functools.cache
def own_machine():
    """Once: from now on this process and what it starts are in it."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET | CLONE_NEWNS) != 0:
        raise Failed("make a network namespace: run this as root")
    tool("mount", "--make-rprivate", "/")
    tool("ip", "link", "set", "lo", "up")


def tool(*argv):
    found = run(argv)
    equal(f"status of {' '.join(argv)}: {short(found.err)}", 0, found.status)
    return found.out.decode()


def ask(address, port):
    """What a server says first."""
    deadline = time.monotonic() + 30 * PATIENCE
    while True:
        try:
            with socket.create_connection((address, port), timeout=10 * PATIENCE) as connection:
                return connection.recv(100)
        except OSError:
            holds(f"{address} port {port} answers", time.monotonic() < deadline)
            time.sleep(0.1)
