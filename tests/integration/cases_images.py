"""`joey image`: archives as other tools write them, the store, what people see. No VM is started."""

import contextlib
import hashlib
import json
import os
import stat
import subprocess
import tarfile

from archives import add, digest, docker_save, layer, make_config, make_tar, write_layout
from harness import JOEY, Terminal, case, equal, holds, one_line_failure, run, scratch

NEEDS_KVM = False


class Images:
    """joey image with a store of its own."""

    def __init__(self, folder):
        self.folder, self.store = folder, os.path.join(folder, "store")

    def run(self, verb, *words, **extra):
        return run([JOEY, "image", verb, "--store", self.store, *words], **extra)

    def good(self, verb, *words, **extra):
        result = self.run(verb, *words, **extra)
        equal(f"{verb}: stderr", b"", result.err)
        equal(f"{verb}: status", 0, result.status)
        return result.out.decode()

    def path(self, name):
        return os.path.join(self.folder, name)

    def root(self, image):
        return json.loads(self.good("inspect", image))[0]["RootFS"]["Path"]


@contextlib.contextmanager
def images():
    with scratch() as folder:
        yield Images(folder)


def write(path, data):
    with open(path, "wb") as file:
        file.write(data)
    return path


def read(path):
    with open(path, "rb") as file:
        return file.read()


@case("docker save from a pipe: imported, listed, inspected")
def docker_pipe():
    with images() as store:
        save = docker_save(["thing:1", "quay.io/x/thing:2"], [layer(a="1", b="2"), layer(a="3", **{".wh.b": ""})],
                           Cmd=["/bin/thing", "-v"], Env=["A=b"], User="web")
        out = store.good("import", "-", stdin=save)
        holds("what was imported", "quay.io/x/thing:2" in out and "thing:1" in out, out)
        table = store.good("ls").splitlines()
        equal("heading", ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"], table[0].split())
        holds("a line", any(line.startswith("thing ") and " years ago " in line for line in table), table)
        rows = [json.loads(line) for line in store.good("ls", "--format", "json").splitlines()]
        equal("names", {("thing", "1"), ("quay.io/x/thing", "2")}, {(row["Repository"], row["Tag"]) for row in rows})
        shown = json.loads(store.good("inspect", "thing:1"))[0]
        equal("ID", digest(make_config([layer(a="1", b="2"), layer(a="3", **{".wh.b": ""})],
                                       Cmd=["/bin/thing", "-v"], Env=["A=b"], User="web")), shown["Id"])
        equal("Cmd", ["/bin/thing", "-v"], shown["Config"]["Cmd"])
        equal("the root directory", ["a"], os.listdir(shown["RootFS"]["Path"]))
        equal("the upper file", b"3", read(os.path.join(shown["RootFS"]["Path"], "a")))


@case("an OCI layout, as a directory and as a compressed archive, is the same image")
def layouts():
    with images() as store:
        write_layout(store.path("alpine"), "3.18", [layer(f="hello")])
        first = store.good("import", "--quiet", store.path("alpine"))
        subprocess.run(["tar", "-C", store.path("alpine"), "-czf", store.path("alpine.tar.gz"), "."], check=True)
        equal("ID", first, store.good("import", "--quiet", store.path("alpine.tar.gz")))
        equal("file", b"hello", read(os.path.join(store.root("alpine:3.18"), "f")))


def describe_tree(top):
    """Every entry's kind, mode, owner, size, time, links and content."""
    found = {}
    for folder, directories, files in os.walk(top):
        for name in [*directories, *files, "."]:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            content = os.readlink(path) if stat.S_ISLNK(status.st_mode) else \
                hashlib.sha256(read(path)).hexdigest() if stat.S_ISREG(status.st_mode) else ""
            found[os.path.relpath(path, top)] = (
                oct(status.st_mode), status.st_uid, status.st_gid, content,
                status.st_size if stat.S_ISREG(status.st_mode) else 0,
                status.st_mtime_ns, status.st_nlink if stat.S_ISREG(status.st_mode) else 0)
    return found


@case("a root directory comes out as GNU tar puts it")
def like_tar():
    with images() as store:
        made = store.path("made")
        os.makedirs(os.path.join(made, "sub/deep"))
        for number in range(50):
            write(os.path.join(made, f"sub/file{number}"), os.urandom(1 + 977 * number))
        write(os.path.join(made, "e\u0301"), b"decomposed")
        write(os.path.join(made, "\u00e9" * 90), b"long name in pax")
        os.link(os.path.join(made, "sub/file3"), os.path.join(made, "sub/deep/hard"))
        os.symlink("/etc/nowhere", os.path.join(made, "sub/soft"))
        with open(os.path.join(made, "sparse"), "wb") as file:
            file.truncate(5 << 20)
            file.seek(2 << 20)
            file.write(b"x")
        os.chmod(os.path.join(made, "sub/file7"), 0o4711 if os.getuid() == 0 else 0o700)
        os.chmod(os.path.join(made, "sub"), 0o1777)
        if os.getuid() == 0:
            os.mkfifo(os.path.join(made, "pipe"))
            os.lchown(os.path.join(made, "sub/file8"), 12345, 54321)
            os.lchown(os.path.join(made, "sub/soft"), 12, 13)
        for number, kind in enumerate(("--format=gnu", "--format=pax", "--format=pax --sparse")):
            subprocess.run(f"tar -C {made} {kind} -cf {store.path('root.tar')} .", shell=True, check=True)
            oracle = store.path(f"oracle{number}")
            os.mkdir(oracle)
            subprocess.run(["tar", "-C", oracle, "--numeric-owner", "-xpf", store.path("root.tar")], check=True)
            store.good("import", store.path("root.tar"))
            wanted, found = describe_tree(oracle), describe_tree(store.root("root"))
            differing = [(name, wanted.get(name), found.get(name)) for name in sorted(wanted.keys() | found.keys())
                         if wanted.get(name) != found.get(name)]
            equal(f"what differs, {kind}", [], differing)


@case("names: tag, move, remove; prune frees what is left")
def names():
    with images() as store:
        for number in (1, 2):
            store.good("import", "--name", "app", write(store.path(f"{number}.tar"), layer(f=str(number))))
        equal("lines", 3, len(store.good("ls").splitlines()))
        holds("the older one has no name", "<none>" in store.good("ls"))
        store.good("tag", "app", "app:stable")
        equal("lines of app", 3, len(store.good("ls", "app").splitlines()))
        equal("rm", "Untagged: app:latest\n", store.good("rm", "app"))
        holds("rm of the last name", "Deleted: sha256:" in store.good("rm", "app:stable"))
        holds("prune", "Deleted: sha256:" in store.good("prune"))
        equal("nothing is left", "", store.good("ls", "--quiet"))
        equal("blobs", [], os.listdir(os.path.join(store.store, "blobs/sha256")))
        equal("root directories", [], os.listdir(os.path.join(store.store, "rootfs")))


@case("import --change and --message: done to the archive of a root directory, refused for an image")
def import_changes():
    with images() as store:
        root = write(store.path("root.tar"), layer(f="1"))
        store.good("import", "-c", 'CMD ["/f", "x"]', "--change", "ENV A=b", "-m", "from afar", root, "app:1")
        inspected = json.loads(store.good("inspect", "app:1"))[0]
        equal("command and variables", (["/f", "x"], ["A=b"]), (inspected["Config"]["Cmd"], inspected["Config"]["Env"]))
        holds("history", "from afar" in store.good("history", "app:1"))
        one_line_failure(store.run("import", "-c", "FROM x", root), "FROM")
        one_line_failure(store.run("import", "-m", "x", "-", stdin=docker_save(["a:1"], [layer(f="1")])), "root directory")


@case("export and import again: the same image; the archive is also Docker's")
def export():
    with images() as store:
        store.good("import", "-", stdin=docker_save(["a:1"], [layer(f="1"), layer(g="2")], Cmd=["x"]))
        before = json.loads(store.good("inspect", "a:1"))
        store.good("export", "-o", store.path("out.tar"), "a:1")
        equal("to stdout", read(store.path("out.tar")), run([JOEY, "image", "export", "--store", store.store, "a:1"]).out)
        with tarfile.open(store.path("out.tar")) as archive:
            entry = json.load(archive.extractfile("manifest.json"))[0]
            equal("RepoTags", ["a:1"], entry["RepoTags"])
            equal("layers", [layer(f="1"), layer(g="2")], [archive.extractfile(path).read() for path in entry["Layers"]])
        other = Images(store.path("other"))
        os.mkdir(other.folder)
        other.good("import", store.path("out.tar"))
        after = json.loads(other.good("inspect", "a:1"))
        for image in (*before, *after):
            del image["RootFS"]["Path"]
        equal("inspect", before, after)
        one_line_failure(store.run("export", "-o", store.path("no/where"), "a:1"), "no/where")
        holds("no half-written file", not os.path.exists(store.path("no")))


@case("refusals are one line that says what to do")
def refusals():
    with images() as store:
        one_line_failure(store.run("import", store.path("missing")), "missing", "No such file")
        one_line_failure(store.run("import", write(store.path("noise"), b"noise" * 1000)), "no archive")
        one_line_failure(store.run("import", "-", stdin=b""), "stdin", "docker save")
        one_line_failure(store.run("import", store.folder), "oci-layout", "tar -C")
        one_line_failure(store.run("import", "--name", "UPPER", write(store.path("x.tar"), layer(f="1"))), "lower case")
        one_line_failure(store.run("import", "--max-size", "10", store.path("x.tar")), "--max-size")
        one_line_failure(store.run("import", "--platform", "linux", store.path("x.tar")), "linux/amd64")
        one_line_failure(store.run("import"), "joey image help")
        one_line_failure(store.run("import", "a", "b", "c"), "joey image help")
        one_line_failure(store.run("ls", "--format", "xml"), "json")
        one_line_failure(store.run("ls", "--nonsense"), "joey image help")
        one_line_failure(run([JOEY, "image", "frobnicate"]), "frobnicate", "joey image help")
        one_line_failure(store.run("tag", "nothing", "x"), "joey image import")
        one_line_failure(run([JOEY, "image", "ls", "--store", "/proc/nowhere"]), "--store")
        result = store.run("rm", "nothing")
        equal("rm of nothing: status", 1, result.status)
        equal("rm of nothing: lines", 1, result.err.count(b"\n"))
        equal("still no image", "", store.good("ls", "-q"))
        equal("nothing in the making", [], os.listdir(os.path.join(store.store, "tmp")))


@case("hostile layers write nothing outside")
def hostile():
    with images() as store:
        outside = store.path("outside")
        os.mkdir(outside)
        write(os.path.join(outside, "file"), b"untouched")

        def link(archive, name, target, kind=tarfile.SYMTYPE):
            add(archive, name, type=kind, linkname=target)

        def attempt(fill):
            result = store.run("import", write(store.path("evil.tar"), make_tar(fill)))
            holds("no crash", result.status in (0, 125), result)
            equal("outside", ["file"], os.listdir(outside))
            equal("the file", b"untouched", read(os.path.join(outside, "file")))
            holds("nothing in the store's folder", set(os.listdir(store.store)) <=
                  {"lock", "oci-layout", "index.json", "blobs", "rootfs", "tmp"}, os.listdir(store.store))
            return result

        up = "../" * 12 + outside[1:]
        one_line_failure(attempt(lambda tar: add(tar, up + "/new", b"evil")), "leads out")
        one_line_failure(attempt(lambda tar: add(tar, "../new", b"evil")), "leads out")
        one_line_failure(attempt(lambda tar: link(tar, "h", up + "/file", tarfile.LNKTYPE)), "leads out")
        attempt(lambda tar: add(tar, outside + "/new", b"evil"))
        attempt(lambda tar: (link(tar, "l", outside), add(tar, "l/new", b"evil")))
        attempt(lambda tar: (link(tar, "l", up), add(tar, "l/file", b"evil")))
        attempt(lambda tar: (link(tar, "l", outside), add(tar, "l/.wh.file"), add(tar, "l/.wh..wh..opq")))
        attempt(lambda tar: (link(tar, "l", outside + "/file"), link(tar, "h", "l", tarfile.LNKTYPE), add(tar, "h", b"evil")))
        attempt(lambda tar: (link(tar, "etc", "/etc"), add(tar, "etc/joey-test-evil", b"evil")))
        holds("/etc is clean", not os.path.exists("/etc/joey-test-evil"))


@case("an ordinary user can do it all; owners are written down")
def ordinary_user():
    user = 65534 if os.getuid() == 0 else os.getuid()
    with images() as store:
        binary = store.path("joey")
        subprocess.run(["cp", JOEY, binary], check=True)
        os.chmod(binary, 0o755)
        home = store.path("home")
        os.mkdir(home)
        if os.getuid() == 0:
            os.chown(home, user, user)
        tar = write(store.path("root.tar"), make_tar(lambda archive: (
            add(archive, "shadow", b"secret", mode=0o000, uid=0, gid=42),
            add(archive, "su", b"x", mode=0o4755),
            add(archive, "closed", type=tarfile.DIRTYPE, mode=0o000),
            add(archive, "closed/in", b"y"),
            add(archive, "null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666))))
        os.chmod(tar, 0o644)
        prefix = ["setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups"] if os.getuid() == 0 else []
        env = dict(os.environ, HOME=home)
        env.pop("XDG_DATA_HOME", None)

        def joey(*words):
            result = run([*prefix, binary, "image", *words], env=env, cwd="/")
            equal(f"{words}: stderr", b"", result.err)
            equal(f"{words}: status", 0, result.status)
            return result.out.decode()

        joey("import", tar)
        root = json.loads(joey("inspect", "root"))[0]["RootFS"]["Path"]
        holds("in the user's home", root.startswith(home + "/.local/share/joey/images/"), root)
        equal("su has no set-id bit", 0o755, stat.S_IMODE(os.lstat(os.path.join(root, "su")).st_mode))
        note = "user.containers.override_stat"
        equal("shadow", b"0:42:0000", os.getxattr(os.path.join(root, "shadow"), note))
        equal("su", b"0:0:4755", os.getxattr(os.path.join(root, "su"), note))
        equal("null", b"0:0:0666:char-1-3", os.getxattr(os.path.join(root, "null"), note))
        holds("null is a file", stat.S_ISREG(os.lstat(os.path.join(root, "null")).st_mode))
        joey("rm", "root")
        equal("all is gone", "", joey("ls", "-q"))
        equal("no root directory is left", [], os.listdir(os.path.dirname(os.path.dirname(root))))


@case("on a terminal a bar shows a long import, and goes away")
def progress():
    with images() as store:
        tar = write(store.path("r.tar"), make_tar(lambda archive: add(archive, "f", os.urandom(1 << 20))))
        script = f"(head -c 500000 {tar}; sleep 0.6; tail -c +500001 {tar}) | {JOEY} image import --store {store.store} --name r -"
        with Terminal(["bash", "-c", script]) as terminal:
            terminal.expect(r"reading +.* KiB")
            terminal.expect("\x1b\\[K")
            terminal.expect("Imported r:latest")
            equal("status", 0, terminal.end())
        plain = run(["bash", "-c", script])
        equal("no bar elsewhere", b"", plain.err)
        with Terminal([JOEY, "image", "import", "--store", store.store, "-"]) as terminal:
            terminal.expect("stdin is a terminal.*docker save")
            equal("status", 125, terminal.end())


@case("help names every command and option")
def image_help():
    text = run([JOEY, "image", "help"])
    equal("status", 0, text.status)
    for word in (b"import", b"ls", b"rm", b"inspect", b"tag", b"prune", b"export", b"--name", b"--only", b"--platform",
                 b"--max-size", b"--format", b"--quiet", b"--digests", b"--force", b"--all", b"--output", b"--store"):
        holds(f"{word} is explained", word in text.out, text.out)
    equal("of one command", text.out, run([JOEY, "image", "ls", "--help"]).out)
    holds("joey help names it", b"joey image" in run([JOEY, "help"]).out)
