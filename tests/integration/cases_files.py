"""The root's overlay, --rw, --rootfs and volumes."""

import os
import shutil
import subprocess

from harness import JOEY, case, equal, holds, joey, joey_sh, run, same, scratch


@case("overlay: the program may write anywhere and the host keeps nothing of it")
def overlay():
    with scratch() as folder:
        kept = os.path.join(folder, "kept")
        with open(kept, "w") as file:
            file.write("host\n")
        script = (f"echo guest > {kept} && cat {kept} && echo new > {folder}/new && mkdir {folder}/dir && "
                  f"rm {kept} && test ! -e {kept} && ls {folder} && touch /etc/joey-was-here /usr/bin/joey-was-here")
        result = joey_sh(script)
        equal("inside", b"guest\ndir\nnew\n", result.out)
        equal("status", 0, result.status)
        equal("folder", ["kept"], os.listdir(folder))
        equal("contents", "host\n", open(kept).read())
        holds("/etc untouched", not os.path.exists("/etc/joey-was-here"))


@case("overlay: metadata changes stay inside")
def overlay_metadata():
    with scratch() as folder:
        path = os.path.join(folder, "file")
        with open(path, "w") as file:
            file.write("x")
        os.chmod(path, 0o644)
        before = os.stat(path)
        result = joey_sh(f"chmod 600 {path} && chown 7:8 {path} && touch -d 2001-02-03 {path} && mv {path} {path}2 && "
                         f"stat -c '%a %u %g %Y' {path}2", env=dict(os.environ, TZ="UTC"))
        expected = b"600 7 8 981158400\n" if os.getuid() == 0 else result.out
        equal("inside", expected, result.out)
        after = os.stat(path)
        equal("outside", (before.st_mode, before.st_uid, before.st_mtime_ns), (after.st_mode, after.st_uid, after.st_mtime_ns))


@case("overlay: two VMs do not see each other's changes")
def overlay_apart():
    equal("first", b"a\n", joey_sh("echo a > /tmp/joey-apart; cat /tmp/joey-apart").out)
    equal("second", 1, joey_sh("cat /tmp/joey-apart").status)


@case("--rw: what the program writes stays, with its owner and mode")
def read_write():
    with scratch() as folder:
        script = (f"cd {folder} && umask 022 && echo data > file && chmod 640 file && mkdir -p a/b && ln -s file link && "
                  "ln file hard && mv a/b c && mkfifo pipe && truncate -s 1M sparse")
        result = joey_sh(script, options=["--rw"])
        equal("stderr", b"", result.err)
        equal("status", 0, result.status)
        equal("names", ["a", "c", "file", "hard", "link", "pipe", "sparse"], sorted(os.listdir(folder)))
        equal("contents", "data\n", open(os.path.join(folder, "file")).read())
        status = os.stat(os.path.join(folder, "file"))
        equal("mode, owner, links", (0o640, os.getuid(), 2), (status.st_mode & 0o777, status.st_uid, status.st_nlink))
        equal("link", "file", os.readlink(os.path.join(folder, "link")))
        equal("size", 1 << 20, os.stat(os.path.join(folder, "sparse")).st_size)


@case("volume: a directory, writable; changes are seen on both sides")
def volume():
    with scratch() as folder:
        with open(os.path.join(folder, "from-host"), "w") as file:
            file.write("hello\n")
        result = joey_sh("cat /mnt/from-host; echo back > /mnt/from-guest; rm /mnt/from-host",
                         options=["--volume", f"{folder}:/mnt"])
        equal("stdout", b"hello\n", result.out)
        equal("names", ["from-guest"], os.listdir(folder))
        equal("contents", "back\n", open(os.path.join(folder, "from-guest")).read())


@case("volume: rename(2), over another file and with flags")
def volume_rename():
    with scratch() as folder:
        for name in ("a", "b", "c"):
            with open(os.path.join(folder, name), "w") as file:
                file.write(name)
        # BusyBox's mv has no flags, that of coreutils has RENAME_NOREPLACE.
        joey_sh("busybox mv /mnt/a /mnt/b && mv /mnt/c /mnt/d", options=["--volume", f"{folder}:/mnt"])
        equal("names", ["b", "d"], sorted(os.listdir(folder)))
        equal("contents", "a", open(os.path.join(folder, "b")).read())


@case("volume: :ro refuses to write")
def read_only_volume():
    with scratch() as folder:
        with open(os.path.join(folder, "file"), "w") as file:
            file.write("x\n")
        result = joey_sh("cat /mnt/file; echo y > /mnt/file || echo refused; touch /mnt/new || echo refused",
                         options=["--volume", f"{folder}:/mnt:ro"])
        equal("stdout", b"x\nrefused\nrefused\n", result.out)
        holds("the reason", b"Read-only file system" in result.err, result.err)
        equal("contents", "x\n", open(os.path.join(folder, "file")).read())


@case("volume: at a path that the root does not have")
def volume_new_place():
    with scratch() as folder:
        open(os.path.join(folder, "here"), "w").close()
        equal("names", b"here\n", joey("ls", "/quite/new/place", options=["--volume", f"{folder}:/quite/new/place"]).out)


@case("volume: a single file")
def volume_file():
    with scratch() as folder:
        path = os.path.join(folder, "secret")
        with open(path, "w") as file:
            file.write("s3cret\n")
        equal("contents", b"s3cret\n", joey("cat", "/etc/hostname", options=["--volume", f"{path}:/etc/hostname:ro"]).out)


@case("volume: a single file stays the one that it was, whatever takes its place")
def volume_file_replaced():
    with scratch() as folder:
        path = os.path.join(folder, "conf")
        with open(path, "w") as file:
            file.write("old\n")
        result = joey_sh("echo new > /dir/next && mv /dir/next /dir/conf && cat /dir/conf /conf && rm /dir/conf && cat /conf",
                         options=["--volume", f"{folder}:/dir", "--volume", f"{path}:/conf:ro"])
        equal("contents", b"new\nold\nold\n", result.out)


@case("volumes: several at once")
def volumes():
    with scratch() as a, scratch() as b:
        joey_sh("echo 1 > /a/x; echo 2 > /b/y", options=["--volume", f"{a}:/a", "--volume", f"{b}:/b"])
        equal("a, b", (["x"], ["y"]), (os.listdir(a), os.listdir(b)))


@case("volume: symbolic links do not lead out of it")
def volume_escape():
    with scratch() as folder, scratch() as outside:
        with open(os.path.join(outside, "secret"), "w") as file:
            file.write("host only\n")
        os.symlink(outside, os.path.join(folder, "link"))
        os.symlink("../../../../../../" + outside.lstrip("/"), os.path.join(folder, "dots"))
        root = os.path.join(folder, "root")
        os.mkdir(root)
        # The root inside is another directory: the links' targets do not exist there.
        shutil.copy("/bin/busybox", os.path.join(root, "busybox"))
        result = run([JOEY, "do", "--rootfs", root, "--volume", f"{folder}:/mnt", "--", "/busybox", "cat",
                      "/mnt/link/secret", "/mnt/dots/secret"])
        equal("stdout", b"", result.out)
        equal("status", 1, result.status)


@case("--rootfs: another root, with nothing of this machine's")
def rootfs():
    with scratch() as root:
        shutil.copy("/bin/busybox", os.path.join(root, "busybox"))
        os.mkdir(os.path.join(root, "etc"))
        with open(os.path.join(root, "etc/passwd"), "w") as file:
            file.write("dweller:x:77:88::/:/busybox\n")
        result = run([JOEY, "do", "--rootfs", root, "--user", "dweller", "--", "/busybox", "sh", "-c",
                      "/busybox pwd; /busybox id -u; /busybox id -g; /busybox test -e /usr && /busybox echo usr"])
        equal("output", b"/\n77\n88\n", result.out)


@case("/proc, /dev, /sys, /tmp: there and usable")
def kernel_filesystems():
    script = ("test -r /proc/self/status && test -d /sys && test -c /dev/null && test -c /dev/urandom && "
              "echo x > /dev/null && head -c 16 /dev/urandom | wc -c && ls /proc/self/fd >/dev/null && "
              "touch /tmp/x /dev/shm/x && echo fine")
    equal("output", b"16\nfine\n", joey_sh(script).out)
