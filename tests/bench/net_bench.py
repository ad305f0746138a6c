#!/usr/bin/env python3
"""Prints the figures of the network: a server on this machine's loopback, on the guest's own, behind a TAP and in user mode."""

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HOST, GUEST = "10.9.0.1", "10.9.0.2"
TAP = "tap0"
READY_SECONDS = 120  # that a server may take to come up
CLIENT_SECONDS = 120  # that a client may take


class Server:
    """A program that serves a port, and a client whose output is a figure."""

    def __init__(self, port, serve, ask, figure):
        self.port, self.serve, self.ask, self.figure = port, serve, ask, figure


def iperf_figure(text):
    return json.loads(text)["end"]["sum_received"]["bits_per_second"] / 1e9


def redis_figure(text):
    for line in text.splitlines():
        name, _, rate = line.partition(",")
        if name.strip('"') == "GET":
            return float(rate.split(",")[0].strip('"')) / 1e3
    raise ValueError(text)


def wrk_figure(text):
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith("Requests/sec:")) / 1e3


def servers(folder, tcp_round, seconds):
    """Name, unit, whether more is better, and the server. Programs that are not there are left out, with a word."""
    nginx = os.path.join(folder, "nginx.conf")
    temporary = "".join(f"  {kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    with open(nginx, "w", encoding="ascii") as file:
        file.write(f"daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr; events {{ worker_connections 512; }}\n"
                   f"http {{\n{temporary}  access_log off; server {{ listen 7103; root {folder}; }}\n}}\n")
    with open(os.path.join(folder, "page"), "w", encoding="ascii") as file:
        file.write("x" * 1024)
    os.chmod(folder, 0o755)

    def iperf(*more):
        return Server(7100, ["iperf3", "-s", "-p", "7100"],
                      lambda address: ["iperf3", "-c", address, "-p", "7100", "-t", str(seconds), "-J", *more], iperf_figure)
    rows = [
        ("TCP stream to the server", "Gbit/s", True, iperf()),
        ("TCP stream from the server", "Gbit/s", True, iperf("-R")),
        ("a byte there and back by TCP", "us", False, Server(
            7101, [tcp_round, "serve", "7101"], lambda address: [tcp_round, "ask", address, "7101"], lambda text: float(text) / 1e3)),
        ("redis: GET, 50 clients", "1000/s", True, Server(
            7102, ["redis-server", "--port", "7102", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--appendonly", "no"],
            lambda address: ["redis-benchmark", "-h", address, "-p", "7102", "-t", "get", "-n", str(2000 * seconds), "--csv"],
            redis_figure)),
        ("nginx: 1 KiB, 16 clients", "1000/s", True, Server(
            7103, ["nginx", "-c", nginx],
            lambda address: ["wrk", "-t", "1", "-c", "16", "-d", f"{seconds}s", f"http://{address}:7103/page"], wrk_figure)),
    ]
    for row in list(rows):
        for program in (row[3].serve[0], row[3].ask("")[0]):
            if shutil.which(program) is None:
                print(f"# {row[0]}: there is no {program} here", file=sys.stderr)
                rows.remove(row)
                break
    return rows


@contextlib.contextmanager
def running(argv):
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def first_answer(argv, figure, patience):
    """The client's figure. Until the server is up the client fails, and is started again."""
    deadline = time.monotonic() + patience
    while True:
        complaint = f"no answer in {CLIENT_SECONDS} s"
        with contextlib.suppress(ValueError, KeyError, StopIteration, subprocess.TimeoutExpired):
            found = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CLIENT_SECONDS)
            complaint = found.stderr.strip() or found.stdout.strip()[-300:]
            if found.returncode == 0:
                return figure(found.stdout)
        if time.monotonic() > deadline:
            print(f"# {shlex.join(argv)}: {complaint}", file=sys.stderr)
            return None
        time.sleep(0.2)


def from_here(server, start, address, times):
    with running(start):
        figures = [first_answer(server.ask(address), server.figure, READY_SECONDS) for _ in range(times)]
    return None if None in figures else statistics.median(figures)


def inside(server, joey, times):
    """Server and client in one VM, by its own loopback."""
    client = shlex.join(server.ask("127.0.0.1"))
    script = (f"{shlex.join(server.serve)} >/dev/null 2>&1 & n=0; until {client} >/tmp/figure 2>/tmp/error || [ $n = 100 ]; "
              "do n=$((n+1)); sleep 0.2; done; cat /tmp/figure")
    figures = []
    for _ in range(times):
        said = f"no end in {READY_SECONDS + CLIENT_SECONDS} s"
        try:
            found = subprocess.run([*joey, "--net", "none", "--", "sh", "-c", script], stdin=subprocess.DEVNULL, capture_output=True,
                                   text=True, timeout=READY_SECONDS + CLIENT_SECONDS)
            said = f"{found.stdout[-200:]} {found.stderr[-300:]}"
            figures.append(server.figure(found.stdout))
        except (ValueError, KeyError, StopIteration, subprocess.TimeoutExpired):
            print(f"# {client}: {said}", file=sys.stderr)
            return None
    return statistics.median(figures)


def set_up():
    for command in (["link", "set", "lo", "up"], ["tuntap", "add", "dev", TAP, "mode", "tap"],
                    ["address", "add", HOST + "/24", "dev", TAP], ["link", "set", TAP, "up"]):
        subprocess.run(["ip", *command], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--joey", required=True)
    parser.add_argument("--tcp-round", required=True)
    parser.add_argument("--quick", action="store_true", help="shorter, and once each")
    parser.add_argument("--in-namespace", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.in_namespace:
        # What it does to interfaces and ports touches nobody else.
        user = [] if os.getuid() == 0 else ["--user", "--map-root-user"]
        os.execvp("unshare", ["unshare", *user, "--net", sys.executable, *sys.argv, "--in-namespace"])
    set_up()
    joey = [options.joey, "do"]
    times, seconds = (1, 2) if options.quick else (3, 5)
    print(f"{'medians':<32} {'unit':<7}{'host':>9} {'inside':>9} {'TAP':>9} {'user':>9} {'TAP/host':>9}", flush=True)
    complete = True
    with tempfile.TemporaryDirectory(prefix="joey-bench-") as folder:
        for name, unit, more, server in servers(folder, os.path.abspath(options.tcp_round), seconds):
            on_tap = [*joey, "--net", f"tap={TAP}", "--ip", GUEST + "/24", "--", *server.serve]
            user = [*joey, "--publish", f"{server.port}:{server.port}", "--", *server.serve]
            row = [from_here(server, server.serve, "127.0.0.1", times), inside(server, joey, times),
                   from_here(server, on_tap, GUEST, times), from_here(server, user, "127.0.0.1", times)]
            complete = complete and None not in row
            ratio = (row[2] / row[0] if more else row[0] / row[2]) if row[0] and row[2] else None
            columns = " ".join(f"{'-':>9}" if value is None else f"{value:9.2f}" for value in row)
            print(f"{name:<32} {unit:<7}{columns} {'-' if ratio is None else f'{ratio:.2f}x':>9}", flush=True)
    print("# host: client and server on this machine's loopback; inside: both in one VM; TAP, user: the server in a VM. TAP/host: how near\n"
          "# the TAP comes to the loopback, 1.00x being as fast")
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
