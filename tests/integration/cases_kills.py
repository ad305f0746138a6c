"""kill -9 of the shim, of the VM and of containerd at moments that nobody chose: nothing stays, and the next container works.

A round takes a quarter of a minute and more where /dev/kvm is emulated: --long. JOEY_TEST_ROUNDS says how many, JOEY_TEST_SEED repeats some."""

import contextlib
import os
import random
import signal
import subprocess
import time

import containerd
from cri import plugin
from harness import PATIENCE, Failed, case, equal, holds

VICTIMS = ("shim", "VM", "containerd")


def pids_of(one, victim):
    """Those that there are at this moment."""
    if victim == "shim":
        return [pid for pid, words in containerd.of_joey().items() if "containerd-shim-joey-v2" in words.split(" ")[0]]
    found = []
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(f"{containerd.STATE}/{one.name_space}/pods"):
            with contextlib.suppress(OSError, ValueError):
                found.append(one.vm_pid(name))
    return found


def kill_one(one, victim):
    if victim == "containerd":
        one.stop(signal.SIGKILL)
        return
    for pid in pids_of(one, victim):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def rounds(number, one, a_round):
    """Each with a victim and a moment; what was wrong is told with what repeats it."""
    number = int(os.environ.get("JOEY_TEST_ROUNDS", number))
    seed = int(os.environ.get("JOEY_TEST_SEED", time.time_ns() % 1000000))
    chance = random.Random(seed)
    begun = time.monotonic()
    a_round(None, 0)
    span = time.monotonic() - begun
    for index in range(number):
        victim, wait = VICTIMS[index % len(VICTIMS)], chance.uniform(0, span)
        try:
            a_round(victim, wait)
        except Failed as failed:
            raise Failed(f"round {index}, seed {seed}: kill -9 of {victim} after {wait:.2f} of {span:.2f} s: {failed}") from None
    equal("the next one", b"works\n", one.run("next", "echo", "works").out)


def life(one):
    """What a container goes through, by ctr."""
    steps = [one.run_words("one", "sleep", "1000", options=("--detach",)), ("tasks", "exec", "--exec-id", "e", "one", "true"),
             ("tasks", "pause", "one"), ("tasks", "resume", "one"), ("tasks", "kill", "--signal", "SIGKILL", "one"),
             ("tasks", "delete", "one"), ("containers", "delete", "one")]
    script = "\n".join(subprocess.list2cmdline(one.argv("--timeout", "60s", *step)) for step in steps)
    return subprocess.Popen(["sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                            start_new_session=True)


def kills_by_ctr(number):
    with containerd.containerd() as one:
        def a_round(victim, wait):
            process = life(one)
            if victim is not None:
                time.sleep(wait)
                kill_one(one, victim)
                if victim == "containerd":
                    one.start()
            try:
                process.wait(300 * PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise Failed("a call of ctr does not end") from None
            one.ctr("tasks", "delete", "--force", "one")
            one.ctr("containers", "delete", "one")
            containerd.nothing_is_left(one)
        rounds(number, one, a_round)


@case("kills: a container's life by ctr, a hundred rounds", long=True)
def lives():
    kills_by_ctr(100)


@case("kills: a pod of the CRI plugin, with its network: each victim, and once more each", long=True)
def pods():
    with plugin() as cri:
        for victim in VICTIMS * 2:
            pod = cri.sandbox("pod")
            container = cri.container(pod, "one", "sleep", "1000")
            kill_one(cri.one, victim)
            if victim == "containerd":
                cri.one.start()
                cri.until_ready()
                equal("it goes on", "CONTAINER_RUNNING", cri.status(container)["state"])
                equal("exec", 0, cri.runtime("ExecSync", container_id=container, cmd=["true"], timeout=0)["exit_code"])
            else:
                found = cri.until(container, "CONTAINER_EXITED")
                holds("how it ended", found["exit_code"] in (137, 255), str(found))
            cri.remove(pod)
            cri.nothing_is_left()
