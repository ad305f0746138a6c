"""vsock: the VM's Unix sockets, in both directions, whole streams, ends, crowds and deaths."""

import contextlib
import os
import socket
import stat
import threading
import time
import zlib

from harness import (JOEY, Failed, case, equal, holds, one_line_failure, read_until, run, scratch, short, started,
                     wait_end)

PEER = os.environ.get("VSOCK_PEER", os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(JOEY))),
                                                "tests/integration/vsock_peer"))
PATIENCE = 120  # seconds that a socket may keep a case waiting
MEBI = 1 << 20


def guest(path, *arguments, timeout=PATIENCE, options=()):
    return run([JOEY, "do", "--vsock", path, *options, "--", PEER, *map(str, arguments)], timeout=timeout)


def listen(path, kind=socket.SOCK_STREAM, backlog=64):
    listener = socket.socket(socket.AF_UNIX, kind)
    listener.settimeout(PATIENCE)
    listener.bind(path)
    listener.listen(backlog)
    return listener


def read_to_end(connection):
    total, check = 0, 1
    while True:
        data = connection.recv(MEBI)
        if not data:
            return total, check
        total += len(data)
        check = zlib.adler32(data, check)


def in_background(function, *arguments):
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread


def connect(path, port, kind=socket.SOCK_STREAM):
    """A connection to the guest's port, after the answer."""
    connection = socket.socket(socket.AF_UNIX, kind)
    connection.settimeout(PATIENCE)
    connection.connect(path)
    connection.send(b"CONNECT %d\n" % port)
    line = b""
    while not line.endswith(b"\n"):
        got = connection.recv(1 if kind == socket.SOCK_STREAM else 100)
        if not got:
            connection.close()
            raise ConnectionRefusedError
        line += got
    holds("the answer to CONNECT", line.startswith(b"OK ") and line[3:-1].isdigit(), line)
    return connection


@contextlib.contextmanager
def serving(path, port, *more):
    with started(PEER, "serve", str(port), *more, options=["--vsock", path]) as process:
        read_until(process.stdout, b"serving")
        yield process


def until_gone(path):
    deadline = time.monotonic() + 10
    while os.path.exists(path):
        holds(f"{path} is removed", time.monotonic() < deadline)
        time.sleep(0.02)


@case("vsock: the guest has the CID that was asked for, 3 without a wish")
def the_cid():
    with scratch() as folder:
        path = os.path.join(folder, "vm")
        equal("CID", b"3\n", guest(path, "cid").out)
        equal("CID", b"4711\n", run([JOEY, "do", "--vsock", path + ",cid=4711", "--", PEER, "cid"]).out)
        equal("left behind", [], os.listdir(folder))


@case("vsock: options that make no sense are told in a line")
def bad_options():
    with scratch() as folder:
        path = os.path.join(folder, "vm")
        for option in ["", ",cid=5", path + ",cid=2", path + ",cid=x", path + ",cid=4294967295", "/x" * 60]:
            one_line_failure(run([JOEY, "do", "--vsock", option, "--", "true"]), "--vsock")
        one_line_failure(run([JOEY, "do", "--vsock", os.path.join(folder, "none/vm"), "--", "true"]), "no such directory")
        open(path, "w").close()
        one_line_failure(run([JOEY, "do", "--vsock", path, "--", "true"]), "already")
        holds("the file is still there", os.path.isfile(path))
        os.unlink(path)
        os.mkdir(path + "_seqpacket")
        one_line_failure(run([JOEY, "do", "--vsock", path, "--", "true"]), "already")
        holds("the first socket is taken back", not os.path.exists(path))


@case("vsock: the guest asks a program of the host, and each end closes by itself")
def guest_to_host():
    with scratch() as folder:
        path = os.path.join(folder, "vm")
        with listen(path + "_900") as listener:
            def answer():
                connection, _ = listener.accept()
                with connection:
                    question = b""
                    while data := connection.recv(100):
                        question += data
                    connection.sendall(b"you said: " + question)
            thread = in_background(answer)
            result = guest(path, "ask", 900, "hello")
            thread.join(PATIENCE)
        equal("status", 0, result.status)
        equal("answer", b"you said: hello", result.out)


@case("vsock: a port of the host without a program is refused, as is one with the other kind")
def refused():
    with scratch() as folder:
        path = os.path.join(folder, "vm")
        equal("error", b"ECONNRESET\n", guest(path, "refused", 901).out)
        with listen(path + "_902", socket.SOCK_SEQPACKET):
            equal("error", b"ECONNRESET\n", guest(path, "refused", 902).out)


@case("vsock: a program of the host connects, and ends come through both ways")
def host_to_guest():
    with scratch() as folder:
        path = os.path.join(folder, "vm")
        with serving(path, 5000) as process:
            with connect(path, 5000) as connection:
                connection.sendall(b"across")
                equal("echo", b"across", connection.recv(100))
                connection.shutdown(socket.SHUT_WR)
                equal("end", b"", connection.recv(100))
            try:
                connect(path, 5001).close()
                raise Failed("a port where nobody listens took a connection")
            except (ConnectionRefusedError, ConnectionResetError):
                pass
            holds("a socket", stat.S_ISSOCK(os.stat(path).st_mode))
            with connect(path, 5000) as connection:
                connection.sendall(b"quit")
                equal("status", 0, wait_end(process, PATIENCE))
        equal("left behind", [], os.listdir(folder))


@case("vsock: a hundred megabytes from the guest arrive unchanged")
def large_from_guest():
    size = 100_000_000
    with scratch() as folder:
        path = os.path.join(folder, "vm")
        found = []
        with listen(path + "_900") as listener:
            def take():
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(PATIENCE)
                    found.append(read_to_end(connection))
            thread = in_background(take)
            result = guest(path, "source", 900, size, timeout=10 * PATIENCE)
            thread.join(PATIENCE)
        equal("status", 0, result.status)
        equal("bytes and sum", [(size, int(result.out))], found)


@case("vsock: a hundred megabytes from the host arrive unchanged")
def large_from_host():
    block = os.urandom(MEBI)
    with scratch() as folder:
        path = os.path.join(folder, "vm")
        with listen(path + "_900") as listener:
            def give():
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(10 * PATIENCE)
                    for _ in range(100):
                        connection.sendall(block)
            in_background(give)
            result = guest(path, "sink", 900, timeout=10 * PATIENCE)
        check = 1
        for _ in range(100):
            check = zlib.adler32(block, check)
        equal("bytes and sum", f"{100 * MEBI} {check}\n", result.out.decode())


@case("vsock: a slow reader on the host holds the guest back, and gets all")
def slow_reader():
    size = 8_000_000
    with scratch() as folder:
        path = os.path.join(folder, "vm")
        found = []
        with listen(path + "_900") as listener:
            def take():
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(PATIENCE)
                    time.sleep(1)  # the guest runs out of credit meanwhile
                    found.append(read_to_end(connection))
            thread = in_background(take)
            result = guest(path, "source", 900, size, timeout=4 * PATIENCE)
            thread.join(PATIENCE)
        equal("bytes and sum", [(size, int(result.out))], found)


@case("vsock: five hundred connections of the host at once")
def many_from_host():
    with scratch() as folder:
        path = os.path.join(folder, "vm")
        with serving(path, 5000):
            connections = [connect(path, 5000) for _ in range(500)]
            for number, connection in enumerate(connections):
                connection.sendall(b"number %d" % number)
            wrong = []
            for number, connection in enumerate(connections):
                expected = b"number %d" % number
                if connection.recv(100) != expected:
                    wrong.append(number)
                connection.close()
            equal("wrong answers", [], wrong)
            with connect(path, 5000) as connection:
                connection.sendall(b"after")
                equal("echo", b"after", connection.recv(100))


@case("vsock: five hundred connections of the guest at once")
def many_from_guest():
    count = 500
    with scratch() as folder:
        path = os.path.join(folder, "vm")
        with listen(path + "_900", backlog=600) as listener:
            def serve():
                connections = [listener.accept()[0] for _ in range(count)]
                for connection in connections:
                    connection.settimeout(PATIENCE)
                    connection.sendall(connection.recv(100))
                for connection in connections:
                    connection.close()
            in_background(serve)
            result = guest(path, "storm", 900, count, timeout=4 * PATIENCE)
        equal("right answers", b"%d\n" % count, result.out)


@case("vsock: sequenced packets keep their boundaries in both directions")
def packets():
    sizes = [1, 10, 4000, 5000, 65536, 200_000, 3]
    with scratch() as folder:
        path = os.path.join(folder, "vm")
        with listen(path + "_900", socket.SOCK_SEQPACKET) as listener:
            with started(PEER, "packets", "900", options=["--vsock", path]) as process:
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(PATIENCE)
                    for size in sizes:
                        data = os.urandom(size)
                        connection.send(data)
                        holds(f"a packet of {size} bytes", connection.recv(1 << 19) == data)
                equal("status", 0, wait_end(process, PATIENCE))
        with serving(path, 5000, "seqpacket"):
            with connect(path + "_seqpacket", 5000, socket.SOCK_SEQPACKET) as connection:
                for text in [b"one", b"two and more"]:
                    connection.send(text)
                    equal("echo", text, connection.recv(100))


@case("vsock: a peer that is killed, on either side, is noticed on the other")
def killed_peers():
    with scratch() as folder:
        path = os.path.join(folder, "vm")
        with listen(path + "_900") as listener:
            with started(PEER, "sink", "900", options=["--vsock", path]) as process:
                connection, _ = listener.accept()
                child = os.fork()
                if child == 0:
                    connection.sendall(b"x" * 1000)
                    time.sleep(PATIENCE)
                    os._exit(0)
                connection.close()
                time.sleep(0.2)
                os.kill(child, 9)
                os.waitpid(child, 0)
                equal("status", 0, wait_end(process, PATIENCE))
                holds("what came before", process.stdout.read().startswith(b"1000 "))
            # The guest's program, in the middle of the VM's life.
            script = f"{PEER} hold 900 & sleep 0.3; kill -9 $!; sleep {PATIENCE}"
            with started("sh", "-c", script, options=["--vsock", path]):
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(PATIENCE)
                    equal("end", b"", connection.recv(100))


@case("vsock: joey that is killed leaves no socket behind, and its connections end")
def killed_joey():
    with scratch() as folder:
        path = os.path.join(folder, "vm")
        with listen(path + "_900") as listener:
            with started(PEER, "hold", "900", options=["--vsock", path]) as process:
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(PATIENCE)
                    process.kill()
                    equal("end", b"", connection.recv(100))
            until_gone(path)
            until_gone(path + "_seqpacket")


@case("vsock: what the guest's last program sent arrives, though the VM is gone")
def last_words():
    with scratch() as folder:
        path = os.path.join(folder, "vm")
        with listen(path + "_900") as listener:
            result = guest(path, "source", 900, 150_000)
            equal("status", 0, result.status)
            connection, _ = listener.accept()
            with connection:
                equal("bytes and sum", (150_000, int(result.out)), read_to_end(connection))


@case("vsock: nonsense instead of CONNECT is closed, and does the others no harm")
def nonsense():
    with scratch() as folder:
        path = os.path.join(folder, "vm")
        with serving(path, 5000):
            for text in [b"GET / HTTP/1.0\r\n\r\n", b"CONNECT x\n", b"CONNECT " + b"9" * 100, b"\0" * 64]:
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.settimeout(PATIENCE)
                    connection.connect(path)
                    connection.sendall(text)
                    with contextlib.suppress(ConnectionResetError):
                        equal(f"after {short(text)}", b"", connection.recv(10))
            silent = [socket.socket(socket.AF_UNIX) for _ in range(100)]
            for connection in silent:
                connection.connect(path)
            with connect(path, 5000) as connection:
                connection.sendall(b"fine")
                equal("echo", b"fine", connection.recv(100))
            for connection in silent:
                connection.close()
