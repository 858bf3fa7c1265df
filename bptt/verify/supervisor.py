"""Runs a command, passes on what it is to read, and ends it with every process that it started.

The checker starts this file as a program, `python -I -S supervisor.py TIME_LIMIT COMMAND…`. It imports the standard
library alone, so that it starts in a few hundredths of a second. On Linux it adopts orphans of the command, also those
that have begun a session of their own, and finds them in /proc; elsewhere it ends the command's process group.

Its standard input is the number of bytes for the command (8 bytes), then these, and stays open for as long as the
checker wants an answer. Its standard output is the command's. To its standard error it writes how the command ended:
the exit code, negative for a signal, or `time` where it was stopped.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

PR_SET_CHILD_SUBREAPER = 36
LAST_TRIES = 10.0  # seconds after which processes that cannot be ended are left


def main(time_limit: float, command: list[str]) -> None:
    source = sys.stdin.buffer
    content = source.read(int.from_bytes(source.read(8), "big"))
    adopt_orphans()
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=os.name == "posix"
    )
    over = threading.Event()
    assert child.stdin
    for task in (lambda: feed(child.stdin, content), lambda: wait(child, over), lambda: watch(source, over)):
        threading.Thread(target=task, daemon=True).start()
    over.wait(time_limit)
    code = child.poll()
    end_all(child)
    os.write(2, str("time" if code is None else code).encode())
    os._exit(0)  # without a wait for the threads


def feed(stream: IO[bytes] | None, content: bytes) -> None:
    assert stream
    try:
        stream.write(content)
        stream.close()
    except OSError:  # the command does not read it
        pass


def wait(child: subprocess.Popen[bytes], over: threading.Event) -> None:
    child.wait()
    over.set()


def watch(source: IO[bytes], over: threading.Event) -> None:
    """The checker closes the stream when it needs no more; the system does when the checker is killed."""
    source.read()
    over.set()


def adopt_orphans() -> None:
    if sys.platform == "linux":
        try:
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        except (OSError, AttributeError):  # a C library without it: process groups have to do
            pass


def end_all(child: subprocess.Popen[bytes]) -> None:
    """Kills the command and what it has started, again and again until nothing new appears."""
    kill_group(child)
    until = time.monotonic() + LAST_TRIES
    while (pids := descendants(os.getpid())) and time.monotonic() < until:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        reap()
        time.sleep(0.002)


def kill_group(child: subprocess.Popen[bytes]) -> None:
    if os.name != "posix":
        child.kill()
        return
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except OSError:  # nobody is left in it
        pass


def reap() -> None:
    """Takes note of the children that have ended, so that they disappear from /proc."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except OSError:
        pass


def descendants(root: int) -> list[int]:
    """The processes that descend from this one, from /proc; none where there is no such folder."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[:2]
        except (OSError, ValueError):  # it has just ended
            continue
        children.setdefault(int(parent), []).append(int(path.parent.name))
    found = list(children.get(root, []))
    for pid in found:
        found += children.get(pid, [])
    return found


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2:])
