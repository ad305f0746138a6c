"""podman with joey as its runtime, and everything it keeps beneath one directory."""

import atexit
import contextlib
import os
import re
import shutil
import tempfile
import time

from containerd import IMAGE, write_image
from harness import JOEY, PATIENCE, Failed, equal, holds, run, short
from own_network import own_machine, tool

# Another runtime shows what a case expects of joey.
RUNTIME = os.environ.get("JOEY_TEST_PODMAN_RUNTIME", JOEY)
# More than the defaults asks for rights that a container's root may not have.
LIMITS = ("--ulimit", "nofile=10000:10000", "--ulimit", "nproc=10000:10000")
# podman's command at a container's end says no --root to the runtime, whatever --runtime-flag says.
STATE = "/run/joey"
SMALL = ("--annotation", "io.joey.memory=256M", "--annotation", "io.joey.vcpus=1")


class Podman:
    def __init__(self, directory):
        self.directory = directory
        self.others = self.kept()

    def argv(self, *words):
        own = [f"--{name}={self.directory}/{name}" for name in ("root", "runroot", "tmpdir")]
        return ["podman", *own, "--cgroup-manager=cgroupfs", "--events-backend=file", "--storage-driver=vfs", "--runtime", RUNTIME,
                *words]

    def podman(self, *words, timeout=120, **extra):
        return run(self.argv(*words), timeout=timeout, cwd=self.directory, **extra)

    def must(self, *words, **extra):
        done = self.podman(*words, **extra)
        equal(f"status of podman {' '.join(words)}: {short(done.err)}", 0, done.status)
        return done

    @staticmethod
    def run_words(*command, options=(), network="none"):
        return ("run", f"--network={network}", *LIMITS, *SMALL, *options, IMAGE, *command)

    def run(self, *command, options=("--rm",), **extra):
        return self.podman(*self.run_words(*command, options=options), **extra)

    def run_in_background(self, name, *command, options=()):
        self.must(*self.run_words(*command, options=("--detach", "--name", name, *options)))

    def inspect(self, name, template):
        return self.must("inspect", "--format", template, name).out.decode().strip()

    def until(self, name, status, seconds=60):
        deadline = time.monotonic() + seconds * PATIENCE
        while self.inspect(name, "{{.State.Status}}") != status:
            holds(f"{name} becomes {status}", time.monotonic() < deadline, self.inspect(name, "{{.State}}"))
            time.sleep(0.2)

    def until_log(self, name, line, seconds=60):
        deadline = time.monotonic() + seconds * PATIENCE
        while line not in self.must("logs", name).out.splitlines():
            holds(f"{name} says {line}", time.monotonic() < deadline)
            time.sleep(0.2)

    def processes(self):
        """Those that name the directory: conmon, and what is joey's; and VMs that were not there before."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    words = file.read().replace(b"\0", b" ").decode(errors="replace")
                vm = re.search(f" {STATE}/(pods/[^/ ]+)/root ", words)
                if int(pid) != os.getpid() and (self.directory in words or vm and vm.group(1) not in self.others):
                    found.append((int(pid), words))
        return found

    @staticmethod
    def kept():
        """What joey knows of."""
        found = set()
        for kind in ("containers", "pods"):
            with contextlib.suppress(FileNotFoundError):
                found |= {f"{kind}/{name}" for name in os.listdir(f"{STATE}/{kind}")}
        return found

    def leftovers(self):
        found = [f"process {pid}: {words}" for pid, words in self.processes()]
        found += [f"container {name}" for name in self.must("ps", "--all", "--quiet").out.decode().split()]
        found += sorted(self.kept() - self.others)
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            found += [line for line in file if "/vfs/dir/" in line and self.directory in line]
        for top, directories, _ in os.walk("/sys/fs/cgroup"):
            found += [f"control group {top}/{name}" for name in directories if os.path.basename(top) == "libpod_parent" and name != "conmon"]
        return found

    def nothing_is_left(self):
        deadline = time.monotonic() + 60 * PATIENCE
        while self.leftovers() and time.monotonic() < deadline:
            time.sleep(0.3)
        equal("left behind", [], self.leftovers())


RUNNING = []  # one for all cases


def control_groups():
    """podman drops limits for which the host has no controller, so that there has to be one. Where version 2 stands beside a version 1 that has
    none (an emulated machine), it is the only one from here on."""
    place = "/sys/fs/cgroup"
    if not os.path.exists(f"{place}/memory") and not os.path.exists(f"{place}/cgroup.controllers"):
        tool("mount", "-t", "cgroup2", "cgroup2", place)


def begin():
    if os.geteuid() != 0 or shutil.which("podman") is None:
        raise Failed("podman is run by root, from Debian's package podman; ./test.sh installs it")
    own_machine()
    control_groups()
    directory = tempfile.mkdtemp(prefix="joey-podman-")
    os.chmod(directory, 0o755)
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    one = Podman(directory)
    write_image(f"{directory}/image.tar")
    one.must("load", "--input", f"{directory}/image.tar")
    return one


@contextlib.contextmanager
def podman():
    """Has the image; the case leaves nothing behind."""
    if not RUNNING:
        RUNNING.append(begin())
    one = RUNNING[0]
    try:
        yield one
        one.nothing_is_left()
    finally:
        one.podman("rm", "--all", "--force", "--time", "0")
        for pid, _ in one.processes():
            with contextlib.suppress(OSError):
                os.kill(pid, 9)
