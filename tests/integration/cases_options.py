"""Bad input: one line, status 125, nothing left behind."""

import os
import subprocess

from harness import JOEY, Failed, case, equal, holds, joey, one_line_failure, run, scratch


def refused(name, arguments, *words):
    @case(f"refused: {name}")
    def check():
        one_line_failure(run([JOEY, *arguments]), *words)


refused("no command", ["do"], "help")
refused("an unknown verb", ["fly"], "fly", "help")
refused("an unknown option", ["do", "--frob", "--", "true"], "--frob", "help")
refused("an option without its value", ["do", "--cpus"], "--cpus")
refused("--memory 1M", ["do", "--memory", "1M", "--", "true"], "--memory", "1M", "at least")
refused("--memory nonsense", ["do", "--memory", "lots", "--", "true"], "--memory", "lots")
refused("--cpus 0", ["do", "--cpus", "0", "--", "true"], "--cpus", "1 to 64")
refused("--cpus 9999", ["do", "--cpus", "9999", "--", "true"], "--cpus", "1 to 64")
refused("--cpus -1", ["do", "--cpus", "-1", "--", "true"], "--cpus")
refused("a missing rootfs", ["do", "--rootfs", "/no/such/root", "--", "true"], "/no/such/root")
refused("a rootfs that is a file", ["do", "--rootfs", "/etc/passwd", "--", "true"], "not a directory")
refused("a missing volume", ["do", "--volume", "/no/such/dir:/mnt", "--", "true"], "/no/such/dir")
refused("a volume without a place", ["do", "--volume", "/tmp", "--", "true"], "SRC:DST")
refused("a volume at a relative place", ["do", "--volume", "/tmp:mnt", "--", "true"], "begin with /")
refused("--env without a value", ["do", "--env", "FOO", "--", "true"], "NAME=VALUE")
refused("--user that does not exist", ["do", "--user", "nosuchuser", "--", "true"], "nosuchuser")
refused("--privilege nonsense", ["do", "--privilege", "ring9", "--", "true"], "ring0", "ring3")
refused("--log-level nonsense", ["do", "--log-level", "loud", "--", "true"], "debug")
refused("--kernel-log nonsense", ["do", "--kernel-log", "loud", "--", "true"], "debug")
refused("--strace nonsense", ["do", "--strace=a b", "--", "true"], "names of calls")
refused("--strace-time alone", ["do", "--strace-time", "--", "true"], "--strace")
refused("--core of a file", ["do", "--core", "/etc/hostname", "--", "true"], "directory")
refused("--metrics where there is no directory", ["do", "--metrics", "/no/such/place", "--", "true"], "--metrics", "no such directory")
refused("an option before the command", ["--store", "/tmp", "image", "ls"], "--store", "behind the command")
refused("a missing kernel image", ["do", "--kernel", "/no/such/kernel", "--", "true"], "/no/such/kernel")
refused("a kernel image that is no ELF file", ["do", "--kernel", "/etc/passwd", "--", "true"], "kernel image")


def find_kernel():
    return os.path.join(os.path.dirname(os.path.realpath(JOEY)), "../../guestkernel/joey-kernel")


@case("refused: damaged kernel images, whatever byte is damaged")
def damaged_kernel():
    with open(find_kernel(), "rb") as file:
        image = file.read()
    with scratch() as folder:
        path = os.path.join(folder, "kernel")

        def attempt(data):
            with open(path, "wb") as file:
                file.write(data)
            one_line_failure(run([JOEY, "do", "--kernel", path, "--", "true"], timeout=20), "kernel")

        attempt(b"")
        attempt(image[:100])
        attempt(image[:65536])
        attempt(b"\0" * len(image))
        # Magic, class, checksum, type, machine, entry, e_phoff, e_phentsize, a program header; then code and data.
        for offset in (0, 4, 12, 16, 18, 24, 32, 54, 96, 0x1000, 0x40000, 0xad010):
            damaged = bytearray(image)
            damaged[offset] ^= 0x40
            attempt(bytes(damaged))


def has_hardware():
    with open("/proc/cpuinfo") as file:
        flags = next((line for line in file if line.startswith("flags")), "").split()
    return "vmx" in flags or "svm" in flags


@case("refused: ring0 where KVM has no hardware behind it; the line names ring3")
def ring0():
    if has_hardware():
        equal("status", 0, joey("true", options=["--privilege", "ring0"]).status)
    else:
        one_line_failure(joey("true", options=["--privilege", "ring0"]), "ring0", "ring3")


@case("refused: no /dev/kvm; the line says how to get it")
def no_kvm():
    # A mount namespace with another /dev; as an ordinary user, in a user namespace of one's own.
    script = f"mount -t tmpfs none /dev && exec '{JOEY}' do -- true"
    namespace = ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    one_line_failure(run([*namespace, "bash", "-c", script]), "/dev/kvm", "modprobe")


@case("refused: no right to /dev/kvm; the line says how to get it")
def no_right():
    with scratch() as folder:
        fake = os.path.join(folder, "kvm")
        with open(fake, "w"):
            pass
        os.chmod(fake, 0)
        # Without capabilities root is an ordinary user to files of mode 0 that are somebody else's.
        if os.getuid() == 0:
            os.chown(fake, 12345, 12345)
            command = ["unshare", "--mount", "bash", "-c",
                       f"mount --bind {fake} /dev/kvm && exec setpriv --reuid 65534 --clear-groups --regid 65534 "
                       f"'{JOEY}' do -- true"]
        else:
            command = ["unshare", "--mount", "--map-root-user", "bash", "-c",
                       f"mount --bind {fake} /dev/kvm && exec '{JOEY}' do -- true"]
        one_line_failure(run(command), "/dev/kvm", "kvm")


@case("an ordinary user who may open /dev/kvm can run it all")
def ordinary_user():
    if os.getuid() != 0:
        equal("status", 0, joey("true").status)
        return
    kvm_group = os.stat("/dev/kvm").st_gid
    # The build tree may be out of an ordinary user's reach.
    with scratch() as folder:
        binary, kernel = os.path.join(folder, "joey"), os.path.join(folder, "joey-kernel")
        for source, target in ((JOEY, binary), (find_kernel(), kernel)):
            subprocess.run(["cp", source, target], check=True)
            os.chmod(target, 0o755)
        command = ["setpriv", "--reuid", "65534", "--regid", "65534", "--groups", str(kvm_group),
                   binary, "do", "--", "bash", "-c", "id -u; echo x > /tmp/f && cat /tmp/f; cat /etc/shadow"]
        found = run(command, cwd="/")
        equal("stdout", b"65534\nx\n", found.out)
        holds("permissions hold inside", b"Permission denied" in found.err, found.err)


@case("help and version")
def help_and_version():
    text = run([JOEY, "help"])
    equal("status", 0, text.status)
    for option in (b"--cpus", b"--memory", b"--env", b"--cwd", b"--user", b"--hostname", b"--privilege", b"--strace",
                   b"--timing", b"--tty", b"--rw", b"--rootfs", b"--volume", b"--kernel", b"--kernel-log", b"--strace-time", b"--core",
                   b"--vsock", b"--net", b"--publish", b"--ip", b"--route", b"--dns", b"--mac", b"--mtu"):
        holds(f"{option} is explained", option in text.out, text.out)
    equal("do --help", text.out, run([JOEY, "do", "--help"]).out)
    holds("version", run([JOEY, "--version"]).out.startswith(b"joey "))
