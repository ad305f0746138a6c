"""The suites: each makes its cases from a root directory."""

import glob
import os
import re
import subprocess


# As the end-to-end cases have it: how much longer than usual things may take.
PATIENCE = float(os.environ.get("JOEY_TEST_PATIENCE", "1"))


class Case:
    def __init__(self, name, argv, timeout=120, env=None, outcome=None):
        self.name, self.argv, self.timeout, self.env = name, argv, timeout, env or {}
        self.outcome = outcome or (lambda status, output: "ok" if status == 0 else "failed")


# ---- CPython's own tests, a module each ---------------------------------------------------------

def regrtest_outcome(status, output):
    """A module that skips itself exits with 0 as well."""
    if status != 0:
        return "failed"
    return "skipped" if re.search(r"^\d+ tests? skipped:", output, re.MULTILINE) else "ok"


def cpython(root):
    tests = os.path.join(root, "usr/lib/python3.11/test")
    names = [os.path.basename(path).removesuffix(".py") for path in glob.glob(tests + "/test_*.py")]
    names += [os.path.basename(os.path.dirname(path)) for path in glob.glob(tests + "/test_*/__init__.py")]
    return [Case(name, ["/usr/bin/python3.11", "-m", "test", "--timeout", str(int(280 * PATIENCE)), name], timeout=300,
                 outcome=regrtest_outcome)
            for name in sorted(set(names))]


# ---- stress-ng, a stressor each -----------------------------------------------------------------

# Those that need hardware, firmware or kernel modules. And `resources`: 0.15 sends SIGALRM to process numbers that it read from memory
# it never set; among the small numbers of a fresh VM it finds itself.
NOT_HERE = set("""
    apparmor binderfs cpu-online efivar gpu ipsec-mb kvm memhotplug pci physpage resources rtc smi uprobe watchdog
    """.split())


def stress_outcome(status, _output):
    """stress-ng(1), EXIT STATUS: 3 and 4 are for what the system has not got."""
    return {0: "ok", 3: "skipped", 4: "skipped"}.get(status, "failed")


def stress_ng(root):
    listed = subprocess.run(["chroot", root, "stress-ng", "--stressors"], stdout=subprocess.PIPE, check=True).stdout.decode().split()
    return [Case(name, ["stress-ng", f"--{name}", "2", "--timeout", "2", "--verify", "--no-rand-seed"], timeout=60, outcome=stress_outcome)
            for name in listed if name not in NOT_HERE]


# ---- programs' own checks of themselves ---------------------------------------------------------

def openssl(_root):
    algorithms = ["md5", "sha1", "sha256", "sha512", "aes-128-cbc", "aes-256-gcm", "chacha20-poly1305", "rsa2048", "ecdsap256", "ed25519"]
    return [Case(f"speed {name}", ["openssl", "speed", "-seconds", "1", *(["-evp"] if "-" in name else []), name], timeout=120)
            for name in algorithms]


# ---- programs as people use them: a script of the folder software/ each ---------------------------

SOFTWARE_HEAD = "set -euo pipefail; set -x; cd \"$(mktemp -d)\"\n"


def software(_root):
    cases = []
    for path in sorted(glob.glob(os.path.join(os.path.dirname(os.path.abspath(__file__)), "software/*.sh"))):
        with open(path, encoding="utf-8") as file:
            text = file.read()
        seconds = re.search(r"^# seconds: (\d+)", text, re.MULTILINE)
        cases.append(Case(os.path.basename(path).removesuffix(".sh"), ["bash", "-c", SOFTWARE_HEAD + text],
                          timeout=int(seconds.group(1)) if seconds else 120))
    return cases


SUITES = {"cpython": cpython, "openssl": openssl, "software": software, "stress-ng": stress_ng}
