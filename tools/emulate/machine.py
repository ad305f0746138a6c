"""A machine in QEMU's emulation whose Linux has a genuine kvm_amd, for hosts without /dev/kvm and for ring0 mode."""

import ctypes
import glob
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)
VIRTIOFSD = "/usr/lib/qemu/virtiofsd"


def end_with_parent():
    """In a child before its program starts: no emulation outlives whoever asked for it, however that one ends."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Unavailable(Exception):
    """What the emulation needs is not there; the message says what to do."""


def find_kernel():
    """Debian's cloud kernel, which has kvm_amd and boots without firmware: (image, release)."""
    images = sorted(glob.glob("/boot/vmlinuz-*-cloud-amd64"))
    missing = [] if images else ["linux-image-cloud-amd64"]
    missing += [] if shutil.which("qemu-system-x86_64") and os.access(VIRTIOFSD, os.X_OK) else ["qemu-system-x86"]
    missing += [] if os.access("/bin/busybox", os.X_OK) else ["busybox-static"]
    missing += [] if shutil.which("cpio") else ["cpio"]
    if missing:
        raise Unavailable(f"the emulated machine needs the packages {' '.join(missing)}; ./test.sh installs them")
    return images[-1], images[-1].split("vmlinuz-", 1)[1]


def module_files(release, *names):
    """Paths of modules and of what they need, each once, in the order of loading."""
    base = f"/lib/modules/{release}"
    needs = {}
    with open(f"{base}/modules.dep", encoding="utf-8") as file:
        for line in file:
            path, _, others = line.partition(":")
            needs[os.path.basename(path).split(".")[0].replace("-", "_")] = [*reversed(others.split()), path]
    found = []
    for name in names:
        if name.replace("-", "_") not in needs:
            raise Unavailable(f"the kernel {release} has no module {name}")
        found += [path for path in needs[name.replace("-", "_")] if path not in found]
    return [os.path.join(base, path) for path in found]


def install(root, source, target=None, mode=0o755):
    path = os.path.join(root, (target or source).lstrip("/"))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    shutil.copy(source, path)
    os.chmod(path, mode)


def write(root, name, text, mode=0o644):
    path = os.path.join(root, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, mode)


def pack(root, image):
    with open(image, "wb") as out:
        subprocess.run("find . -print0 | cpio -o -0 -H newc -R 0:0 --quiet", shell=True, cwd=root, stdout=out, check=True)


def qemu(vmlinuz, image, cpus, memory_mib, *more):
    # q35: microvm hung in a third of its boots. SVM, since kvm_amd is what this emulation has.
    return ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max,+svm", "-m", str(memory_mib),
            "-smp", str(cpus), "-nodefaults", "-no-reboot", "-nographic", "-kernel", vmlinuz, "-initrd", image,
            # norandmaps: code at a place where it has not been before is translated anew, which makes programs start five
            # times slower.
            "-append", "console=ttyS0 quiet panic=-1 no_timer_check norandmaps", *more]


INIT = r"""#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /lower /over /root /sbin
/bin/busybox --install -s /bin
# What the kernel asks for by itself: the modules are in the other root.
printf '#!/bin/busybox sh\nexec /bin/chroot /root /sbin/modprobe "$@"\n' >/sbin/modprobe
chmod 755 /sbin/modprobe
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in @MODULES@; do insmod /modules/$module.ko || echo "emulate: cannot load $module"; done
mount -t virtiofs -o ro host /lower || echo "emulate: no shared directory"
mount -t tmpfs -o mode=755 none /over
mkdir /over/upper /over/work
mount -t overlay -o lowerdir=/lower,upperdir=/over/upper,workdir=/over/work none /root
mount -t proc proc /root/proc
mount -t sysfs sysfs /root/sys
mount -t devtmpfs devtmpfs /root/dev
mkdir -p /root/dev/pts /root/dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /root/dev/pts
mount -t tmpfs -o mode=1777 none /root/dev/shm
ln -s /proc/self/fd /root/dev/fd
mount -t tmpfs -o mode=755 none /root/sys/fs/cgroup
mkdir /root/sys/fs/cgroup/unified
mount -t cgroup2 cgroup2 /root/sys/fs/cgroup/unified
chmod 666 /root/dev/kvm || echo "emulate: no /dev/kvm in the emulated machine"
ip link set lo up
hostname emulated
dmesg -n 1
cp /command /root/.command
chroot /root /bin/sh /.command </dev/null >/dev/vport0p1 2>&1
echo $? >/dev/vport0p2
reboot -f
"""

# For the file system, the streams, and what runs inside.
MODULES = ["virtio_pci", "virtiofs", "virtio_console", "overlay", "kvm-amd", "tun", "veth", "bridge", "vsock_loopback", "sch_netem"]


def run(argv, on_output, cpus=2, memory_mib=4096, seconds=3600, environment=None, directory="/"):
    """Runs argv in an emulated machine whose root directory is this machine's, under an overlay in memory.

    `on_output` gets the bytes of both its streams. Returns its exit status; None: it did not end in time, or the machine did not boot,
    and the console's last lines are given to `on_output`.
    """
    vmlinuz, release = find_kernel()
    with tempfile.TemporaryDirectory(prefix="joey-emulate-") as folder:
        root = os.path.join(folder, "initramfs.d")
        install(root, "/bin/busybox", "/bin/busybox")
        names = []
        for path in module_files(release, *MODULES):
            names.append(os.path.basename(path).removesuffix(".ko"))
            install(root, path, f"/modules/{names[-1]}.ko")
        write(root, "init", INIT.replace("@MODULES@", " ".join(names)), 0o755)
        variables = {name: value for name, value in (os.environ if environment is None else environment).items()
                     if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)}
        write(root, "command", "\n".join([
            *(f"export {name}={shlex.quote(value)}" for name, value in variables.items()),
            f"cd {shlex.quote(directory)} || exit 125", f"exec {shlex.join(argv)}", ""]))
        image = os.path.join(folder, "initramfs")
        pack(root, image)
        return boot(folder, vmlinuz, image, on_output, cpus, memory_mib, seconds)


def boot(folder, vmlinuz, image, on_output, cpus, memory_mib, seconds):
    socket, console, output, status = (os.path.join(folder, name) for name in ("fs", "console", "output", "status"))
    os.mkfifo(output + ".in")
    os.mkfifo(output + ".out")
    command = qemu(
        vmlinuz, image, cpus, memory_mib, "-serial", f"file:{console}", "-device", "virtio-serial-pci",
        "-chardev", f"pipe,id=output,path={output}", "-device", "virtserialport,chardev=output,nr=1",
        "-chardev", f"file,id=status,path={status}", "-device", "virtserialport,chardev=status,nr=2",
        "-object", f"memory-backend-memfd,id=ram,size={memory_mib}M,share=on", "-machine", "memory-backend=ram",
        "-chardev", f"socket,id=fs,path={socket}", "-device", "vhost-user-fs-pci,chardev=fs,tag=host,queue-size=1024")
    server = subprocess.Popen([VIRTIOFSD, "-f", f"--socket-path={socket}", "-o", "source=/,cache=always,sandbox=chroot,xattr,log_level=err"],
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, preexec_fn=end_with_parent)
    machine = timer = None
    try:
        wait_for(socket, server)
        machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
                                   preexec_fn=end_with_parent)
        timer = threading.Timer(seconds, lambda: os.killpg(machine.pid, signal.SIGKILL))
        timer.start()
        with open(output + ".out", "rb", buffering=0) as stream:
            while chunk := stream.read(65536):
                on_output(chunk)
        said = machine.communicate()[0]
        with open(status, "rb") as file:
            number = file.read().strip()
        if number.isdigit():
            return int(number)
        with open(console, "rb") as file:
            on_output(b"emulate: the machine ended before the command did; its last words:\n" + file.read()[-3000:] + said[-1000:] + b"\n")
        return None
    finally:
        if timer is not None:
            timer.cancel()
        for process in (machine, server):
            if process is not None and process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def wait_for(path, server):
    """Until virtiofsd listens: it makes the socket, or ends and says why."""
    while not os.path.exists(path):
        try:
            server.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
        raise Unavailable("virtiofsd: " + server.stderr.read().decode(errors="replace").strip())
