"""joey's commands for people: what a user of Docker types, with each container in a VM."""

import contextlib
import gzip
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time

from archives import add, docker_save, make_tar, write_layout
from harness import JOEY, PATIENCE, Terminal, case, equal, holds, run, short
from oci_runtime import nothing_is_left, processes_of

BUSYBOX = "/bin/busybox"
APPLETS = ("sh cat echo ls id sleep true false uname mount grep hostname touch stat ps env kill head nc pwd test tty stty seq wc "
           "mkdir rm cut sync trap dd httpd wget").split()

PEER = os.environ.get("VSOCK_PEER", os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(JOEY))),
                                                "tests/integration/vsock_peer"))
SMALL = ["--vm-memory", "256M", "--vm-cpus", "1"]


def busybox_layer():
    def fill(archive):
        for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "data", "home"):
            add(archive, name, type=b"5", mode=0o1777 if name == "tmp" else 0o755)
        with open(BUSYBOX, "rb") as file:
            add(archive, "bin/busybox", file.read(), mode=0o755)
        for applet in APPLETS:
            add(archive, f"bin/{applet}", type=b"2", linkname="busybox")
        add(archive, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/home:/bin/sh\n", mode=0o644)
        add(archive, "etc/group", b"root:x:0:\nweb:x:34:\nextra:x:77:web\n", mode=0o644)
        add(archive, "data/seed", b"from the image\n", mode=0o644)
        add(archive, "bin/plain", b"not a program", mode=0o644)
    return make_tar(fill)


class People:
    """joey with state and images of its own."""

    def __init__(self, directory):
        self.directory = directory
        self.root = os.path.join(directory, "state")
        self.store = os.path.join(directory, "store")
        self.options = ["--root", self.root, "--store", self.store]

    def path(self, name):
        return os.path.join(self.directory, name)

    def image(self, name="box:1", **config):
        config.setdefault("Env", ["PATH=/bin"])
        save = docker_save([name], [busybox_layer()], **config)
        done = run([JOEY, "image", "import", "--store", self.store, "-"], stdin=save)
        equal(f"import: {short(done.err)}", 0, done.status)
        return name

    def do(self, *words, timeout=120, **extra):
        return run([JOEY, *self.options, *words], timeout=timeout, **extra)

    def must(self, *words, **extra):
        done = self.do(*words, **extra)
        equal(f"status of {' '.join(words)[:200]}: {short(done.err)}", 0, done.status)
        return done.out.decode(errors="replace")

    def run(self, *words, **extra):
        return self.do("run", *SMALL, *words, **extra)

    def start(self, *words):
        return self.must("run", "-d", *SMALL, *words).strip()

    def terminal(self, *words, **extra):
        return Terminal([JOEY, *self.options, *words], **extra)

    def inspect(self, name):
        return json.loads(self.must("inspect", name))[0]

    def until(self, what, test, seconds=60):
        deadline = time.monotonic() + seconds * PATIENCE
        while not test():
            holds(what, time.monotonic() < deadline, self.do("ps", "-a").out)
            time.sleep(0.05)

    def until_state(self, name, state):
        self.until(f"{name} is {state}", lambda: self.inspect(name)["State"]["Status"] == state)

    def until_log(self, name, text):
        self.until(f"{name} says {text!r}", lambda: text in self.must("logs", name))

    def processes(self):
        return processes_of(self.directory)

    def nothing_is_left(self):
        nothing_is_left(self.directory, self.root)
        data = os.path.join(self.root, "people")
        left = [name for name in os.listdir(data) if len(name) == 64] if os.path.exists(data) else []
        equal("containers left behind", [], left)


@contextlib.contextmanager
def people():
    # Where an overlay can be made: /tmp may be on one already.
    place = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="joey-people-", dir=place) as directory:
        one = People(directory)
        try:
            yield one
        finally:
            for name in one.do("ps", "-aq").out.decode().split():
                one.do("rm", "-f", name)
            for pid in one.processes():
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)


def refused(done, message, status):
    equal(f"status; stderr {short(done.err)}", status, done.status)
    holds(f"stderr says {message!r}", message.lower().encode() in done.err.lower(), done.err)


@case("people: run --rm: output, streams, input, statuses as Docker has them; nothing is left")
def run_and_statuses():
    with people() as joey:
        joey.image()
        done = joey.run("--rm", "box:1", "sh", "-c", "echo out; echo err >&2; exit 7")
        equal("status, stdout, stderr", (7, b"out\n", b"err\n"), (done.status, done.out, done.err))
        done = joey.run("--rm", "-i", "box:1", "sh", "-c", "cat; sh -c 'kill -9 $$'; exit $?", stdin=b"some words\n")
        equal("status and stdout", (137, b"some words\n"), (done.status, done.out))
        refused(joey.run("--rm", "box:1", "nonesuch"), "nonesuch", 127)
        refused(joey.run("--rm", "box:1", "/bin/plain"), "permission denied", 126)
        refused(joey.run("--rm", "nothing:9", "true"), "nothing", 125)
        refused(joey.run("--frobnicate", "box:1"), "--frobnicate", 125)
        refused(joey.run("--rm", "--name", "a b", "box:1", "true"), "name", 125)
        equal("no container", "", joey.must("ps", "-aq"))
        joey.nothing_is_left()


@case("people: a container in the background: ps, logs, exec, inspect, stop, start, rm")
def background():
    with people() as joey:
        joey.image()
        ident = joey.start("--name", "web", "--label", "tier=front", "box:1", "sh", "-c",
                           "echo up; trap 'echo bye; exit 3' TERM; while :; do sleep 0.1; done")
        holds("an ID", re.fullmatch("[0-9a-f]{64}", ident), ident)
        joey.until_log("web", "up\n")
        table = joey.must("ps")
        holds("a line of ps", re.search(rf"{ident[:12]} +box:1 +\"sh -c .*\" .* Up .* +web\n", table), table)
        equal("ps -q", ident[:12], joey.must("ps", "-q", "--filter", "label=tier=front").strip())
        equal("another label", "", joey.must("ps", "-q", "--filter", "label=tier=back"))
        row = json.loads(joey.must("ps", "--format", "json", "--no-trunc"))
        equal("as JSON", (ident, "web", "running"), (row["ID"], row["Names"], row["State"]))
        refused(joey.run("--name", "web", "box:1", "true"), "already in use", 125)
        equal("exec", "33 34 77\n", joey.must("exec", "-u", "web", "web", "sh", "-c", "echo $(id -u) $(id -G)"))
        equal("exec: input", b"abc", joey.do("exec", "-i", "web", "cat", stdin=b"abc").out)
        equal("exec: no input without -i", b"", joey.do("exec", "web", "cat", stdin=b"abc").out)
        equal("exec: status", 5, joey.do("exec", ident[:5], "sh", "-c", "exit 5").status)
        equal("exec: not found", 127, joey.do("exec", "web", "nonesuch").status)
        equal("exec in the background says nothing, and is not waited for", b"",
              joey.do("exec", "-d", "web", "sh", "-c", "echo said; touch /tmp/ran; exec sleep 1000").out)
        joey.until("it ran", lambda: joey.do("exec", "web", "test", "-e", "/tmp/ran").status == 0)
        equal("exec: variables and place", "b /tmp\n",
              joey.must("exec", "-e", "A=b", "-w", "/tmp", "web", "sh", "-c", "echo $A $(pwd)"))
        refused(joey.do("rm", "web"), "is running", 1)
        equal("stop", "web\n", joey.must("stop", "web"))
        state = joey.inspect("web")["State"]
        equal("state", ("exited", 3), (state["Status"], state["ExitCode"]))
        equal("log", "up\nbye\n", joey.must("logs", "web"))
        equal("ps without -a", "", joey.must("ps", "-q"))
        holds("ps -a", "Exited (3)" in joey.must("ps", "-a"))
        refused(joey.do("exec", "web", "true"), "not running", 1)
        joey.must("start", "web")
        joey.until_state("web", "running")
        equal("tail", "up\n", joey.must("logs", "-n", "1", "web"))
        equal("rm -f", "web\n", joey.must("rm", "-f", "web"))
        refused(joey.do("logs", "web"), "no such container", 1)
        joey.nothing_is_left()


@case("people: what an image says about itself is done, and what the command line says instead")
def image_config():
    with people() as joey:
        joey.image("conf:1", Entrypoint=["/bin/echo", "entry"], Cmd=["cmd"], Env=["PATH=/bin", "A=image"], WorkingDir="/data",
                   User="web", Labels={"from": "image"}, Volumes={"/data": {}}, StopSignal="SIGUSR1", ExposedPorts={"80/tcp": {}})
        equal("entrypoint and command", b"entry cmd\n", joey.run("--rm", "conf:1").out)
        equal("arguments instead", b"entry x y\n", joey.run("--rm", "conf:1", "x", "y").out)
        done = joey.run("--rm", "--entrypoint", "sh", "-e", "B=mine", "-h", "box", "conf:1", "-c",
                        "echo $A $B $(pwd) $(id -u):$(id -g) $(hostname) $HOME $(cat seed)")
        equal("environment, place, user", b"image mine /data 33:34 box /home from the image\n", done.out)
        done = joey.run("--rm", "--entrypoint", "sh", "-u", "0", "-w", "/tmp", "conf:1", "-c", "id -u; pwd")
        equal("user and place instead", b"0\n/tmp\n", done.out)
        joey.start("--name", "c1", "--entrypoint", "sh", "conf:1", "-c", "trap 'exit 9' USR1; echo up; while :; do sleep 0.1; done")
        joey.until_log("c1", "up")
        facts = joey.inspect("c1")
        equal("label", "image", facts["Config"]["Labels"]["from"])
        holds("port", "80/tcp" in facts["NetworkSettings"]["Ports"], facts["NetworkSettings"])
        joey.must("stop", "c1")
        equal("the stop signal was the image's", 9, joey.inspect("c1")["State"]["ExitCode"])
        joey.must("rm", "c1")
        joey.nothing_is_left()


@case("people: what a container may do: capabilities, seccomp, masks, read-only root, limits")
def security():
    with people() as joey:
        joey.image()
        script = ("grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; mount -t tmpfs x /tmp 2>/dev/null || echo no mount; "
                  "cat /proc/kcore 2>/dev/null | wc -c; echo x > /proc/sysrq-trigger 2>/dev/null || echo no sysrq")
        said = joey.run("--rm", "box:1", "sh", "-c", script).out.decode()
        holds("the usual capabilities", "00000000a80425fb" in said, said)
        holds("a filter", re.search(r"Seccomp:\s+2", said), said)
        holds("no mount, no kcore, no sysrq", "no mount\n0\nno sysrq\n" in said, said)
        said = joey.run("--rm", "--cap-drop", "ALL", "--cap-add", "chown", "--security-opt", "no-new-privileges", "box:1",
                        "sh", "-c", script).out.decode()
        holds("one capability", re.search(r"CapEff:\s+0000000000000001", said), said)
        holds("no new privileges", re.search(r"NoNewPrivs:\s+1", said), said)
        said = joey.run("--rm", "--privileged", "box:1", "sh", "-c", script).out.decode()
        holds("privileged", "no mount" not in said and re.search(r"Seccomp:\s+0", said), said)
        said = joey.run("--rm", "--security-opt", "seccomp=unconfined", "--user", "1000", "-v", f"{PEER}:/peer:ro", "box:1",
                        "/peer", "inside", "1024").out
        equal("the pod's agent does not listen to containers", b"closed\n", said)
        profile = joey.path("profile.json")
        with open(profile, "w", encoding="utf-8") as file:
            json.dump({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}, file)
        refused(joey.run("--rm", "--security-opt", f"seccomp={profile}", "box:1", "mkdir", "/tmp/x"), "not permitted", 1)
        said = joey.run("--rm", "--read-only", "--tmpfs", "/tmp:size=1m", "--ulimit", "nofile=99:100", "--pids-limit", "50", "-m", "64m",
                        "--sysctl", "kernel.msgmax=9999", "box:1", "sh", "-c",
                        "touch /x 2>/dev/null || echo read-only; touch /tmp/x && echo memory; ulimit -n; cat /proc/sys/kernel/msgmax; "
                        "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max").out
        equal("limits", b"read-only\nmemory\n99\n9999\n67108864\n50\n", said)
        joey.nothing_is_left()


@case("people: volumes: of the host, by name with the image's content, read-only; a layer of its own")
def volumes():
    with people() as joey:
        joey.image()
        host = joey.path("host")
        done = joey.run("--rm", "-v", f"{host}:/h", "-v", "kept:/data", "--mount", f"type=bind,src={joey.directory},dst=/ro,readonly", "box:1",
                        "sh", "-c", "echo made > /h/file; cat /data/seed; echo more > /data/more; touch /ro/x 2>/dev/null || echo refused; sync")
        equal(f"output; {short(done.err)}", b"from the image\nrefused\n", done.out)
        with open(os.path.join(host, "file"), encoding="utf-8") as file:
            equal("on the host", "made\n", file.read())
        equal("kept", b"from the image\nmore\n", joey.run("--rm", "-v", "kept:/data:ro", "box:1", "cat", "/data/seed", "/data/more").out)
        # What a container writes is its own, and stays with it.
        joey.run("--name", "one", "box:1", "sh", "-c", "echo changed > /data/seed; sync")
        equal("the image is as it was", b"from the image\n", joey.run("--rm", "box:1", "cat", "/data/seed").out)
        joey.must("cp", "one:/data/seed", joey.path("seed"))
        with open(joey.path("seed"), encoding="utf-8") as file:
            equal("in its layer", "changed\n", file.read())
        joey.must("rm", "one")
        joey.nothing_is_left()


@case("people: -it: a terminal, its size, Ctrl-C, detach keys and attach again")
def terminals():
    with people() as joey:
        joey.image()
        with joey.terminal("run", *SMALL, "-it", "--name", "t1", "box:1", "sh", columns=91, rows=33) as terminal:
            terminal.expect(r"# ", timeout=90)
            terminal.send("stty size\n")
            terminal.expect(r"33 91\r")
            terminal.resize(70, 20)
            os.kill(terminal.process.pid, signal.SIGWINCH)
            terminal.send("sleep 0.5; stty size\n")
            terminal.expect(r"20 70\r")
            terminal.send("echo now it'' sleeps; sleep 1000\n")
            terminal.expect("now it sleeps")
            terminal.send("\x03")
            terminal.send("echo status $?\n")
            terminal.expect(r"status 130")
            terminal.send("\x10\x11")
            terminal.expect("escape sequence")
            equal("status after detaching", 0, terminal.end())
        joey.until_state("t1", "running")
        with joey.terminal("exec", "-it", "--detach-keys", "ctrl-x,x", "t1", "sh") as terminal:
            terminal.expect("# ")
            terminal.send("(sleep 2; echo on > /tmp/goes; sleep 1000) & echo left'' behind; wait\n")
            terminal.expect("left behind")
            terminal.send("\x18x")
            terminal.expect("escape sequence")
            equal("status after leaving an executed program", 0, terminal.end())
        until = time.monotonic() + 60 * PATIENCE
        while (found := joey.do("exec", "t1", "cat", "/tmp/goes")).out != b"on\n":
            holds("the executed program runs on", time.monotonic() < until, f"{found.status} {found.out} {found.err}")
            time.sleep(0.2)
        with joey.terminal("attach", "t1") as terminal:
            terminal.send("\n")
            terminal.expect("# ")
            terminal.send("exit 4\n")
            equal("status", 4, terminal.end())
        equal("status kept", 4, joey.inspect("t1")["State"]["ExitCode"])
        joey.must("rm", "t1")
        joey.nothing_is_left()


@case("people: signals sent to the command reach the program; kill and wait")
def signals():
    with people() as joey:
        joey.image()
        process = subprocess.Popen([JOEY, *joey.options, "run", *SMALL, "--name", "s1", "box:1", "sh", "-c",
                                    "trap 'echo caught; exit 6' TERM; echo up; while :; do sleep 0.1; done"],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
        joey.until("it runs", lambda: joey.do("logs", "s1").out == b"up\n")
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60 * PATIENCE)
        equal("output and status", (b"up\ncaught\n", 6), (out, process.returncode))
        joey.must("rm", "s1")
        joey.start("--name", "k1", "box:1", "sleep", "1000")
        waiter = subprocess.Popen([JOEY, *joey.options, "wait", "k1"], stdout=subprocess.PIPE)
        joey.must("kill", "k1")
        out, _ = waiter.communicate(timeout=60 * PATIENCE)
        equal("wait", b"137\n", out)
        refused(joey.do("kill", "k1"), "not running", 1)
        joey.must("rm", "k1")
        joey.nothing_is_left()


@case("people: restart policies: on-failure ends after its number; always until it is stopped")
def restarts():
    with people() as joey:
        joey.image()
        joey.start("--name", "f1", "--restart", "on-failure:2", "box:1", "sh", "-c", "echo run; exit 3")
        joey.until_state("f1", "exited")
        facts = joey.inspect("f1")
        equal("restarts and status", (2, 3), (facts["RestartCount"], facts["State"]["ExitCode"]))
        equal("runs", "run\n" * 3, joey.must("logs", "f1"))
        joey.start("--name", "a1", "--restart", "always", "box:1", "sh", "-c", "echo run; sleep 0.1")
        joey.until("it was started again", lambda: joey.must("logs", "a1").count("run") >= 2)
        joey.must("stop", "-t", "5", "a1")
        equal("state", "exited", joey.inspect("a1")["State"]["Status"])
        refused(joey.run("--rm", "--restart", "always", "box:1", "true"), "--rm and --restart", 125)
        joey.must("rm", "f1", "a1")
        joey.nothing_is_left()


@case("people: health: starting, healthy, unhealthy")
def health():
    with people() as joey:
        joey.image()
        joey.start("--name", "h1", "--health-cmd", "echo checked; test -e /tmp/well", "--health-interval", "300ms", "--health-retries", "2",
                   "box:1", "sh", "-c", "touch /tmp/well; exec sleep 1000")
        joey.until("healthy", lambda: joey.inspect("h1")["State"]["Health"]["Status"] == "healthy")
        holds("ps tells", "(healthy)" in joey.must("ps"))
        joey.must("exec", "h1", "rm", "/tmp/well")
        joey.until("unhealthy", lambda: joey.inspect("h1")["State"]["Health"]["Status"] == "unhealthy")
        log = joey.inspect("h1")["State"]["Health"]["Log"]
        equal("what it said", (1, "checked\n"), (log[-1]["ExitCode"], log[-1]["Output"]))
        joey.must("rm", "-f", "h1")
        joey.nothing_is_left()


@case("people: logs: streams, times, rotation, --follow; a terminal is not driven by them")
def logs():
    with people() as joey:
        joey.image()
        joey.start("--name", "l1", "--log-opt", "max-size=20k", "--log-opt", "max-file=3", "box:1", "sh", "-c",
                   "echo error >&2; seq 1 2000; sleep 2; printf '\\033]0;title\\007end\\n'")
        followed = joey.do("logs", "-f", "-n", "3", "l1").out
        equal("followed to its end", b"\x1b]0;title\x07end\n", followed.splitlines(True)[-1])
        directory = os.path.dirname(joey.inspect("l1")["LogPath"])
        files = sorted(os.listdir(directory))
        equal("files", ["container.log", "container.log.1", "container.log.2"], files)
        holds("none is larger", all(os.path.getsize(os.path.join(directory, name)) <= 20 * 1024 for name in files))
        lines = joey.must("logs", "l1").splitlines()
        equal("the last lines, in order", [str(n) for n in range(1990, 2001)], lines[-12:-1])
        holds("times", re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z \d+\n", joey.must("logs", "-t", "-n", "2", "l1")))
        equal("none from an hour ago", "", joey.must("logs", "--until", "1h", "l1"))
        with joey.terminal("logs", "-n", "1", "l1") as terminal:
            terminal.expect(r"\^\[\]0;title\^Gend")
        joey.must("rm", "l1")
        joey.nothing_is_left()


@case("people: cp in both directions, directories, archives; hostile links lead nowhere")
def copies():
    with people() as joey:
        joey.image()
        joey.start("--name", "c1", "box:1", "sh", "-c",
                   "mkdir -p /data/d/e; echo one > /data/d/e/f; busybox ln -s /etc/passwd /data/link; busybox ln -s /../../.. /data/up; sync; "
                   "echo ready; exec sleep 1000")
        joey.until_log("c1", "ready")
        joey.must("cp", "c1:/data/d", joey.path("out"))
        with open(joey.path("out/e/f"), encoding="utf-8") as file:
            equal("a directory came out", "one\n", file.read())
        with open(joey.path("mine"), "w", encoding="utf-8") as file:
            file.write("mine\n")
        joey.must("cp", joey.path("mine"), "c1:/data/d/")
        equal("a file came in", "mine\n", joey.must("exec", "c1", "cat", "/data/d/mine"))
        joey.must("cp", joey.path("out"), "c1:/data/new")
        equal("a directory came in", "one\n", joey.must("exec", "c1", "cat", "/data/new/e/f"))
        tar = joey.do("cp", "c1:/data/d", "-").out
        joey.must("exec", "c1", "mkdir", "/data/again")
        equal("an archive goes in", 0, joey.do("cp", "-", "c1:/data/again", stdin=tar).status)
        equal("what was in it", "one\n", joey.must("exec", "c1", "cat", "/data/again/d/e/f"))
        joey.must("cp", "-L", "c1:/data/link", joey.path("passwd"))
        with open(joey.path("passwd"), encoding="utf-8") as file:
            holds("the link led to the container's own", "web:x:33" in file.read())
        # A link that a program of the container planted does not lead to the host's files.
        os.mkdir(joey.path("precious"))
        joey.must("exec", "c1", "sh", "-c", f"busybox ln -s {joey.path('precious')} /data/trap")
        refused(joey.do("cp", joey.path("mine"), "c1:/data/trap/x"), "", 1)
        equal("untouched", [], os.listdir(joey.path("precious")))
        evil = make_tar(lambda archive: add(archive, "../../../../../../.." + joey.path("precious/y"), b"evil"))
        holds("refused", joey.do("cp", "-", "c1:/data", stdin=evil).status != 0)
        equal("untouched", [], os.listdir(joey.path("precious")))
        refused(joey.do("cp", "c1:/nonesuch", joey.directory), "nonesuch", 1)
        joey.must("rm", "-f", "c1")
        joey.nothing_is_left()


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@case("people: a published port; a pod's containers share a network; --net none has none")
def networks():
    with people() as joey:
        joey.image()
        port = free_port()
        joey.start("--name", "n1", "-p", f"127.0.0.1:{port}:8080", "box:1", "sh", "-c",
                   "while :; do echo served | nc -l -p 8080; done")
        holds("ps shows it", f"127.0.0.1:{port}->8080/tcp" in joey.must("ps"))

        def served():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
                return peer.recv(100) == b"served\n"
            return False
        joey.until("it serves", served)
        joey.must("rm", "-f", "n1")
        joey.start("--pod", "p1", "--name", "p1", "box:1", "sh", "-c", "while :; do echo pod | nc -l -p 99; done")
        done = joey.run("--rm", "--pod", "p1", "box:1", "sh", "-c", "for i in 1 2 3 4 5; do nc 127.0.0.1 99 </dev/null && break; sleep 1; done")
        equal(f"from the other container; {short(done.err)}", b"pod\n", done.out)
        joey.must("rm", "-f", "p1")
        done = joey.run("--rm", "--net", "none", "box:1", "sh", "-c", "cat /proc/net/dev | wc -l; hostname; cat /etc/hosts")
        holds("one interface and its headings", done.out.startswith(b"3\n"), done.out)
        joey.nothing_is_left()


@case("people: a commit that is killed, or tired of, leaves no container that stands still")
def killed_commit():
    with people() as joey:
        joey.image()
        joey.start("--name", "busy", "box:1", "sh", "-c", "dd if=/dev/zero of=/tmp/large bs=1M count=32; sync; echo up; sleep 1000")
        joey.until_log("busy", "up\n")
        for number, pause in ((signal.SIGKILL, 0.05), (signal.SIGINT, 0.1), (signal.SIGKILL, 0.2), (signal.SIGKILL, 0.3)):
            commit = subprocess.Popen([JOEY, *joey.options, "commit", "busy", "made:1"],
                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(pause * PATIENCE)
            commit.send_signal(number)
            commit.wait()
            joey.until("it runs on", lambda: joey.inspect("busy")["State"]["Status"] == "running")
        joey.must("commit", "busy", "made:1")
        equal("running", "running", joey.inspect("busy")["State"]["Status"])
        joey.must("rm", "-f", "busy")
        joey.nothing_is_left()


@case("people: pause, unpause, stats, top, events")
def watching():
    with people() as joey:
        joey.image()
        since = str(int(time.time()) - 1)
        joey.start("--name", "w1", "box:1", "sh", "-c", "while :; do :; done")
        joey.must("pause", "w1")
        equal("paused", "paused", joey.inspect("w1")["State"]["Status"])
        refused(joey.do("exec", "w1", "true"), "paused", 1)
        joey.must("unpause", "w1")
        row = json.loads(joey.must("stats", "--no-stream", "--format", "json", "w1"))
        holds("it uses the CPU", float(row["CPUPerc"].rstrip("%")) > 5, row)
        holds("top", "while" in joey.must("top", "w1"))
        joey.must("rm", "-f", "w1")
        actions = [json.loads(line)["Action"] for line in
                   joey.must("events", "--since", since, "--until", "0s", "--format", "json", "--filter", "container=w1").splitlines()]
        equal("events", ["create", "start", "pause", "unpause", "die", "destroy"], actions)
        joey.nothing_is_left()


@case("people: what is killed outright is found: the monitor, the VM; rm -f removes all")
def killed():
    with people() as joey:
        joey.image()
        joey.start("--name", "m1", "box:1", "sleep", "1000")
        ident = joey.inspect("m1")["Id"]
        with open(os.path.join(joey.root, "people", ident, "condition.json"), encoding="utf-8") as file:
            os.kill(json.load(file)["monitor"]["pid"], signal.SIGKILL)
        joey.until("ps tells", lambda: "Exited (137)" in joey.must("ps", "-a"))
        joey.until("its VM is gone", lambda: not joey.processes())
        joey.must("start", "m1")
        equal("it runs again", "running", joey.inspect("m1")["State"]["Status"])
        with open(os.path.join(joey.root, "pods", ident, "vm.json"), encoding="utf-8") as file:
            os.kill(json.load(file)["pid"], signal.SIGKILL)
        joey.until_state("m1", "exited")
        equal("status", 137, joey.inspect("m1")["State"]["ExitCode"])
        joey.must("rm", "-f", "m1")
        joey.nothing_is_left()


@case("people: run: who reads slowly gets all of it, also what came last; a reader that takes nothing does not keep stop from ending it")
def slow_readers():
    with people() as joey:
        joey.image()

        def watched(name, *words):
            process = subprocess.Popen([JOEY, *joey.options, "run", *SMALL, "--log-driver", "none", "--name", name, "box:1", *words],
                                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
            joey.until("it runs", lambda: joey.do("exec", name, "true").status == 0)
            return process
        # More than is kept on the way.
        with watched("w1", "sh", "-c", "until test -e /tmp/go; do sleep 0.1; done; seq 1 300000") as process:
            exit_record = os.path.join(joey.root, "containers", joey.inspect("w1")["Id"], "exit.json")
            joey.must("exec", "w1", "touch", "/tmp/go")
            out = b""
            while not os.path.exists(exit_record):
                chunk = os.read(process.stdout.fileno(), 4096)
                if not chunk:
                    break
                out += chunk
                time.sleep(0.05)  # slower than the program writes
            time.sleep(12)  # as somebody does who reads what is on his screen
            rest, _ = process.communicate(timeout=120 * PATIENCE)
        lines = (out + rest).decode().splitlines()
        equal("lines", (300000, "1", "300000"), (len(lines), lines[0], lines[-1]))
        joey.must("rm", "w1")
        script = ("trap 'exit 7' TERM; (i=0; while :; do dd if=/dev/zero bs=65536 count=1 2>/dev/null; i=$((i+1)); echo $i >/tmp/done; "
                  "done) & wait")
        with watched("w2", "sh", "-c", script) as process:
            progress = [-1, 0]
            while progress[-1] != progress[-2] or progress[-1] < 16:
                progress.append(int(joey.must("exec", "w2", "cat", "/tmp/done").strip() or 0))
            joey.must("stop", "-t", "60", "w2")
            equal("its own status", ("exited", 7), (joey.inspect("w2")["State"]["Status"], joey.inspect("w2")["State"]["ExitCode"]))
            process.kill()
        joey.must("rm", "w2")
        joey.nothing_is_left()


@case("people: commands at the same time: two restarts, stop while it is started again, rm -f of one whose monitor hangs in its start")
def at_the_same_time():
    with people() as joey:
        joey.image()
        # It takes its time to end, so that both wait for that.
        joey.start("--name", "r1", "box:1", "sh", "-c", "trap 'sleep 2; exit 0' TERM; echo up; while :; do sleep 0.1; done")
        joey.until_log("r1", "up")
        both = [subprocess.Popen([JOEY, *joey.options, "restart", "r1"], stdout=subprocess.DEVNULL, start_new_session=True) for _ in range(2)]
        equal("status of both", [0, 0], [one.wait(120 * PATIENCE) for one in both])
        equal("it runs", 0, joey.do("exec", "r1", "true").status)
        names = []
        for pid in joey.processes():
            with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", encoding="utf-8") as file:
                names.append(file.read().strip())
        equal("monitors", 1, names.count("joey-monitor"))
        joey.must("rm", "-f", "r1")

        # What is to be removed at its end is not, if that end is a restart's.
        joey.start("--rm", "--name", "r2", "box:1", "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done")
        joey.must("restart", "r2")
        joey.must("exec", "r2", "true")
        joey.must("stop", "r2")
        refused(joey.do("inspect", "r2"), "no such object", 1)

        # The first time it fails; from then on it runs until it is told to end.
        joey.start("--name", "s1", "--restart", "on-failure", "box:1", "sh", "-c",
                   "trap 'exit 7' TERM; test -e /data/again || { touch /data/again; sync; exit 1; }; while :; do sleep 0.1; done")
        joey.until_state("s1", "restarting")
        joey.must("stop", "-t", "1000", "s1")
        state = joey.inspect("s1")["State"]
        holds("it has ended, and by no SIGKILL", state["Status"] == "exited" and state["ExitCode"] in (1, 7), state)
        joey.must("rm", "s1")

        ident = joey.must("create", "--name", "h1", *SMALL, "box:1", "sleep", "1000").strip()
        started = subprocess.Popen([JOEY, *joey.options, "start", "h1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   start_new_session=True)
        begun = os.path.join(joey.root, "containers", ident, "begun.json")
        # In time, or the start was faster: then a stopped monitor has no lock.
        while not os.path.exists(begun) and started.poll() is None:
            time.sleep(0.001)
        with open(os.path.join(joey.root, "people", ident, "condition.json"), encoding="utf-8") as file:
            monitor = json.load(file)["monitor"]["pid"]
        with contextlib.suppress(OSError):
            os.kill(monitor, signal.SIGSTOP)
        joey.must("rm", "-f", "h1")
        started.wait(60 * PATIENCE)
        joey.nothing_is_left()


@case("people: images by path: an OCI layout, an archive; a directory by --rootfs; --init reaps")
def sources():
    with people() as joey:
        write_layout(joey.path("layout"), "1", [busybox_layer()])
        equal("a layout", b"hi\n", joey.run("--rm", joey.path("layout"), "/bin/echo", "hi").out)
        with open(joey.path("save.tar.gz"), "wb") as file:
            file.write(gzip.compress(docker_save(["saved:2"], [busybox_layer()], Cmd=["/bin/echo", "saved"])))
        equal("an archive", b"saved\n", joey.run("--rm", "docker-archive:" + joey.path("save.tar.gz")).out)
        holds("images lists it", "saved" in run([JOEY, "images", "--store", joey.store]).out.decode())
        root = joey.path("root")
        os.makedirs(root + "/bin")
        shutil.copy(BUSYBOX, root + "/bin/busybox")
        done = joey.run("--rm", "--init", "--rootfs", root, "/bin/busybox", "sh", "-c",
                        "busybox ps; busybox touch /made; busybox sync; exit 5")
        equal(f"status; {short(done.err)}", 5, done.status)
        holds("init comes first", re.search(rb"1 .*init", done.out), done.out)
        holds("written to the directory itself", os.path.exists(root + "/made"))
        joey.nothing_is_left()


@case("people: completion and help are made from the options")
def completion():
    for shell in ("bash", "zsh", "fish"):
        done = run([JOEY, "completion", shell])
        equal("status", 0, done.status)
        for word in (b"run", b"exec", b"health-interval", b"no-trunc", b"follow"):
            holds(f"{shell} completes {word}", word in done.out)
    script = run([JOEY, "completion", "bash"]).out
    check = script + b"\nCOMP_WORDS=(joey run --he); COMP_CWORD=2; _joey; echo ${COMPREPLY[@]}\n"
    holds("bash takes it", b"--health-cmd --health-interval" in run(["bash"], stdin=check).out)
    check = script + b"\nCOMP_WORDS=(joey image hi); COMP_CWORD=2; _joey; echo ${COMPREPLY[@]}\n"
    equal("image's commands", b"history\n", run(["bash"], stdin=check).out)
    text = run([JOEY, "run", "--help"])
    equal("status", 0, text.status)
    holds("an option is explained", b"--restart POLICY" in text.out)
    refused(run([JOEY, "completion", "tcsh"]), "fish", 1)


@case("people: metrics, the VM's log, and what its process may take of the host")
def watching():
    with people() as joey:
        joey.image()
        ident = joey.start("--name", "web", "--memory", "64m", "box:1", "sh", "-c", "echo up; while :; do sleep 0.2; done")
        joey.until_log("web", "up\n")
        lines = joey.must("metrics", "web").splitlines()
        samples = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        for name in (f'joey_guest_syscalls_total{{pod="{ident}",call="execve"}}', f'joey_uptime_seconds{{pod="{ident}"}}',
                     f'joey_container_memory_bytes{{pod="{ident}",container="{ident}",name="web"}}',
                     f'joey_container_pids{{pod="{ident}",container="{ident}",name="web"}}',
                     f'joey_device_requests_total{{pod="{ident}",device="5",kind="vsock",name="",queue="1"}}'):
            holds(f"{name} is above 0", float(samples.get(name, 0)) > 0, lines)
        equal("its limit", str(64 << 20), samples[f'joey_container_memory_limit_bytes{{pod="{ident}",container="{ident}",name="web"}}'])
        families = [line.split()[2] for line in lines if line.startswith("# TYPE")]
        equal("each family once", len(families), len(set(families)))
        refused(joey.do("metrics", "nonesuch"), "nonesuch", 1)
        with open(f"{joey.root}/pods/{ident}/vm.json") as file:
            pid = json.load(file)["pid"]
        with open(f"/proc/{pid}/cgroup") as file:
            groups = file.read()
        holds("the VM is in its group", f"/joey/{ident}" in groups, groups)
        # Version 1, 2, or 2 beside 1.
        places = [f"/sys/fs/cgroup{part}/joey/{ident}" for part in ("/memory", "", "/unified")]
        files = [f"{place}/{name}" for place in places for name in ("memory.limit_in_bytes", "memory.max")]
        limits = [int(open(path).read()) for path in files if os.path.exists(path)]
        holds("its memory there is bounded", limits and all(64 << 20 < limit < 512 << 20 for limit in limits), (limits, groups))
        joey.must("update", "--memory", "48m", "--pids-limit", "99", "--restart", "on-failure:2", "web")
        equal("new limits", f"{48 << 20}\n99\n", joey.must("exec", "web", "cat", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/pids.max"))
        host = joey.inspect("web")["HostConfig"]
        equal("inspect has them", (48 << 20, 99, 2), (host["Memory"], host["PidsLimit"], host["RestartPolicy"]["MaximumRetryCount"]))
        refused(joey.do("update", "--memory", "4g", "web"), "when it is stopped", 1)
        refused(joey.do("update", "web"), "what is to change", 1)
        equal("all lines of the VM's log", joey.do("logs", "--vm", "web").out, joey.do("logs", "--vm", "--tail", "-1", "web").out)
        joey.must("stop", "-t", "0", "web")
        equal("no group is left", [], [place for place in places if os.path.exists(place)])
        equal("status of logs --vm", 0, joey.do("logs", "--vm", "web").status)
        joey.must("rm", "web")
        joey.nothing_is_left()


@case("people: create, rename, port, diff, export, volumes, prune; images that containers are made of stay")
def everyday():
    with people() as joey:
        joey.image(Cmd=["sh", "-c", "echo one > /tmp/new; rm /data/seed; echo more >> /etc/group"])
        ident = joey.must("create", "--name", "job", "-p", "127.0.0.1:18080:80", "-v", "store:/srv", *SMALL, "box:1").strip()
        equal("state", "created", joey.inspect("job")["State"]["Status"])
        equal("port", "80/tcp -> 127.0.0.1:18080\n", joey.must("port", "job"))
        equal("port 80", "127.0.0.1:18080\n", joey.must("port", "job", "80"))
        equal("start -a", 0, joey.do("start", "-a", "job").status)
        joey.must("rename", "job", "done")
        equal("found by its new name", ident, joey.inspect("done")["Id"])
        refused(joey.do("inspect", "job"), "no such object", 1)
        equal("an image", ["box:1"], json.loads(joey.must("inspect", "box:1"))[0]["RepoTags"])
        equal("a volume", "store\n", joey.must("inspect", "-f", "{{.Name}}", "store"))
        equal("what it runs, and where its volume is", "sh [store:/srv]\n",
              joey.must("inspect", "--type", "container", "-f", "{{index .Config.Cmd 0}} {{.HostConfig.Binds}}", "done"))
        changes = joey.must("diff", "done").splitlines()
        for line in ("A /tmp/new", "D /data/seed", "C /etc/group"):
            holds(f"{line} is a change", line in changes, changes)
        holds("no more than that", not [line for line in changes if line.startswith("C /bin")], changes)
        made = joey.must("commit", "-m", "of a test", "-c", 'CMD ["cat", "/tmp/new"]', "done", "made:2").strip()
        equal("runs what was committed", b"one\n", joey.run("--rm", "made:2").out)
        equal("without what was removed", 1, joey.run("--rm", "made:2", "test", "-e", "/data/seed").status)
        equal("its history", f"{made.removeprefix('sha256:')[:12]} of a test\n",
              run([JOEY, "history", "--store", joey.store, "--format", "{{.ID}} {{.Comment}}", "made:2"]).out.decode().splitlines(True)[0])
        equal("it goes", 0, run([JOEY, "rmi", "--store", joey.store, "made:2"]).status)
        archive = joey.path("out.tar")
        joey.must("export", "-o", archive, "done")
        with tarfile.open(archive) as tar:
            holds("the new file is in the archive", any(name.endswith("tmp/new") for name in tar.getnames()), tar.getnames())
        refused(run([JOEY, "image", "rm", "--store", joey.store, "box:1"]), "used by container", 1)
        equal("volumes", "store\n", joey.must("volume", "ls", "-q"))
        refused(joey.do("volume", "rm", "store"), "in use", 1)
        joey.must("volume", "create", "--label", "kind=test", "kept")
        nameless = joey.must("volume", "create").strip()
        equal("by its label", "kept local\n", joey.must("volume", "ls", "-f", "label=kind=test", "--format", "{{.Name}} {{.Driver}}"))
        joey.do("volume", "prune", stdin=b"n\n")
        holds("nothing was removed", nameless in joey.must("volume", "ls", "-q").split(), "")
        holds("what nobody named goes", nameless in joey.must("volume", "prune", "-f"), "")
        equal("the others stay", "kept\nstore\n", joey.must("volume", "list", "-q"))
        equal("where it is", "kept\n", os.path.basename(joey.must("volume", "inspect", "-f", "{{.Mountpoint}}", "kept")))
        joey.must("volume", "remove", "kept")
        holds("df", "Local Volumes" in joey.must("system", "df"), "")
        equal("info", 1, json.loads(joey.must("info", "--format", "json"))["ContainersStopped"])
        equal("an answer that is no", "", "".join(joey.must("ps", "-aq", "--filter", "name=nonesuch")))
        joey.do("container", "prune", stdin=b"n\n")
        equal("still there", ident[:12], joey.must("container", "ls", "-aq").strip())
        holds("pruned", ident in joey.must("container", "prune", "-f"), "")
        joey.must("volume", "rm", "store")
        equal("the image goes now", 0, run([JOEY, "image", "rm", "--store", joey.store, "box:1"]).status)
        joey.nothing_is_left()


def has_route():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return False
    return True


@case("people: flags as Docker 28 has them: files of variables, --add-host, --domainname, --timeout, version")
def newer_flags():
    with people() as joey:
        joey.image(Env=["PATH=/bin", "GONE=1"])
        with open(joey.path("env"), "wb") as file:
            file.write(b"\xef\xbb\xbfONE=1\r\n# no\n  TWO= b \nNOT_SET_ANYWHERE\n")
        ident = joey.path("id")
        # A machine without a network has no address to give.
        gateway = ("--add-host", "up:host-gateway")
        if not has_route():
            refused(joey.run(*gateway, "box:1", "true"), "host-gateway", 125)
            gateway = ()
        joey.start("--name", "first", "--cidfile", ident, "--env-file", joey.path("env"), "-e", "GONE", "--add-host", "db=10.1.2.3",
                   *gateway, "--domainname", "example.test", "-c", "512", "--disable-content-trust",
                   "--health-cmd", "true", "--health-start-period", "60s", "--health-start-interval", "200ms", "--health-interval", "1h",
                   "box:1", "sh", "-c", "env; cat /etc/hosts /proc/sys/kernel/domainname; echo up; sleep 1000")
        with open(ident) as file:
            equal("the ID", joey.inspect("first")["Id"], file.read())
        joey.until_log("first", "up\n")
        lines = joey.must("logs", "first").splitlines()
        for line in ("ONE=1", "TWO= b ", "10.1.2.3\tdb", "example.test"):
            holds(f"{line!r} is there", line in lines, lines)
        holds("the image's variable is gone", not [line for line in lines if line.startswith(("GONE", "NOT_SET"))], lines)
        equal("the gateway's address", len(gateway) // 2, len([line for line in lines if re.fullmatch(r"[0-9.]+\tup", line)]))
        joey.until("healthy by its first check", lambda: "(healthy)" in joey.must("ps"))
        equal("exec", "file\n", joey.must("exec", "--env-file", joey.path("env"), "-e", "ONE=file", "first", "sh", "-c", "echo $ONE"))
        taken = joey.path("other")
        refused(joey.run("--name", "first", "--cidfile", taken, "box:1", "true"), "already in use", 125)
        holds("no file for what was not made", not os.path.exists(taken), "")
        holds("its address", re.fullmatch(r"10\.\d+\.\d+\.15\n", joey.must(
            "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "first")), "")
        equal("since", "", joey.must("ps", "-aq", "--filter", "since=first"))
        joey.must("exec", "first", "sh", "-c", "head -c 300000 /dev/zero > /tmp/large")
        sizes = joey.must("ps", "-s").splitlines()
        holds("a column of sizes", sizes[0].endswith("SIZE") and re.search(r"29\d KiB \(virtual [0-9.]+ MiB\)$|3\d\d KiB \(virtual", sizes[1]), sizes)
        joey.must("stop", "--timeout", "1", "first")
        holds("stats of all", "first" in joey.must("stats", "-a", "--no-stream", "--no-trunc"), "")
        equal("version", "linux\n", joey.must("version", "-f", "{{.Server.Os}}"))
        joey.must("container", "remove", "first")
        joey.nothing_is_left()


@case("people: flags of docker run: groups, devices, namespaces of another container, what cannot be")
def more_flags():
    with people() as joey:
        joey.image()
        done = joey.run("--rm", "--group-add", "extra", "--group-add", "99", "--device", "/dev/fuse", "--dns-search", "example.test",
                        "--pull", "never", "-q", "--platform", "linux/amd64", "--memory", "64m", "--memory-swap", "64m", "box:1",
                        "sh", "-c", "id -G; ls -l /dev/fuse; grep search /etc/resolv.conf")
        equal(f"status: {short(done.err)}", 0, done.status)
        lines = done.out.decode().splitlines()
        holds("groups", {"77", "99"} <= set(lines[0].split()), lines)
        holds("the device", lines[1].startswith("c"), lines)
        equal("the resolver", "search example.test", lines[2])
        joey.start("--name", "first", "box:1", "sh", "-c", "httpd -f -p 127.0.0.1:8000 -h /data & echo up; wait")
        joey.until_log("first", "up\n")
        done = joey.run("--rm", "--network", "container:first", "--pid", "container:first", "box:1",
                        "sh", "-c", "wget -q -O - http://127.0.0.1:8000/seed; ps | grep -q '[h]ttpd -f' && echo seen")
        equal(f"what the other serves, and its process: {short(done.err)}", b"from the image\nseen\n", done.out)
        equal("the other's VM stays", "running", joey.inspect("first")["State"]["Status"])
        for words, message in ((("--net", "host"), "--publish"), (("--pid", "host"), "not in the VM"), (("--device", "/dev/sda"), "not in the VM"),
                               (("--pull", "always"), "registry"), (("--platform", "linux/arm64"), "amd64"),
                               (("--group-add", "nonesuch"), "group"), (("--memory", "64m", "--memory-swap", "32m"), "sum"),
                               (("--cpus", "1", "--cpu-quota", "5000"), "together"), (("--network", "container:nonesuch"), "nonesuch")):
            refused(joey.run("--rm", *words, "box:1", "true"), message, 125)
        joey.must("rm", "-f", "first")
        joey.nothing_is_left()

