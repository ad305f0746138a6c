#!/usr/bin/env python3
"""Prints docs/reference/syscalls.md, made from guestkernel/syscalls/syscalls.def."""
import os
import re

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ROW = re.compile(r"^(SYSCALL|REFUSED|MISSING)\((\d+), (\w+)(?:, (\w+), \"(.*)\")?\)$")


def main():
    rows = []
    with open(os.path.join(TOP, "guestkernel/syscalls/syscalls.def"), encoding="utf-8") as table:
        for line in table:
            match = ROW.match(re.sub(r"\s+", " ", line.strip()).replace("( ", "("))
            if match:
                rows.append(match.groups())
            elif line.startswith(("SYSCALL(", "REFUSED(", "MISSING(")):
                raise SystemExit(f"syscalls.def: cannot read {line.strip()}")
    served = [row for row in rows if row[0] == "SYSCALL"]
    full = sum(row[3] == "Full" for row in served)
    refused = sum(row[0] == "REFUSED" for row in rows)
    print("# System calls\n")
    print("Made from `guestkernel/syscalls/syscalls.def` by `tools/syscalls/make_syscall_reference.py`; do not edit.\n")
    print(f"Of {len(rows)} calls in `asm/unistd_64.h`, {len(served)} are implemented ({full} fully, {len(served) - full} in part), "
          f"{refused} are refused for the reason given, {len(rows) - len(served) - refused} are not written yet and answer ENOSYS.\n")
    print("| number | name | support | note |")
    print("| --- | --- | --- | --- |")
    for kind, number, name, word, note in rows:
        support = {"SYSCALL": word and word.lower(), "REFUSED": f"refused ({word})", "MISSING": "missing"}[kind]
        print(f"| {number} | {name} | {support} | {note or ''} |")


if __name__ == "__main__":
    main()
