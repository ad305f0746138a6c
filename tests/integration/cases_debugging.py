"""Debuggers run inside on a program with threads and forks; core files open on the host; --strace."""

import os
import socket

from harness import case, equal, holds, joey, joey_sh, read_until, run, scratch, started

SOURCE = r"""
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
int counter;
char *text;
static pthread_barrier_t barrier;
static void *work(void *p) { pthread_barrier_wait(&barrier); for (;;) pause(); return p; }
int doubled(int n) {
    int result = n * 2;
    counter = result;
    return result;
}
int main(int argc, char **argv) {
    pthread_t threads[2];
    (void)argc;
    pthread_barrier_init(&barrier, 0, 3);
    for (long i = 0; i < 2; i++) pthread_create(&threads[i], 0, work, (void *)i);
    pthread_barrier_wait(&barrier);
    if (fork() == 0) exit(doubled(21));
    int status = 0;
    wait(&status);
    text = strdup(argv[0]);
    printf("child %d\n", WEXITSTATUS(status));
    fflush(stdout);
    if (argc > 1) *(volatile int *)0x1234 = 5;
    return 0;
}
"""


class Program:
    """The program above, built in a directory that the guest sees too."""

    def __enter__(self):
        self.scratch = scratch()
        self.directory = self.scratch.__enter__()
        source = os.path.join(self.directory, "debugged.c")
        self.path = os.path.join(self.directory, "debugged")
        with open(source, "w") as file:
            file.write(SOURCE)
        built = run(["cc", "-g", "-O0", "-no-pie", "-pthread", "-o", self.path, source])
        equal("cc", 0, built.status)
        os.chmod(self.directory, 0o755)
        return self

    def __exit__(self, *details):
        return self.scratch.__exit__(*details)


def has(result, *words):
    text = result.out + result.err
    for word in words:
        holds(f"{word} is there", word.encode() in text, text.decode(errors="replace"))


def gdb(program, *commands):
    words = ["gdb", "-batch", "-nx"]
    for command in commands:
        words += ["-ex", command]
    return joey(*words, program, timeout=120)


@case("strace -f inside follows threads and forks")
def strace_inside():
    with Program() as program:
        result = joey("strace", "-f", program.path)
        equal("status", 0, result.status)
        equal("stdout", b"child 42\n", result.out)
        has(result, "clone3(", "strace: Process", "+++ exited with 42 +++", "+++ exited with 0 +++",
            "WEXITSTATUS(s) == 42", "SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED")


@case("strace -f --seccomp-bpf inside, and strace -p")
def strace_filtered():
    with Program() as program:
        result = joey("strace", "-f", "--seccomp-bpf", "-e", "trace=wait4", program.path)
        equal("stdout", b"child 42\n", result.out)
        has(result, "wait4(", "+++ exited with 0 +++")
        holds("nothing else", b"mmap(" not in result.err, result.err)
    attached = joey_sh("sleep 100 & P=$!; strace -o /tmp/out -p $P & S=$!; "
                       "until grep -q 'TracerPid:.[1-9]' /proc/$P/status; do :; done; "
                       "kill -INT $S; wait $S; grep TracerPid /proc/$P/status; kill $P; wait $P; echo $?; cat /tmp/out")
    has(attached, "TracerPid:\t0", "143")


@case("ltrace -f inside shows calls of libraries")
def ltrace_inside():
    with Program() as program:
        result = joey("ltrace", "-f", program.path)
        equal("status", 0, result.status)
        has(result, "pthread_create(", "fork(", "strdup(", "exited (status 42)", "child 42")


@case("gdb inside: breakpoints, steps, registers, threads")
def gdb_inside():
    with Program() as program:
        result = gdb(program.path, "set follow-fork-mode child", "set detach-on-fork off", "break doubled",
                     "run", "backtrace", "info threads", "print n", "next", "next", "print counter",
                     "print $rip != 0", "stepi", "print/x $eflags != 0", "finish", "inferior 1",
                     "info threads", "kill inferiors 1 2")
        has(result, "doubled (n=21)", "in main (", "$1 = 21", "$2 = 42", "$3 = 1", "$4 = 0x1", "Value returned is $5 = 42")


@case("gdb inside: a watched variable, a call of a function, a changed one")
def gdb_values():
    with Program() as program:
        result = gdb(program.path, "set can-use-hw-watchpoints 0", "set follow-fork-mode child",
                     "break doubled", "run >/dev/null", "print (int)abs(-100)", "set var n = 30", "watch counter",
                     "continue", "delete", "continue")
        has(result, "$1 = 100", "Old value = ", "New value = 60", "exited with code 074")


@case("gdb inside attaches to a running program and lets it go")
def gdb_attach():
    with Program() as program:
        result = joey_sh(f"sleep 100 & P=$!; gdb -batch -nx -p $P -ex 'info registers rip' -ex detach 2>&1; "
                         "grep State /proc/$P/status; kill $P; wait $P; echo ended $?")
        has(result, "rip", "Inferior 1", "detached", "S (sleeping)", "ended 143")
        holds("program", os.path.exists(program.path))


@case("a core file by --core opens in the host's gdb")
def core_on_host():
    with Program() as program:
        cores = os.path.join(program.directory, "cores")
        os.mkdir(cores)
        result = joey(program.path, "crash", options=["--core", cores])
        equal("status", 139, result.status)
        files = os.listdir(cores)
        equal("files", 1, len(files))
        holds("its name", files[0].startswith("core.debugged."), files)
        opened = run(["gdb", "-batch", "-nx", "-ex", "bt", "-ex", "info threads", "-ex", "print counter",
                      "-ex", "print text", "-ex", "print $_siginfo.si_signo", "-ex",
                      "print $_siginfo._sifields._sigfault.si_addr", program.path, os.path.join(cores, files[0])])
        has(opened, "Program terminated with signal SIGSEGV", "in main (argc=2", "debugged\"", "pause",
            "= 11", "0x1234")
    nowhere = joey("true", options=["--core", "/nonexistent/joey"])
    equal("status without the directory", 125, nowhere.status)


@case("--core: what is mounted at the directory's name inside does not get the file")
def core_diverted():
    with Program() as program:
        cores = os.path.join(program.directory, "cores")
        os.mkdir(cores)
        result = joey_sh("mkdir /tmp/elsewhere; unshare --user --map-root-user --mount sh -c "
                         f"'mount --bind /tmp/elsewhere {cores} && {program.path} crash'; ls /tmp/elsewhere",
                         options=["--core", cores])
        equal("stdout", b"child 42\n", result.out)
        equal("files", 1, len(os.listdir(cores)))


@case("core files inside: by RLIMIT_CORE and core_pattern")
def core_inside():
    with Program() as program:
        result = joey_sh(f"cd /tmp; ulimit -c 0; {program.path} x; ls core* 2>/dev/null; ulimit -c unlimited; "
                         f"echo /tmp/dumps-%e-%s >/proc/sys/kernel/core_pattern; {program.path} x; ls dumps*; "
                         "echo '|/bin/cat' >/proc/sys/kernel/core_pattern || cat /proc/sys/kernel/core_pattern",
                         options=["--user", "0"])
        equal("stdout", b"child 42\nchild 42\ndumps-debugged-11\n/tmp/dumps-%e-%s\n", result.out)


@case("--strace: arguments, results and errors by name")
def strace_decodes():
    result = joey("cat", "/etc/hostname", "/nonexistent", options=["--strace"])
    has(result, 'openat(AT_FDCWD, "/etc/hostname", O_RDONLY) = 3',
        'openat(AT_FDCWD, "/nonexistent", O_RDONLY) = -1 ENOENT', "PROT_READ|PROT_WRITE, MAP_PRIVATE",
        "{st_mode=S_IFREG|0644, st_size=", "exit_group(1) = ?")


@case("--strace=WHAT: names, groups, exceptions, missing, times")
def strace_filters():
    some = joey("cat", "/etc/hostname", options=["--strace=openat,%process"])
    has(some, "openat(", "exit_group(")
    holds("nothing else", b"mmap(" not in some.err and b"close(" not in some.err, some.err)
    others = joey("cat", "/etc/hostname", options=["--strace=!openat,!%memory"])
    has(others, "close(")
    holds("left out", b"openat(" not in others.err and b"mmap(" not in others.err, others.err)
    unknown = joey("true", options=["--strace=nosuchcall"])
    has(unknown, "no call or group named nosuchcall")
    missing = joey("python3", "-c", "import ctypes; l = ctypes.CDLL(None); [l.syscall(999) for _ in range(3)]",
                   options=["--strace=missing"])
    has(missing, "syscall_999(", "ENOSYS (not implemented)")
    timed = joey("true", options=["--strace=exit_group,close", "--strace-time"])
    has(timed, "close(3) = 0 <0.0")


def metrics_of(path, request=b"GET /metrics HTTP/1.1\r\nHost: vm\r\n\r\n"):
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(60)
        caller.connect(path)
        caller.sendall(request)
        answer = b""
        while piece := caller.recv(65536):
            answer += piece
    head, _, body = answer.decode().partition("\r\n\r\n")
    return head, dict(line.rsplit(" ", 1) for line in body.splitlines() if line and line[0] != "#")


@case("debugging: --metrics counts exits, system calls, faults, files, memory, phases; its socket goes with the VM")
def metrics():
    with scratch() as directory:
        path = os.path.join(directory, "metrics")
        script = "for i in 1 2 3 4 5; do umask; done; cat /etc/passwd >/dev/null; echo up; read x"
        with started("/bin/sh", "-c", script, options=("--metrics", path, "--net", "none", "--cpus", "1")) as process:
            read_until(process.stdout, b"up\n")
            head, first = metrics_of(path)
            holds("an answer", head.startswith("HTTP/1.1 200 OK\r\n") and "version=0.0.4" in head, head)
            holds("umask(2) was counted", float(first['joey_guest_syscalls_total{call="umask"}']) >= 10, first)
            for name in ('joey_guest_page_faults_total{kind="minor"}', 'joey_vcpu_exits_total{vcpu="0",reason="device"}',
                         'joey_vcpu_exits_total{vcpu="0",reason="control"}', 'joey_fs_requests_total{name="/",request="lookup"}',
                         'joey_device_to_guest_bytes_total{device="2",kind="fs",name="/",queue="1"}', "joey_memory_backed_bytes",
                         'joey_vcpu_cpu_seconds_total{vcpu="0"}', "joey_process_cpu_seconds_total", "joey_uptime_seconds",
                         'joey_start_phase_seconds{phase="first user instruction",by="guest"}'):
                holds(f"{name} is above 0", float(first.get(name, 0)) > 0, first)
            holds("less is backed than there is", float(first["joey_memory_backed_bytes"]) < float(first["joey_memory_bytes"]), first)
            _, second = metrics_of(path)
            holds("counters only grow", all(float(second[name]) >= float(value) for name, value in first.items()
                                            if name.split("{")[0].endswith("_total")), second)
            for request, status in ((b"GET / HTTP/1.1\r\n\r\n", "404"), (b"PUT /metrics HTTP/1.1\r\n\r\n", "405"),
                                    (b"nonsense\r\n\r\n", "400")):
                head, _ = metrics_of(path, request)
                holds(f"{request} is refused", head.startswith(f"HTTP/1.1 {status} "), head)
            process.stdin.write(b"\n")
            process.stdin.close()
            equal("status", 0, process.wait(60))
        equal("what is left", [], os.listdir(directory))
