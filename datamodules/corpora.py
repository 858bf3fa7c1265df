"""Text that is already there, by name, and text from any file."""

import ast
import codecs
import io
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from pydoc_data.topics import topics
from typing import Literal

Corpus = Literal[
    "python-stdlib", "python-docstrings", "memorise",
    "tinyshakespeare", "enwik8", "text8", "ptb", "wikitext-2", "wikitext-103",
]  # fmt: skip

NOT_SOURCE = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
MEMORISE = """\
A recurrent network reads one symbol at a time. What it has read lives on in its state, a short list of numbers: \
that is all it keeps. "How can so little hold so much?" Because it learns what will matter, and lets go of the \
rest.

To train it, we unroll it in time and walk back: each step hands its blame to the step before. If that path is \
cut, the loss still falls, yet the gradient is wrong. Judge by exact sums, not by eye.

Here are 559 symbols of 44 kinds, for a net of 100 units. A pass has 23 windows. If it errs nowhere, the text is \
in the weights.
"""


def standard_library() -> list[bytes]:
    """The source files of the running interpreter's standard library, by name, without its tests."""
    root = Path(sysconfig.get_path("stdlib"))
    names = sorted(path.relative_to(root) for path in root.rglob("*.py"))
    return [(root / name).read_bytes() for name in names if not NOT_SOURCE & set(name.parts)]


def python_stdlib() -> bytes:
    return b"\n".join(standard_library())


def python_docstrings() -> bytes:
    """What the standard library says in English: the topics of its help, then every docstring, by file."""
    texts = [topics[name] for name in sorted(topics)]
    with warnings.catch_warnings(action="ignore"):  # of old escapes in source that is not ours
        trees = map(ast.parse, standard_library())
        texts += [text for tree in trees for node in ast.walk(tree) for text in docstring(node)]
    return "\n\n".join(text.strip() for text in texts).encode()


def docstring(node: ast.AST) -> list[str]:
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return []
    text = ast.get_docstring(node)
    return [text] if text else []


def memorise() -> bytes:
    """A text to learn by heart: 559 characters, 44 different ones."""
    return MEMORISE.encode()


CORPORA = {"python-stdlib": python_stdlib, "python-docstrings": python_docstrings, "memorise": memorise}


@contextmanager
def explained(path: str, option: str = "--data.path") -> Iterator[None]:
    """Adds to the errors of reading a file what the user can do. `option` is the option that named the file."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; give a text file with {option}") from None
    except IsADirectoryError:
        raise IsADirectoryError(f"{path}: is a folder; give one text file with {option}") from None
    except PermissionError:
        raise PermissionError(f"{path}: may not be read; change its permissions") from None
    except OSError as error:
        raise OSError(f"{path}: cannot be read ({error.strerror or error}); copy it, or give another file") from None


def decoded(
    content: Iterable[bytes],
    encoding: str,
    name: str,
    option: str = "--data.encoding",
    otherwise: str = ", or read a text as it is with --data.level byte",
) -> Iterator[str]:
    """The text of a file's bytes, which come in chunks: a byte order mark is dropped, line ends become one newline.

    Args:
        content: the chunks.
        encoding: of the text.
        name: of the file, for messages.
        option: the option that names the encoding, for messages.
        otherwise: what else a user can do with bytes that are not text, for messages.

    Raises ValueError at the first byte that the encoding does not allow, and for an encoding that does not exist.
    """
    decoder = io.IncrementalNewlineDecoder(decoder_of(encoding, option), translate=True)
    read, begun = 0, False
    try:
        for chunk in chain(content, [b""]):
            read += len(chunk)
            text = decoder.decode(chunk, final=not chunk)
            if text and not begun:
                text, begun = text.removeprefix("\ufeff"), True
            if text:
                yield text
    except UnicodeDecodeError as error:
        place = read - len(error.object) + error.start
        raise ValueError(
            f"{name}: byte {place} is not {encoding}; name its encoding with {option}{otherwise}"
        ) from None
    except UnicodeError as error:
        raise ValueError(f"{name}: is not {encoding} ({error}); name its encoding with {option}") from None


def decoder_of(encoding: str, option: str = "--data.encoding") -> codecs.IncrementalDecoder:
    """Raises ValueError for a name that is empty, that Python does not know, or that is no encoding of text."""
    try:
        if not encoding or "\0" in encoding:
            raise LookupError
        b" ".decode(encoding, "replace")  # there are codecs of other things than text
        return codecs.getincrementaldecoder(encoding)()
    except (LookupError, TypeError):  # some codecs of text have no incremental decoder
        raise ValueError(f"there is no encoding {encoding!r}; {option} takes names such as utf-8 or latin-1") from None
