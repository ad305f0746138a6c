"""The shim with the real containerd: `ctr run --runtime io.containerd.joey.v2` and what belongs to it."""

from containerd import containerd, nothing_is_left
from harness import case, equal, holds


@case("containerd: ctr run: output, errors, input, status, the image's environment")
def runs():
    with containerd() as one:
        done = one.run("first", "sh", "-c", "echo out; echo err >&2; echo $FROM_IMAGE; exit 7")
        equal("output", b"out\nyes\n", done.out)
        holds("errors", b"err\n" in done.err, done.err)
        equal("status", 7, done.status)
        nothing_is_left(one)
