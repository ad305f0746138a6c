"""Many threads and processes, limits, full memory, sparse files, two CPUs."""

import os
import time

from harness import Failed, case, equal, holds, joey, joey_sh, run


@case("200 threads")
def threads():
    source = ("import threading\nb=threading.Barrier(201)\nn=[]\ndef f(i):\n b.wait(); n.append(i)\n"
              "ts=[threading.Thread(target=f,args=(i,)) for i in range(200)]\n[t.start() for t in ts]\nb.wait()\n"
              "[t.join() for t in ts]\nprint(len(n),sum(n))")
    result = joey("python3", "-c", source)
    equal("stdout", b"200 19900\n", result.out)


@case("500 processes at once")
def processes():
    result = joey_sh("for i in $(seq 500); do sleep 1000 & done; ls -d /proc/[0-9]* | wc -l; kill $(jobs -p); wait; echo done",
                     timeout=120)
    lines = result.out.decode().split()
    holds("at least 500 are there", lines and int(lines[0]) >= 500, result.out + result.err)
    equal("end", "done", lines[-1])


@case("a fork bomb under a limit is contained and the VM goes on")
def fork_bomb():
    script = ("ulimit -u 60; bomb() { bomb | bomb & }; (bomb) 2>/dev/null; sleep 1; ulimit -u unlimited 2>/dev/null; "
              "exec python3 -c 'print(\"alive\")'")
    # Limits of processes do not bind root (setrlimit(2)).
    result = joey_sh(script, options=["--user", "65534:65534"], timeout=60)
    holds("the program after it runs", b"alive" in result.out or b"Resource temporarily unavailable" in result.err,
          result.out + result.err)


@case("full memory: the OOM killer ends the right process and the VM goes on")
def out_of_memory():
    script = ("python3 -c 'a=[]\nwhile True: a.append(bytearray(1<<20))'; s=$?; echo status $s; "
              "python3 -c 'print(sum(bytearray(20<<20)))'; echo alive")
    result = joey_sh(script, options=["--memory", "256M"], timeout=120)
    holds("the hog was killed or refused", b"status 137" in result.out or b"status 1\n" in result.out, result.out)
    holds("the VM goes on", result.out.endswith(b"0\nalive\n"), result.out + result.err)
    equal("status", 0, result.status)


@case("a 2 GB sparse file")
def sparse():
    script = ("cd /tmp && truncate -s 2G sparse && stat -c '%s %b' sparse && printf end | dd of=sparse bs=1 seek=2147483645 conv=notrunc 2>/dev/null && "
              "tail -c 3 sparse && stat -c %s sparse && head -c 1000000 sparse | sha256sum")
    result = joey_sh(script)
    zeros = run(["bash", "-c", "head -c 1000000 /dev/zero | sha256sum"]).out
    equal("stdout", b"2147483648 0\nend2147483648\n" + zeros, result.out)


LOOP = "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done"
TWO_LOOPS = f"start=$(date +%s%N); ({LOOP}) & ({LOOP}) & wait; end=$(date +%s%N); echo $(( (end-start) / 1000 ))"


def two_inside(cpus):
    return int(joey_sh(TWO_LOOPS, options=["--cpus", str(cpus)]).out)


def two_outside(cpus):
    allowed = sorted(os.sched_getaffinity(0))[:cpus]
    return int(run(["taskset", "-c", ",".join(map(str, allowed)), "bash", "-c", TWO_LOOPS]).out)


@case("--cpus 2: two CPU-bound processes in under 0.6 of the time")
def speed_up():
    if len(os.sched_getaffinity(0)) < 2:
        raise Failed("this needs a host with two CPUs")
    # Best of three: the host has other things to do as well. What it cannot give to itself, it cannot give to a VM.
    times = {(where, cpus): min(where(cpus) for _ in range(3)) for where in (two_inside, two_outside) for cpus in (1, 2)}
    inside = times[two_inside, 2] / times[two_inside, 1]
    outside = times[two_outside, 2] / times[two_outside, 1]
    holds(f"on two CPUs {inside:.2f} of the time on one; on the host {outside:.2f}", inside < max(0.6, 1.1 * outside))


@case("memory: what a program frees can be used again (8 x 150 MB in 256 MB)")
def memory_returns():
    source = "for i in range(8):\n a=bytearray(150<<20)\n for j in range(0,len(a),4096): a[j]=1\n del a\nprint('fine')"
    equal("stdout", b"fine\n", joey("python3", "-c", source, options=["--memory", "256M"], timeout=120).out)


@case("many files: 5,000 created, listed and removed in /tmp")
def many_files():
    script = "cd $(mktemp -d) && for i in $(seq 5000); do : > f$i; done && ls | wc -l && rm -r \"$PWD\" && echo gone"
    equal("stdout", b"5000\ngone\n", joey_sh(script).out)


@case("a control group's members see its limits as the machine's")
def control_group_view():
    script = ("cd /sys/fs/cgroup; echo '+cpu +memory +pids' > cgroup.subtree_control; mkdir a; echo 96M > a/memory.max; "
              "echo '50000 100000' > a/cpu.max; sh -c 'echo $$ > a/cgroup.procs; grep MemTotal /proc/meminfo; "
              "grep -c ^processor /proc/cpuinfo; cat /proc/self/cgroup'; rmdir a; grep -c ^processor /proc/cpuinfo")
    result = joey_sh(script)
    equal("what is seen", ["MemTotal:", "98304", "kB", "1", "0::/a", "2"], result.out.decode().split())


@case("a control group at its memory limit loses its own process only")
def control_group_memory():
    script = ("cd /sys/fs/cgroup; echo +memory > cgroup.subtree_control; mkdir a; echo 32M > a/memory.max; "
              "sh -c 'echo $$ > a/cgroup.procs; exec python3 -c \"x=bytearray(200<<20)\"'; echo status $?; "
              "grep oom_kill a/memory.events; rmdir a && echo alive")
    result = joey_sh(script)
    equal("what happened", ["status", "137", "oom_kill", "1", "alive"], result.out.decode().split())
