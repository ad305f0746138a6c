"""Standard streams: pipes, files, closed ones, the environment, the working directory."""

import array
import fcntl
import hashlib
import os
import subprocess
import termios

from harness import JOEY, Failed, case, equal, holds, joey, joey_sh, run, same, scratch, started, wait_end


@case("streams: stdout and stderr stay apart")
def apart():
    result = joey_sh("echo out; echo err >&2; echo out2; echo err2 >&2")
    equal("stdout", b"out\nout2\n", result.out)
    equal("stderr", b"err\nerr2\n", result.err)


@case("streams: stdin arrives whole and ends")
def stdin_whole():
    data = os.urandom(5_000_000)
    result = joey("sha256sum", stdin=data)
    equal("sum", hashlib.sha256(data).hexdigest(), result.out.decode().split()[0])


@case("streams: ten megabytes of binary output arrive unchanged")
def binary_output():
    result = joey("head", "-c", "10000000", "/dev/zero")
    equal("length", 10_000_000, len(result.out))
    holds("zeros", not any(result.out[:: 4099]))


@case("streams: cat of every byte value")
def every_byte():
    data = bytes(range(256)) * 100
    equal("echo", data, joey("cat", stdin=data).out)


@case("streams: an empty stdin ends at once")
def empty_stdin():
    equal("count", b"0\n", joey("wc", "-c", stdin=b"").out)


@case("streams: /dev/null as stdin")
def null_stdin():
    equal("count", b"0\n", run([JOEY, "do", "--", "wc", "-c"], stdin=None).out)


@case("streams: no stream is a terminal when none is one outside")
def not_terminals():
    result = joey_sh("for i in 0 1 2; do test -t $i && echo $i; done; true")
    equal("terminals", b"", result.out)


@case("streams: stdin from a file is read from its current offset")
def stdin_file():
    with scratch() as folder:
        path = os.path.join(folder, "input")
        with open(path, "wb") as file:
            file.write(b"first\nsecond\nthird\n")
        with open(path, "rb") as file:
            file.seek(6)
            found = subprocess.run([JOEY, "do", "--", "cat"], stdin=file, capture_output=True, timeout=60)
        equal("rest", b"second\nthird\n", found.stdout)


@case("streams: stdout into a file")
def stdout_file():
    with scratch() as folder:
        path = os.path.join(folder, "output")
        with open(path, "wb") as file:
            subprocess.run([JOEY, "do", "--", "seq", "100000"], stdout=file, stdin=subprocess.DEVNULL, timeout=60)
        with open(path, "rb") as file:
            equal("contents", b"".join(b"%d\n" % i for i in range(1, 100001)), file.read())


def closed_stream(fd):
    @case(f"streams: descriptor {fd} closed outside is closed inside")
    def closed():
        argv = [JOEY, "do", "--", "bash", "-c", "for i in 0 1 2; do test -e /proc/self/fd/$i || echo closed $i; "
                "done > /dev/stdout 2>/dev/null; test -e /proc/self/fd/%d && exit 1; exit 7" % fd]
        found = subprocess.run(["bash", "-c", 'exec "$@" %d>&-' % fd, "bash", *argv],
                               stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
        equal("status", 7, found.returncode)


for each in (0, 1, 2):
    closed_stream(each)


@case("streams: a reader that goes away ends the writer (yes | head)")
def broken_pipe():
    found = subprocess.run(["bash", "-c", f"'{JOEY}' do -- yes | head -n 3; echo ${{PIPESTATUS[0]}}"],
                           capture_output=True, timeout=30)
    equal("output", b"y\ny\ny\n141\n", found.stdout)


@case("streams: input is not read ahead of the program")
def interactive():
    with started("bash", "-c", "read a; echo got $a; read b; echo got $b") as vm:
        vm.stdin.write(b"one\n")
        vm.stdin.flush()
        equal("first answer", b"got one\n", vm.stdout.readline())
        vm.stdin.write(b"two\n")
        vm.stdin.flush()
        equal("second answer", b"got two\n", vm.stdout.readline())
        equal("status", 0, wait_end(vm))


@case("streams: a full stdout pipe slows the program down and loses nothing")
def slow_reader():
    with started("bash", "-c", "seq 300000; echo end >&2") as vm:
        pending = array.array("i", [0])
        while pending[0] < 65536:  # pipe(7): the capacity
            fcntl.ioctl(vm.stdout, termios.FIONREAD, pending)
            holds("it still runs", vm.poll() is None)
        data = vm.stdout.read()
        equal("lines", 300000, data.count(b"\n"))
        equal("status", 0, wait_end(vm))


@case("environment: the caller's, with --env over it")
def environment():
    env = {"PATH": os.environ["PATH"], "KEPT": "as it is", "CHANGED": "before"}
    result = run([JOEY, "do", "--env", "CHANGED=after", "--env", "NEW=a=b c", "--", "env"], env=env)
    lines = set(result.out.decode().splitlines())
    for wanted in ("KEPT=as it is", "CHANGED=after", "NEW=a=b c"):
        holds(wanted, wanted in lines, lines)


@case("working directory: the caller's")
def working_directory():
    same("pwd; ls", cwd="/usr/lib")


@case("working directory: --cwd")
def cwd_option():
    equal("pwd", b"/etc\n", joey("pwd", options=["--cwd", "/etc"]).out)


@case("arguments: passed through exactly, options of the program included")
def arguments():
    odd = ["--", "-x", "", "a b", "*", "$HOME", "\u00e9\n", "--cpus", "0"]
    result = run([JOEY, "do", "python3", "-c", "import sys; print(sys.argv[1:])", *odd])
    equal("argv", repr(odd) + "\n", result.out.decode())


@case("hostname: joey, and --hostname")
def hostname():
    equal("default", b"joey\n", joey("uname", "-n").out)
    equal("given", b"pouch\n", joey("uname", "-n", options=["--hostname", "pouch"]).out)


@case("user: the caller's")
def user():
    same("id -u; id -g; id -G")


@case("user: --user by number, by name, with a group")
def user_option():
    for text, expected in (("1234:5678", b"1234 5678\n"), ("nobody", b"65534 65534\n"), ("nobody:daemon", b"65534 1\n")):
        equal(text, expected, joey_sh("echo $(id -u) $(id -g)", options=["--user", text]).out)


@case("umask and limits: the caller's")
def umask_and_limits():
    same("umask 027; umask; exec true")
    command = ["bash", "-c", f"umask 027; ulimit -n 777; exec '{JOEY}' do -- bash -c 'umask; ulimit -n'"]
    equal("umask, open files", b"0027\n777\n", run(command).out)
    # The soft one is the program's, though joey raises its own.
    command = ["bash", "-c", f"ulimit -Sn 256; ulimit -Hn; exec '{JOEY}' do -- bash -c 'ulimit -Sn; ulimit -Hn'"]
    hard, *inside = run(command).out.split()
    equal("open files, soft and hard", [b"256", hard], inside)


@case("randomness of addresses: the caller's")
def randomness():
    same("cat /proc/sys/kernel/randomize_va_space")
    script = "cat /proc/sys/kernel/randomize_va_space; for i in 1 2 3; do grep stack /proc/self/maps; done | sort -u | wc -l"
    result = run(["setarch", "-R", JOEY, "do", "--", "sh", "-c", script])
    equal("with setarch -R", b"0\n1\n", result.out)


@case("cpus and memory: as given")
def size():
    result = joey_sh("nproc; awk '/MemTotal/ {print ($2 > 400000 && $2 <= 524288)}' /proc/meminfo",
                     options=["--cpus", "3", "--memory", "512M"])
    equal("nproc, memory", b"3\n1\n", result.out)


@case("strace: the program's system calls are named on stderr")
def strace():
    result = joey("/bin/true", options=["--strace"])
    equal("status", 0, result.status)
    for word in (b"openat(", b"mmap(", b"exit_group("):
        holds(f"{word} is there", word in result.err, result.err)


@case("timing: a table on stderr, nothing on stdout")
def timing():
    result = joey("/bin/true", options=["--timing"])
    equal("stdout", b"", result.out)
    holds("first user instruction", b"user" in result.err, result.err)
