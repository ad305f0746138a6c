#!/usr/bin/env python3
"""Runs a command in an emulated machine that has a genuine /dev/kvm: emulate.py [options] -- COMMAND...

The machine's root directory is this machine's, under an overlay in memory. QEMU emulates a CPU with SVM, Debian's cloud kernel with
kvm_amd runs on it: ring 0 is ring 0 there, and everything is ten times slower and more."""

import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import machine  # noqa: E402  (after the path is set)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--memory", type=int, default=4096, metavar="MIB")
    parser.add_argument("--seconds", type=int, default=3600, help="ends the machine after this time (status 124)")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("which command?")

    def show(chunk):
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()

    try:
        status = machine.run(command, show, options.cpus, options.memory, options.seconds, directory=os.getcwd())
    except machine.Unavailable as problem:
        print(f"emulate: {problem}", file=sys.stderr)
        return 125
    return 124 if status is None else status


if __name__ == "__main__":
    sys.exit(main())
