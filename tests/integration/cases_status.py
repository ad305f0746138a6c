"""Exit statuses, and signals to joey."""

import os
import signal
import time

from harness import (case, equal, holds, joey, joey_processes, joey_sh, nothing_left, read_until, run, started,
                     wait_end)


def status_case(name, status, *command, words=()):
    @case(f"status: {name}")
    def check():
        result = joey(*command)
        equal("status", status, result.status)
        for word in words:
            holds(f"stderr says '{word}'", word in result.err.decode(), result.err)


status_case("true gives 0", 0, "/bin/true")
status_case("false gives 1", 1, "/bin/false")
status_case("exit 42 gives 42", 42, "bash", "-c", "exit 42")
status_case("exit 255 gives 255", 255, "bash", "-c", "exit 255")
status_case("exit 125 of the program stays 125", 125, "bash", "-c", "exit 125")
status_case("a program found by PATH runs", 0, "true")
status_case("a program that is not there gives 127", 127, "/no/such/program", words=["/no/such/program"])
status_case("a name that PATH does not have gives 127", 127, "no-such-program-here", words=["no-such-program-here"])
status_case("a file that is not executable gives 126", 126, "/etc/passwd", words=["/etc/passwd"])
status_case("a directory gives 126", 126, "/tmp")
status_case("SIGKILL gives 137", 137, "bash", "-c", "kill -KILL $$")
status_case("SIGTERM gives 143", 143, "bash", "-c", "kill -TERM $$")
status_case("SIGSEGV gives 139", 139, "python3", "-c", "import ctypes; ctypes.string_at(0)")
status_case("SIGABRT gives 134", 134, "python3", "-c", "import os; os.abort()")
status_case("SIGFPE by a division gives 136", 136, "bash", "-c", "kill -FPE $$")


@case("status: orphans of the program end with the VM")
def orphans():
    result = joey_sh("(sleep 1000 &) ; exit 3", timeout=20)
    equal("status", 3, result.status)


def forwarded(number):
    name = signal.Signals(number).name

    @case(f"signal: {name} reaches the program's handler")
    def handled():
        script = f"trap 'echo caught; exit 9' {name[3:]}; echo ready; while :; do sleep 0.05; done"
        with started("bash", "-c", script) as vm:
            read_until(vm.stdout, b"ready")
            vm.send_signal(number)
            read_until(vm.stdout, b"caught")
            equal("status", 9, wait_end(vm))


for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT):
    forwarded(each)


@case("signal: SIGTERM ends a program without a handler, status 143")
def default_action():
    with started("bash", "-c", "echo ready; exec sleep 1000") as vm:
        read_until(vm.stdout, b"ready")
        vm.send_signal(signal.SIGTERM)
        equal("status", 143, wait_end(vm))


@case("signal: one that comes before the program runs is not lost")
def early_signal():
    with started("sleep", "1000") as vm:
        # Once the signals are blocked; before that joey dies of it as any program would.
        for _ in range(200):
            with open(f"/proc/{vm.pid}/status") as status:
                blocked = next(line for line in status if line.startswith("SigBlk"))
            if int(blocked.split()[1], 16) & (1 << (signal.SIGTERM - 1)):
                break
            time.sleep(0.001)
        vm.send_signal(signal.SIGTERM)
        equal("status", 143, wait_end(vm))


@case("guest panic: status 125, what was written before arrives, a report names the cause, nothing is left")
def guest_panic():
    for cpus in ("1", "2"):
        result = joey_sh("seq 20000; echo c > /proc/sysrq-trigger", options=["--cpus", cpus])
        equal("status", 125, result.status)
        equal("stdout", b"".join(b"%d\n" % i for i in range(1, 20001)), result.out)
        holds("the cause", result.err.startswith(b"joey: guest kernel panic: sysrq triggered crash"), result.err)
        holds("a backtrace with symbols", b"sys_write" in result.err and b"code:\n" in result.err, result.err)


MARKS = "touch /tmp/left-by-joey /dev/shm/left-by-joey /var/tmp/left-by-joey"


def no_marks():
    for folder in ("/tmp", "/dev/shm", "/var/tmp"):
        holds(f"no file in {folder}", not os.path.exists(f"{folder}/left-by-joey"))


@case("left behind: nothing after kill -9 of joey")
def killed():
    before = set(joey_processes())
    mounts = open("/proc/self/mountinfo").read()
    with started("bash", "-c", MARKS + "; echo ready; sleep 1000") as vm:
        read_until(vm.stdout, b"ready")
        vm.kill()
        vm.wait()
        nothing_left(before)
    equal("mounts", mounts, open("/proc/self/mountinfo").read())
    no_marks()


@case("left behind: nothing after a normal end")
def ended():
    mounts = open("/proc/self/mountinfo").read()
    before = set(joey_processes())
    equal("status", 0, joey_sh(MARKS).status)
    nothing_left(before, 0)
    equal("mounts", mounts, open("/proc/self/mountinfo").read())
    no_marks()


def many_runs(count):
    failures = []
    slowest = 0.0
    for number in range(count):
        result = run([os.environ.get("JOEY", "joey"), "do", "--", "/bin/true"], timeout=20)
        slowest = max(slowest, result.seconds)
        if result.status != 0 or result.out or result.err:
            failures.append((number, result.status, result.err))
    holds(f"{count} runs of /bin/true without a failure", not failures, failures[:5])
    print(f"# slowest of {count} runs: {slowest * 1000:.0f} ms")


@case("100 runs of /bin/true in a row")
def hundred():
    many_runs(100)


@case("1,000 runs of /bin/true in a row", long=True)
def thousand():
    many_runs(1000)
