"""The agent's tests (tests/agent) inside: they pass on the host's Linux, and unchanged on the guest's kernel."""

import os

from harness import JOEY, TOP, case, holds, run

PROGRAM = os.environ.get("JOEY_AGENT_TESTS", os.path.join(TOP, "build/tests/agent/agent_behaviour"))
AGENT = os.environ.get("JOEY_AGENT", os.path.join(TOP, "build/agent/joey-agent"))
SECONDS = 240


def add(part):
    @case(f"agent: {part}")
    def passes():
        result = run([JOEY, "do", "--memory", "1G", "--cpus", "1", "--env", f"JOEY_AGENT={AGENT}", "--", PROGRAM, "-d", "yes", "-#",
                      f"[#{part}_test]"], timeout=SECONDS)
        holds("passes", result.status == 0, f"status {result.status}\n" + (result.out + result.err).decode(errors="replace")[-6000:])


for name in ("children", "lifecycle", "namespaces", "process", "rootfs"):
    add(name)
