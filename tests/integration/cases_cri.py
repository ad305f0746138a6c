"""Pods as Kubernetes makes them: containerd's CRI plugin, with networks by CNI plugins.

One sandbox with one container is in the short form; the rest takes minutes where /dev/kvm is emulated: --long."""

import base64
import os
import re
import time

from cri import plugin
from harness import PATIENCE, case, equal, holds
from own_network import ask, tool


def text(words):
    return base64.b64decode(words).decode()


def execute(cri, container, *command, seconds=0):
    done = cri.runtime("ExecSync", container_id=container, cmd=list(command), timeout=seconds)
    return text(done["stdout"]), text(done["stderr"]), done["exit_code"]


@case("CRI: a sandbox with a container: state, exec, log, removal")
def one_container():
    with plugin() as cri:
        pod = cri.sandbox("first")
        one = cri.container(pod, "one", "sh", "-c", "echo started; echo wrong >&2; exec sleep 1000")
        equal("state", "CONTAINER_RUNNING", cri.status(one)["state"])
        equal("exec", ("hi first\n", "bad\n", 3), execute(cri, one, "sh", "-c", "echo hi $(hostname); echo bad >&2; exit 3"))
        cri.until_log(pod, "one", ("stdout", "started"))
        cri.until_log(pod, "one", ("stderr", "wrong"))
        cri.remove(pod)


@case("CRI: two containers share the network and talk over localhost, not each other's files; pods reach each other", long=True)
def shared_network():
    with plugin() as cri:
        pod = cri.sandbox("pair")
        server = cri.container(pod, "server", "sh", "-c", "echo mine >/tmp/x; exec nc -ll -p 7000 -e echo from the server")
        client = cri.container(pod, "client", "sh", "-c", "exec sleep 1000")
        equal("over localhost", "from the server\n",
              execute(cri, client, "sh", "-c", "until nc 127.0.0.1 7000 </dev/null; do sleep 1; done")[0])
        equal("files", 1, execute(cri, client, "test", "-e", "/tmp/x")[2])
        equal("host name", "pair\n", execute(cri, client, "hostname")[0])
        equal("from the host", b"from the server\n", ask(cri.address(pod), 7000))
        other = cri.sandbox("other")
        near = cri.container(other, "near", "sleep", "1000")
        equal("from pod to pod", "from the server\n", execute(cri, near, "sh", "-c", f"nc {cri.address(pod)} 7000 </dev/null")[0])
        # One goes, the other stays, and a third comes.
        cri.runtime("StopContainer", container_id=server, timeout=0)
        cri.runtime("RemoveContainer", container_id=server)
        equal("the other lives on", "ok\n", execute(cri, client, "echo", "ok")[0])
        again = cri.container(pod, "again", "sleep", "1000", metadata={"name": "again", "attempt": 1})
        equal("a later one", "pair\n", execute(cri, again, "hostname")[0])
        for place in (other, pod):
            cri.remove(place)


@case("CRI: ends: by itself, in its grace period, after it; for want of memory; a program that is not there", long=True)
def ends():
    with plugin() as cri:
        pod = cri.sandbox("ends")
        done = cri.container(pod, "done", "sh", "-c", "exit 7")
        found = cri.until(done, "CONTAINER_EXITED")
        equal("by itself", (7, "Error"), (found["exit_code"], found["reason"]))
        polite = cri.container(pod, "polite", "sh", "-c", "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 1; done")
        cri.until_log(pod, "polite", ("stdout", "up"))
        cri.runtime("StopContainer", container_id=polite, timeout=int(30 * PATIENCE))
        equal("in its grace period", 5, cri.status(polite)["exit_code"])
        cri.until_log(pod, "polite", ("stdout", "bye"))
        stubborn = cri.container(pod, "stubborn", "sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done")
        cri.until_log(pod, "stubborn", ("stdout", "up"))
        begun = time.monotonic()
        cri.runtime("StopContainer", container_id=stubborn, timeout=3)
        holds("it had its time", time.monotonic() - begun >= 3)
        equal("after its grace period", 137, cri.status(stubborn)["exit_code"])
        hungry = cri.container(pod, "hungry", "sh", "-c", "exec dd if=/dev/zero of=/dev/null bs=200M count=1",
                               linux={"resources": {"memory_limit_in_bytes": 32 << 20}})
        found = cri.until(hungry, "CONTAINER_EXITED")
        equal("for want of memory", (137, "OOMKilled"), (found["exit_code"], found["reason"]))
        config = {"metadata": {"name": "none", "attempt": 0}, "image": {"image": "joey.test/busybox:latest"}, "command": ["nonesuch"],
                  "log_path": "none.log", "linux": {}}
        made = cri.runtime("CreateContainer", pod_sandbox_id=pod, config=config, sandbox_config=cri.configs[pod])["container_id"]
        holds("a program that is not there", "nonesuch" in cri.refused("StartContainer", container_id=made))
        cri.remove(pod)


@case("CRI: user, groups, read-only root, capabilities, volumes, environment, directory, sysctls", long=True)
def configurations():
    with plugin() as cri:
        pod = cri.sandbox("set-up", linux={"sysctls": {"net.ipv4.ip_unprivileged_port_start": "80"}})
        volume = f"{cri.one.directory}/volume"
        os.makedirs(volume, exist_ok=True)
        with open(f"{volume}/here", "w", encoding="utf-8") as file:
            file.write("from the host\n")
        user = cri.container(
            pod, "user", "sh", "-c", "id -u; id -G; pwd; echo $WORDS; touch /x || echo refused; cat /ro/here; "
            "touch /ro/new || echo refused; echo new >/rw/new && sync; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; "
            "grep -E 'CapBnd|NoNewPrivs' /proc/self/status",
            working_dir="/data", envs=[{"key": "WORDS", "value": "some words"}],
            mounts=[{"container_path": "/ro", "host_path": volume, "readonly": True}, {"container_path": "/rw", "host_path": volume}],
            linux={"security_context": {"run_as_user": {"value": "0"}, "run_as_group": {"value": "1235"}, "supplemental_groups": ["77"],
                                        "readonly_rootfs": True, "no_new_privs": True,
                                        "capabilities": {"drop_capabilities": ["ALL"], "add_capabilities": ["CHOWN"]}}})
        cri.until(user, "CONTAINER_EXITED")
        equal("what it says", ["0", "1235 77", "/data", "some words", "refused", "from the host", "refused", "80",
                               "CapBnd:\t0000000000000001", "NoNewPrivs:\t1"],
              [words for stream, words in cri.log(pod, "user") if stream == "stdout"])
        with open(f"{volume}/new", encoding="utf-8") as file:
            equal("on the host", "new\n", file.read())
        guest = cri.container(pod, "guest", "id", "-u", linux={"security_context": {"run_as_username": "guest"}})
        cri.until(guest, "CONTAINER_EXITED")
        equal("by name", [("stdout", "1234")], cri.log(pod, "guest"))
        cri.remove(pod)


@case("CRI: statistics; limits changed while it runs; a log that is opened again; exec that takes too long", long=True)
def while_it_runs():
    with plugin() as cri:
        pod = cri.sandbox("busy")
        one = cri.container(pod, "one", "sh", "-c", "while :; do echo line; sleep 1; done",
                            linux={"resources": {"memory_limit_in_bytes": 64 << 20}})
        cri.until_log(pod, "one", ("stdout", "line"))
        found = cri.runtime("ContainerStats", container_id=one)["stats"]
        holds("memory", 0 < int(found["memory"]["working_set_bytes"]["value"]) < 64 << 20, str(found))
        before = int(found["cpu"]["usage_core_nano_seconds"]["value"])
        equal("work", 0, execute(cri, one, "sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")[2])
        after = int(cri.runtime("ContainerStats", container_id=one)["stats"]["cpu"]["usage_core_nano_seconds"]["value"])
        holds("processor time grows", after > before > 0, f"{before}, then {after}")
        listed = cri.runtime("ListContainerStats", filter={"pod_sandbox_id": pod})["stats"]
        equal("list", [one], [entry["attributes"]["id"] for entry in listed])
        cri.runtime("UpdateContainerResources", container_id=one, linux={"memory_limit_in_bytes": 96 << 20})
        shown = execute(cri, one, "sh", "-c", "cd /sys/fs/cgroup; cat memory.max 2>/dev/null || cat memory/memory.limit_in_bytes")[0]
        equal("the new limit", f"{96 << 20}\n", shown)
        place = f"{cri.configs[pod]['log_directory']}/one.log"
        os.rename(place, place + ".1")
        cri.runtime("ReopenContainerLog", container_id=one)
        cri.until_log(pod, "one", ("stdout", "line"))
        holds("too long", "DEADLINE_EXCEEDED" in cri.refused("ExecSync", container_id=one, cmd=["sleep", "4321"], timeout=2))
        listed = execute(cri, one, "ps")[0]
        holds("it is gone", "sleep 4321" not in listed, listed)
        cri.remove(pod)


@case("CRI: a port of the host leads into the pod; the rule goes with the pod", long=True)
def port_mapping():
    with plugin() as cri:
        pod = cri.sandbox("mapped", port_mappings=[{"protocol": "TCP", "container_port": 7000, "host_port": 7778}])
        cri.container(pod, "one", "nc", "-ll", "-p", "7000", "-e", "echo", "mapped")
        equal("directly", b"mapped\n", ask(cri.address(pod), 7000))
        tool("ip", "addr", "replace", "192.0.2.1/32", "dev", "lo")
        equal("by the host's address", b"mapped\n", ask("192.0.2.1", 7778))
        # What a kubelet does when a sandbox has died: it is stopped twice, and removed twice.
        for _ in range(2):
            cri.runtime("StopPodSandbox", pod_sandbox_id=pod)
        for _ in range(2):
            cri.runtime("RemovePodSandbox", pod_sandbox_id=pod)
        rules = tool("iptables", "-t", "nat", "-S")
        holds("no rule stays", not re.search(r"7778", rules), rules)


@case("CRI: namespaces: of processes, of the pod or of each; of the host's network", long=True)
def namespaces():
    with plugin() as cri:
        pod = cri.sandbox("processes", linux={"security_context": {"namespace_options": {"pid": "POD"}}})
        options = {"security_context": {"namespace_options": {"pid": "POD"}}}
        cri.container(pod, "one", "sleep", "4321", linux=options)
        two = cri.container(pod, "two", "sleep", "1000", linux=options)
        listed = execute(cri, two, "ps")[0]
        holds("it sees the other", "sleep 4321" in listed, listed)
        alone = cri.container(pod, "alone", "sleep", "1000", linux={"security_context": {"namespace_options": {"pid": "CONTAINER"}}})
        listed = execute(cri, alone, "ps")[0]
        holds("it sees itself alone", "sleep 4321" not in listed and re.search(r"^\s*1 .*sleep 1000", listed, re.M), listed)
        cri.remove(pod)
