"""Standard streams as users have them: terminals that are not UTF-8, closed streams, disks that are full."""

import errno
import os
import sys
from typing import Any


def prepare_streams(output_is_optional: bool) -> None:
    """Makes standard input, output and error usable whatever they are connected to.

    A character that the encoding of standard output lacks becomes a question mark, and undecodable input U+FFFD. A
    closed stream becomes one that is empty, or takes everything.

    Args:
        output_is_optional: whether a script goes on when its output cannot be written. Training does, whose results are
            files. Standard error is always optional.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None or stream.closed:
            if name == "stdout" and not output_is_optional:
                raise SystemExit(one_line("standard output is closed"))
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))
            continue
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace" if name == "stderr" else "replace")
        if name == "stderr" or name == "stdout" and output_is_optional:
            setattr(sys, name, OptionalOutput(stream, name))


class OptionalOutput:
    """A text stream whose output is lost, with one line on standard error, when it cannot be written."""

    def __init__(self, stream: Any, name: str) -> None:
        self.stream, self.name, self.lost = stream, name, False

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self.stream, attribute)

    def write(self, text: str) -> int:
        try:
            if not self.lost:
                self.stream.write(text)
        except OSError as error:
            self.give_up(error)
        return len(text)

    def flush(self) -> None:
        try:
            if not self.lost:
                self.stream.flush()
        except OSError as error:
            self.give_up(error)

    def give_up(self, error: OSError) -> None:
        discard(self.stream)
        self.lost = True
        if self.name == "stdout":
            print(one_line(f"{cannot_write(error)}; the run goes on without it"), file=sys.stderr)


def cannot_write(error: OSError) -> str:
    why = "its reader is gone" if error.errno == errno.EPIPE else error.strerror or str(error)
    return f"standard output cannot be written: {why}"


def discard(stream: Any) -> None:
    """Sends what is still buffered in a stream nowhere: else Python would fail to write it once more when it ends."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except OSError:  # a stream without a descriptor
        pass


def one_line(message: str) -> str:
    return f"{os.path.basename(sys.argv[0])}: {message}"


def check_arguments() -> None:
    """Raises ValueError for an argument of the command line that is not in the encoding of the system."""
    for number, argument in enumerate(sys.argv[1:], 1):
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError:
            shown = argument.encode("utf-8", "backslashreplace").decode()
            raise ValueError(
                f"argument {number}, {shown}, is not UTF-8: give it in UTF-8, rename the file, or give a text in a file"
            ) from None
