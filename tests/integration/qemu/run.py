#!/usr/bin/env python3
"""joey in ring0 mode, on the genuine SVM semantics that QEMU's emulation gives a nested KVM; prints TAP."""

import argparse
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import emulated  # noqa: E402  (after the path is set)

STATUS_CASES = [
    ("true gives 0", 0, "", ["true"]),
    ("false gives 1", 1, "", ["false"]),
    ("exit 42 gives 42", 42, "", ["sh", "-c", "exit 42"]),
    ("output arrives", 0, "hello", ["echo", "hello"]),
    ("a missing program gives 127", 127, "", ["/no/such/program"]),
    ("a file that is not executable gives 126", 126, "", ["/etc/passwd"]),
    ("SIGTERM gives 143", 143, "", ["sh", "-c", "kill -TERM $$"]),
    ("SIGKILL gives 137", 137, "", ["sh", "-c", "kill -KILL $$"]),
    ("a pipeline", 0, "3", ["sh", "-c", "seq 3 | wc -l"]),
    ("children and their statuses", 0, "7", ["sh", "-c", "(exit 7); echo $?"]),
    ("the overlay takes writes", 0, "x", ["sh", "-c", "echo x > /tmp/f; cat /tmp/f"]),
]
RING3_SHORT = {"true gives 0", "exit 42 gives 42", "output arrives", "a pipeline", "SIGTERM gives 143"}
# Those that say something else with two CPUs.
TWO_CPUS = {"guest-copied_pages", "guest-futexes", "guest-memory", "guest-processes", "guest-signals", "guest-stale_translations"}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--joey", required=True)
    parser.add_argument("--seconds", type=int, default=900, help="limit of the whole run")
    parser.add_argument("--case-seconds", type=int, default=60)
    parser.add_argument("--ring3-programs", nargs="*", default=[])
    parser.add_argument("--programs", nargs="*", default=[], help="guest tests: static programs")
    options = parser.parse_args()
    cases = []

    def add(mode, name, status, output, command, cpus="1"):
        cases.append(emulated.Case(f"{mode}: {name}", [os.path.abspath(options.joey), "do", "--cpus", cpus, "--memory", "128M", "--privilege", mode, "--",
                                                       *command], status, output))

    for mode in ("ring0", "ring3"):
        for name, status, output, command in STATUS_CASES:
            if mode == "ring0" or name in RING3_SHORT:
                add(mode, name, status, output, command)
    for program in map(os.path.abspath, options.programs):
        name = os.path.basename(program)
        more = emulated.RING0_ARGUMENTS.get(name, [])
        if more:
            cases.append(emulated.Case(f"Linux: guest test {name}", [program, *more]))
        command = emulated.randomized([program, *more])
        add("ring0", f"guest test {name}", 0, "*", command)
        if name in TWO_CPUS:
            add("ring0", f"guest test {name}, two CPUs", 0, "*", command, cpus="2")
        if name in options.ring3_programs:
            add("ring3", f"guest test {name}", 0, "*", emulated.randomized([program, *emulated.ARGUMENTS.get(name, [])]))
    print(f"1..{len(cases)}", flush=True)
    return 1 if emulated.run(cases, case_seconds=options.case_seconds, seconds=options.seconds) else 0


if __name__ == "__main__":
    sys.exit(main())
