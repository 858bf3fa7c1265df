"""Text that is already there, by name, and text from any file."""

import sysconfig
from pathlib import Path

NOT_SOURCE = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


def python_stdlib() -> bytes:
    """The source files of the running interpreter's standard library, by name, without its tests."""
    root = Path(sysconfig.get_path("stdlib"))
    names = sorted(path.relative_to(root) for path in root.rglob("*.py"))
    return b"\n".join((root / name).read_bytes() for name in names if not NOT_SOURCE & set(name.parts))


CORPORA = {"python-stdlib": python_stdlib}


def read_file(path: str) -> bytes:
    """Raises FileNotFoundError, IsADirectoryError or PermissionError, each with what to do, and ValueError if empty."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; give a text file with --data.path") from None
    except IsADirectoryError:
        raise IsADirectoryError(f"{path}: is a folder; give one text file with --data.path") from None
    except PermissionError:
        raise PermissionError(f"{path}: may not be read; change its permissions") from None
    if not content:
        raise ValueError(f"{path}: is empty; there is nothing to learn from")
    return content


def decode_text(content: bytes, encoding: str, name: str) -> str:
    """The text of a file's bytes: a byte order mark is dropped, line ends become one newline.

    Raises ValueError at the first byte that the encoding does not allow, and for an encoding that does not exist.
    """
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name}: byte {error.start} is not {encoding}; name its encoding with --data.encoding, "
            "or read it as it is with --data.level byte"
        ) from None
    except LookupError:
        raise ValueError(
            f"there is no encoding {encoding!r}; --data.encoding takes names such as utf-8 or latin-1"
        ) from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
