"""A network of the cases' own: bridges, rules and namespaces may be made in it."""

import contextlib
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


@contextlib.contextmanager
def tap(name, *more, addresses=True):
    tool("ip", "tuntap", "add", "dev", name, "mode", "tap", *more)
    try:
        if addresses:
            tool("ip", "address", "add", "10.9.0.1/24", "dev", name)
            tool("ip", "address", "add", "fd00:9::1/64", "dev", name, "nodad")
        tool("ip", "link", "set", name, "up")
        yield name
    finally:
        with contextlib.suppress(Failed):
            tool("ip", "link", "delete", name)


def on_tap(name, *more, host=2):
    return ["--net", f"tap={name}", "--ip", f"10.9.0.{host}/24", "--ip", f"fd00:9::{host}/64", *more]


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
