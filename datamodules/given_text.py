"""Reads the text that a user names on the command line: one reader for tables, prompts and texts to look at.

It reads what the data module of a language model reads: packed files, any encoding, a byte order mark, any line ends.
"""

import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from datamodules.corpora import decoded, explained
from datamodules.encoding import READERS, unpacked

STANDARD_INPUT = "-"


def read_text(path: str, encoding: str, option: str, encoding_option: str, at_most: int | None = None) -> str:
    """The text of a file, or of standard input for the path `-`.

    Args:
        path: the file; its suffix says whether it is packed.
        encoding: of the text.
        option: the option that named the file, for messages.
        encoding_option: the option that names the encoding, for messages.
        at_most: characters to read; the rest of the file is not looked at.

    Raises ValueError or OSError, saying what to do, for a file that cannot be read or is not in this encoding.
    """
    return "".join(first(decoded(content_of(path, option), encoding, path, encoding_option, ""), at_most))


def read_bytes(path: str, option: str, at_most: int | None = None) -> bytes:
    """The bytes of a file, or of standard input for the path `-`, unpacked and otherwise unchanged."""
    return b"".join(first(content_of(path, option), at_most))


def content_of(path: str, option: str) -> Iterator[bytes]:
    if path == STANDARD_INPUT:
        return standard_input()
    check_regular(path, option)
    return unpacked(Path(path), path, ignore, ignore)


def check_regular(path: str, option: str) -> None:
    """Refuses folders, and devices and pipes, which may have no end or never begin."""
    with explained(path, option):
        try:
            mode = Path(path).stat().st_mode
        except ValueError:  # a null character in the name
            raise FileNotFoundError from None
        if stat.S_ISDIR(mode):
            raise IsADirectoryError
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path}: is a device or a pipe; give {option} a file, or - for standard input")


def standard_input() -> Iterator[bytes]:
    if sys.stdin is None:
        raise ValueError("there is no standard input to read")
    return iter(lambda: sys.stdin.buffer.read(1 << 18), b"")


def first(pieces: Iterable[Any], at_most: int | None) -> Iterator[Any]:
    """The pieces, cut after so many characters or bytes."""
    left = at_most
    for piece in pieces:
        if left is None:
            yield piece
            continue
        yield piece[:left]
        left -= len(piece)
        if left <= 0:
            return


def is_packed(path: str) -> bool:
    return Path(path).suffix.lower() in READERS


def suffix_of(path: str) -> str:
    """The suffix of a file's name in lower case, without that of its packing: `.csv` of `reviews.csv.gz`."""
    name = Path(path)
    return (Path(name.stem) if is_packed(path) else name).suffix.lower()


def ignore(_: object) -> None:
    """Takes what a caller does not need: the progress and the bytes to digest."""
