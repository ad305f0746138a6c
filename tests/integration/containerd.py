"""A containerd of the tests' own, with everything it has beneath one directory, and an image to run."""

import atexit
import contextlib
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time

from harness import JOEY, PATIENCE, Failed, equal, holds, run, short

BUSYBOX = "/bin/busybox"
APPLETS = ("sh cat echo ls id sleep true false uname mount grep touch stat ps env kill head tty stty seq wc mkdir rm dd tail "
           "nc hostname readlink sync test pwd").split()
SHIM = os.environ.get("SHIM", os.path.join(os.path.dirname(JOEY), "../containerd-shim-joey-v2/containerd-shim-joey-v2"))
IMAGE = "joey.test/busybox:latest"
# Another runtime shows what a case expects of joey.
RUNTIME = os.environ.get("JOEY_TEST_CONTAINERD_RUNTIME", "io.containerd.joey.v2")
SOCKETS = "/run/containerd/s"
STATE = "/run/containerd/joey"


# ---- an image -------------------------------------------------------------------------------------

def layer():
    """busybox, a few users and directories, as a gzipped tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("bin", "dev", "etc", "proc", "sys", "data", "root"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        entry = tarfile.TarInfo("tmp")
        entry.type, entry.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(entry)
        with open(BUSYBOX, "rb") as file:
            entry = tarfile.TarInfo("bin/busybox")
            entry.mode, entry.size = 0o755, os.path.getsize(BUSYBOX)
            tar.addfile(entry, file)
        for applet in APPLETS:
            entry = tarfile.TarInfo("bin/" + applet)
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
        for name, text in (("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nguest:x:1234:1235:guest:/tmp:/bin/sh\n"),
                           ("etc/group", "root:x:0:\nguest:x:1235:\n")):
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size = 0o644, len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return out.getvalue()


def write_image(path, user="", name=IMAGE, command=("sh",)):
    """An OCI image layout as a tar file, for `ctr images import`."""
    blobs = {}

    def add(data):
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return "sha256:" + digest
    plain = layer()
    packed = gzip.compress(plain, 1)
    config = json.dumps({
        "architecture": "amd64", "os": "linux",
        "config": {"Env": ["PATH=/bin", "FROM_IMAGE=yes"], "Cmd": list(command), "User": user},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(plain).hexdigest()]}}).encode()
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": add(config), "size": len(config)},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": add(packed),
                    "size": len(packed)}]}).encode()
    index = json.dumps({
        "schemaVersion": 2,
        "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": add(manifest),
                       "size": len(manifest), "annotations": {"io.containerd.image.name": name,
                                                              "org.opencontainers.image.ref.name": "latest"}}]})
    with tarfile.open(path, "w") as tar:
        def put(name, data):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        put("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        put("index.json", index.encode())
        for digest, data in blobs.items():
            put("blobs/sha256/" + digest, data)


# ---- containerd -----------------------------------------------------------------------------------

CONFIG = """version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = {disabled}
[grpc]
  address = "{directory}/sock"
"""


class Containerd:
    def __init__(self, directory, snapshotter="native", disabled=("io.containerd.grpc.v1.cri",), more="", name_space="joeytest"):
        self.directory, self.snapshotter = directory, snapshotter
        self.name_space = name_space
        self.process = None
        with open(f"{directory}/config.toml", "w", encoding="utf-8") as file:
            file.write(CONFIG.format(directory=directory, disabled=json.dumps(list(disabled))) + more)

    def start(self):
        environment = dict(os.environ, PATH=os.path.dirname(os.path.realpath(SHIM)) + ":" + os.environ["PATH"])
        with open(f"{self.directory}/log", "ab") as log:
            self.process = subprocess.Popen(["containerd", "--config", f"{self.directory}/config.toml"], stdout=log, stderr=log,
                                            stdin=subprocess.DEVNULL, env=environment, start_new_session=True)
        deadline = time.monotonic() + 60 * PATIENCE
        while self.ctr("version", timeout=20).status != 0:
            holds("containerd answers", self.process.poll() is None and time.monotonic() < deadline, self.log())
            time.sleep(0.2)

    def stop(self, number=signal.SIGTERM):
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(60)
            self.process = None

    def log(self):
        with open(f"{self.directory}/log", "rb") as file:
            return file.read()[-3000:]

    def argv(self, *words):
        return ["ctr", "--address", f"{self.directory}/sock", "--namespace", self.name_space, *words]

    def ctr(self, *words, timeout=120, **extra):
        return run(self.argv(*words), timeout=timeout, **extra)

    def must(self, *words, **extra):
        done = self.ctr(*words, **extra)
        equal(f"status of ctr {' '.join(words)}: {short(done.err)}; {short(self.log())}", 0, done.status)
        return done

    def import_image(self, **kind):
        path = f"{self.directory}/image.tar"
        write_image(path, **kind)
        self.must("images", "import", "--snapshotter", self.snapshotter, path)

    def run_words(self, name, *command, options=(), image=IMAGE):
        small = ("--annotation", "io.joey.memory=256M", "--annotation", "io.joey.vcpus=1")
        return ("run", "--snapshotter", self.snapshotter, "--runtime", RUNTIME, *small, *options, image, name, *command)

    def run(self, name, *command, options=("--rm",), image=IMAGE, **extra):
        return self.ctr(*self.run_words(name, *command, options=options, image=image), **extra)

    def run_in_background(self, name, *command, options=()):
        self.must(*self.run_words(name, *command, options=("--detach", *options)))

    def tasks(self):
        """Names of tasks and what they do."""
        lines = self.must("tasks", "ls").out.decode().splitlines()[1:]
        return {line.split()[0]: line.split()[2] for line in lines}

    def until(self, name, status, seconds=60):
        deadline = time.monotonic() + seconds * PATIENCE
        while self.tasks().get(name) != status:
            holds(f"{name} becomes {status}", time.monotonic() < deadline, str(self.tasks()))
            time.sleep(0.1)

    def bundle(self, name):
        return f"{self.directory}/state/io.containerd.runtime.v2.task/{self.name_space}/{name}"

    def shim_pid(self, name):
        with open(self.bundle(name) + "/shim.pid", encoding="utf-8") as file:
            return int(file.read())

    def vm_pid(self, name):
        with open(f"{STATE}/{self.name_space}/pods/{name}/vm.json", encoding="utf-8") as file:
            return json.load(file)["pid"]

    def delete_task(self, name):
        """Its status, which ctr tells in a warning if it is not 0."""
        done = self.must("tasks", "delete", name)
        found = re.search(rb"non-zero exit code (\d+)", done.err)
        return int(found.group(1)) if found else 0

    def remove(self, name):
        """Whatever it does."""
        self.ctr("tasks", "delete", "--force", name)
        self.must("containers", "delete", name)

    @contextlib.contextmanager
    def events(self):
        """A function that gives what has happened so far: (topic, details)."""
        path = f"{self.directory}/events"
        with open(path, "wb") as out:
            process = subprocess.Popen(self.argv("events"), stdout=out, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
                                       start_new_session=True)
        try:
            def seen():
                with open(path, encoding="utf-8") as file:
                    return [(words[5], json.loads(words[6])) for words in
                            (line.rstrip("\n").split(" ", 6) for line in file if line.endswith("\n")) if len(words) == 7]
            yield seen
        finally:
            process.kill()
            process.wait()


def of_joey():
    """Processes of shims and what they start: their numbers and command lines."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().replace(b"\0", b" ").decode(errors="replace")
            if "containerd-shim-joey-v2" in words.split(" ")[0] or f"{STATE}/joeytest" in words or f"{STATE}/k8s.io" in words:
                found[int(pid)] = words
    return found


def kill_all():
    for pid in of_joey():
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def nothing_is_left(one):
    """No process, no mount, no file of what has been run."""
    deadline = time.monotonic() + 60 * PATIENCE

    def leftovers():
        found = [f"process {pid}: {words}" for pid, words in of_joey().items()]
        for kind in ("containers", "pods"):
            with contextlib.suppress(FileNotFoundError):
                found += [f"{kind}/{name}" for name in os.listdir(f"{STATE}/{one.name_space}/{kind}")]
        with contextlib.suppress(FileNotFoundError):
            found += [f"bundle {name}" for name in os.listdir(one.bundle(""))]
        with contextlib.suppress(FileNotFoundError):
            found += [f"socket {name}" for name in os.listdir(SOCKETS)]
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            found += [line for line in file if one.bundle("") in line]
        return found
    while leftovers() and time.monotonic() < deadline:
        time.sleep(0.2)
    equal("left behind", [], leftovers())


# ---- one for all cases ----------------------------------------------------------------------------

RUNNING = {}  # by snapshotter: to start one and to import an image takes its time


def begin(snapshotter, more=lambda directory: "", **extra):
    """`more` gives the rest of containerd's configuration."""
    if os.geteuid() != 0 or shutil.which("containerd") is None:
        raise Failed("containerd is run by root, from Debian's package containerd; ./test.sh installs it")
    directory = tempfile.mkdtemp(prefix="joey-ctd-")
    # In memory: layers over layers need a file system that takes them.
    equal("mount", 0, run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", directory]).status)
    one = Containerd(directory, snapshotter, more=more(directory), **extra)
    atexit.register(end, one)
    one.start()
    one.import_image()
    return one


def end(one):
    with contextlib.suppress(Exception):
        one.stop(signal.SIGKILL)
    kill_all()
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        mounts = [line.split()[4] for line in file if line.split()[4].startswith(one.directory)]
    for place in reversed(mounts):
        run(["umount", "-l", place])
    shutil.rmtree(f"{STATE}/{one.name_space}", ignore_errors=True)
    shutil.rmtree(one.directory, ignore_errors=True)


@contextlib.contextmanager
def containerd(snapshotter="native", **extra):
    """Runs, has the image; the case leaves nothing behind."""
    one = RUNNING.get(snapshotter)
    if one is None:
        one = RUNNING[snapshotter] = begin(snapshotter, **extra)
    try:
        yield one
        nothing_is_left(one)
    finally:
        if one.process is None:
            one.start()
        for name in one.ctr("containers", "ls", "--quiet").out.decode().split():
            with contextlib.suppress(Failed):
                one.remove(name)
        kill_all()
