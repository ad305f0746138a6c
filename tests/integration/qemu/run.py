#!/usr/bin/env python3
"""joey in ring0 mode, on the genuine SVM semantics that QEMU's emulation gives a nested KVM.

Builds an initramfs (busybox, the kvm modules of Debian's cloud kernel, joey with its libraries, the
guest kernel, the guest tests), boots it, runs joey inside, and prints TAP."""

import argparse
import glob
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

INIT = r"""#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /var/tmp
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox --install -s /bin
for module in @MODULES@; do insmod /modules/$module.ko || echo "@@ broken insmod $module"; done
test -e /dev/kvm || echo "@@ broken no /dev/kvm in the emulated machine"
export PATH=/bin HOME=/
. /cases.sh
echo "@@ end"
reboot -f
"""

# check NAME EXPECTED-STATUS EXPECTED-STDOUT OPTIONS -- COMMAND: the stdout `*` is any.
CASES_HEAD = r"""
check() {
    name=$1 status=$2 expected=$3
    shift 3
    timeout @SECONDS@ /bin/joey do --cpus 1 --memory 128M "$@" </dev/null >/tmp/out 2>/tmp/err
    found=$?
    if [ $found -eq $status ] && { [ "$expected" = '*' ] || [ "$(cat /tmp/out)" = "$expected" ]; }; then
        echo "@@ ok $name"
    else
        echo "@@ failed $name"
        echo "@@# status $found, expected $status"
        tail -n 12 /tmp/out | sed 's/^/@@# out: /'
        tail -n 25 /tmp/err | sed 's/^/@@# err: /'
    fi
}
"""

STATUS_CASES = [
    ("true gives 0", 0, "", ["true"]),
    ("false gives 1", 1, "", ["false"]),
    ("exit 42 gives 42", 42, "", ["sh", "-c", "exit 42"]),
    ("output arrives", 0, "hello", ["echo", "hello"]),
    ("a missing program gives 127", 127, "", ["/no/such/program"]),
    ("a file that is not executable gives 126", 126, "", ["/cases.sh"]),
    ("SIGTERM gives 143", 143, "", ["sh", "-c", "kill -TERM $$"]),
    ("SIGKILL gives 137", 137, "", ["sh", "-c", "kill -KILL $$"]),
    ("a pipeline", 0, "3", ["sh", "-c", "seq 3 | wc -l"]),
    ("children and their statuses", 0, "7", ["sh", "-c", "(exit 7); echo $?"]),
    ("the overlay takes writes", 0, "x", ["sh", "-c", "echo x > /tmp/f; cat /tmp/f"]),
]
RING3_SHORT = {"true gives 0", "exit 42 gives 42", "output arrives", "a pipeline", "SIGTERM gives 143"}


def libraries(program):
    listed = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    return re.findall(r"(/\S+)", listed)


def find_kernel():
    images = sorted(glob.glob("/boot/vmlinuz-*-cloud-amd64"))
    if not images:
        return None, None
    return images[-1], images[-1].split("vmlinuz-", 1)[1]


def modules_for(release, name):
    """Paths of a module and what it needs, in the order of loading."""
    base = f"/lib/modules/{release}"
    with open(f"{base}/modules.dep") as file:
        for line in file:
            module, _, needs = line.partition(":")
            if os.path.basename(module).split(".")[0] == name:
                return [os.path.join(base, path) for path in reversed(needs.split())] + [os.path.join(base, module)]
    raise SystemExit(f"Bail out! no module {name} for {release}")


def install(root, source, target=None, mode=0o755):
    path = os.path.join(root, (target or source).lstrip("/"))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    shutil.copy(source, path)
    os.chmod(path, mode)


def quoted_case(name, status, expected, options, command):
    return shlex.join(["check", name, str(status), expected, *options, "--", *command])


def build_initramfs(folder, options, release):
    root = os.path.join(folder, "root")
    os.makedirs(root)
    install(root, "/bin/busybox", "/bin/busybox")
    for program in [options.joey]:
        install(root, program, "/bin/joey")
        for library in libraries(program):
            install(root, library)
    install(root, options.kernel, "/bin/joey-kernel")
    names = []
    for path in modules_for(release, "kvm-amd"):
        names.append(os.path.basename(path).removesuffix(".ko"))
        install(root, path, f"/modules/{names[-1]}.ko")
    os.makedirs(os.path.join(root, "etc"))
    with open(os.path.join(root, "etc/passwd"), "w") as file:
        file.write("root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")

    lines = [CASES_HEAD.replace("@SECONDS@", str(options.case_seconds))]
    expected = []

    def add(mode, name, status, output, command):
        full = f"{mode}: {name}"
        expected.append(full)
        lines.append(quoted_case(full, status, output, ["--privilege", mode], command))

    for mode in ("ring0", "ring3"):
        for name, status, output, command in STATUS_CASES:
            if mode == "ring0" or name in RING3_SHORT:
                add(mode, name, status, output, command)
    for program in options.programs:
        base = os.path.basename(program)
        install(root, program, f"/guest/{base}")
        add("ring0", f"guest test {base}", 0, "*", [f"/guest/{base}"])
        if base in options.ring3_programs:
            add("ring3", f"guest test {base}", 0, "*", [f"/guest/{base}"])
    with open(os.path.join(root, "cases.sh"), "w") as file:
        file.write("\n".join(lines) + "\n")
    os.chmod(os.path.join(root, "cases.sh"), 0o644)
    with open(os.path.join(root, "init"), "w") as file:
        file.write(INIT.replace("@MODULES@", " ".join(names)))
    os.chmod(os.path.join(root, "init"), 0o755)
    image = os.path.join(folder, "initramfs")
    with open(image, "wb") as out:
        subprocess.run("find . -print0 | cpio -o -0 -H newc -R 0:0 --quiet", shell=True, cwd=root, stdout=out, check=True)
    return image, expected


def boot(options, vmlinuz, image, on_line):
    command = ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max,+svm", "-m", "1536", "-smp", "1",
               "-nodefaults", "-no-reboot", "-nographic", "-serial", "stdio", "-kernel", vmlinuz, "-initrd", image,
               "-append", "console=ttyS0 quiet panic=-1"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               start_new_session=True)
    timer = threading.Timer(options.seconds, lambda: os.killpg(process.pid, signal.SIGKILL))
    timer.start()
    seen = []
    try:
        for raw in process.stdout:
            line = raw.decode(errors="replace").rstrip("\r\n")
            seen.append(line)
            if "@@" in line:
                on_line(line[line.index("@@"):])
        process.wait()
    finally:
        timer.cancel()
    return seen


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--joey", required=True)
    parser.add_argument("--kernel", required=True)
    parser.add_argument("--seconds", type=int, default=900, help="limit of the whole run")
    parser.add_argument("--case-seconds", type=int, default=60)
    parser.add_argument("--ring3-programs", nargs="*", default=[])
    parser.add_argument("--programs", nargs="*", default=[], help="guest tests: static programs")
    options = parser.parse_args()

    vmlinuz, release = find_kernel()
    if vmlinuz is None or shutil.which("qemu-system-x86_64") is None:
        print("Bail out! qemu-system-x86 and linux-image-cloud-amd64 are needed; ./test.sh installs them")
        return 1
    results = {}
    comments = {}
    last = None
    with tempfile.TemporaryDirectory(prefix="joey-qemu-") as folder:
        image, expected = build_initramfs(folder, options, release)
        print(f"1..{len(expected)}", flush=True)
        started = time.monotonic()

        def on_line(line):
            nonlocal last
            kind, _, name = line[2:].strip().partition(" ")
            if line.startswith("@@#"):
                comments.setdefault(last, []).append(line[3:].strip())
            elif kind in ("ok", "failed"):
                last = name
                results[name] = kind == "ok"
            elif kind == "broken":
                comments.setdefault(None, []).append(name)

        console = boot(options, vmlinuz, image, on_line)
    number = 0
    for name in expected:
        number += 1
        good = results.get(name, False)
        print(f"{'ok' if good else 'not ok'} {number} - {name}")
        if not good:
            for comment in comments.get(name, ["was not run"]):
                print(f"# {comment}")
    for comment in comments.get(None, []):
        print(f"# {comment}")
    if len(results) < len(expected):
        print("# the console's last lines:")
        for line in console[-30:]:
            print(f"#   {line}")
    print(f"# {time.monotonic() - started:.0f} s under emulation")
    return 0 if all(results.get(name) for name in expected) else 1


if __name__ == "__main__":
    sys.exit(main())
