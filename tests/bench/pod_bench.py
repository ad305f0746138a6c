#!/usr/bin/env python3
"""Prints the figures of pods: containerd's `ctr run` with joey, runc, and runsc where it is installed, in one run. Root runs it."""

import argparse
import concurrent.futures
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "integration"))

SNAPSHOTTER = "overlayfs"
# A name, what containerd calls it, and the program that has to be there.
RUNTIMES = [("joey", "io.containerd.joey.v2", None), ("runc", "io.containerd.runc.v2", "runc"),
            ("runsc", "io.containerd.runsc.v1", "containerd-shim-runsc-v1")]
START_SECONDS = 300  # that a container may take to come up
SETTLE_SECONDS = 10  # until what is idle has given back what its start took


def of_pod(pod, kind):
    """How CRI says which pod a container belongs to; all shims of containerd's go by it."""
    return ("--annotation", f"io.kubernetes.cri.container-type={kind}", "--annotation", f"io.kubernetes.cri.sandbox-id={pod}")


def processes():
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def pss_mib(pids):
    """What these processes take of memory, shared pages by their share."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, StopIteration):
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
                total += next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
    return total / 1024


class Bench:
    def __init__(self, one, image):
        self.one, self.image = one, image
        self.number = 0

    def words(self, runtime, name, *command, options=()):
        return self.one.argv("run", "--snapshotter", SNAPSHOTTER, "--runtime", runtime, *options, self.image, name, *command)

    def ctr(self, argv):
        """Seconds."""
        began = time.monotonic()
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=START_SECONDS)
        spent = time.monotonic() - began
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
        return spent

    def those_that_work(self):
        """The runtimes by name. Those that are there and cannot run anything are left out with a word, except joey."""
        found = {}
        for name, runtime, program in RUNTIMES:
            if program is not None and shutil.which(program) is None:
                continue
            try:
                self.new_pod(runtime)
                found[name] = runtime
            except RuntimeError as error:
                if name == "joey":
                    raise
                print(f"# {name} is left out: {error}", file=sys.stderr)
        return found

    def name(self):
        self.number += 1
        return f"bench{self.number}"

    def new_pod(self, runtime):
        return self.ctr(self.words(runtime, self.name(), "true", options=("--rm",)))

    def second(self, runtime, pod):
        return self.ctr(self.words(runtime, self.name(), "true", options=("--rm", *of_pod(pod, "container"))))

    def start(self, runtime, name, options=()):
        return self.ctr(self.words(runtime, name, "sleep", "100000", options=("--detach", *options)))

    def remove(self, name):
        for words in (("tasks", "kill", "--signal", "SIGKILL", name), ("tasks", "delete", "--force", name), ("containers", "delete", name)):
            subprocess.run(self.one.argv(*words), stdin=subprocess.DEVNULL, capture_output=True, timeout=START_SECONDS, check=False)

    @contextlib.contextmanager
    def pod(self, runtime):
        name = self.name()
        self.start(runtime, name, of_pod(name, "sandbox"))
        try:
            yield name
        finally:
            self.remove(name)

    def many(self, runtime, count):
        """So many pods started at once: seconds until all run, and MiB for each when they idle."""
        before = processes()
        names = [self.name() for _ in range(count)]
        try:
            with concurrent.futures.ThreadPoolExecutor(count) as pool:
                began = time.monotonic()
                for done in [pool.submit(self.start, runtime, name) for name in names]:
                    done.result()
                spent = time.monotonic() - began
            time.sleep(SETTLE_SECONDS)
            return spent, pss_mib(processes() - before - {os.getpid()}) / count
        finally:
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                list(pool.map(self.remove, names))


def in_turns(measures, times):
    """The median of each, in milliseconds: one after the other, so that the machine's other load meets all of them."""
    spent = {name: [] for name in measures}
    for _ in range(times):
        for name, measure in measures.items():
            spent[name].append(measure() * 1e3)
    return {name: statistics.median(values) for name, values in spent.items()}


def print_row(name, unit, figures, there, goal):
    columns = " ".join(f"{figures[runtime]:10.1f}" if runtime in figures else f"{'-':>10}" for runtime in there)
    ratio = f"{figures['joey'] / figures['runc']:8.2f}x" if "joey" in figures and "runc" in figures else f"{'-':>9}"
    print(f"{name:<34} {unit:<4}{columns} {ratio}   {goal}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--joey", required=True)
    parser.add_argument("--pods", type=int, default=50, help="how many at once; 0: none")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    options = parser.parse_args()
    os.environ["JOEY"] = os.path.abspath(options.joey)
    import containerd # asks the environment for joey

    times = 3 if options.quick else 11
    bench = Bench(containerd.begin(SNAPSHOTTER), containerd.IMAGE)
    there = bench.those_that_work()
    print(f"{'medians':<34} {'unit':<4}" + " ".join(f"{name:>10}" for name in there) + f" {'joey/runc':>9}   goal", flush=True)
    print_row("ctr run --rm true, a new pod", "ms",
              in_turns({name: lambda runtime=runtime: bench.new_pod(runtime) for name, runtime in there.items()}, times), there, "within 2.0x")
    with contextlib.ExitStack() as stack:
        pods = {name: stack.enter_context(bench.pod(runtime)) for name, runtime in there.items()}
        print_row("the same in a running pod", "ms",
                  in_turns({name: lambda name=name: bench.second(there[name], pods[name]) for name in there}, times), there, "within 1.0x")
    if options.pods > 0:
        many = {name: bench.many(runtime, options.pods) for name, runtime in there.items()}
        print_row(f"{options.pods} pods at once, all running", "ms", {name: found[0] * 1e3 for name, found in many.items()}, there, "")
        print_row("each of them idle: PSS", "MiB", {name: found[1] for name, found in many.items()}, there, "within 30 MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
