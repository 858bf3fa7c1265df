"""From a text of any size to numbers: read in chunks, and where it is long, kept in a file of the cache."""

import bz2
import gzip
import hashlib
import io
import lzma
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import zstandard
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from datamodules.corpora import decoded, explained
from datamodules.encoded_cache import Cache, Encoded, dtype_of, encoded, hash_of
from datamodules.tokenizers import Level, Tokenizer, code_points, load_tokenizer, make_tokenizer, parts

CHUNK = 1 << 18  # bytes
LONG = 1 << 24  # symbols: what is shorter stays in memory, and is encoded at each start
EXCERPT = 100_000  # symbols
FORMAT = 2  # of what is kept: goes up when texts are read, numbered or kept in another way
NEVER = np.iinfo(np.int64).max
DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)

Advance = Callable[[int], object]


def encode(
    text: "Text", level: Level, val_fraction: float, vocabulary_size: int, given: Tokenizer | None = None
) -> Encoded:
    """The numbers of a text, of which the last part is held out; with a fraction of 0, both parts are all of it.

    The vocabulary is that of the training part, or of a tokenizer that is given. The numbers of a long text are those
    of a file in the cache.

    Raises ValueError for a text that is damaged, OSError where it cannot be read or kept, or is changed meanwhile.
    """
    of_words = level in ("word", "bpe")
    settings = [FORMAT, level, text.encoding, val_fraction, vocabulary_size if of_words else 0]
    settings += [hash_of([given.state()])] if given else []
    cache = Cache(text.stamp(), settings)
    if found := cache.unread():
        return found
    with progress(text.name, text.size() * (3 if of_words else 2)) as advance:
        length, places = survey(text.chunks(advance), level)
        digest, end = text.digest, int(length * (1 - val_fraction))

        def write(file: Any) -> dict[str, Any]:
            symbols = split(text.chunks(advance), end)[0] if of_words else map(chr, np.flatnonzero(places < end))
            tokenizer = given or make_tokenizer(level, symbols, vocabulary_size)
            excerpt: list[Any] = []
            both = split(noted(text.chunks(advance), end if val_fraction else 0, excerpt), end)
            training, held_out = (write_numbers(file, tokenizer, level, chunks) for chunks in both)
            text.must_be(digest)
            return {
                "tokenizer": tokenizer.state(), "length": training + held_out, "training": training,
                "held_out": training if val_fraction else 0, "excerpt": text.joined(excerpt), "digest": digest,
            }  # fmt: skip

        if length >= LONG:
            return cache.keep(digest, write)
        about = write(memory := io.BytesIO())
        tokenizer = load_tokenizer(about["tokenizer"])
        return encoded(about, tokenizer, np.frombuffer(memory.getbuffer(), dtype_of(tokenizer)))


def write_numbers(file: Any, tokenizer: Tokenizer, level: Level, chunks: Iterator[Any]) -> int:
    """Says how many they are."""
    if level == "byte":
        return sum(map(file.write, chunks))
    pieces = chunks if level == "character" else parts(chunks)
    return sum(file.write(tokenizer.encode(piece, "replace").data) for piece in pieces) // dtype_of(tokenizer).itemsize


def survey(chunks: Iterator[Any], level: Level) -> tuple[int, npt.NDArray[np.int64]]:
    """How long a text is, and where in it each code point stands for the first time, if at all."""
    places, unseen, length = np.full(0x110000, NEVER), np.ones(0x110000, bool), 0
    for chunk in chunks:
        if level == "character":
            codes = code_points(chunk)
            found = np.flatnonzero(unseen[codes])
            numbers, index = np.unique(codes[found], return_index=True)
            places[numbers] = length + found[index]
            unseen[numbers] = False
        length += len(chunk)
    return length, places


def split(chunks: Iterator[Any], end: int) -> tuple[Iterator[Any], Iterator[Any]]:
    """The chunks of what stands before a position, to be read first, and those of the rest."""
    rest: list[Any] = []

    def before() -> Iterator[Any]:
        left = end
        for chunk in chunks:
            if len(chunk) > left:
                rest.append(chunk[left:])
                yield chunk[:left]
                return
            left -= len(chunk)
            yield chunk

    return before(), chain(rest, chunks)


def noted(chunks: Iterator[Any], begin: int, excerpt: list[Any]) -> Iterator[Any]:
    """The same chunks; the excerpt, which begins at a position, is put aside."""
    place = 0
    for chunk in chunks:
        if piece := chunk[max(0, begin - place) : max(0, begin - place + EXCERPT)]:
            excerpt.append(piece)
        place += len(chunk)
        yield chunk


class Text:
    """A file, the files of a folder, or bytes, to be read in chunks, from the beginning, as often as needed.

    Files named .gz, .bz2, .xz and .zst are unpacked as they are read. The files of a folder, and of the folders in it,
    follow each other by name, with a newline in between; those whose names begin with a dot are left out, and symbolic
    links are followed.

    Args:
        name: what errors call it.
        content: bytes, or where they are.
        encoding: of the text; None to take bytes as they are.

    Raises OSError or ValueError, saying what to do, where there is nothing to read, or it is damaged.
    """

    def __init__(self, name: str, content: bytes | Path, encoding: str | None) -> None:
        self.name, self.encoding = name, encoding
        self.files: list[Any] = [content] if isinstance(content, bytes) else files_of(content)
        self.digest = ""  # of what was read last

    def chunks(self, advance: Advance) -> Iterator[Any]:
        """Strings, or bytes. `advance` is told how many bytes more have been read of the files."""
        digests: list[Any] = []
        for file in self.files:
            if digests:
                yield "\n" if self.encoding else b"\n"
            digests.append(hashlib.sha256())
            name = self.name if isinstance(file, bytes) else str(file)
            content = unpacked(file, name, advance, digests[-1].update)
            yield from decoded(content, self.encoding, name) if self.encoding else content
        self.digest = hash_of([digest.hexdigest() for digest in digests])
        if self.digest == hash_of([hashlib.sha256().hexdigest()] * len(digests)):
            raise ValueError(f"{self.name}: is empty; there is nothing to learn from")

    def joined(self, chunks: list[Any]) -> str:
        return "".join(chunks) if self.encoding else b"".join(chunks).decode("utf-8", "replace")

    def must_be(self, digest: str) -> None:
        if self.digest != digest:
            raise OSError(f"{self.name}: was changed while it was read; start again when it is complete")

    def size(self) -> int:
        """Bytes of its files."""
        return sum(len(file) if isinstance(file, bytes) else file.stat().st_size for file in self.files)

    def stamp(self) -> str:
        """Another one when the names, sizes or times of the files are others; none for bytes."""
        marks = [(str(file.absolute()), file.stat()) for file in self.files if isinstance(file, Path)]
        return hash_of([(name, of.st_size, of.st_mtime_ns, of.st_ctime_ns) for name, of in marks]) if marks else ""


def files_of(path: Path) -> list[Path]:
    """The file, or all of a folder, by name."""
    with explained(str(path)):
        is_folder = path.is_dir()
    found = files_below(path) if is_folder else [path]
    for file in found:
        with explained(str(file)):
            if not stat.S_ISREG(file.stat().st_mode):
                raise ValueError(f"{file}: cannot be read twice: give a file that holds the text")
    if not found:
        raise ValueError(f"{path}: is a folder without files; give a text with --data.path")
    return sorted(found)


def files_below(path: Path) -> list[Path]:
    """All files of a folder and of the folders in it. Folders that symbolic links lead to are read after the others,
    and each folder is read once, so that links cannot lead in a circle.
    """
    files: list[Path] = []
    folders, links, seen = [path], list[Path](), set[tuple[int, int]]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        with explained(str(folder)):
            about = folder.stat()
            if (identity := (about.st_dev, about.st_ino)) in seen:
                continue
            seen.add(identity)
            for entry in sorted(folder.iterdir()):
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    (links if entry.is_symlink() else folders).append(entry)
                else:
                    files.append(entry)
    return files


def unpacked(file: bytes | Path, name: str, advance: Advance, update: Callable[[bytes], None]) -> Iterator[bytes]:
    """The content of a file in chunks, and each of them to `update`.

    Raises ValueError for a file that is not what its name says, or ends too early.
    """
    kind = "" if isinstance(file, bytes) else file.suffix.lower()
    with explained(name), io.BytesIO(file) if isinstance(file, bytes) else file.open("rb") as raw:
        place = 0
        try:
            for chunk in READERS.get(kind, chunks_of)(raw):
                advance(raw.tell() - place)
                place = raw.tell()
                update(chunk)
                yield chunk
        except DAMAGE as error:
            if kind not in READERS:
                raise
            raise ValueError(
                f"{name}: is damaged, or no {kind} file ({error}); fetch it again, or give it the name of what it is"
            ) from None


def chunks_of(stream: Any) -> Iterator[bytes]:
    return iter(lambda: stream.read(CHUNK), b"")


def frames(raw: BinaryIO) -> Iterator[bytes]:
    """Of Zstandard, whose library lets a file end anywhere. Little is read at a time, for it may become very much."""
    frame = None
    while packed := raw.read(1 << 12):
        while packed:
            if frame is None or frame.eof:
                frame = zstandard.ZstdDecompressor().decompressobj()
            if chunk := frame.decompress(packed):
                yield chunk
            packed = frame.unused_data if frame.eof else b""
    if frame is None or not frame.eof:
        raise EOFError("it ends too early")


READERS: dict[str, Callable[[Any], Iterator[bytes]]] = {
    ".gz": lambda raw: chunks_of(gzip.open(raw)),
    ".bz2": lambda raw: chunks_of(bz2.open(raw)),
    ".xz": lambda raw: chunks_of(lzma.open(raw)),
    ".zst": frames,
}


@contextmanager
def progress(name: str, size: int) -> Iterator[Advance]:
    """A bar on the terminal, if there is one and it takes long."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=size < LONG or not console.is_terminal) as bar:
        yield partial(bar.advance, bar.add_task(f"encoding {escape(name)}", total=size))
