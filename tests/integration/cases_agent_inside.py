"""The agent's tests (tests/agent) inside: they pass on the host's Linux, and unchanged on the guest's kernel."""

import os

from harness import JOEY, TOP, case, holds, run

PROGRAM = os.environ.get("JOEY_AGENT_TESTS", os.path.join(TOP, "build/tests/agent/agent_behaviour"))
AGENT = os.environ.get("JOEY_AGENT", os.path.join(TOP, "build/agent/joey-agent"))
SECONDS = 240
# What the guest's kernel does not have yet; the case says so each time.
NOT_YET = {
    "namespaces": {"the network namespace has its loopback interface up": "/sys/class/net"},
}


def add(part):
    @case(f"agent: {part}")
    def passes():
        left_out = NOT_YET.get(part, {})
        for name, reason in left_out.items():
            print(f"# not yet inside: {name} ({reason})", flush=True)
        chosen = f"[#{part}_test]" + "".join(f'~"{name}"' for name in left_out)
        result = run([JOEY, "do", "--memory", "1G", "--cpus", "1", "--env", f"JOEY_AGENT={AGENT}", "--", PROGRAM, "-d", "yes", "-#",
                      chosen], timeout=SECONDS)
        holds("passes", result.status == 0, f"status {result.status}\n" + (result.out + result.err).decode(errors="replace")[-6000:])


for name in ("lifecycle", "namespaces", "process", "rootfs"):
    add(name)
