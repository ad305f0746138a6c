"""Runs of joey inside an emulated machine (tools/emulate), many in one boot; prints them as TAP."""

import os
import shlex
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../tools/emulate"))

import machine  # noqa: E402  (after the path is set)

# check NAME EXPECTED-STATUS EXPECTED-STDOUT COMMAND...: the stdout `*` is any.
SCRIPT = r"""
check() {
    name=$1 status=$2 expected=$3
    shift 3
    timeout -k 10 @SECONDS@ "$@" </dev/null >/tmp/.out 2>/tmp/.err
    found=$?
    if [ $found -eq $status ] && { [ "$expected" = '*' ] || [ "$(cat /tmp/.out)" = "$expected" ]; }; then
        echo "@@ ok $name"
    else
        echo "@@ failed $name"
        echo "@@# status $found, expected $status"
        tail -n 12 /tmp/.out | sed 's/^/@@# out: /'
        tail -n 25 /tmp/.err | sed 's/^/@@# err: /'
    fi
}
"""

# What a guest test is told where all that it may want is there: inside, and on the emulated machine's Linux, the oracle,
# which has the vsock loopback and the breakpoints that this machine's may lack and settings of the whole machine that a test may change.
ARGUMENTS = {"guest-address_layout": ["all"], "guest-breakpoints": ["all"], "guest-clock_steps": ["all"],
             "guest-deadlines": ["all"], "guest-vsock": ["loopback"]}
RING0_ARGUMENTS = {**ARGUMENTS, "guest-cpu_numbers": ["ring0"], "guest-wild_jumps": ["ring0"]}  # on that Linux, too


def randomized(command):
    """The emulated machine's programs have fixed addresses, for speed; joey passes that on. Guest tests have random ones."""
    return ["sh", "-c", 'echo 2 >/proc/sys/kernel/randomize_va_space; exec "$@"', "sh", *command]


class Case:
    def __init__(self, name, argv, status=0, output="*"):
        self.name, self.argv, self.status, self.output = name, argv, status, output


class Report:
    """Turns the script's lines into TAP, numbered from `first`, as they come."""

    def __init__(self, cases, first):
        self.left = {case.name for case in cases}
        self.number, self.failed, self.text, self.last = first - 1, 0, b"", []

    def result(self, good, name):
        self.number += 1
        self.failed += not good
        self.left.discard(name)
        print(f"{'ok' if good else 'not ok'} {self.number} - {name}", flush=True)

    def take(self, chunk):
        self.text += chunk
        *lines, self.text = self.text.split(b"\n")
        for line in (raw.decode(errors="replace").rstrip("\r") for raw in lines):
            kind, _, rest = line.partition(" ")
            if kind == "@@#":
                print(f"# {rest}", flush=True)
            elif kind == "@@" and rest.partition(" ")[0] in ("ok", "failed"):
                self.result(rest.startswith("ok "), rest.partition(" ")[2])
            else:
                self.last = [*self.last[-29:], line]


def run(cases, first=1, case_seconds=60, seconds=900):
    """Runs the cases and prints a line for each; returns how many failed."""
    report = Report(cases, first)
    started = time.monotonic()
    with tempfile.NamedTemporaryFile("w", prefix="joey-cases-", suffix=".sh", encoding="utf-8") as script:
        script.write(SCRIPT.replace("@SECONDS@", str(case_seconds)))
        for case in cases:
            script.write(shlex.join(["check", case.name, str(case.status), case.output, *case.argv]) + "\n")
        script.flush()
        try:
            # One CPU: with two, QEMU's machine stood still in some runs.
            machine.run(["sh", script.name], report.take, cpus=1, memory_mib=3072, seconds=seconds)
        except machine.Unavailable as problem:
            print(f"Bail out! {problem}")
            return len(cases)
    for case in cases:
        if case.name in report.left:
            report.result(False, case.name)
            print("# was not run; the machine's last lines:")
            for line in report.last:
                print(f"#   {line}")
    print(f"# {time.monotonic() - started:.0f} s under emulation", flush=True)
    return report.failed
