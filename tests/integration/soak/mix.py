#!/usr/bin/env python3
"""Mixed load in rounds, and after each what the machine has left: mix.py SECONDS-OF-A-ROUND ROUNDS. For a machine of its own, as root.

Every kind of load ends all that it has begun. A line per round says what is in use then; the last line says "no growth", or what grew."""

import contextlib
import ctypes
import mmap
import os
import pty
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

LIBC = ctypes.CDLL(None, use_errno=True)
CLONES = 0x00020000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000  # mount, uts, ipc, user, pid, net
PAGE = 4096


def meminfo():
    with open("/proc/meminfo", encoding="ascii") as file:
        return {line.split(":")[0]: int(line.split()[1]) << 10 for line in file}


def child(function, *arguments):
    """Starts it in a process of its own."""
    pid = os.fork()
    if pid == 0:
        try:
            function(*arguments)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return pid


# ---- kinds of load: each works until `end` and cleans up ------------------------------------------

def programs(end):
    while time.monotonic() < end:
        running = [subprocess.Popen(["/bin/sh", "-c", "/bin/true | /bin/cat; exit 3"]) for _ in range(5)]
        for process in running:
            assert process.wait() == 3


def forks(end):
    data = bytearray(8 << 20)
    while time.monotonic() < end:
        pids = []
        for number in range(10):
            pid = os.fork()
            if pid == 0:
                for place in range(0, len(data), PAGE * 16):
                    data[place] = number
                os._exit(number)
            pids.append(pid)
        for number, pid in enumerate(pids):
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == number


def files(end):
    while time.monotonic() < end:
        with tempfile.TemporaryDirectory() as folder:
            for number in range(300):
                with open(f"{folder}/{number}", "wb") as file:
                    file.write(b"x" * number * 37)
                os.rename(f"{folder}/{number}", f"{folder}/r{number}")
                if number % 3 == 0:
                    os.link(f"{folder}/r{number}", f"{folder}/l{number}")
                if number % 5 == 0:
                    os.symlink("nowhere", f"{folder}/s{number}")
            with open(f"{folder}/large", "w+b") as file:
                file.truncate(8 << 20)
                with mmap.mmap(file.fileno(), 0) as mapped:
                    for place in range(0, 8 << 20, PAGE * 3):
                        mapped[place] = 1
                os.fsync(file.fileno())
            assert sum(len(names) for _, _, names in os.walk(folder)) == 300 + 100 + 60 + 1


def connections(end):
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        while time.monotonic() < end:
            for abrupt in (False, True):
                clients = [socket.create_connection(server.getsockname()) for _ in range(30)]
                accepted = [server.accept()[0] for _ in clients]
                for number, client in enumerate(clients):
                    client.sendall(bytes([number]) * 20000)
                    if abrupt and number % 2:
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                for client in clients if abrupt else ():
                    client.close()
                for peer in accepted:
                    with contextlib.suppress(ConnectionResetError):
                        peer.recv(1 << 16)
                    peer.close()
                for client in clients:
                    client.close()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
                datagrams.bind(("127.0.0.1", 0))
                for _ in range(300):  # most of them are never read
                    datagrams.sendto(b"d" * 1000, datagrams.getsockname())
            left, right = socket.socketpair()
            with left, right, open("/dev/null", "rb") as passed:
                # Descriptors in flight through a socket that nobody reads.
                socket.send_fds(left, [b"f"], [passed.fileno(), right.fileno(), left.fileno()])


def threads(end):
    while time.monotonic() < end:
        done = []
        running = [threading.Thread(target=lambda: done.append(sum(range(2000)))) for _ in range(50)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        assert len(done) == 50


def namespaces(end):
    def inside():
        assert LIBC.unshare(CLONES) == 0
        for name, text in (("setgroups", "deny"), ("uid_map", "0 0 1"), ("gid_map", "0 0 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
        pid = os.fork()
        if pid == 0:
            assert LIBC.mount(b"tmpfs", b"/mnt", b"tmpfs", 0, None) == 0
            with open("/mnt/file", "wb") as file:
                file.write(b"z" * 100000)
            with contextlib.suppress(FileNotFoundError):
                subprocess.run(["ip", "link", "set", "lo", "up"], check=False, stderr=subprocess.DEVNULL)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    while time.monotonic() < end:
        assert os.waitpid(child(inside), 0)[1] == 0


def terminals(end):
    while time.monotonic() < end:
        pid, terminal = pty.fork()
        if pid == 0:
            os.execv("/bin/sh", ["sh", "-c", "echo ready; sleep 1000"])
        while b"ready" not in os.read(terminal, 100):
            pass
        os.close(terminal)  # the hang-up ends it
        os.waitpid(pid, 0)


def memory_files(end):
    while time.monotonic() < end:
        fds = [os.memfd_create("m") for _ in range(20)]
        for number, fd in enumerate(fds):
            os.ftruncate(fd, 1 << 20)
            os.pwrite(fd, b"m" * 70000, number * PAGE)
        for fd in fds:
            os.close(fd)
        with mmap.mmap(-1, 4 << 20) as shared:
            pid = child(shared.write, b"s" * (4 << 20))
            os.waitpid(pid, 0)
            assert shared[-1] == ord("s")


def control_group(end):
    base = next(line.split()[1] for line in open("/proc/self/mounts", encoding="ascii") if line.split()[2] == "cgroup2")
    with open(f"{base}/cgroup.subtree_control", "w", encoding="ascii") as file:
        file.write("+memory")
    while time.monotonic() < end:
        group = tempfile.mkdtemp(dir=base)
        with open(f"{group}/memory.max", "w", encoding="ascii") as file:
            file.write(str(24 << 20))

        def greedy(path=group):
            with open(f"{path}/cgroup.procs", "w", encoding="ascii") as file:
                file.write("0")
            blocks = []
            while True:
                blocks.append(b"g" * (1 << 20))
        pid = child(greedy)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        os.rmdir(group)


def pressure(end):
    """Takes all but 5 % of the memory, and holds it while the others go on."""
    blocks, total = [], meminfo()["MemTotal"]
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")  # should the others need more, it is this one
    while time.monotonic() < end:
        if meminfo()["MemAvailable"] > total // 20 + (1 << 20):
            blocks.append(mmap.mmap(-1, 1 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
            for place in range(0, 1 << 20, PAGE):
                blocks[-1][place] = 1
        else:
            time.sleep(0.01)
            if random.random() < 0.1:
                for _ in range(len(blocks) // 4):
                    blocks.pop().close()


def stressors(end):
    seconds = max(1, int(end - time.monotonic()))
    mix = random.sample(["--fork 2", "--pipe 2", "--sock 1", "--timer 1", "--futex 2", "--mmap 1 --mmap-bytes 16M", "--vm 1 --vm-bytes 16M",
                         "--switch 2", "--sem 2", "--mq 1", "--eventfd 1", "--epoll 1", "--shm 1", "--sigq 1", "--dentry 1", "--dir 1",
                         "--cpu 1", "--clone 1", "--vfork 2", "--poll 1", "--msg 1", "--fault 1", "--mremap 1", "--memfd 1", "--splice 1",
                         "--sendfile 1", "--udp 1", "--aio 1", "--flock 1", "--get 1", "--procfs 1", "--exec 1", "--zombie 1"], 6)
    with tempfile.TemporaryDirectory() as folder:
        words = " ".join(mix).split()
        found = subprocess.run(["stress-ng", "--verify", "--temp-path", folder, "-t", str(seconds), *words],
                               capture_output=True, text=True, check=False)
        if found.returncode not in (0, 3):  # 3: no resources, which memory pressure may well cause
            raise SystemExit(f"stress-ng {' '.join(words)}: status {found.returncode}\n{found.stderr[-2000:]}")


KINDS = [programs, forks, files, connections, threads, namespaces, terminals, memory_files, control_group]


# ---- what is in use -------------------------------------------------------------------------------

def processes():
    return sum(name.isdigit() for name in os.listdir("/proc"))


def in_use(at_rest):
    """When all processes but those that were there before have gone."""
    limit = time.monotonic() + 300
    while processes() > at_rest and time.monotonic() < limit:
        time.sleep(0.05)
    for end in socket.socketpair():
        end.close()  # Unix sockets in each other's queues are looked for when one ends
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("3")
    memory = meminfo()
    with open("/proc/sys/fs/file-nr", encoding="ascii") as file:
        handles = int(file.read().split()[0])
    with open("/proc/net/sockstat", encoding="ascii") as file:
        sockets = int(file.readline().split()[2])
    return {"memory": memory["MemTotal"] - memory["MemFree"], "processes": processes(), "handles": handles, "sockets": sockets,
            "mounts": len(open("/proc/self/mountinfo", encoding="ascii").readlines())}


def play(seconds):
    end = time.monotonic() + seconds
    chosen = KINDS + [pressure] + ([stressors] if shutil.which("stress-ng") else [])
    names = {child(kind, end): kind for kind in chosen}
    problems = []
    while names:
        pid, status = os.wait()
        kind = names.pop(pid, None)
        if kind is not None and status != 0 and not (kind is pressure and status == signal.SIGKILL):
            problems.append(f"{kind.__name__}: status {os.waitstatus_to_exitcode(status)}")
    return problems


def main():
    seconds, rounds = float(sys.argv[1]), int(sys.argv[2])
    LIBC.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    at_rest = processes()
    problems, seen = [], []
    for number in range(rounds + 1):
        problems += play(seconds)
        seen.append(in_use(at_rest))
        print(number, " ".join(f"{name} {value}" for name, value in seen[-1].items()), flush=True)
    # The first round fills what is filled once: caches, pools, free lists.
    first, last = seen[min(1, rounds)], seen[-1]
    for name, value in last.items():
        slack = max(4 << 20, first["memory"] // 50) if name == "memory" else 4
        if value > first[name] + slack:
            problems.append(f"{name}: {first[name]} after the first round, {value} at the end")
    print("\n".join(problems) or "no growth")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
