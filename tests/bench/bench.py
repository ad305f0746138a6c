#!/usr/bin/env python3
"""Prints the table of figures: the host, joey, and runsc where it is installed, measured in one run."""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import time


def median_output(command, times):
    """The median of the numbers that a program prints, over several runs of it."""
    numbers = []
    for _ in range(times):
        found = subprocess.run(command, capture_output=True, timeout=300)
        if found.returncode != 0:
            return None
        numbers.append(float(found.stdout.split()[0]))
    return statistics.median(numbers)


def median_seconds(command, times):
    spent = []
    for _ in range(times):
        start = time.monotonic()
        found = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=300)
        spent.append(time.monotonic() - start)
        if found.returncode != 0:
            return None
    return statistics.median(spent)


def boot_ms(joey, times):
    """Boot to first user instruction: from the guest's start to the mark, by --timing."""
    spans = []
    for _ in range(times):
        found = subprocess.run([*joey, "--timing", "--", "/bin/true"], stdin=subprocess.DEVNULL,
                               capture_output=True, timeout=60, text=True)
        at = {}
        for line in found.stderr.splitlines():
            row = re.match(r"\s*([\d.]+)\s+([\d.]+)\s+(host|guest)\s+(.*)", line)
            if row:
                at[row.group(4)] = float(row.group(1))
        first = next((value for name, value in at.items() if "user instruction" in name), None)
        if first is None or "guest started" not in at:
            return None
        spans.append(first - at["guest started"])
    return statistics.median(spans)


def pss_mib(command, patience=1.0):
    """The proportional set size of a sandbox that runs sleep, over all of its processes."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               start_new_session=True)
    try:
        time.sleep(patience)
        total = 0
        for pid in family(process.pid):
            with open(f"/proc/{pid}/smaps_rollup") as rollup:
                total += next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
        return total / 1024
    except (OSError, StopIteration):
        return None
    finally:
        for pid in family(process.pid):
            try:
                os.kill(pid, 9)
            except OSError:
                pass
        process.wait()


def family(pid):
    """A process and its descendants."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as stat:
                    parents.setdefault(int(stat.read().rsplit(")", 1)[1].split()[1]), []).append(int(entry))
            except OSError:
                pass
    found, waiting = [], [pid]
    while waiting:
        at = waiting.pop()
        found.append(at)
        waiting += parents.get(at, [])
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--joey", required=True)
    parser.add_argument("--primitives", required=True)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    options = parser.parse_args()
    few = 3 if options.quick else 5
    many = 10 if options.quick else 31

    joey = [options.joey, "do"]
    runsc_program = shutil.which("runsc")
    runsc = [runsc_program, "--ignore-cgroups", "--network=none", "do"] if runsc_program else None
    program = options.primitives

    def on_each(arguments, scale, times=few, inside=None):
        row = []
        for prefix, given in (([], arguments), ([*joey, "--"], inside or arguments), (runsc, inside or arguments)):
            value = None if prefix is None else median_output([*prefix, program, *given], times)
            row.append(None if value is None else value * scale)
        return row

    rows = []

    def add(name, unit, values, goal):
        rows.append((name, unit, values, goal))
        print_row(name, unit, values, goal)

    def print_row(name, unit, values, goal):
        def show(value):
            return f"{'-':>10}" if value is None else f"{value:10.2f}"
        host, guest = values[0], values[1]
        ratio = f"{guest / host:8.2f}x" if host and guest else f"{'-':>9}"
        columns = [show(host), show(guest), ratio] + ([show(values[2])] if runsc else [])
        print(f"{name:<34} {unit:<5}" + " ".join(columns) + f"   {goal}", flush=True)

    heading = f"{'medians':<34} {'unit':<5}{'host':>10} {'joey':>10} {'ratio':>9}" + (f" {'runsc':>10}" if runsc else "")
    print(heading + "   goal", flush=True)
    add("compute loop, per step", "ns", on_each(["compute"], 1), "within 1.03x")
    add("getpid", "us", on_each(["getpid"], 1e-3), "within 2 us")
    add("pipe: a byte written and read", "us", on_each(["pipe"], 1e-3), "within 5 us")
    add("context switch by pipe, one CPU", "us", on_each(["switch"], 1e-3), "within 15 us")
    add("read 4 KiB from the page cache", "us", on_each(["read"], 1e-3), "within 3 us")
    add("anonymous memory, per page", "us", on_each(["touch"], 1e-3), "within 1.5x")
    add("the same in random order", "us", on_each(["touch-random"], 1e-3), "within 8 us")
    add("fork + exit + wait", "us", on_each(["fork"], 1e-3), "within 1.0x")
    add("fork + execve + wait, static", "us", on_each(["exec"], 1e-3), "within 1.0x")
    add("a small file, tmpfs to overlay", "us", on_each(["files", "/dev/shm"], 1e-3, inside=["files", "/var/tmp"]), "within 3.0x")
    add("python3 -c pass, inside", "ms", on_each(["spawn", "/usr/bin/python3", "-c", "pass"], 1e-6), "within 2.0x")
    runsc_true = median_seconds([*runsc, "/bin/true"], few) if runsc else None
    true_host, true_joey = median_seconds(["/bin/true"], many), median_seconds([*joey, "--", "/bin/true"], many)
    add("start to end of /bin/true", "ms", [value and value * 1e3 for value in (true_host, true_joey, runsc_true)], "within 40 ms")
    add("boot to first user instruction", "ms", [None, boot_ms(joey, many), None], "within 10 ms")
    add("PSS with sleep", "MiB", [None, pss_mib([*joey, "--", "sleep", "100"]),
                                  pss_mib([*runsc, "sleep", "100"], 2.0) if runsc else None], "within 24 MiB")
    return 0 if all(values[1] is not None for _, _, values, _ in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
