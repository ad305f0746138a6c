"""The Debian root directory that the suites run in: built once by debootstrap, kept in the user's cache directory."""

import fcntl
import os
import shutil
import subprocess
import sys

# What the suites need, beyond a minimal system.
PACKAGES = ["python3", "libpython3.11-testsuite", "tcl", "sqlite3", "openssl", "perl", "busybox", "gcc", "libc6-dev", "make", "stress-ng", "tzdata",
            # The programs of software/.
            "golang-go", "cargo", "nodejs", "npm", "default-jdk-headless", "postgresql", "postgresql-contrib", "redis-server", "redis-tools", "tmux",
            "vim", "htop", "less", "strace", "gdb", "crun", "procps", "util-linux", "ca-certificates"]


def cache_directory():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "joey", "conformance")


def provide():
    """The root directory's path; builds it when it is missing or was made for other packages."""
    if os.getuid() != 0:
        sys.exit("conformance: building a Debian root directory needs root; run as root, or give --rootfs DIR")
    folder = cache_directory()
    os.makedirs(folder, exist_ok=True)
    root, stamp = os.path.join(folder, "bookworm"), os.path.join(folder, "bookworm.packages")
    wanted = " ".join(sorted(PACKAGES))
    with open(os.path.join(folder, "lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(stamp):
            with open(stamp, encoding="utf-8") as file:
                if file.read() == wanted:
                    return root
        print(f"# building {root}", flush=True)
        shutil.rmtree(root, ignore_errors=True)
        command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", "bookworm", root]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0:
            sys.exit("conformance: debootstrap failed:\n" + done.stdout.decode(errors="replace")[-2000:])
        with open(stamp, "w", encoding="utf-8") as file:
            file.write(wanted)
    return root
