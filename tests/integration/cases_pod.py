"""tools/pod as a shim uses it: named processes over fifos, exits, out of memory, what is left behind."""

import contextlib
import json
import os
import random
import signal
import subprocess
import time

from harness import PATIENCE, TOP, case, equal, holds, run, short
from oci_runtime import in_pod, runtime, vm_of

CALLER = os.environ.get("JOEY_POD_CALLER", os.path.join(TOP, "build/tools/pod/pod_caller"))
PROCESS = {"args": [], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}
OOM = 4  # agent.proto, Event.Kind


class Caller:
    def __init__(self, joey):
        self.joey = joey

    def run(self, *words, timeout=120):
        return run([CALLER, self.joey.root, *words], timeout=timeout)

    def must(self, *words, **extra):
        done = self.run(*words, **extra)
        equal(f"status of {' '.join(words)}: {short(done.err)}", 0, done.status)
        return done.out.decode()

    def path(self, name):
        return os.path.join(self.joey.directory, name)

    def create(self, name, script, *words, patch=None):
        self.must("create", name, self.joey.bundle("bundle-" + name, script, patch), f"out={self.path(name + '.out')}",
                  f"err={self.path(name + '.out')}", *words)
        self.joey.must("start", name)

    def exec(self, container, name, args, *words, terminal=False):
        place = self.path(name + ".json")
        with open(place, "w", encoding="utf-8") as file:
            json.dump({**PROCESS, "args": args, "terminal": terminal}, file)
        return self.run("exec", container, name, place, *words)

    def must_exec(self, *words, **extra):
        done = self.exec(*words, **extra)
        equal(f"status of exec: {short(done.err)}", 0, done.status)


@contextlib.contextmanager
def caller():
    with runtime() as joey:
        one = Caller(joey)
        yield one, joey
        joey.nothing_is_left()


def until(what, condition, seconds=60):
    deadline = time.monotonic() + seconds * PATIENCE
    while True:
        found = condition()
        if found:
            return found
        holds(what, time.monotonic() < deadline)
        time.sleep(0.05)


def read_until(fd, text, seconds=60):
    """From a fifo or terminal that does not block."""
    seen = b""

    def more():
        nonlocal seen
        with contextlib.suppress(BlockingIOError):
            seen += os.read(fd, 4096)
        return text in seen
    until(f"{text!r} comes", more, seconds)
    return seen


@case("pod: a named process over fifos: input that ends when it is closed, output, status, removal")
def fifos():
    with caller() as (call, joey):
        call.create("one", "exec sleep 1000")
        for name in ("i", "o"):
            os.mkfifo(call.path(name))
        # The writer stays open: the end comes by close-input, behind what was written before it.
        writer = os.open(call.path("i"), os.O_RDWR)
        reader = os.open(call.path("o"), os.O_RDONLY | os.O_NONBLOCK)
        call.must_exec("one", "worker", ["sh", "-c", "wc -c; echo ended >&2; exit 7"], f"in={call.path('i')}",
                       f"out={call.path('o')}", f"err={call.path('e')}")
        equal("names", "worker running\n", call.must("names", "one"))
        taken = call.exec("one", "worker", ["true"])
        holds("the name is taken", taken.status == 1 and b"there is a process worker" in taken.err, taken.err)
        os.write(writer, b"x" * 5000)
        call.must("close-input", "one", "worker")
        read_until(reader, b"5000\n")
        equal("how it ended", "7 -\n", call.must("wait", "one", "worker", "60"))
        with open(call.path("e"), "rb") as file:
            equal("stderr", b"ended\n", file.read())
        equal("names", "worker ended\n", call.must("names", "one"))
        equal("removal", "7\n", call.must("forget", "one", "worker"))
        equal("names", "", call.must("names", "one"))
        # One that runs is killed; the container lives on.
        call.must_exec("one", "worker", ["sleep", "1000"])
        holds("it still runs", call.run("wait", "one", "worker", "1").status == 1)
        equal("removal", "137\n", call.must("forget", "one", "worker"))
        call.must_exec("one", "killed", ["sleep", "1000"])
        call.must("kill", "one", "killed", str(int(signal.SIGTERM)))
        equal("how it ended", "143 -\n", call.must("wait", "one", "killed", "60"))
        holds("the container runs", joey.state("one")["status"] == "running")
        os.close(writer)
        os.close(reader)
        joey.must("delete", "--force", "one")


@case("pod: a terminal over fifos: echo, a size that is set from outside, an end")
def terminal_over_fifos():
    with caller() as (call, joey):
        call.create("one", "exec sleep 1000")
        for name in ("i", "o"):
            os.mkfifo(call.path(name))
        writer = os.open(call.path("i"), os.O_RDWR)
        reader = os.open(call.path("o"), os.O_RDONLY | os.O_NONBLOCK)
        call.must_exec("one", "shell", ["sh"], f"in={call.path('i')}", f"out={call.path('o')}", terminal=True)
        call.must("resize", "one", "shell", "33", "77")
        os.write(writer, b"stty size; echo so\"\"und; exit 3\n")
        seen = read_until(reader, b"sound\r\n")
        holds("the size", b"33 77\r\n" in seen, seen)
        equal("how it ended", "3 -\n", call.must("wait", "one", "shell", "60"))
        os.close(writer)
        os.close(reader)
        joey.must("delete", "--force", "one")


@case("pod: a container joins a pod by name; what ends for want of memory is said to have, and nothing else ends")
def out_of_memory():
    with caller() as (call, joey):
        call.create("pod", "exec sleep 1000")

        def limited(config):
            config["linux"]["resources"]["memory"] = {"limit": 24 << 20}
        call.create("eater", "sleep 1; exec busybox tail -c 200000000 /dev/zero", "pod=pod", patch=limited)
        equal("one VM", "pod running eater pod\n", call.must("pods"))
        equal("how it ended", "137 oom\n", call.must("wait", "eater", "-", "120", timeout=150))
        events = call.must("events", "pod", "1").splitlines()
        holds("an event says so", f"{OOM} eater " in events, events)
        holds("nobody else's", not any(line.startswith(f"{OOM} pod") for line in events), events)
        equal("the pod lives on", b"ok\n", joey.must("exec", "pod", "echo", "ok").out)
        nanoseconds, memory, threads = map(int, call.must("vm-stats", "pod").split())
        holds("what the VM costs", nanoseconds > 0 and memory > 1 << 20 and threads >= 1, (nanoseconds, memory, threads))
        call.must("remove-pod", "pod")
        call.must("remove-pod", "pod")
        equal("pods", "", call.must("pods"))


@case("pod: kill -9 of the caller at any moment, of the VM, of the relays: remove-pod leaves nothing")
def sudden_ends():
    with caller() as (call, joey):
        bundles = {name: joey.bundle(name, "exec sleep 1000", in_pod(kind, "pod"))
                   for name, kind in (("pod", "sandbox"), ("second", "container"))}
        moments = random.Random(1)
        for moment in range(4):
            started = time.monotonic()
            for name in ("pod", "second"):
                creation = subprocess.Popen([CALLER, joey.root, "create", name, bundles[name]], stdin=subprocess.DEVNULL,
                                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                limit = started + moments.uniform(0, 4) * PATIENCE / 2 if name == "second" or moment == 0 else started + 60 * PATIENCE
                with contextlib.suppress(subprocess.TimeoutExpired):
                    creation.wait(max(limit - time.monotonic(), 0.01))
                creation.kill()
                creation.wait()
            if moment == 2:
                os.kill(vm_of(joey, "pod"), signal.SIGKILL)
            if moment == 3:
                for name in ("pod", "second"):
                    with contextlib.suppress(OSError, KeyError, ValueError):
                        os.kill(json.loads(joey.run("state", name).out)["pid"], signal.SIGKILL)
            call.must("remove-pod", "pod")
            joey.nothing_is_left()
