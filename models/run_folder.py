"""The folder that a training run writes to: which one it is, and that no two runs share one."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities.rank_zero import rank_zero_only

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCKS: dict[Path, int] = {}  # the folders that this process has locked, each with its file descriptor


@contextmanager
def run_folder(root: str | None, config: Any, ckpt_path: str | None, init_from: str | None = None) -> Iterator[Path]:
    """The folder of a run: <root or runs>/<name of the config>/version_N, which is created here.

    A run that continues from its last.ckpt does so in its own folder, whatever its config is called, so that one
    command can be given again and again, whatever interrupts it. From another checkpoint, such as best.ckpt or a copy,
    or with another root, a new run begins; and so it does with the weights of `init_from`.
    If the body raises, the folders that were created are removed again, unless something was written to them.

    The folder is locked, so that two processes cannot continue one run at the same time: `unlock` it at the end.
    Raises BlockingIOError if another process has locked it.

    Only the first process of a run creates and locks a folder. The others must take its name from the first (see
    `LastCheckpoint.setup`); what they get here is a name that nothing is written to.
    """
    given = Path(named).absolute() if (named := ckpt_path or init_from) else None
    own = given.parent.parent if given and given.parent.name == "checkpoints" else None
    home = Path(root) if root else own.parent.parent if own else Path("runs")
    name = Path(str(config)).stem if config else own.parent.name if own else given.stem if given else ""
    parent = home / name
    is_last = (
        ckpt_path and own and given and given.name == "last.ckpt" and home.resolve() == own.parent.parent.resolve()
    )
    existing = own if is_last else None
    if not is_first_process():
        yield shortest(existing or parent / f"version_{next_version(parent)}")
        return
    created = [path for path in (parent, *parent.parents) if not path.exists()]
    folder = existing or claim_version(parent)
    lock(folder)
    for rest in (*folder.glob("*.part"), *folder.glob("checkpoints/*.ckpt.*")):  # of a process that was killed
        rest.unlink()
    try:
        yield shortest(folder)
    except BaseException:
        unlock(folder)
        with suppress(OSError):  # a folder with content stays, and so do those that it lies in
            for path in (folder, *created):
                path.rmdir()
        raise


def claim_version(parent: Path) -> Path:
    """Creates the next `version_N` in a folder. Processes that do so at the same moment get different ones, because
    the operating system lets only one of them create a folder.
    """
    number = next_version(parent)
    while True:
        folder = parent / f"version_{number}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1


def next_version(parent: Path) -> int:
    """One more than the largest N of `version_N` in a folder, or 0."""
    names = [path.name for path in parent.iterdir()] if parent.is_dir() else []
    return max((int(name[8:]) + 1 for name in names if re.fullmatch("version_[0-9]{1,9}", name)), default=0)


def is_first_process() -> bool:
    """Whether this is the first process of a run on one or several machines, as far as the environment says."""
    node = os.environ.get("NODE_RANK") or os.environ.get("GROUP_RANK") or "0"
    return bool(getattr(rank_zero_only, "rank", 0) == 0 and node == "0")


def lock(folder: Path) -> None:
    """Locks a folder until `unlock`, or until this process ends, however it ends.

    Raises BlockingIOError if another process holds the lock. Where the system or the file system has no such locks,
    nothing is locked.
    """
    if fcntl is None or folder.resolve() in LOCKS:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise BlockingIOError(
            f"{shortest(folder)}: another process is training this run; wait for its end, or start a new run"
        ) from None
    except OSError:  # some network file systems have no locks
        os.close(descriptor)
    else:
        LOCKS[folder.resolve()] = descriptor


def unlock(folder: Path) -> None:
    if (descriptor := LOCKS.pop(folder.resolve(), None)) is not None:
        os.close(descriptor)


def shortest(path: Path) -> Path:
    """The path relative to the current folder if it lies there, as a user would write it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
