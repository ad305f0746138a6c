"""Mixed load, and hostile system calls, for a long time: nothing grows, and the kernel reports nothing. Short forms, and long ones by --long."""

import os
import re

from harness import JOEY, PATIENCE, case, holds, joey

MIX = os.path.join(os.path.dirname(os.path.abspath(__file__)), "soak", "mix.py")


def soak(seconds, rounds, *options):
    result = joey("python3", MIX, str(seconds), str(rounds), options=("--net", "none", "--kernel-log", "warning", *options),
                  timeout=2 * seconds * (rounds + 1) + 120)
    out, err = result.out.decode(errors="replace"), result.err.decode(errors="replace")
    holds("no growth", result.status == 0 and out.endswith("no growth\n"), out[-1500:] + err[-1500:])
    # The OOM killer says what it does; all else above "notice" is the kernel's complaint.
    reports = [line for line in err.splitlines() if line and not re.search(r"(?i)out of memory|oom|killed", line)]
    holds("the kernel reports nothing", not reports, "\n".join(reports[:20]))


@case("soak: a short while of everything at once")
def short():
    soak(4 * PATIENCE ** 0.5, 2, "--memory", "384M")


@case("soak: half an hour of everything at once, one vCPU and two", long=True)
def long_one():
    for cpus in ("1", "2"):
        soak(60, 15, "--memory", "512M", "--cpus", cpus)


STORM = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(JOEY))), "tests/syscall_storm")


def storm(rounds, seed, *options):
    result = joey(STORM, "--rounds", str(rounds), "--seed", str(seed),
                  options=("--net", "none", "--memory", "512M", "--kernel-log", "warning", *options), timeout=120 + 30 * rounds)
    holds("the kernel stands", result.status == 0, result.out.decode(errors="replace")[-300:] + result.err.decode(errors="replace")[-1500:])


@case("storm: random system calls with hostile arguments")
def storm_short():
    storm(5, 1)
    storm(3, 100, "--cpus", "2")


@case("storm: random system calls, four thousand rounds", long=True)
def storm_long():
    for seed, cpus in ((1000, "1"), (100000, "2")):
        storm(2000, seed, "--cpus", cpus)
