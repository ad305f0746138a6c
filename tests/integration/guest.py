#!/usr/bin/env python3
"""Runs the static programs of tests/guest on the host, which is the oracle, then inside: guest.py PROGRAM...

Without /dev/kvm here they run inside in an emulated machine, in ring3 mode: the suite `qemu` does ring0."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import emulated  # noqa: E402  (after the path is set)
from harness import CASES, JOEY, case, has_kvm, holds, run, run_cases  # noqa: E402

PROGRAMS = [os.path.abspath(argument) for argument in sys.argv[1:]]


def add(program, where, argv):
    @case(f"{os.path.basename(program)}: {where}")
    def passes():
        wanted = emulated.ARGUMENTS.get(os.path.basename(program), []) if argv else []
        result = run([*argv, program, *wanted])
        holds("passes", result.status == 0, f"status {result.status}\n" + (result.out + result.err).decode(errors="replace"))


def main():
    for program in PROGRAMS:
        add(program, "on the host", [])
        if has_kvm():
            add(program, "inside", [JOEY, "do", "--"])
    names = {program: os.path.basename(program) for program in PROGRAMS}
    oracle = [emulated.Case(f"{name}: on the emulated machine's Linux", [program, *emulated.ARGUMENTS[name]])
              for program, name in names.items() if name in emulated.ARGUMENTS]
    inside = [] if has_kvm() else oracle + [
        emulated.Case(f"{name}: inside", [JOEY, "do", "--privilege", "ring3", "--",
                                          *emulated.randomized([program, *emulated.ARGUMENTS.get(name, [])])])
        for program, name in names.items()]
    print(f"1..{len(CASES) + len(inside)}", flush=True)
    failed = run_cases([(name, function) for name, function, _ in CASES])
    if inside:
        failed += emulated.run(inside, first=len(CASES) + 1, case_seconds=120)
    return 1 if failed else 0


sys.exit(main())
