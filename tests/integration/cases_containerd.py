"""The shim with the real containerd: `ctr run --runtime io.containerd.joey.v2` and what belongs to it.

Most of it takes minutes where /dev/kvm is emulated: --long."""

import contextlib
import os
import re
import signal
import subprocess
import time

from containerd import containerd, nothing_is_left
from harness import PATIENCE, Terminal, case, equal, holds, read_until


def until(what, condition, seconds=60):
    deadline = time.monotonic() + seconds * PATIENCE
    while not condition():
        holds(what, time.monotonic() < deadline)
        time.sleep(0.1)


@case("containerd: ctr run: output, errors, status, the image's environment")
def runs():
    with containerd() as one:
        done = one.run("first", "sh", "-c", "echo out; echo err >&2; echo $FROM_IMAGE; exit 7")
        equal("output", b"out\nyes\n", done.out)
        holds("errors", b"err\n" in done.err, done.err)
        equal("status", 7, done.status)


@case("containerd: ctr run: input, and a program that is not there")
def input_comes():
    with containerd() as one:
        # What comes before ctr has its task is never closed by ctr, whatever the runtime: so it comes later.
        process = subprocess.Popen(one.argv(*one.run_words("second", "sh", "-c", "echo ready; wc -c", options=("--rm",))),
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        read_until(process.stdout, b"ready\n", 120)
        out, _ = process.communicate(b"some words\n" * 10000, 120 * PATIENCE)
        equal("input", (b"110000\n", 0), (out, process.returncode))
        nothing_is_left(one)
        done = one.run("third", "nonesuch")
        holds("a program that is not there is an error", done.status != 0 and b"nonesuch" in done.err, done.err)


@case("containerd: ctr run -t: a terminal, its size, keys, status", long=True)
def terminal():
    with containerd() as one:
        with Terminal(one.argv(*one.run_words("one", "sh", options=("--rm", "--tty"))), columns=91, rows=33) as screen:
            screen.expect(r"# ", 120)
            screen.send("tty; stty size\r")
            screen.expect(r"/dev/(pts/\d+|console)\r+\n33 91\r+\n", 60)  # ctr leaves the outer terminal's own \r on
            screen.resize(101, 44)
            os.kill(screen.process.pid, signal.SIGWINCH)
            screen.send("sleep 1; stty size\r")
            screen.expect(r"44 101\r+\n", 60)
            screen.send("sleep 1000\r")
            time.sleep(1)
            screen.send("\x03")
            screen.send("echo status $?\r")
            screen.expect(r"status 130\r+\n", 60)
            screen.send("exit 5\r")
            equal("status", 5, screen.end(60))


@case("containerd: a task in the background: exec, ps, metrics, pause, kill, delete", long=True)
def background():
    with containerd() as one, one.events() as events:
        one.run_in_background("one", "sh", "-c", "trap 'exit 3' TERM; while :; do sleep 1; done")
        equal("tasks", {"one": "RUNNING"}, one.tasks())
        done = one.ctr("tasks", "exec", "--exec-id", "e1", "one", "sh", "-c", "echo hi; echo bad >&2; exit 9")
        equal("exec", (b"hi\n", 9), (done.out, done.status))
        holds("exec's errors", b"bad\n" in done.err, done.err)
        done = one.ctr("tasks", "exec", "--exec-id", "e2", "one", "cat", stdin=b"words")
        equal("exec's input", b"words", done.out)
        with Terminal(one.argv("tasks", "exec", "--tty", "--exec-id", "e3", "one", "sh"), columns=70, rows=20) as screen:
            screen.expect(r"# ", 60)
            screen.send("stty size; exit 4\r")
            screen.expect(r"20 70\r+\n", 60)
            equal("status of exec -t", 4, screen.end(60))
        done = one.ctr("tasks", "exec", "--exec-id", "e4", "one", "nonesuch")
        holds("exec of nothing", done.status != 0 and b"nonesuch" in done.err, done.err)
        # One that does not end by itself.
        process = subprocess.Popen(one.argv("tasks", "exec", "--exec-id", "e5", "one", "sleep", "1000"), stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until("the exec has started", lambda: any(topic == "/tasks/exec-started" and details.get("exec_id") == "e5"
                                                  for topic, details in events()))
        holds("both processes", len(one.must("tasks", "ps", "one").out.splitlines()) - 1 >= 2)
        one.must("tasks", "kill", "--signal", "SIGKILL", "--exec-id", "e5", "one")
        equal("status of a killed exec", 137, process.wait(60 * PATIENCE))
        metrics = one.must("tasks", "metrics", "one").out.decode()
        holds("metrics", re.search(r"memory\.usage\s+[1-9]", metrics) or re.search(r"memory\.usage_in_bytes\s+[1-9]", metrics), metrics)
        one.must("tasks", "pause", "one")
        equal("paused", {"one": "PAUSED"}, one.tasks())
        one.must("tasks", "resume", "one")
        equal("resumed", {"one": "RUNNING"}, one.tasks())
        one.must("tasks", "kill", "--signal", "SIGTERM", "one")
        one.until("one", "STOPPED")
        holds("kill of a stopped task", one.ctr("tasks", "kill", "one").status != 0)
        equal("status by delete", 3, one.delete_task("one"))
        one.must("containers", "delete", "one")
        topics = [topic for topic, _ in events() if topic.startswith("/tasks/")]
        equal("first events", ["/tasks/create", "/tasks/start", "/tasks/exec-added", "/tasks/exec-started", "/tasks/exit"], topics[:5])
        holds("pause and resume", "/tasks/paused" in topics and "/tasks/resumed" in topics, str(topics))
        equal("last events", ["/tasks/exit", "/tasks/delete"], topics[-2:])
        exits = [details for topic, details in events() if topic == "/tasks/exit"]
        equal("how it ended", ("one", 3), (exits[-1]["id"], exits[-1]["exit_status"]))


@case("containerd: a memory limit bites, and is reported as OOM", long=True)
def out_of_memory():
    with containerd() as one, one.events() as events:
        done = one.run("one", "sh", "-c", "dd if=/dev/zero of=/dev/null bs=200M count=1; echo $?",
                       options=("--rm", "--memory-limit", str(32 << 20)))
        holds("it was killed", b"137" in done.out or done.status == 137, done.out + done.err)
        until("the event", lambda: ("/tasks/oom", "one") in [(topic, details["container_id"]) for topic, details in events()
                                                            if topic == "/tasks/oom"])


@case("containerd: an image with a user, read-only root, volumes", long=True)
def configurations():
    with containerd() as one:
        other = "joey.test/guest:latest"
        one.import_image(name=other, user="guest")
        equal("user", b"1234:1235\n", one.run("u", "sh", "-c", "echo $(id -u):$(id -g)", image=other).out)
        done = one.run("r", "sh", "-c", "touch /here || echo refused", options=("--rm", "--read-only"))
        equal("read-only", b"refused\n", done.out)
        shared = os.path.join(one.directory, "shared")
        os.makedirs(shared, exist_ok=True)
        with open(os.path.join(shared, "here"), "w", encoding="utf-8") as file:
            file.write("from the host\n")
        done = one.run("v", "sh", "-c", "cat /ro/here; echo new >/rw/new; touch /ro/x || echo refused; sync",
                       options=("--rm", "--mount", f"type=bind,src={shared},dst=/ro,options=rbind:ro",
                                "--mount", f"type=bind,src={shared},dst=/rw,options=rbind:rw"))
        equal("volumes", b"from the host\nrefused\n", done.out)
        with open(os.path.join(shared, "new"), encoding="utf-8") as file:
            equal("on the host", "new\n", file.read())


@case("containerd: layers of an overlay; what a container writes is its own", long=True)
def overlays():
    with containerd("overlayfs") as one:
        # What is changed is copied up on the host: it stays the same directory for who is in it, and the same open file.
        equal("first", b"done\n",
              one.run("one", "sh", "-c", "cd /bin; exec 3>>/etc/group; echo x >new; rm /etc/passwd; sleep 2; "
                                         "echo y >&3 && [ -e new ] && echo done").out)
        equal("second", b"no yes\n",
              one.run("two", "sh", "-c", "a=no b=no; [ -e /bin/new ] && a=yes; [ -e /etc/passwd ] && b=yes; echo $a $b").out)


@case("containerd: output to a file and to a program that logs", long=True)
def logs():
    with containerd() as one:
        place = os.path.join(one.directory, "logs/of/one")
        one.run_in_background("one", "sh", "-c", "echo out; echo err >&2", options=("--log-uri", f"file://{place}"))
        one.until("one", "STOPPED")
        with open(place, "rb") as file:
            equal("lines", [b"err\n", b"out\n"], sorted(file.readlines()))
        one.remove("one")
        logger, place = os.path.join(one.directory, "logger"), os.path.join(one.directory, "logged")
        with open(logger, "w", encoding="utf-8") as file:
            file.write(f"#!/bin/sh\nexec 5>&-\ntrap '' TERM\n"
                       f"{{ echo $CONTAINER_NAMESPACE $CONTAINER_ID $*; cat <&3; cat <&4; }} >{place}.new; mv {place}.new {place}\n")
        os.chmod(logger, 0o755)
        one.run_in_background("two", "sh", "-c", "echo out; echo err >&2", options=("--log-uri", f"binary://{logger}?a=b"))
        one.until("two", "STOPPED")
        one.remove("two")
        until("the logger has ended", lambda: os.path.exists(place))
        with open(place, "rb") as file:
            equal("logged", b"joeytest two a b\nout\nerr\n", file.read())


@case("containerd: containers of one pod share a shim and a VM", long=True)
def pods():
    with containerd() as one:
        def of_pod(kind):
            return ("--annotation", f"io.kubernetes.cri.container-type={kind}", "--annotation", "io.kubernetes.cri.sandbox-id=pod")
        one.run_in_background("pod", "sleep", "1000", options=of_pod("sandbox"))
        one.run_in_background("inner", "sh", "-c", "echo mine >/tmp/x; sleep 1000", options=of_pod("container"))
        equal("VMs", ["pod"], os.listdir(f"/run/containerd/joey/{one.name_space}/pods"))
        holds("one shim", not os.path.exists(one.bundle("inner") + "/shim.pid"))
        done = one.ctr("tasks", "exec", "--exec-id", "e", "inner", "cat", "/tmp/x")
        equal("exec in the second", b"mine\n", done.out)
        one.must("tasks", "kill", "--signal", "SIGKILL", "inner")
        one.until("inner", "STOPPED")
        one.remove("inner")
        equal("the pod lives on", {"pod": "RUNNING"}, one.tasks())
        equal("it works", b"ok\n", one.ctr("tasks", "exec", "--exec-id", "f", "pod", "echo", "ok").out)
        one.remove("pod")
        nothing_is_left(one)
        # Grouped as runc's shim groups: the first may go before the others.
        group = ("--annotation", "io.containerd.runc.v2.group=some")
        one.run_in_background("first", "sleep", "1000", options=group)
        one.run_in_background("second", "sleep", "1000", options=group)
        one.must("tasks", "kill", "--signal", "SIGKILL", "first")
        one.until("first", "STOPPED")
        one.remove("first")
        equal("the second lives on", b"ok\n", one.ctr("tasks", "exec", "--exec-id", "g", "second", "echo", "ok").out)
        one.remove("second")


@case("containerd: kill -9 of the shim: containerd hears of the end, and nothing stays", long=True)
def shim_dies():
    with containerd() as one, one.events() as events:
        one.run_in_background("one", "sleep", "1000")
        os.kill(one.shim_pid("one"), signal.SIGKILL)
        until("the end is told", lambda: any(topic == "/tasks/exit" for topic, _ in events()), 120)
        one.ctr("tasks", "delete", "--force", "one")
        one.must("containers", "delete", "one")
        nothing_is_left(one)
        # In the middle of a creation.
        for wait in (0.3, 1.5):
            process = subprocess.Popen(one.argv(*one.run_words("two", "sleep", "1000", options=("--detach",))),
                                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            place = one.bundle("two") + "/shim.pid"
            until("the shim runs", lambda: os.path.exists(place))
            time.sleep(wait)
            with contextlib.suppress(OSError):
                os.kill(one.shim_pid("two"), signal.SIGKILL)
            process.wait(120 * PATIENCE)
            one.ctr("tasks", "delete", "--force", "two")
            one.ctr("containers", "delete", "two")
            nothing_is_left(one)


@case("containerd: kill -9 of the VM: the task ends with 137, and nothing stays", long=True)
def vm_dies():
    with containerd() as one:
        one.run_in_background("one", "sleep", "1000")
        os.kill(one.vm_pid("one"), signal.SIGKILL)
        one.until("one", "STOPPED")
        equal("status", 137, one.delete_task("one"))
        one.must("containers", "delete", "one")


@case("containerd: kill -9 of containerd: tasks go on, and so does what is said of them", long=True)
def containerd_dies():
    with containerd() as one:
        one.run_in_background("one", "sh", "-c", "while [ ! -e /tmp/end ]; do sleep 1; done; exit 6")
        one.run_in_background("two", "sleep", "1000")
        one.stop(signal.SIGKILL)
        one.start()
        equal("tasks", {"one": "RUNNING", "two": "RUNNING"}, one.tasks())
        equal("exec", b"still here\n", one.ctr("tasks", "exec", "--exec-id", "e", "one", "echo", "still", "here").out)
        equal("exec", 0, one.ctr("tasks", "exec", "--exec-id", "f", "one", "touch", "/tmp/end").status)
        one.until("one", "STOPPED")
        equal("status", 6, one.delete_task("one"))
        one.must("containers", "delete", "one")
        # One that ends while containerd is away.
        one.stop(signal.SIGKILL)
        os.kill(one.vm_pid("two"), signal.SIGKILL)
        one.start()
        one.until("two", "STOPPED")
        one.remove("two")
