"""Runs a command in a process of its own, and reads its messages, whatever else the command may do."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from bptt.verify.messages import Message, Unreadable, received

ROOT = Path(__file__).parents[2]
SUPERVISOR = Path(__file__).with_name("supervisor.py")
LATE = 30.0  # seconds after the time limit in which the supervisor ends the command
DRAIN = 10.0  # seconds in which messages that are in the pipe already are read


class Supervised:
    """A process that runs a command under `supervisor.py`, which ends it with every process that it has started.

    Its output is read by a thread that nobody waits for: a process that is left behind may hold the pipe open.

    Args:
        command: what to run. It reads `content` and writes messages.
        content: what it reads from its standard input.
        key: that of the messages.
        time_limit: seconds.
    """

    def __init__(self, command: list[str], content: bytes, key: bytes, time_limit: float) -> None:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(SUPERVISOR), str(time_limit), *command],
            env={**os.environ, "PYTHONPATH": path}, start_new_session=os.name == "posix", bufsize=0,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.time_limit = time_limit
        self.until = time.monotonic() + time_limit + LATE
        self.queue: queue.Queue[Message | Unreadable | str | None] = queue.Queue()
        tasks = (lambda: self.write(content), lambda: self.read(key), self.wait)
        self.writing, self.reading, self.waiting = (threading.Thread(target=task, daemon=True) for task in tasks)
        for thread in (self.writing, self.reading, self.waiting):
            thread.start()

    def write(self, content: bytes) -> None:
        assert self.process.stdin
        with suppress(OSError):  # it does not read
            unwritten = memoryview(len(content).to_bytes(8, "big") + content)
            while unwritten:
                unwritten = unwritten[self.process.stdin.write(unwritten) :]

    def read(self, key: bytes) -> None:
        assert self.process.stdout
        with self.process.stdout as stream:
            try:
                for message in received(stream.read, key):
                    self.queue.put(message)
            except Unreadable as error:
                self.queue.put(error)
        self.queue.put(None)

    def wait(self) -> None:
        assert self.process.stderr
        with self.process.stderr as stream:
            report = stream.read().decode("ascii", "replace")
        self.process.wait()
        self.queue.put(report)

    def events(self) -> Iterator[Message | Unreadable | str]:
        """Its messages, among them one that is unreadable, and then, in words, how the process ended."""
        report: str | None = None
        closed = False
        while report is None or not closed:
            try:
                event = self.queue.get(timeout=max(0.0, self.until - time.monotonic()))
            except queue.Empty:
                break
            if isinstance(event, str):
                report = event
                self.until = min(self.until, time.monotonic() + DRAIN)
            elif event is None:
                closed = True
            else:
                yield event
        if report is not None:
            yield how_it_ended(report, self.time_limit)

    def end(self) -> None:
        """Tells the supervisor to end the candidate, and waits until it has done so."""
        assert self.process.stdin
        self.writing.join(DRAIN)
        self.process.stdin.close()
        self.waiting.join(LATE)
        self.process.kill()
        self.reading.join(0.1)  # where nothing holds the pipe open it has ended


def how_it_ended(report: str, time_limit: float) -> str:
    """In words, what the supervisor says of a process that has not answered."""
    if report == "time":
        return f"it does not end: stopped after {time_limit:g} s"
    if report == "0":
        return "it ends the process before it has answered"
    try:
        code = int(report)
    except ValueError:
        return "it ends the process that supervises it"
    if code > 0:
        return f"it ends the process with exit code {code}"
    try:
        return f"it crashes: {signal.Signals(-code).name}"
    except ValueError:  # a signal without a name
        return f"it crashes: signal {-code}"
