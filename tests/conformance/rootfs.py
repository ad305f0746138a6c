"""The Debian root directory that the suites run in: built once by debootstrap, kept in the user's cache directory."""

import fcntl
import os
import shutil
import subprocess
import sys

# What the suites need, beyond a minimal system.
PACKAGES = ["python3", "libpython3.11-testsuite", "tcl", "sqlite3", "openssl", "perl", "busybox-static", "gcc", "libc6-dev", "make", "stress-ng", "tzdata",
            # The programs of software/.
            "golang-go", "cargo", "nodejs", "npm", "default-jdk-headless", "postgresql", "postgresql-contrib", "redis-server", "redis-tools", "tmux",
            "vim", "htop", "less", "strace", "gdb", "crun", "procps", "util-linux", "ca-certificates"]


def cache_directory():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "joey", "conformance")


def must(command, what):
    """Runs a command; its last words end the program when it fails."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                          env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"})
    if done.returncode != 0:
        sys.exit(f"conformance: {what} failed:\n" + done.stdout.decode(errors="replace")[-2000:])


def build(root, archives):
    """A minimal system by debootstrap; apt, which knows alternatives and virtual packages, adds the rest. Packages once fetched are kept."""
    must(["debootstrap", "--variant=minbase", f"--cache-dir={archives}", "bookworm", root], "debootstrap")
    # Nothing is to run in there, and nothing is worth an fsync.
    policy = os.path.join(root, "usr/sbin/policy-rc.d")
    with open(policy, "w", encoding="utf-8") as file:
        file.write("#!/bin/sh\nexit 101\n")
    os.chmod(policy, 0o755)
    inside = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", INSIDE, "sh", root, archives]
    must([*inside, "apt-get", "-q", "-y", "--no-install-recommends", "-o", "Dpkg::Options::=--force-unsafe-io", "install", *PACKAGES], "apt-get install")
    os.remove(policy)


# A command in the root directory, with the archive of packages and what maintainers' scripts need.
INSIDE = r"""
set -e
mount --bind "$2" "$1/var/cache/apt/archives"
mount -t proc proc "$1/proc"
mount --bind /dev "$1/dev"
root=$1
shift 2
mkdir -p "$root/var/cache/apt/archives/partial"
exec chroot "$root" "$@"
"""


def provide():
    """The root directory's path; builds it when it is missing or was made for other packages."""
    if os.getuid() != 0:
        sys.exit("conformance: building a Debian root directory needs root; run as root, or give --rootfs DIR")
    folder = cache_directory()
    archives = os.path.join(folder, "archives")
    os.makedirs(archives, exist_ok=True)
    root, stamp = os.path.join(folder, "bookworm"), os.path.join(folder, "bookworm.packages")
    wanted = " ".join(sorted(PACKAGES))
    with open(os.path.join(folder, "lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(stamp):
            with open(stamp, encoding="utf-8") as file:
                if file.read() == wanted:
                    return root
            os.remove(stamp)
        print(f"# building {root}", flush=True)
        shutil.rmtree(root, ignore_errors=True)
        build(root, archives)
        with open(stamp, "w", encoding="utf-8") as file:
            file.write(wanted)
    return root


if __name__ == "__main__":
    print(provide())
