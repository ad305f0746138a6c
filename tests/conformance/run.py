#!/usr/bin/env python3
"""Other people's test suites, in the guest and on the host's own Linux, side by side; prints TAP.

    run.py [--rootfs DIR] [--jobs N] [--host-results FILE] [--host-only] [--list] SUITE [CASE...]

A case that passes on the host must pass in the guest, unless expected_failures.txt names it with a reason. Both run in the
same Debian root directory (built by debootstrap on first use, see rootfs.py), each under an overlay in memory; the host runs
only what does not pass in the guest.
"""

import argparse
import concurrent.futures
import json
import os
import re
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import rootfs  # noqa: E402  (after the path is set)
from suites import PATIENCE, SUITES  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
JOEY = os.environ.get("JOEY", os.path.join(HERE, "../../build/tools/joey/joey"))

# The host's side: a mount namespace with an overlay over the root directory, as `joey do` makes one, and its own PIDs.
ON_HOST = r"""
set -e
top=$(mktemp -d)
mount -t tmpfs none "$top"
mkdir "$top/upper" "$top/work" "$top/root"
mount -t overlay overlay -o "lowerdir=$1,upperdir=$top/upper,workdir=$top/work" "$top/root"
mount -t proc proc "$top/root/proc"
mount --rbind /dev "$top/root/dev"
mount -t tmpfs none "$top/root/dev/shm"
mount -t sysfs sysfs "$top/root/sys"
mount -t cgroup2 cgroup2 "$top/root/sys/fs/cgroup"
cd "$top/root"
shift
# Not chroot: who stands in one may not make user namespaces.
pivot_root . .
umount -l .
cd /
exec "$@"
"""


class Finished:
    def __init__(self, status, output, seconds):
        self.status, self.output, self.seconds = status, output, seconds


def run(argv, timeout, env):
    started = time.monotonic()
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               env=env, start_new_session=True, cwd="/")
    try:
        output, _ = process.communicate(timeout=timeout * PATIENCE)
        status = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        status = None
    return Finished(status, output.decode(errors="replace"), time.monotonic() - started)


def environment(case):
    settings = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
    settings.update(case.env)
    return settings


def on_host(root, case):
    return run(["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", ON_HOST, "sh", root, *case.argv],
               case.timeout, environment(case))


def in_guest(root, case):
    settings = [part for name, value in environment(case).items() for part in ("--env", f"{name}={value}")]
    # joey hands its own environment on.
    return run([JOEY, "do", "--rootfs", root, "--cwd", "/", "--hostname", "joey", "--memory", "2G", *settings, "--", *case.argv],
               case.timeout, environment(case))


def verdict(case, finished):
    if finished.status is None:
        return "timeout"
    return case.outcome(finished.status, finished.output)


def expected_failures(suite):
    """SUITE CASE: reason"""
    found = {}
    with open(os.path.join(HERE, "expected_failures.txt"), encoding="utf-8") as text:
        for line in text:
            match = re.match(r"(\S+) ([^:#]+): (.+)", line)
            if match and match.group(1) == suite:
                found[match.group(2)] = match.group(3).strip()
    return found


def tail(text, lines=40):
    return [line for line in text.splitlines() if line.strip()][-lines:]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rootfs", help="use this root directory instead of the cached Debian")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--host-results", help="a file that keeps what passed on the host from run to run")
    parser.add_argument("--host-only", action="store_true", help="run the cases on the host: are they right themselves?")
    parser.add_argument("--list", action="store_true", help="name the cases")
    parser.add_argument("suite", choices=sorted(SUITES))
    parser.add_argument("cases", nargs="*")
    options = parser.parse_args()

    suite = SUITES[options.suite]
    root = options.rootfs or rootfs.provide()
    cases = [case for case in suite(root) if not options.cases or case.name in options.cases]
    if options.list:
        print("\n".join(case.name for case in cases))
        return 0
    known = {}
    if options.host_results and os.path.exists(options.host_results):
        with open(options.host_results, encoding="utf-8") as file:
            known = json.load(file)
    excused = expected_failures(options.suite)

    def both(case):
        if options.host_only:
            host = on_host(root, case)
            return case, "ok", verdict(case, host), host
        guest = in_guest(root, case)
        inside = verdict(case, guest)
        key = f"{options.suite} {case.name}"
        if inside != "ok" and key not in known:  # else there is nothing to compare
            host = on_host(root, case)
            known[key] = verdict(case, host)
        return case, known.get(key, "ok"), inside, guest

    print(f"1..{len(cases)}", flush=True)
    failures = 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for number, (case, outside, inside, guest) in enumerate(pool.map(both, cases), 1):
            label = f"{number} - {options.suite}: {case.name}"
            if outside != "ok":
                print(f"ok {label} # SKIP {outside} on the host", flush=True)
            elif inside == "ok" and case.name in excused and not options.host_only:
                failures += 1
                print(f"not ok {label}", flush=True)
                print("# passes: take it off expected_failures.txt", flush=True)
            elif inside == "ok":
                print(f"ok {label}", flush=True)
            elif case.name in excused:
                print(f"ok {label} # SKIP expected: {excused[case.name]}", flush=True)
            else:
                failures += 1
                print(f"not ok {label}", flush=True)
                print(f"# {inside} after {guest.seconds:.1f} s, status {guest.status}", flush=True)
                for line in tail(guest.output):
                    print(f"# {line}", flush=True)
            if options.host_results:
                with open(options.host_results + ".new", "w", encoding="utf-8") as file:
                    json.dump(known, file, indent=0, sort_keys=True)
                os.replace(options.host_results + ".new", options.host_results)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
