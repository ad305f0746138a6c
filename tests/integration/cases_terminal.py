"""A terminal, driven through a pty as a person would."""

import os
import signal

from harness import JOEY, Terminal, case, equal, holds, joey_terminal, run


@case("terminal: all three streams are one inside")
def is_terminal():
    with joey_terminal("bash", "-c", "test -t 0 && test -t 1 && test -t 2 && echo yes; tty") as terminal:
        terminal.expect(r"yes\r\n")
        terminal.expect(r"/dev/(pts/\d+|console|tty\S*)\r\n")
        equal("status", 0, terminal.end())


@case("terminal: window size at the start, and when it changes")
def window_size():
    with joey_terminal("bash", "-c", "stty size; trap 'stty size' WINCH; echo ready; while :; do sleep 0.1; done",
                       columns=101, rows=37) as terminal:
        terminal.expect(r"37 101\r\n")
        terminal.expect(r"ready")
        terminal.resize(90, 30)
        terminal.expect(r"30 90\r\n")
        terminal.send(b"\x03")
        terminal.end()


@case("terminal: Ctrl-C interrupts the program, not joey")
def ctrl_c():
    with joey_terminal("bash", "-c", "trap 'echo interrupted; exit 5' INT; echo ready; while :; do sleep 0.1; done") as terminal:
        terminal.expect("ready")
        terminal.send(b"\x03")
        terminal.expect("interrupted")
        equal("status", 5, terminal.end())


@case("terminal: Ctrl-C ends a program without a handler, status 130")
def ctrl_c_default():
    with joey_terminal("bash", "-c", "echo ready; exec sleep 1000") as terminal:
        terminal.expect("ready")
        terminal.send(b"\x03")
        equal("status", 130, terminal.end())


@case("terminal: Ctrl-\\ quits, status 131")
def ctrl_backslash():
    with joey_terminal("perl", "-e", "$| = 1; print qq(ready\\n); sleep 1000") as terminal:  # bash ignores SIGQUIT
        terminal.expect("ready")
        terminal.send(b"\x1c")
        equal("status", 131, terminal.end())


@case("terminal: Ctrl-D ends input")
def ctrl_d():
    with joey_terminal("cat") as terminal:
        terminal.send("line\r")
        terminal.expect(r"line\r\n.*line\r\n")
        terminal.send(b"\x04")
        equal("status", 0, terminal.end())


@case("terminal: echo, line editing, and raw mode by stty")
def line_discipline():
    with joey_terminal("bash", "-c", "read a; echo [$a]; stty -echo; echo quiet; read b; echo [$b]; stty echo") as terminal:
        terminal.send("abx\x7fc\r")
        terminal.expect(r"\[abc\]\r\nquiet")
        terminal.send("hidden\r")
        found = terminal.expect(r"(?s)(.*)\[hidden\]")
        holds("not echoed", b"hidden" not in found.group(1), found.group(1))
        equal("status", 0, terminal.end())


@case("terminal: bash job control - Ctrl-Z, jobs, bg, fg, Ctrl-C")
def job_control():
    with joey_terminal("bash", "--norc", "--noprofile", "-i") as terminal:
        terminal.expect(r"\$ ")
        terminal.send("sh -c 'echo go; exec sleep 1000'\r")
        terminal.expect(r"[\r\n]go\r\n")
        terminal.send(b"\x1a")
        terminal.expect(r"Stopped\s+sh -c")
        terminal.send("jobs\r")
        terminal.expect(r"\[1\]\+\s+Stopped")
        terminal.send("bg\r")
        terminal.expect(r"\[1\]\+ sh -c .* &")
        terminal.send("jobs\r")
        terminal.expect(r"\[1\]\+\s+Running")
        terminal.send("fg\r")
        terminal.expect(r"sleep 1000'\r\n")
        # The job is the foreground group some moment after bash says its name.
        for _ in range(100):
            terminal.send(b"\x03")
            if terminal.appears(r"\$ ", 0.3):
                break
        terminal.send("echo status $?\r")
        terminal.expect(r"status 130")
        terminal.send("exit 4\r")
        equal("status", 4, terminal.end())


def restored(name, finish):
    @case(f"terminal: restored after {name}")
    def check():
        with joey_terminal("bash", "-c", "echo ready; sleep 1000") as terminal:
            terminal.expect("ready")
            holds("raw while it runs", terminal.mode() != terminal.before)
            finish(terminal)
            terminal.end()
            terminal.wait_mode(terminal.before, "after the end")


restored("Ctrl-C", lambda terminal: terminal.send(b"\x03"))
restored("SIGTERM", lambda terminal: terminal.process.send_signal(signal.SIGTERM))
restored("SIGHUP", lambda terminal: terminal.process.send_signal(signal.SIGHUP))
restored("kill -9 of joey", lambda terminal: terminal.process.kill())


@case("terminal: restored after a normal end")
def restored_normally():
    with joey_terminal("true") as terminal:
        equal("status", 0, terminal.end())
        terminal.wait_mode(terminal.before, "after the end")


@case("terminal: joey stopped and continued by a shell (kill -TSTP, fg)")
def stopped_from_outside():
    with Terminal(["bash", "--norc", "--noprofile", "-i"]) as terminal:
        terminal.expect(r"\$ ")
        terminal.send(f"{JOEY} do -- bash -c 'echo ready; read line; echo [$line]'\r")
        terminal.expect(r"ready\r\n")
        raw = terminal.mode()
        shell = terminal.process.pid
        with open(f"/proc/{shell}/task/{shell}/children") as file:
            child = int(file.read().split()[0])
        os.kill(child, signal.SIGTSTP)
        terminal.expect(r"Stopped")
        terminal.send("echo shell-has-it\r")
        terminal.expect(r"(?s)shell-has-it.*shell-has-it\r\n")
        terminal.send("fg\r")
        terminal.wait_mode(raw, "after fg")
        terminal.send("typed\r")
        terminal.expect(r"\[typed\]\r\n(?s:.*)\$ ")
        terminal.send("exit\r")
        terminal.end()


@case("terminal: -t gives one where there is none outside")
def forced():
    found = run([JOEY, "do", "-t", "--", "bash", "-c", "test -t 0 && test -t 1 && echo yes"], stdin=None)
    equal("stdout", b"yes\r\n", found.out)


@case("terminal: half a terminal stays with the host (stdout into a pipe)")
def half():
    with Terminal(["bash", "-c", f"'{JOEY}' do -- bash -c 'test -t 1 || echo pipe; exec sleep 1000' | cat"]) as terminal:
        terminal.expect(r"pipe\r\n")
        terminal.send(b"\x03")
        terminal.end()


@case("terminal: tmux runs inside", long=False)
def tmux_inside():
    with joey_terminal("bash", "-c", "export TMUX_TMPDIR=/tmp; tmux -f /dev/null new-session 'echo in-$((40+2)); sleep 1'") as terminal:
        terminal.expect(r"in-42")
        terminal.end()
