"""Folders for what is made or downloaded once, in which nobody but the user can put files."""

import os
import stat
import tempfile
from pathlib import Path

WAY_OUT = "name another folder in the environment variable UNROLLED_CACHE"


def cache_folder() -> Path:
    """$UNROLLED_CACHE; else `unrolled` in $XDG_CACHE_HOME, or in ~/.cache. A user who has no home gets a folder of the
    system's temporary one. Nothing is created here.
    """
    own, users = os.environ.get("UNROLLED_CACHE"), os.environ.get("XDG_CACHE_HOME", "")
    if own:
        return Path(own)
    if os.path.isabs(users):  # others are to be ignored, says the XDG specification
        return Path(users) / "unrolled"
    try:
        return Path.home() / ".cache" / "unrolled"
    except RuntimeError:  # no HOME, and no entry in the list of users
        return Path(tempfile.gettempdir()) / f"unrolled-{user()}"


def private_folder(name: str) -> Path:
    """A folder of the cache that belongs to the user and that nobody else can write to; it is created if it is missing.

    Raises OSError if it cannot be created, and, without an errno and saying what to do, if it is a symbolic link or
    belongs to another user.
    """
    base = cache_folder()
    if base.parent == Path(tempfile.gettempdir()):  # where everybody can create folders
        make_private(base)
    make_private(base / name)
    return base / name


def make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode):
        raise OSError(f"{folder}: is a symbolic link, and could lead to files of others: remove it, or {WAY_OUT}")
    if not belongs_to_user(about):
        raise OSError(f"{folder}: belongs to another user, who could change what is in it: {WAY_OUT}")
    if stat.S_IMODE(about.st_mode) & 0o077 and os.name == "posix":
        folder.chmod(0o700)


def is_private_file(path: Path) -> bool:
    """Whether this is a regular file that belongs to the user and that nobody else can write to."""
    try:
        about = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(about.st_mode) and belongs_to_user(about) and (os.name != "posix" or not about.st_mode & 0o022)


def belongs_to_user(about: os.stat_result) -> bool:
    return os.name != "posix" or about.st_uid == user()


def user() -> int:
    """The number of the user, or 0 on a system without such numbers."""
    return os.geteuid() if os.name == "posix" else 0
