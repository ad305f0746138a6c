#!/usr/bin/env python3
"""Runs end-to-end cases: run.py [--long] [--only WORD]... GROUP..., with JOEY naming the program."""

import argparse
import importlib
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import harness  # noqa: E402  (after the path is set)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--long", action="store_true", help="also the cases that take minutes")
    parser.add_argument("--only", action="append", default=[], metavar="WORD",
                        help="only cases whose name has WORD in it")
    parser.add_argument("groups", nargs="+", metavar="GROUP", help="a file cases_GROUP.py")
    options = parser.parse_args()
    groups = [importlib.import_module(f"cases_{group}") for group in options.groups]
    needs_kvm = any(getattr(group, "NEEDS_KVM", True) for group in groups)
    return harness.main(options.long, options.only, needs_kvm)


if __name__ == "__main__":
    sys.exit(main())
