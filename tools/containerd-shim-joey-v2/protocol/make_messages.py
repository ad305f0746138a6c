#!/usr/bin/env python3
"""containerd's messages as C++ for protobuf's lite runtime: make_messages.py --go DIR --protobuf DIR --protoc PROGRAM OUT.

The descriptions come from the package golang-github-containerd-containerd-dev and its like. What Go's code generators
want in them (gogoproto, field paths) is left out, and the three well-known types that they use come along as messages of
a package of their own: protobuf has those in its full runtime only.
"""

import argparse
import os
import re
import subprocess
import tempfile

# The name here, where it is in Go's tree or protobuf's, and by which names others import it.
GO = {
    "mount": "containerd/containerd/api/types/mount.proto",
    "task": "containerd/containerd/api/types/task/task.proto",
    "shim": "containerd/containerd/runtime/v2/task/shim.proto",
    "task_events": "containerd/containerd/api/events/task.proto",
    "forward": "containerd/containerd/api/services/ttrpc/events/v1/events.proto",
    "runc_options": "containerd/containerd/runtime/v2/runc/options/oci.proto",
    "runtime_options": "containerd/containerd/pkg/runtimeoptions/v1/api.proto",
    "metrics": "containerd/cgroups/v2/stats/metrics.proto",
}
PROTOBUF = {"any": "google/protobuf/any.proto", "empty": "google/protobuf/empty.proto",
            "timestamp": "google/protobuf/timestamp.proto"}
FOLDER = "tools/containerd-shim-joey-v2/protocol"
LEFT_OUT = ("gogoproto/", "protobuf/plugin/")


def known_imports():
    names = {f"github.com/{path}": name for name, path in GO.items()}
    names.update({path: name for name, path in PROTOBUF.items()})
    return names


def rewrite(text, where):
    """The same messages, for any other code generator than Go's."""
    imports = known_imports()
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    text = re.sub(r"//[^\n]*", "", text)

    def new_import(found):
        name = found.group(1)
        if any(part in name for part in LEFT_OUT):
            return ""
        if name not in imports:
            raise SystemExit(f"{where} imports {name}, which is not known here")
        return f'import "{FOLDER}/{imports[name]}.proto";'
    text = re.sub(r'\bimport\s+(?:weak\s+|public\s+)?"([^"]+)"\s*;', new_import, text)
    text = re.sub(r'\boption\s+(?:"[^"]*"|[^;"])*;', "", text)
    text = re.sub(r"\s*\[[^\]]*\]\s*;", ";", text)
    text = text.replace("google.protobuf", "wellknown")
    return re.sub(r"(\bpackage\s+[\w.]+\s*;)", r"\1\noption optimize_for = LITE_RUNTIME;", text, count=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--go", "--protobuf", "--protoc"):
        parser.add_argument(name, required=True)
    parser.add_argument("out", help="the root of the build directory")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        folder = os.path.join(root, FOLDER)
        os.makedirs(folder)
        made = []
        for tree, names in ((os.path.join(options.go, "github.com"), GO), (options.protobuf, PROTOBUF)):
            for name, path in names.items():
                where = os.path.join(tree, path)
                with open(where, encoding="utf-8") as file:
                    text = rewrite(file.read(), where)
                made.append(os.path.join(folder, name + ".proto"))
                with open(made[-1], "w", encoding="utf-8") as file:
                    file.write(text)
        subprocess.run([options.protoc, f"--proto_path={root}", f"--cpp_out={options.out}", *made], check=True)


if __name__ == "__main__":
    main()
