#!/usr/bin/env python3
"""Checks what can be checked without running anything; prints TAP, one case per rule.

    lint.py [--build DIR] [RULE...]     rules: format layers size kernel-includes generated docs words tidy
"""

import argparse
import collections
import concurrent.futures
import dataclasses
import json
import os
import re
import subprocess
import sys
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# What a folder may include (longest prefix first); STYLE: layers.
LAYERS = {
    "base": ["base"],
    "boot/protocol": ["boot/protocol", "base"],
    "boot": ["boot", "base"],
    "virtio": ["virtio", "base"],
    "vmm": ["vmm", "virtio", "boot", "base"],
    "guestkernel": ["guestkernel", "boot/protocol", "base"],
    "agent/os": ["agent/os", "base"],
    "agent/ttrpc": ["agent/ttrpc", "agent/os", "base"],
    "agent/protocol": ["agent/protocol", "base"],
    "agent": ["agent", "base"],
    "tools": ["tools", "vmm", "virtio", "boot", "agent/protocol", "agent/ttrpc", "agent/spec", "agent/os", "base"],
    "tests": ["tests", "tools", "vmm", "virtio", "boot", "guestkernel", "agent", "base"],
}
KERNEL_HEADERS = set("array bit compare concepts cstddef cstdint limits new optional span string_view tuple "
                     "type_traits utility".split())
MAX_LINES = 650  # "about 600"; tests and tables are exempt
TIDY_SECONDS = 2400
TIDY_BATCH = 5


def tracked():
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=TOP).decode().split("\0")
    return [path for path in listed if path and os.path.exists(os.path.join(TOP, path))]


def read(path):
    with open(os.path.join(TOP, path), encoding="utf-8", errors="replace") as file:
        return file.read()


def sources():
    return [path for path in tracked() if path.endswith((".cpp", ".hpp"))]


def is_test(path):
    return path.startswith("tests/") or "_test." in path or "/testing/" in path or "/hosted/" in path or "/fake_" in path or "/test_" in path


def check_format():
    paths = sources()
    found = subprocess.run(["clang-format", "--dry-run", "-Werror", *paths], cwd=TOP, capture_output=True, text=True)
    return sorted({line.split(":")[0] + ": run clang-format -i on it" for line in found.stderr.splitlines() if ": error:" in line})


def check_layers():
    problems = []
    for path in sources():
        layer = max((name for name in LAYERS if path.startswith(name + "/")), key=len, default=None)
        if layer is None:
            problems.append(f"{path}: is in no layer")
            continue
        allowed = LAYERS["tests"] if is_test(path) and layer != "guestkernel" else LAYERS[layer]
        if is_test(path) and layer == "guestkernel":
            allowed = LAYERS["tests"] # drivers are tested against the devices of the host
        for number, line in enumerate(read(path).splitlines(), 1):
            include = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
            if include and not include.group(1).endswith(".inc") and not any(include.group(1).startswith(name + "/") for name in allowed):
                problems.append(f"{path}:{number}: {layer} may not include {include.group(1)}")
    return problems


def check_size():
    problems = []
    for path in sources():
        lines = read(path).count("\n")
        if lines > MAX_LINES and not is_test(path):
            problems.append(f"{path}: {lines} lines; split it (about 600)")
    return problems


def check_kernel_includes():
    problems = []
    for path in sources():
        if not path.startswith("guestkernel/") or is_test(path) or "/tools/" in path:
            continue
        hosted = 0  # inside #if JOEY_HOSTED
        for number, line in enumerate(read(path).splitlines(), 1):
            if re.match(r"\s*#\s*if", line):
                hosted = hosted + 1 if hosted or "JOEY_HOSTED" in line else 0
            elif re.match(r"\s*#\s*endif", line) and hosted:
                hosted -= 1
            include = re.match(r"\s*#\s*include\s+<([^>]+)>", line)
            if include is None or hosted:
                continue
            name = include.group(1)
            if name not in KERNEL_HEADERS and not name.startswith(("asm/", "linux/", "asm-generic/")) and name != "libfdt.h":
                problems.append(f"{path}:{number}: the kernel may not include <{name}>")
    return problems


def check_generated():
    """The reference of system calls equals what its table makes."""
    generator = next((path for path in tracked() if path.endswith("make_syscall_reference.py")), None)
    if generator is None:
        return ["there is no generator make_syscall_reference.py for docs/reference/syscalls.md"]
    made = subprocess.run([sys.executable, generator], cwd=TOP, capture_output=True, text=True)
    if made.returncode != 0:
        return [f"{generator} failed: {made.stderr.strip()}"]
    if made.stdout != read("docs/reference/syscalls.md"):
        return [f"docs/reference/syscalls.md is out of date: python3 {generator} > docs/reference/syscalls.md"]
    return []


def check_docs():
    """Every path that a page names exists."""
    problems = []
    files = set(tracked())
    folders = {os.path.dirname(path) for path in files}
    for path in list(folders):
        while path:
            folders.add(path)
            path = os.path.dirname(path)
    tops = {path.split("/")[0] for path in files if "/" in path}
    for page in files:
        if not page.endswith(".md") or page == "LICENSE":
            continue
        for number, line in enumerate(read(page).splitlines(), 1):
            for name in re.findall(r"`([A-Za-z0-9_.\-]+(?:/[A-Za-z0-9_.\-]*)+)`", line):
                if name.split("/")[0] in tops and name.rstrip("/") not in files | folders:
                    problems.append(f"{page}:{number}: names {name}, which does not exist")
            for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", line):
                wanted = os.path.normpath(os.path.join(os.path.dirname(page), target))
                if wanted not in files | folders:
                    problems.append(f"{page}:{number}: links to {target}, which does not exist")
    return problems


def check_words():
    """No trailing white space, no tabs in C++, no unfinished work without an issue."""
    problems = []
    for path in tracked():
        if not path.endswith((".cpp", ".hpp", ".py", ".md", ".sh", ".def", ".build")):
            continue
        for number, line in enumerate(read(path).splitlines(), 1):
            if line != line.rstrip():
                problems.append(f"{path}:{number}: white space at the end of the line")
            if "\t" in line and path.endswith((".cpp", ".hpp")):
                problems.append(f"{path}:{number}: a tab")
            if re.search(r"\b(TODO|FIXME|XXX)\b(?!\(#)", line) and path != "tools/lint/lint.py":
                problems.append(f"{path}:{number}: unfinished work without an issue")
    return problems


@dataclasses.dataclass
class Batch:
    paths: list  # files that are compiled in the same way
    entry: dict  # the command for a file that includes them all


def tidy_batches(chosen, folder):
    """Files in batches: most of clang-tidy's time goes into the headers, which are read once for all of a batch. A
    batch with findings is checked file by file: two of them may only have given one name to different things."""
    alike = collections.defaultdict(list)
    for path, entry in chosen.items():
        alike[entry["directory"], re.sub(r" -MD .*", "", entry["command"])].append(path)
    batches = []
    for (directory, command), paths in sorted(alike.items()):
        for start in range(0, len(paths), TIDY_BATCH):
            some = paths[start:start + TIDY_BATCH]
            together = os.path.abspath(os.path.join(folder, f"{len(batches)}.cpp"))
            with open(together, "w") as file:
                file.writelines(f'#include "{os.path.join(TOP, path)}"\n' for path in some)
            batches.append(Batch(some, {"directory": directory, "file": together, "command": f"{command} -c {together}"}))
    return batches


def check_tidy(build, everything):
    """clang-tidy over every file of the host side; with --all, over the kernel's portable files too, and the analyzer goes deep."""
    with open(os.path.join(build, "compile_commands.json")) as file:
        commands = json.load(file)
    known = set(sources())
    chosen = {}
    for entry in commands:
        path = os.path.relpath(os.path.realpath(os.path.join(entry["directory"], entry["file"])), TOP)
        if path not in known or is_test(path) or (path.startswith("guestkernel/") and "-ffreestanding" in entry["command"]):
            continue
        if path.startswith("guestkernel/") and not everything:
            continue
        # Clang 14 does not know these of GCC's.
        entry["command"] = re.sub(r" -fno-tree-loop-distribute-patterns| -Wno-maybe-uninitialized| -Wno-restrict", "", entry["command"])
        # Headers that protoc made lie below the build directory: nobody's to mend.
        entry["command"] = re.sub(r" -I(\.|agent/protocol|agent/ttrpc|tools/containerd-shim-joey-v2/protocol)(?= )", r" -isystem \1", entry["command"])
        chosen.setdefault(path, entry)
    database = os.path.join(build, "tidy")
    os.makedirs(database, exist_ok=True)
    batches = tidy_batches(chosen, database)
    with open(os.path.join(database, "compile_commands.json"), "w") as file:
        json.dump([batch.entry for batch in batches] + list(chosen.values()), file)
    # Half of the time goes into paths that its shallow mode gives up.
    depth = [] if everything else [f"--extra-arg={word}" for word in ("-Xclang", "-analyzer-config", "-Xclang", "mode=shallow")]
    deadline = time.monotonic() + (3600 if everything else TIDY_SECONDS)
    problems, left_out = [], []

    def findings(path):
        found = subprocess.run(["clang-tidy", "--quiet", *depth, "-p", database, path], cwd=TOP, capture_output=True, text=True)
        return [line for line in found.stdout.splitlines() if re.search(r": (error|warning): ", line) and not line.startswith(database)]

    def tidy(batch):
        if time.monotonic() > deadline:
            return batch, None
        if len(batch.paths) > 1 and not findings(batch.entry["file"]):
            return batch, []
        return batch, [line for path in batch.paths for line in findings(path)]

    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for batch, lines in pool.map(tidy, batches):
            if lines is None:
                left_out += batch.paths
            else:
                problems += [line.replace(TOP + "/", "") for line in lines]
    if left_out:
        print(f"# clang-tidy: no time left for {len(left_out)} of {len(chosen)} files", flush=True)
        problems.append(f"no time left for {len(left_out)} files, {left_out[0]} among them")
    return sorted(set(problems))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=os.path.join(TOP, "build"))
    parser.add_argument("--all", action="store_true", help="clang-tidy over the kernel too, its analyzer as deep as it goes, with an hour's time")
    parser.add_argument("rules", nargs="*")
    options = parser.parse_args()
    rules = {
        "format": check_format,
        "layers": check_layers,
        "size": check_size,
        "kernel-includes": check_kernel_includes,
        "generated": check_generated,
        "docs": check_docs,
        "words": check_words,
        "tidy": lambda: check_tidy(options.build, options.all),
    }
    chosen = options.rules or list(rules)
    print(f"1..{len(chosen)}", flush=True)
    failures = 0
    for number, name in enumerate(chosen, 1):
        problems = rules[name]()
        print(f"{'not ok' if problems else 'ok'} {number} - lint: {name}", flush=True)
        for problem in problems[:60]:
            print(f"# {problem}")
        if len(problems) > 60:
            print(f"# and {len(problems) - 60} more")
        failures += bool(problems)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
