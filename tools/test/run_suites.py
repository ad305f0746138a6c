#!/usr/bin/env python3
"""Runs suites of tests of a Meson build and counts their cases; see README.md beside this file."""

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree

# Suites of the build with sanitizers.
SANITIZED = {"asan", "fuzz", "fuzz-long"}

# Suites whose programs start VMs or measure time run one at a time.
PARALLEL = {"unit", "asan", "fuzz", "fuzz-long"}

# Where there is no /dev/kvm, VMs run in emulated machines that have it (tools/emulate). These do not see each other: each core has one.
EMULATED = {"guest", "integration", "qemu", "long"}
# Suites whose programs are put there as they are (the others see to it themselves: half of `guest` runs on this machine's own Linux).
# Each step is given that much more time, and a program at least so many seconds: what hangs there is to be told of, not waited for.
NEED_KVM = {"integration", "long"}
PATIENCE = 6
EMULATED_SECONDS = 900
# Programs that are not run there, since they would take hours: they count as skipped, and the last line says so.
TOO_LONG_IN_EMULATION = {"programs", "resources"}
# Programs of those suites that start no VM.
NO_VM = {"images"}


def have_kvm():
    return os.access("/dev/kvm", os.R_OK | os.W_OK)


def emulated(suite):
    return suite in NEED_KVM and not have_kvm()


def in_emulation(test, top):
    """The same test, run in an emulated machine."""
    seconds = max(test["timeout"], EMULATED_SECONDS)
    settings = [f"{name}={value}" for name, value in test["env"].items()]
    return dict(test, timeout=seconds + 60, cmd=[
        os.path.join(top, "tools/emulate/emulate.py"), "--cpus", "1", "--seconds", str(seconds), "--", "env", f"JOEY_TEST_PATIENCE={PATIENCE}", *settings,
        *test["cmd"]])


@dataclasses.dataclass
class Outcome:
    name: str
    passed: int = 0
    failures: list = dataclasses.field(default_factory=list)  # (case, details)
    skipped: list = dataclasses.field(default_factory=list)
    seconds: float = 0.0


@dataclasses.dataclass
class Stage:
    tests: list  # (suite, test)
    apart: bool  # in emulated machines
    parallel: bool


# For how long output is read of what a program has left behind, in a session of its own.
LEFT_BEHIND_SECONDS = 10

# When all of this began, in the clock's seconds: with the script that builds, if one called us.
BEGAN = float(os.environ.get("JOEY_TEST_BEGAN", time.time()))
# By then it is to end with a verdict, for whoever gives it no more time.
MINUTES = float(os.environ.get("JOEY_TEST_MINUTES", "inf"))


def left():
    """Seconds that remain."""
    return BEGAN + 60 * MINUTES - time.time()


def say(text):
    print(text, flush=True)


def since_start():
    minutes, seconds = divmod(int(time.time() - BEGAN), 60)
    return f"{minutes}:{seconds:02}"


def out_of_time(test):
    if left() <= 0:
        return f"the {MINUTES:g} minutes for everything (JOEY_TEST_MINUTES) were over"
    return f"ran into its timeout of {test['timeout']} s"


def run_program(test, extra, env, stream):
    """Runs one program to its end or its timeout. Returns (status, output); a timeout has status None."""
    process = subprocess.Popen(
        test["cmd"] + extra, cwd=test["workdir"], env=env, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    limit = time.monotonic() + min(test["timeout"] if test["timeout"] > 0 else float("inf"), max(left(), 0))
    ended = None
    output = b""
    told = 0
    while True:
        ready, _, _ = select.select([process.stdout], [], [], 0.5)
        now = time.monotonic()
        if ready:
            chunk = os.read(process.stdout.fileno(), 1 << 16)
            if not chunk:
                break
            output += chunk
            *lines, _ = output[told:].split(b"\n")
            for line in lines:
                told += len(line) + 1
                if stream and re.match(rb"(not )?ok\b", line):
                    say("  " + line.decode(errors="replace"))
        elif ended is not None and now > ended + LEFT_BEHIND_SECONDS:
            break
        if ended is None and process.poll() is not None:
            ended = now
        if now > limit:
            break
    try:
        status = process.wait(max(limit - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
        status = None
    # The session is ours: everything that the test left running goes with it.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    return status, output.decode(errors="replace")


def tail(text, lines=60):
    return "\n".join(text.splitlines()[-lines:])


def run_catch(test, env, outcome):
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        status, output = run_program(test, ["-r", "junit", "-o", report.name], env, False)
        try:
            cases = list(ElementTree.parse(report.name).getroot().iter("testcase"))
        except ElementTree.ParseError:
            cases = []
    by_name = {}
    for case in cases:
        # Sections of one TEST_CASE are reported one by one; the case is what counts.
        name = case.get("classname", "").split(".")[-1] + ": " + case.get("name", "").split("/")[0]
        problems = by_name.setdefault(name, [])
        problems += [(p.get("message") or "") + "\n" + (p.text or "")
                     for p in list(case.findall("failure")) + list(case.findall("error"))]
    for name, problems in by_name.items():
        if problems:
            outcome.failures.append((name, "\n".join(problems)))
        else:
            outcome.passed += 1
    if status is None:
        outcome.failures.append(("(ends in time)", f"{out_of_time(test)}\n" + tail(output)))
    elif not cases or (status != 0 and not outcome.failures):
        outcome.failures.append(("(runs to its end)", f"exit status {status}\n" + tail(output)))


def run_tap(test, env, outcome):
    status, output = run_program(test, [], env, True)
    planned = None
    seen = 0
    details = []
    for line in output.splitlines():
        plan = re.match(r"1\.\.(\d+)", line)
        result = re.match(r"(not )?ok\b\s*\d*\s*-?\s*(.*)", line)
        if plan:
            planned = int(plan.group(1))
        elif result:
            seen += 1
            name, _, directive = result.group(2).partition(" # ")
            if directive.upper().startswith("SKIP"):
                outcome.skipped.append(f"{name} ({directive[4:].strip()})")
            elif result.group(1):
                outcome.failures.append((name, ""))
                details = []
            else:
                outcome.passed += 1
        elif line.startswith("Bail out!"):
            outcome.failures.append(("(goes on)", line))
        elif outcome.failures and line.startswith("#"):
            # A failure's explanation follows it.
            name, text = outcome.failures[-1]
            outcome.failures[-1] = (name, text + line + "\n")
        else:
            details.append(line)
    if status is None:
        outcome.failures.append(("(ends in time)", f"{out_of_time(test)}\n" + tail(output)))
    elif planned is not None and seen != planned:
        outcome.failures.append(("(runs all its cases)", f"{seen} of {planned} cases, exit status {status}\n" + tail(output)))
    elif (status != 0 and not outcome.failures) or seen == 0:
        outcome.failures.append(("(runs to its end)", f"exit status {status}\n" + tail(output)))


def run_plain(test, env, outcome):
    status, output = run_program(test, [], env, False)
    if status == 0:
        outcome.passed = 1
    elif status is None:
        outcome.failures.append(("(ends in time)", f"{out_of_time(test)}\n" + tail(output)))
    else:
        outcome.failures.append(("(succeeds)", f"exit status {status}\n" + tail(output)))


def is_catch(test):
    program = test["cmd"][0]
    if test["protocol"] != "exitcode" or not os.access(program, os.X_OK):
        return False
    with open(program, "rb") as file:
        return b"--list-reporters" in file.read()


def run_test(test, suite):
    outcome = Outcome(f"{suite}: {test['name']}")
    env = dict(os.environ)
    env.update(test["env"])
    env.setdefault("ASAN_OPTIONS", "detect_stack_use_after_return=1")
    env.setdefault("UBSAN_OPTIONS", "halt_on_error=1:print_stacktrace=1")
    started = time.monotonic()
    if left() <= 0:
        outcome.failures.append(("(is run)", out_of_time(test)))
    elif is_catch(test):
        run_catch(test, env, outcome)
    elif test["protocol"] == "tap":
        run_tap(test, env, outcome)
    else:
        run_plain(test, env, outcome)
    outcome.seconds = time.monotonic() - started
    return outcome


def tests_of(build, suite):
    listed = json.loads(subprocess.check_output(["meson", "introspect", "--tests", build]))
    for test in listed:
        # Meson names programs relative to the build directory, where its own runner starts them.
        test["workdir"] = test["workdir"] or os.path.abspath(build)
    return [test for test in listed
            if any(name.split(":")[-1] == suite or test["name"] == suite for name in test["suite"])]


def programs_of(build, suites):
    """The files that the suites' tests start or need, relative to the build directory."""
    files = {target["id"]: target["filename"] for target in json.loads(subprocess.check_output(["meson", "introspect", "--targets", build]))}
    needed = set()
    for test in (test for suite in suites for test in tests_of(build, suite)):
        needed.add(os.path.join(test["workdir"], test["cmd"][0]))
        for target in test["depends"]:
            needed.update(files[target])
    return {os.path.relpath(name, build) for name in needed}


def report(outcome):
    counts = f"{outcome.passed} passed, {len(outcome.failures)} failed"
    if outcome.skipped:
        counts += f", {len(outcome.skipped)} skipped"
    say(f"{outcome.name}: {counts} ({outcome.seconds:.1f} s, at {since_start()})")
    for name in outcome.skipped:
        say(f"  skipped: {name}")
    for name, details in outcome.failures:
        say(f"  FAILED: {name}")
        for line in tail(details).splitlines():
            say("    " + line)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--top", required=True)
    parser.add_argument("--build", help="build directory (default: TOP/build)")
    parser.add_argument("--programs", action="store_true", help="name the suites' programs and what they depend on, relative to the build directory; run none")
    parser.add_argument("suites", nargs="+")
    options = parser.parse_args()
    build = options.build or os.path.join(options.top, "build")

    if options.programs:
        print("\n".join(sorted(programs_of(build, options.suites))))
        return 0

    passed = failed = skipped = 0
    stages = []  # (tests with their suites, jobs): what is under way at the same time
    for suite in options.suites:
        if suite in SANITIZED:
            tests = tests_of(build + "-asan", "unit" if suite == "asan" else suite)
        else:
            tests = tests_of(build, suite)
        if not tests:
            say(f"FAILED: there is no test or suite named {suite}")
            failed += 1
        if emulated(suite):
            say(f"{suite}: /dev/kvm is missing here: it runs in emulated machines, except what would take hours")
            left_out = [test["name"] for test in tests if test["name"] in TOO_LONG_IN_EMULATION or suite == "long"]
            for name in left_out:
                say(f"{suite}: {name}: skipped: it needs a /dev/kvm of this machine's own")
            skipped += len(left_out)
            tests = [test if test["name"] in NO_VM else in_emulation(test, options.top)
                     for test in tests if test["name"] not in left_out]
        apart = suite in EMULATED and not have_kvm()
        tests = [(suite, test) for test in tests]
        if apart and stages and stages[-1].apart:
            stages[-1].tests += tests
        else:
            stages.append(Stage(tests, apart, parallel=apart or suite in PARALLEL))

    for stage in stages:
        counts = collections.Counter(suite for suite, _ in stage.tests)
        say("== " + ", ".join(f"{suite}: {count} programs" for suite, count in counts.items()))
        jobs = len(os.sched_getaffinity(0)) if stage.parallel else 1
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            for done in concurrent.futures.as_completed([pool.submit(run_test, test, suite) for suite, test in stage.tests]):
                outcome = done.result()
                report(outcome)
                passed += outcome.passed
                failed += len(outcome.failures)
                skipped += len(outcome.skipped)
    say(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
