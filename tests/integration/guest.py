#!/usr/bin/env python3
"""Runs the static programs of tests/guest on the host, then inside: guest.py PROGRAM..."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from harness import JOEY, case, equal, holds, main, run  # noqa: E402  (after the path is set)


def add(program):
    name = os.path.basename(program)

    @case(f"{name}: on the host")
    def on_host():
        result = run([program])
        holds("Linux passes it", result.status == 0, f"status {result.status}\n" + (result.out + result.err).decode(errors="replace"))

    @case(f"{name}: inside")
    def inside():
        result = run([JOEY, "do", "--", program])
        holds("passes", result.status == 0, f"status {result.status}\n" + (result.out + result.err).decode(errors="replace"))


for argument in sys.argv[1:]:
    add(argument)
sys.exit(main(False, []))
