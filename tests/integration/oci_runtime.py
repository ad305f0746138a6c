"""joey as OCI runtime with a state directory of its own, and bundles for it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time

from harness import JOEY, PATIENCE, Failed, equal, holds, run, scratch, short

BUSYBOX = "/bin/busybox"
APPLETS = ("sh cat echo ls id sleep true false uname mount grep hostname touch stat ps env kill head nc pwd test tty stty "
           "seq wc mkdir rm cut readlink sync").split()
PRIVILEGE = "auto"


def make_bundle(path, args, patch=None, rootfs=None):
    """A bundle with a busybox root; `patch` changes the configuration that `joey spec` writes."""
    os.makedirs(path)
    root = os.path.join(path, "rootfs")
    if rootfs is None:
        for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "data"):
            os.makedirs(os.path.join(root, name))
        shutil.copy(BUSYBOX, os.path.join(root, "bin/busybox"))
        for applet in APPLETS:
            os.symlink("busybox", os.path.join(root, "bin", applet))
        with open(os.path.join(root, "etc/passwd"), "w", encoding="utf-8") as file:
            file.write("root:x:0:0:root:/root:/bin/sh\n")
    made = run([JOEY, "spec", "--bundle", path])
    equal("status of spec", 0, made.status)
    place = os.path.join(path, "config.json")
    with open(place, encoding="utf-8") as file:
        config = json.load(file)
    config["process"]["terminal"] = False
    config["process"]["args"] = ["sh", "-c", args] if isinstance(args, str) else args
    config["root"]["readonly"] = False
    config["annotations"] = {"io.joey.memory": "256M", "io.joey.vcpus": "1", "io.joey.privilege": PRIVILEGE}
    if rootfs is not None:
        config["root"]["path"] = rootfs
    if patch is not None:
        patch(config)
    with open(place, "w", encoding="utf-8") as file:
        json.dump(config, file)
    return path


def processes_of(directory):
    """Those that name a state directory: VMs, relays, monitors."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            if any(directory.encode() in word for word in words) and int(pid) != os.getpid():
                found.append(int(pid))
    return found


def nothing_is_left(directory, root):
    """No process and no mount that names the directory, no record of containers and pods below the root."""
    deadline = time.monotonic() + 30 * PATIENCE
    while processes_of(directory) and time.monotonic() < deadline:
        time.sleep(0.05)
    equal("processes left behind", [], [open(f"/proc/{pid}/cmdline", "rb").read() for pid in processes_of(directory)])
    for kind in ("containers", "pods"):
        place = os.path.join(root, kind)
        equal(f"{kind} left behind", [], os.listdir(place) if os.path.exists(place) else [])
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        equal("mounts left behind", [], [line for line in file if directory in line])


class Runtime:
    """joey with a state directory of its own."""

    def __init__(self, directory):
        self.directory = directory
        self.root = os.path.join(directory, "state")

    def run(self, *words, options=(), timeout=90, **extra):
        return run([JOEY, "--root", self.root, *options, *words], timeout=timeout, **extra)

    def must(self, *words, **extra):
        done = self.run(*words, **extra)
        equal(f"status of {' '.join(words)}: {short(done.err)}", 0, done.status)
        return done

    def bundle(self, name, args, patch=None, rootfs=None):
        return make_bundle(os.path.join(self.directory, name), args, patch, rootfs)

    def create(self, name, bundle, *options, out=None):
        """Creates it with its output in a file, as an engine that logs does."""
        target = out or os.path.join(self.directory, name + ".out")
        with open(target, "ab") as file, open(os.devnull, "rb") as null:
            process = subprocess.Popen([JOEY, "--root", self.root, "create", "--bundle", bundle, *options, name],
                                       stdin=null, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
            try:
                status = process.wait(90 * PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                raise Failed(f"create {name} still runs; {short(self.output(name))}") from None
        equal(f"status of create: {short(self.output(name))}", 0, status)

    def output(self, name):
        with open(os.path.join(self.directory, name + ".out"), "rb") as file:
            return file.read()

    def state(self, name):
        return json.loads(self.must("state", name).out)

    def until(self, name, status, seconds=60):
        deadline = time.monotonic() + seconds * PATIENCE
        while True:
            found = self.state(name)["status"]
            if found == status:
                return
            holds(f"{name} becomes {status}", time.monotonic() < deadline, f"it is {found}")
            time.sleep(0.05)

    def until_output(self, name, text, seconds=60):
        deadline = time.monotonic() + seconds * PATIENCE
        while text not in self.output(name):
            holds(f"{name} says {text!r}", time.monotonic() < deadline, self.output(name))
            time.sleep(0.05)

    def processes(self):
        return processes_of(self.root)

    def nothing_is_left(self):
        nothing_is_left(self.root, self.root)


@contextlib.contextmanager
def runtime():
    with scratch() as directory:
        one = Runtime(str(directory))
        try:
            yield one
        finally:
            for kind in ("containers", "pods"):
                place = os.path.join(one.root, kind)
                for name in os.listdir(place) if os.path.exists(place) else []:
                    one.run("delete", "--force", name)
            for pid in one.processes():
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)


def refused(done, message, status=1):
    equal("status", status, done.status)
    holds(f"stderr says {message!r}", message.lower().encode() in done.err.lower(), done.err)


def in_pod(kind, pod):
    def patch(config):
        config["annotations"].update({"io.kubernetes.cri.container-type": kind, "io.kubernetes.cri.sandbox-id": pod})
        if kind == "container":
            for namespace in config["linux"]["namespaces"]:
                if namespace["type"] in ("ipc", "uts", "network"):
                    namespace["path"] = "/proc/1/ns/" + namespace["type"].replace("network", "net")
            config.pop("hostname", None)
    return patch


def vm_of(joey, pod):
    with open(os.path.join(joey.root, "pods", pod, "vm.json"), encoding="utf-8") as file:
        return json.load(file)["pid"]


@contextlib.contextmanager
def in_mode(mode):
    global PRIVILEGE
    before, PRIVILEGE = PRIVILEGE, mode
    try:
        yield
    finally:
        PRIVILEGE = before
