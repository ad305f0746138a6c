"""podman with `--runtime joey`: what people type, with what they expect of it. All of it takes minutes where /dev/kvm is emulated: --long."""

import os
import re
import subprocess
import time

from harness import PATIENCE, Terminal, case, equal, holds, read_until
from podman import podman


@case("podman: run: output, errors, status", long=True)
def runs():
    with podman() as one:
        done = one.run("sh", "-c", "echo out; echo err >&2; echo $FROM_IMAGE; exit 7")
        equal("output and status", (b"out\nyes\n", 7), (done.out, done.status))
        holds("errors", b"err\n" in done.err, done.err)


@case("podman: run: input, a terminal, a program that is not there", long=True)
def streams():
    with podman() as one:
        done = one.run("wc", "-c", options=("--rm", "--interactive"), stdin=b"some words\n" * 10000)
        equal("input", (b"110000\n", 0), (done.out, done.status))
        with Terminal(one.argv(*one.run_words("sh", options=("--rm", "-it"))), columns=91, rows=33) as screen:
            screen.expect(r"# ", 120)
            screen.send("test -t 0 && stty size; exit 5\r")
            screen.expect(r"33 91\r\n", 60)
            equal("status", 5, screen.end(60))
        done = one.run("nonesuch")
        equal("a program that is not there", 127, done.status)
        holds("its name", b"nonesuch" in done.err, done.err)


@case("podman: run -d, exec, logs, top, stats, stop, start, rm", long=True)
def background():
    with podman() as one:
        one.run_in_background("one", "sh", "-c", "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 1; done")
        one.until_log("one", b"up")
        equal("running", "running", one.inspect("one", "{{.State.Status}}"))
        done = one.podman("exec", "one", "sh", "-c", "echo hi; echo bad >&2; exit 9")
        equal("exec", (b"hi\n", 9), (done.out, done.status))
        holds("exec's errors", b"bad\n" in done.err, done.err)
        done = one.must("exec", "--interactive", "--user", "1234:1235", "--env", "A=b", "--workdir", "/data", "one",
                        "sh", "-c", "echo $(id -u):$(id -g) $A $(pwd); cat", stdin=b"words\n")
        equal("exec's options and input", b"1234:1235 b /data\nwords\n", done.out)
        with Terminal(one.argv("exec", "-it", "one", "sh"), columns=70, rows=20) as screen:
            screen.expect(r"# ", 60)
            screen.send("stty size; exit 4\r")
            screen.expect(r"20 70\r\n", 60)
            equal("status of exec -it", 4, screen.end(60))
        done = one.podman("exec", "one", "nonesuch")
        equal("exec of nothing", 127, done.status)
        one.must("stop", "--time", str(int(30 * PATIENCE)), "one")
        equal("status", "3", one.inspect("one", "{{.State.ExitCode}}"))
        equal("log", [b"up", b"bye"], one.must("logs", "one").out.splitlines())
        one.must("start", "one")
        one.until("one", "running")
        one.must("kill", "--signal", "KILL", "one")
        one.until("one", "exited")
        equal("status", "137", one.inspect("one", "{{.State.ExitCode}}"))
        one.must("rm", "one")


@case("podman: stop with a grace period that ends; pause; restart; wait", long=True)
def ends():
    with podman() as one:
        one.run_in_background("one", "sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done")
        one.until_log("one", b"up")
        one.must("pause", "one")
        equal("paused", "paused", one.inspect("one", "{{.State.Status}}"))
        one.must("unpause", "one")
        equal("running", "running", one.inspect("one", "{{.State.Status}}"))
        waits = subprocess.Popen(one.argv("wait", "one"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        begun = time.monotonic()
        one.must("stop", "--time", "3", "one")
        holds("it had its time", time.monotonic() - begun >= 3)
        equal("wait", b"137\n", waits.communicate(timeout=60 * PATIENCE)[0])
        one.must("restart", "one")
        equal("running", "running", one.inspect("one", "{{.State.Status}}"))
        one.must("rm", "--force", "--time", "0", "one")


@case("podman: volumes, read-only root, user, capabilities, seccomp, environment", long=True)
def configurations():
    with podman() as one:
        shared = os.path.join(one.directory, "shared")
        os.makedirs(shared, exist_ok=True)
        with open(os.path.join(shared, "here"), "w", encoding="utf-8") as file:
            file.write("from the host\n")
        done = one.run("sh", "-c", "cat /ro/here; echo new >/rw/new; touch /ro/x || echo refused; sync",
                       options=("--rm", "-v", f"{shared}:/ro:ro", "-v", f"{shared}:/rw"))
        equal("volumes", b"from the host\nrefused\n", done.out)
        with open(os.path.join(shared, "new"), encoding="utf-8") as file:
            equal("on the host", "new\n", file.read())
        done = one.run("sh", "-c", "touch /here || echo refused; echo x >/tmp/x && cat /tmp/x",
                       options=("--rm", "--read-only", "--tmpfs", "/tmp"))
        equal("read-only", b"refused\nx\n", done.out)
        done = one.run("sh", "-c", "echo $(id -u):$(id -g) $(id -G) $A $(hostname) $(pwd)",
                       options=("--rm", "--user", "1234:1235", "--group-add", "77", "--env", "A=b", "--hostname", "box", "--workdir", "/data"))
        equal("user and environment", b"1234:1235 1235 77 b box /data\n", done.out)
        done = one.run("sh", "-c", "grep CapEff /proc/self/status; kill -0 1; test -u /bin/busybox; echo done",
                       options=("--rm", "--cap-drop", "all", "--cap-add", "chown"))
        equal("capabilities", b"CapEff:\t0000000000000001\ndone\n", done.out)
        profile = os.path.join(one.directory, "seccomp.json")
        with open(profile, "w", encoding="utf-8") as file:
            file.write('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}')
        done = one.run("sh", "-c", "mkdir /tmp/x || echo refused; grep Seccomp: /proc/self/status",
                       options=("--rm", "--security-opt", f"seccomp={profile}"))
        equal("seccomp", b"refused\nSeccomp:\t2\n", done.out)


@case("podman: --memory and --cpus bite", long=True)
def limits():
    with podman() as one:
        done = one.run("dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1", options=("--rm", "--memory", "32m"))
        equal("status without memory", 137, done.status)
        done = one.run("sh", "-c", "cd /sys/fs/cgroup; cat memory.max cpu.max pids.max",
                       options=("--rm", "--memory", "64m", "--cpus", "0.5", "--pids-limit", "50"))
        equal("what it sees", b"67108864\n50000 100000\n50\n", done.out)


@case("podman: a pod's network by its bridge: -p, and from container to container", long=True)
def networks():
    with podman() as one:
        one.must(*one.run_words("nc", "-ll", "-p", "7000", "-e", "echo", "mapped", network="podman",
                                options=("--detach", "--name", "server", "-p", "7779:7000")))
        address = one.inspect("server", "{{.NetworkSettings.IPAddress}}")
        holds("it has an address", re.match(r"10\.\d+\.\d+\.\d+$", address), address)
        client = subprocess.Popen(one.argv(*one.run_words("sh", "-c", f"nc {address} 7000 </dev/null", network="podman", options=("--rm",))),
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        read_until(client.stdout, b"mapped\n", 120)
        client.wait(60 * PATIENCE)
        one.must("rm", "--force", "--time", "0", "server")
