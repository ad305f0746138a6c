"""joey as OCI runtime: what runc's users expect, with each container in a VM."""

import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import time

from harness import JOEY, PATIENCE, case, equal, holds
from oci_runtime import in_mode, in_pod, refused, runtime, vm_of

PR_SET_CHILD_SUBREAPER = 36


@case("oci: a container's life: create, start, state, kill, delete, with output on the creator's stdout")
def a_life():
    with runtime() as joey:
        bundle = joey.bundle("b", "echo out; echo err >&2; exec sleep 1000")
        joey.create("one", bundle)
        state = joey.state("one")
        equal("status", "created", state["status"])
        equal("bundle", bundle, state["bundle"])
        holds("the pid is a process", os.path.exists(f"/proc/{state['pid']}"))
        equal("output before the start", b"", joey.output("one"))
        joey.must("start", "one")
        joey.until_output("one", b"err\n")
        holds("stdout came too", b"out\n" in joey.output("one"))
        equal("status", "running", joey.state("one")["status"])
        refused(joey.run("delete", "one"), "cannot delete container one that is not stopped: running")
        joey.must("kill", "one", "KILL")
        joey.until("one", "stopped")
        equal("pid of a stopped one", 0, joey.state("one")["pid"])
        joey.must("delete", "one")
        refused(joey.run("state", "one"), "container does not exist")
        joey.nothing_is_left()


@case("oci: the errors are runc's, in the log too")
def errors():
    with runtime() as joey:
        log = os.path.join(joey.directory, "log")
        refused(joey.run("state", "none", options=["--log", log, "--log-format", "json"]), "container does not exist")
        with open(log, encoding="utf-8") as file:
            line = json.loads(file.read())
        equal("level and message", ("error", "container does not exist"), (line["level"], line["msg"]))
        refused(joey.run("create", "--bundle", "/nonesuch", "x"), "no such file or directory")
        refused(joey.run("create", "a/b", cwd=joey.bundle("b", "true")), "invalid container ID format")
        refused(joey.run("create"), "requires exactly 1 argument")
        refused(joey.run("start", "none"), "container does not exist")
        refused(joey.run("kill", "none"), "container does not exist")
        refused(joey.run("delete", "none"), "container does not exist")
        equal("delete --force of nothing", 0, joey.run("delete", "--force", "none").status)
        refused(joey.run("exec", "none", "true"), "container does not exist", 255)
        refused(joey.run("kill", "none", "NOSUCH"), "unknown signal")
        equal("list of nothing", b"", joey.must("list", "-q").out)


@case("oci: the states and what each allows")
def states():
    with runtime() as joey:
        bundle = joey.bundle("b", "echo up; exec sleep 1000")
        joey.create("one", bundle)
        refused(joey.run("create", "--bundle", bundle, "one"), "container with given ID already exists")
        refused(joey.run("resume", "one"), "container not paused")
        joey.must("start", "one")
        refused(joey.run("start", "one"), "cannot start an already running container")
        joey.until_output("one", b"up")
        joey.must("pause", "one")
        equal("status", "paused", joey.state("one")["status"])
        refused(joey.run("exec", "one", "true"), "paused", 255)
        joey.must("resume", "one")
        listed = json.loads(joey.must("list", "--format", "json").out)
        equal("listed", [("one", "running")], [(entry["id"], entry["status"]) for entry in listed])
        holds("table", re.match(rb"ID +PID +STATUS +BUNDLE +CREATED +OWNER\none +\d+ +running ", joey.must("list").out))
        holds("ps", len(json.loads(joey.must("ps", "--format", "json", "one").out)) >= 1)
        joey.must("kill", "one", "9")
        joey.until("one", "stopped")
        refused(joey.run("kill", "one"), "container not running")
        refused(joey.run("start", "one"), "cannot start a container that has stopped")
        refused(joey.run("exec", "one", "true"), "cannot exec in a stopped container", 255)
        joey.must("delete", "one")
        joey.create("two", bundle)
        joey.must("delete", "two")
        joey.nothing_is_left()


@case("oci: exec: output, input, status, user, environment, a program that is not there")
def executes():
    with runtime() as joey:
        joey.create("one", joey.bundle("b", "exec sleep 1000"))
        joey.must("start", "one")
        equal("output", b"hi\n", joey.must("exec", "one", "echo", "hi").out)
        equal("input", b"some words\n", joey.must("exec", "one", "cat", stdin=b"some words\n").out)
        equal("status", 7, joey.run("exec", "one", "sh", "-c", "exit 7").status)
        equal("status of a killed one", 137, joey.run("exec", "one", "sh", "-c", "kill -9 $$").status)
        equal("user", b"12 13\n", joey.must("exec", "--user", "12:13", "one", "sh", "-c", "echo $(id -u) $(id -g)").out)
        equal("environment", b"b /tmp\n",
              joey.must("exec", "-e", "A=b", "--cwd", "/tmp", "one", "sh", "-c", "echo $A $(pwd)").out)
        refused(joey.run("exec", "one", "nonesuch"), "exec failed", 255)
        big = joey.must("exec", "one", "head", "-c", "3000000", "/dev/zero")
        equal("bytes", 3000000, len(big.out))
        joey.must("delete", "--force", "one")
        joey.nothing_is_left()


@case("oci: --preserve-fds: files, pipes and sockets reach the program, others are refused by their name")
def preserved():
    with runtime() as joey:
        words = [JOEY, "--root", joey.root]
        files = {name: os.path.join(joey.directory, name) for name in ("in", "out")}
        with open(files["in"], "w", encoding="utf-8") as file:
            file.write("from the host\n" * 10000)
        bundle = joey.bundle("b", "cat <&3 >&4; echo created; exec sleep 1000")
        made = subprocess.run(["sh", "-c", 'exec "$@" 3<"$0/in" 4>"$0/out" >"$0/one.out" 2>&1 </dev/null', joey.directory,
                               *words, "create", "--preserve-fds", "2", "--bundle", bundle, "one"], timeout=90 * PATIENCE, check=False)
        equal("status of create", (0, b""), (made.returncode, joey.output("one")))
        joey.must("start", "one")
        joey.until_output("one", b"created")
        with open(files["out"], "rb") as file:
            equal("what came through", b"from the host\n" * 10000, file.read())
        near, far = socket.socketpair()
        with near, far:
            near.sendall(b"question")
            near.shutdown(socket.SHUT_WR)
            # Descriptor 3 of the shell, whatever its number is here.
            done = subprocess.run(["sh", "-c", 'exec "$@" 3<&0 </dev/null', "sh", *words, "exec", "--preserve-fds", "1", "one",
                                   "sh", "-c", "cat <&3 >&3; echo done"], stdin=far, capture_output=True, timeout=90 * PATIENCE, check=False)
            equal("exec", (0, b"done\n"), (done.returncode, done.stdout))
            far.close()
            equal("what the socket brings back", b"question", near.recv(100))
        with socket.socket() as listening:
            listening.listen()
            done = subprocess.run(["sh", "-c", 'exec "$@" 3<&0 </dev/null', "sh", *words, "exec", "--preserve-fds", "1", "one", "true"],
                                  stdin=listening, capture_output=True, timeout=90 * PATIENCE, check=False)
            holds("a listening socket", b"descriptor 3 to preserve is a listening socket" in done.stderr, done.stderr)
        refused(joey.run("exec", "--preserve-fds", "1", "one", "true"), "is not open", 255)
        joey.must("delete", "--force", "one")
        joey.nothing_is_left()


@case("oci: the process in the pid file ends with the program's status, which a subreaper gets")
def pid_file():
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        with runtime() as joey:
            place = os.path.join(joey.directory, "pid")
            joey.create("one", joey.bundle("b", "exit 42"), "--pid-file", place)
            with open(place, encoding="utf-8") as file:
                pid = int(file.read())
            equal("pid", pid, joey.state("one")["pid"])
            joey.must("start", "one")
            deadline = time.monotonic() + 60 * PATIENCE
            while True:
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    break
                holds("it ends", time.monotonic() < deadline)
                time.sleep(0.05)
            equal("status", 42, os.waitstatus_to_exitcode(status))
            joey.until("one", "stopped")
            # conmon waits for all its children, before anybody calls delete: the VM is one of them.
            with contextlib.suppress(ChildProcessError):
                while True:
                    os.waitpid(-1, os.WNOHANG)
                    holds("no child stays", time.monotonic() < deadline)
                    time.sleep(0.05)
            joey.must("kill", "--all", "one", "KILL")
            joey.must("delete", "one")
            # Signals sent to the number reach the program.
            joey.create("two", joey.bundle("c", "trap 'echo caught; exit 3' TERM; echo up; while :; do sleep 1; done"))
            joey.must("start", "two")
            joey.until_output("two", b"up")
            os.kill(joey.state("two")["pid"], signal.SIGTERM)
            joey.until_output("two", b"caught")
            joey.must("delete", "--force", "two")
            joey.nothing_is_left()
    finally:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def volume(source, destination, *options):
    def patch(config):
        config["mounts"].append({"destination": destination, "type": "bind", "source": source,
                                 "options": ["rbind", *options]})
    return patch


@case("oci: volumes: what is written is on the host, a read-only one takes nothing, a file is a file")
def volumes():
    with runtime() as joey:
        shared = os.path.join(joey.directory, "shared")
        os.mkdir(shared)
        with open(os.path.join(shared, "here"), "w", encoding="utf-8") as file:
            file.write("from the host\n")

        def patch(config):
            volume(shared, "/rw", "rw")(config)
            volume(shared, "/ro", "ro")(config)
            volume(os.path.join(shared, "here"), "/etc/one", "ro")(config)
        bundle = joey.bundle("b", "cat /ro/here /etc/one; echo new > /rw/new; touch /ro/x || echo refused; "
                                  "echo root > /written; sync; echo done", patch)
        joey.create("one", bundle)
        joey.must("start", "one")
        joey.until("one", "stopped")
        said = joey.output("one")
        equal("contents", 2, said.count(b"from the host\n"))
        holds("refused", b"refused\n" in said and b"done\n" in said, said)
        with open(os.path.join(shared, "new"), encoding="utf-8") as file:
            equal("on the host", "new\n", file.read())
        with open(os.path.join(bundle, "rootfs/written"), encoding="utf-8") as file:
            equal("in the root on the host", "root\n", file.read())
        holds("nothing else", not os.path.exists(os.path.join(shared, "x")))
        joey.must("delete", "one")
        joey.nothing_is_left()


@case("oci: hooks run on the host in their order, and one that fails takes the container with it")
def hooks():
    with runtime() as joey:
        log = os.path.join(joey.directory, "hooks")

        def patch(config, fails=False):
            config["hooks"] = {
                kind: [{"path": "/bin/sh",
                        "args": ["sh", "-c", f"echo {kind} $(grep -o '\"status\":\"[a-z]*\"') >> {log}"
                                             + (f"; exit {int(fails and kind == 'createRuntime')}")]}]
                for kind in ("prestart", "createRuntime", "createContainer", "poststart", "poststop")}
        joey.create("one", joey.bundle("b", "true", patch))
        joey.must("start", "one")
        joey.until("one", "stopped")
        joey.must("delete", "one")
        with open(log, encoding="utf-8") as file:
            equal("hooks", ["prestart creating", "createRuntime creating", "createContainer creating",
                            "poststart running", "poststop stopped"],
                  [line.replace('"status":"', "").replace('"', "").strip() for line in file])
        bundle = joey.bundle("c", "true", lambda config: patch(config, True))
        refused(joey.run("create", "--bundle", bundle, "two"), "error running hook")
        joey.nothing_is_left()


@case("oci: two containers of one pod share its VM, its network and its host name, and no files")
def a_pod():
    with runtime() as joey:
        joey.create("pod", joey.bundle("p", "exec sleep 1000", in_pod("sandbox", "pod")))
        joey.must("start", "pod")
        joey.create("server", joey.bundle("s", "echo up; nc -l -p 7000 -e echo hello from the server", in_pod("container", "pod")))
        joey.must("start", "server")
        joey.until_output("server", b"up")
        joey.create("client", joey.bundle("c", "hostname; for i in $(seq 50); do nc 127.0.0.1 7000 && break; sleep 1; done; "
                                               "touch /mine; exec sleep 1000", in_pod("container", "pod")))
        joey.must("start", "client")
        joey.until_output("client", b"hello from the server\n")
        holds("host name", joey.output("client").startswith(b"joey\n"), joey.output("client"))
        equal("VMs", 1, len(os.listdir(os.path.join(joey.root, "pods"))))
        holds("files apart", not os.path.exists(os.path.join(joey.directory, "s/rootfs/mine")))
        joey.must("delete", "--force", "client")
        equal("the pod lives on", b"ok\n", joey.must("exec", "pod", "echo", "ok").out)
        equal("what a container saw is gone", 2, len(os.listdir(os.path.join(joey.root, "pods/pod/share"))))
        joey.must("delete", "--force", "server")
        joey.must("delete", "--force", "pod")
        joey.nothing_is_left()


@case("oci: a container that would join the namespaces of a pod's first one, which has ended, is refused")
def first_has_ended():
    with runtime() as joey:
        joey.create("pod", joey.bundle("p", "exec sleep 1000", in_pod("sandbox", "pod")))
        joey.must("start", "pod")
        joey.create("other", joey.bundle("o", "exec sleep 1000", in_pod("container", "pod")))
        joey.must("start", "other")
        joey.must("kill", "pod", "KILL")
        joey.until("pod", "stopped")
        refused(joey.run("create", "--bundle", joey.bundle("l", "true", in_pod("container", "pod")), "late"),
                "the pod's first container has ended")
        joey.must("delete", "--force", "other")
        joey.must("delete", "--force", "pod")
        joey.nothing_is_left()


@case("oci: a terminal goes to the console socket, with its size")
def console():
    with runtime() as joey:
        place = os.path.join(joey.directory, "console")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(place)
        listener.listen(1)
        listener.settimeout(60 * PATIENCE)

        def patch(config):
            config["process"]["terminal"] = True
        joey.create("one", joey.bundle("b", "tty; read line; echo got $line; stty size", patch), "--console-socket", place)
        connection, _ = listener.accept()
        name, descriptors, _, _ = socket.recv_fds(connection, 100, 1)
        master = descriptors[0]
        holds("its name", name.startswith(b"/dev/pts/"), name)
        joey.must("start", "one")
        os.write(master, b"words\n")
        seen = b""
        deadline = time.monotonic() + 60 * PATIENCE
        while b"got words\r\n" not in seen:
            holds("the terminal answers", time.monotonic() < deadline, seen)
            with contextlib.suppress(OSError):
                seen += os.read(master, 1000)
        holds("it is a terminal", b"/dev/pts/" in seen or b"/dev/console" in seen, seen)
        os.close(master)
        listener.close()
        joey.must("delete", "--force", "one")
        joey.nothing_is_left()


@case("oci: kill -9 of the VM, of the relay, of create: the container is stopped, delete removes all of it")
def deaths():
    with runtime() as joey:
        bundle = joey.bundle("b", "echo up; exec sleep 1000")
        joey.create("one", bundle)
        joey.must("start", "one")
        os.kill(vm_of(joey, "one"), signal.SIGKILL)
        joey.until("one", "stopped")
        joey.must("delete", "one")
        joey.nothing_is_left()

        joey.create("two", bundle)
        joey.must("start", "two")
        os.kill(joey.state("two")["pid"], signal.SIGKILL)
        joey.until("two", "stopped")
        joey.must("delete", "two")
        joey.nothing_is_left()

        # At moments spread over a creation.
        for tenth in range(0, 10, 3):
            creation = subprocess.Popen([JOEY, "--root", joey.root, "create", "--bundle", bundle, "three"],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                creation.wait(0.1 + tenth * 0.2)
            creation.kill()
            creation.wait()
            joey.must("delete", "--force", "three")
            joey.nothing_is_left()


@case("oci: what an executed process wrote comes, however slowly it is read, when the container ends and its VM with it", long=True)
def last_words():
    with runtime() as joey:
        bundle = joey.bundle("b", "exec sleep 1000")
        joey.create("one", bundle)
        joey.must("start", "one")
        # More than the pipes of the guest and of the host hold: the relay has to keep the rest.
        script = "dd if=/dev/zero bs=1000 count=120 2>/dev/null; echo the end; : >/written; exec sleep 1000"
        with subprocess.Popen([JOEY, "--root", joey.root, "exec", "one", "sh", "-c", script], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, start_new_session=True) as process:
            deadline = time.monotonic() + 60 * PATIENCE
            while not os.path.exists(os.path.join(bundle, "rootfs/written")):
                holds("it writes", time.monotonic() < deadline)
                time.sleep(0.05)
            joey.must("kill", "one", "KILL")
            joey.until("one", "stopped")
            joey.must("delete", "one")
            out = process.stdout.read()
            equal("status", 137, process.wait(30 * PATIENCE))
        equal("bytes", 120008, len(out))
        holds("the end", out.endswith(b"the end\n"))
        joey.nothing_is_left()


@case("oci: update and events: limits hold, statistics have runc's shape")
def limits():
    with runtime() as joey:
        joey.create("one", joey.bundle("b", "exec sleep 1000"))
        joey.must("start", "one")
        joey.must("update", "--memory", "64m", "--memory-reservation", "32M", "--pids-limit", "50", "one")
        refused(joey.run("update", "--memory", "64x", "one"), "invalid value for memory")
        event = json.loads(joey.must("events", "--stats", "one").out)
        equal("type and id", ("stats", "one"), (event["type"], event["id"]))
        equal("limit", 67108864, event["data"]["memory"]["usage"]["limit"])
        equal("pids", 50, event["data"]["pids"]["limit"])
        holds("time", event["data"]["cpu"]["usage"]["total"] > 0)
        joey.must("delete", "--force", "one")
        joey.nothing_is_left()


@case("oci: want of memory ends the programs of containers and not the agent, which all of them end with")
def agent_outlives():
    def sees_the_agent(config):
        config["linux"]["namespaces"] = [one for one in config["linux"]["namespaces"] if one["type"] != "pid"]
        config["process"].pop("oomScoreAdj", None)
    with runtime() as joey:
        joey.create("one", joey.bundle("b", "cat /proc/1/oom_score_adj /proc/self/oom_score_adj", sees_the_agent))
        joey.must("start", "one")
        joey.until("one", "stopped")
        equal("the agent's and the container's", b"-1000\n0\n", joey.output("one"))
        joey.must("delete", "one")
        joey.nothing_is_left()


@case("oci: features and spec are JSON documents")
def documents():
    with runtime() as joey:
        features = json.loads(joey.must("features").out)
        holds("namespaces", "mount" in features["linux"]["namespaces"])
        bundle = joey.bundle("b", "true")
        refused(joey.run("spec", "--bundle", bundle), "exists. Remove it first")


@case("oci: the privilege mode is the annotation's before the flag's, and a wrong one is refused")
def privilege():
    with runtime() as joey:
        def patch(config):
            config["annotations"]["io.joey.privilege"] = "ring9"
        refused(joey.run("create", "--bundle", joey.bundle("a", "true", patch), "one"), "ring9")
        refused(joey.run("create", "--bundle", joey.bundle("b", "true", without_privilege), "one", options=["--privilege", "ring8"]), "ring8")
        joey.nothing_is_left()


def without_privilege(config):
    del config["annotations"]["io.joey.privilege"]


# ring3 works on every KVM; what `auto` is here, the cases above have tested.
def also_in_ring3(function, what):
    @case(f"oci, ring3: {what}")
    def in_ring3():
        with in_mode("ring3"):
            function()


for one, words in ((a_life, "a container's life"), (executes, "exec"), (a_pod, "two containers of one pod"), (limits, "update and events")):
    also_in_ring3(one, words)
