"""Writes files that are complete or not there, whatever interrupts the writing: a signal, a full disk, no power."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def complete_file(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A binary file to write to. It gets its name when all of its content is on the disk. Where the body raises, the
    file of before stays, and nothing is left beside it.

    Args:
        path: its name; the folder exists.
        mode: its permissions, before the umask.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # processes may write the same file at the same time
    try:
        with open(part, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        put_in_place(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def put_in_place(part: Path, path: Path) -> None:
    """Renames a file, and waits until the name is on the disk, too. Windows cannot open a folder to ask for that."""
    part.replace(path)
    if os.name == "nt":
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
