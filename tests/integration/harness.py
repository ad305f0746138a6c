"""What the end-to-end cases share: running joey and the host side by side, a pty, TAP output."""

import contextlib
import errno
import faulthandler
import fcntl
import os
import pty
import re
import select
import shlex
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import traceback

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
JOEY = os.environ.get("JOEY", os.path.join(TOP, "build/tools/joey/joey"))
# How much longer than on an ordinary machine things may take: in an emulated one (tools/emulate), a good deal.
PATIENCE = float(os.environ.get("JOEY_TEST_PATIENCE", "1"))
CASES = []  # (name, function, only_long)


class Failed(Exception):
    """A case that did not hold; the message says what differed."""


def case(name, long=False):
    def register(function):
        CASES.append((name, function, long))
        return function
    return register


# ---- running ------------------------------------------------------------------------------------

class Finished:
    def __init__(self, status, out, err, seconds):
        self.status, self.out, self.err, self.seconds = status, out, err, seconds


def run(argv, timeout=60, stdin=b"", env=None, cwd=None, **extra):
    """Runs argv to its end. A signal's death shows as 128 + its number, as a shell says it."""
    started = time.monotonic()
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, cwd=cwd, start_new_session=True,
        **extra)
    try:
        out, err = process.communicate(stdin, timeout=timeout * PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise Failed(f"{shlex.join(argv)}: still running after {timeout} s\n"
                     f"stdout: {short(out)}\nstderr: {short(err)}")
    status = process.returncode if process.returncode >= 0 else 128 - process.returncode
    return Finished(status, out, err, time.monotonic() - started)


def joey(*command, options=(), **extra):
    return run([JOEY, "do", *options, "--", *command], **extra)


def joey_sh(script, options=(), **extra):
    return joey("bash", "-c", script, options=options, **extra)


@contextlib.contextmanager
def started(*command, options=(), **extra):
    """A running joey; killed at the end if it still runs."""
    settings = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                    start_new_session=True)
    settings.update(extra)
    process = subprocess.Popen([JOEY, "do", *options, "--", *command], **settings)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def read_until(stream, marker, timeout=30):
    """Reads from an unbuffered pipe until `marker` came."""
    deadline = time.monotonic() + timeout * PATIENCE
    seen = b""
    while marker not in seen:
        ready, _, _ = select.select([stream], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            raise Failed(f"{marker!r} did not come within {timeout} s; seen: {short(seen)}")
        chunk = os.read(stream.fileno(), 65536)
        if not chunk:
            raise Failed(f"the stream ended before {marker!r}; seen: {short(seen)}")
        seen += chunk
    return seen


def wait_end(process, timeout=30):
    try:
        process.wait(timeout * PATIENCE)
    except subprocess.TimeoutExpired:
        raise Failed(f"joey still runs after {timeout} s") from None
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


# ---- expectations -------------------------------------------------------------------------------

def short(data, limit=1500):
    text = data.decode(errors="backslashreplace") if isinstance(data, bytes) else str(data)
    return text if len(text) <= limit else text[:limit] + f"... ({len(text)} characters)"


def equal(what, expected, found):
    if expected != found:
        raise Failed(f"{what}: expected {short(repr(expected))}, found {short(repr(found))}")


def holds(what, condition, details=""):
    if not condition:
        raise Failed(f"{what}{': ' if details else ''}{short(details)}")


def first_difference(host, guest):
    host_lines, guest_lines = host.splitlines(), guest.splitlines()
    for number, (a, b) in enumerate(zip(host_lines, guest_lines), 1):
        if a != b:
            return f"line {number}\n  host:  {short(a, 300)}\n  guest: {short(b, 300)}"
    shorter = "guest" if len(guest_lines) < len(host_lines) else "host"
    return f"{len(host_lines)} lines on the host, {len(guest_lines)} in the guest: the {shorter}'s ends early"


def same(command, timeout=120, options=(), stdin=b"", stderr=True, **extra):
    """The command's output, byte for byte, and its status are the host's."""
    argv = ["bash", "-c", command] if isinstance(command, str) else list(command)
    host = run(argv, timeout=timeout, stdin=stdin, **extra)
    guest = joey(*argv, options=options, timeout=timeout, stdin=stdin, **extra)
    problems = []
    if host.status != guest.status:
        problems.append(f"status: {host.status} on the host, {guest.status} in the guest")
    if host.out != guest.out:
        problems.append("stdout differs at " + first_difference(host.out, guest.out))
    if stderr and host.err != guest.err:
        problems.append(f"stderr differs:\n  host:  {short(host.err)}\n  guest: {short(guest.err)}")
    elif problems:
        problems.append(f"guest's stderr: {short(guest.err)}")
    if problems:
        raise Failed("\n".join(problems))


def one_line_failure(result, *words):
    """joey's own failure: status 125, nothing on stdout, one line on stderr with all of `words`."""
    equal("status", 125, result.status)
    equal("stdout", b"", result.out)
    text = result.err.decode(errors="replace")
    holds("one line on stderr", text.count("\n") == 1 and text.endswith("\n"), text)
    holds("the line begins with 'joey: '", text.startswith("joey: "), text)
    for word in words:
        holds(f"the line says '{word}'", word.lower() in text.lower(), text)


# ---- what is left behind --------------------------------------------------------------------------

def joey_processes():
    """Process ids, of joey and of its terminal's guardian; zombies that wait for us are not counted."""
    binary = os.path.realpath(JOEY)
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{entry}/exe").removesuffix(" (deleted)") == binary:
                    found.append(int(entry))
    return found


def nothing_left(before, patience=3.0):
    deadline = time.monotonic() + patience * PATIENCE
    while True:
        left = [pid for pid in joey_processes() if pid not in before]
        if not left:
            return
        if time.monotonic() > deadline:
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            raise Failed(f"processes of joey left behind: {left}")
        time.sleep(0.02)


@contextlib.contextmanager
def scratch():
    with tempfile.TemporaryDirectory(prefix="joey-test-") as path:
        os.chmod(path, 0o755)
        yield path


# ---- terminals ------------------------------------------------------------------------------------

class Terminal:
    """A pty with a program on it, as a person would drive it."""

    def __init__(self, argv, columns=80, rows=24, env=None):
        self.master, slave = pty.openpty()
        self.resize(columns, rows)
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.seen = b""
        settings = dict(os.environ, TERM="xterm", PS1="$ ", **(env or {}))

        def take_terminal():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, env=settings,
                                        preexec_fn=take_terminal)

    def resize(self, columns, rows):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def mode(self):
        return termios.tcgetattr(self.slave)

    def send(self, text):
        os.write(self.master, text if isinstance(text, bytes) else text.encode())

    def pump(self, seconds):
        ready, _, _ = select.select([self.master], [], [], seconds)
        if not ready:
            return False
        try:
            chunk = os.read(self.master, 65536)
        except OSError as error:
            if error.errno == errno.EIO:
                return False
            raise
        self.seen += chunk
        return bool(chunk)

    def expect(self, pattern, timeout=30):
        """Waits for a regular expression; what came up to its end is consumed."""
        compiled = re.compile(pattern if isinstance(pattern, bytes) else pattern.encode())
        deadline = time.monotonic() + timeout * PATIENCE
        while True:
            found = compiled.search(self.seen)
            if found:
                self.seen = self.seen[found.end():]
                return found
            if time.monotonic() > deadline:
                raise Failed(f"{pattern!r} did not appear within {timeout} s; seen: {short(self.seen)}")
            self.pump(0.1)

    def appears(self, pattern, timeout):
        """As expect(), for what may not come at all: whether it came."""
        with contextlib.suppress(Failed):
            self.expect(pattern, timeout)
            return True
        return False

    def end(self, timeout=30):
        deadline = time.monotonic() + timeout * PATIENCE
        while self.process.poll() is None:
            self.pump(0.05)
            if time.monotonic() > deadline:
                raise Failed(f"the program still runs after {timeout} s; seen: {short(self.seen)}")
        code = self.process.returncode
        return code if code >= 0 else 128 - code

    def wait_mode(self, wanted, what, timeout=5):
        deadline = time.monotonic() + timeout * PATIENCE
        while self.mode() != wanted:
            if time.monotonic() > deadline:
                raise Failed(f"{what}: the terminal's mode is {self.mode()}, not {wanted}")
            self.pump(0.02)

    def close(self):
        if self.process.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self.slave)
        os.close(self.master)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def joey_terminal(*command, options=(), **extra):
    return Terminal([JOEY, "do", *options, "--", *command], **extra)


# ---- the runner -----------------------------------------------------------------------------------

def has_kvm():
    return os.access("/dev/kvm", os.R_OK | os.W_OK)


def run_cases(chosen):
    """Runs (name, function) pairs and prints a line of TAP for each; returns how many failed."""
    # Whoever started us in the background may have had these ignored, which programs inherit.
    for ignored in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTSTP):
        signal.signal(ignored, signal.SIG_DFL)
    failures = 0
    for number, (name, function) in enumerate(chosen, 1):
        before = set(joey_processes())
        start = time.monotonic()
        # Whoever is killed since it takes too long has said where it stood.
        faulthandler.dump_traceback_later(120 * PATIENCE, repeat=True)
        try:
            function()
            nothing_left(before)
            problem = None
        except Failed as failed:
            problem = str(failed)
        except Exception:  # a case that breaks is a case that failed
            problem = traceback.format_exc()
        faulthandler.cancel_dump_traceback_later()
        if problem is not None:
            with contextlib.suppress(Failed):
                nothing_left(before, 0.2)
        seconds = time.monotonic() - start
        print(f"{'ok' if problem is None else 'not ok'} {number} - {name}", flush=True)
        if problem is not None:
            failures += 1
            for line in problem.splitlines():
                print(f"# {line}", flush=True)
        elif seconds > 5:
            print(f"# {seconds:.1f} s", flush=True)
    return failures


def main(include_long, only, needs_kvm=True):
    if needs_kvm and not has_kvm():
        print("Bail out! /dev/kvm is missing or not accessible; these tests need it (tools/emulate runs them in a machine that has it)")
        return 1
    if not os.access(JOEY, os.X_OK):
        print(f"Bail out! there is no {JOEY}; build it, or name another in JOEY")
        return 1
    chosen = [(name, function) for name, function, long in CASES
              if (include_long or not long) and (not only or any(word in name for word in only))]
    print(f"1..{len(chosen)}", flush=True)
    return 1 if run_cases(chosen) else 0
